package main

import (
	"os"
	"testing"
)

func TestCLIPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != cliPage(rootCommand()) {
		t.Error("docs/cli.md is not what the commands say: make docs")
	}
}
