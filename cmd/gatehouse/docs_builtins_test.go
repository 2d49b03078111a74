package main

import (
	"os"
	"testing"

	"gatehouse/policy/bounds"
)

func TestBuiltinsPageIsCurrent(t *testing.T) {
	page, err := os.ReadFile("../../docs/builtins.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != bounds.Page() {
		t.Error("docs/builtins.md is not current: gatehouse docs builtins > docs/builtins.md")
	}
}
