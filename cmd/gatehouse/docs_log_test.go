package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestLogPage runs the commands of docs/log.md over the log in testdata, and holds the page against what they print.
func TestLogPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/log.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("testdata/log")
	ran := 0
	blocks := strings.Split(string(page), "```\n")
	for i := 1; i < len(blocks); i += 2 {
		var got strings.Builder
		for line := range strings.Lines(blocks[i]) {
			command, ok := strings.CutPrefix(line, "$ gatehouse ")
			if !ok {
				continue
			}
			var out bytes.Buffer
			if code := run(t.Context(), shellWords(command), &out, &out); code != 0 {
				t.Fatalf("%s: exit code %d\n%s", command, code, &out)
			}
			got.WriteString(line + out.String())
			ran++
		}
		if got.String() != blocks[i] {
			t.Errorf("docs/log.md has\n%s\nand it is\n%s", blocks[i], got.String())
		}
	}
	if ran < 6 {
		t.Errorf("only %d commands were run", ran)
	}
}

// shellWords splits a command with single quotes.
func shellWords(command string) (words []string) {
	for i, part := range strings.Split(strings.TrimSpace(command), "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}
