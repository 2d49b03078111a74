// Package docs holds the pages of the documentation to be true: links lead somewhere, configurations are read by what reads them, Rego compiles,
// and commands are run.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// page is one page of the documentation.
type page struct {
	name   string // relative to the checkout: docs/how-to/cors.md
	text   string
	blocks []block
}

// block is one fenced block of a page.
type block struct {
	line     int    // of its first line of content
	language string // sh, console, yaml, rego and others; empty where none is given
	title    string // the file that it is, where a page shows a file: ```yaml title="gatehouse.yaml"
	text     string
}

// where is how an error names the block.
func (p *page) where(b block) string { return fmt.Sprintf("%s:%d", p.name, b.line) }

var (
	fence = regexp.MustCompile("^( *)(`{3,})([a-z]*)(.*)$")
	title = regexp.MustCompile(`title="([^"]+)"`)
)

// pages are README.md and all pages below docs.
func pages(t *testing.T) (all []*page) {
	t.Helper()
	names := []string{"README.md"}
	err := fs.WalkDir(os.DirFS(".."), "docs", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(name, ".md") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		p := &page{name: name, text: string(text)}
		if err := p.parse(); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 40 {
		t.Fatalf("only %d pages were found", len(all))
	}
	return all
}

// parse finds the fenced blocks of a page. One within a list is indented, and its lines with it.
func (p *page) parse() error {
	var open *block
	var indent, marks string
	for i, line := range strings.Split(p.text, "\n") {
		found := fence.FindStringSubmatch(line)
		switch {
		case open == nil && found != nil:
			open = &block{line: i + 2, language: found[3]}
			indent, marks = found[1], found[2]
			if named := title.FindStringSubmatch(found[4]); named != nil {
				open.title = named[1]
			}
		case open != nil && found != nil && found[2] == marks && found[3] == "":
			p.blocks = append(p.blocks, *open)
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	if open != nil {
		return fmt.Errorf("%s:%d: this block has no end", p.name, open.line)
	}
	return nil
}

// prose are the lines of a page that are outside of fenced blocks, by their number less one; the others are empty.
func (p *page) prose() []string {
	lines := strings.Split(p.text, "\n")
	inside := false
	for i, line := range lines {
		if fence.MatchString(line) {
			inside = !inside
			lines[i] = ""
		} else if inside || strings.HasPrefix(line, "    ") {
			lines[i] = ""
		}
	}
	return lines
}
