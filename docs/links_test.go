package docs

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var (
	link    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`^#{1,6} +(.*)$`)
)

// TestLinks holds that each link of a page leads to a file of the checkout, and to a heading where it names one.
func TestLinks(t *testing.T) {
	all := pages(t)
	anchors := map[string][]string{}
	for _, p := range all {
		anchors[p.name] = p.anchors()
	}
	count := 0
	for _, p := range all {
		for i, line := range p.prose() {
			for _, found := range link.FindAllStringSubmatch(line, -1) {
				target, anchor, _ := strings.Cut(found[1], "#")
				if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
					continue
				}
				count++
				to := p.name
				if target != "" {
					to = path.Join(path.Dir(p.name), target)
				}
				if _, err := os.Stat(filepath.Join("..", to)); err != nil {
					t.Errorf("%s:%d: there is no %s", p.name, i+1, to)
				} else if known, ok := anchors[to]; anchor != "" && (!ok || !slices.Contains(known, anchor)) {
					t.Errorf("%s:%d: %s has no heading #%s", p.name, i+1, to, anchor)
				}
			}
		}
	}
	if count < 150 {
		t.Errorf("only %d links were found", count)
	}
}

// anchors are the names that a code host gives to the headings of a page.
func (p *page) anchors() (names []string) {
	seen := map[string]int{}
	for _, line := range p.prose() {
		found := heading.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, link.ReplaceAllStringFunc(found[1], func(l string) string { return l[1:strings.Index(l, "]")] }))
		names = append(names, name)
		seen[name]++
	}
	return names
}

// TestTwoClicks holds that each page is linked from README.md or from docs/README.md, which README.md links to.
func TestTwoClicks(t *testing.T) {
	all := pages(t)
	linked := map[string]bool{"README.md": true}
	for _, p := range all {
		if p.name != "README.md" && p.name != "docs/README.md" {
			continue
		}
		for _, found := range link.FindAllStringSubmatch(p.text, -1) {
			target, _, _ := strings.Cut(found[1], "#")
			linked[path.Join(path.Dir(p.name), target)] = true
		}
	}
	for _, p := range all {
		decision := path.Dir(p.name) == "docs/decisions" && linked["docs/decisions"] // the folder's listing is the second click
		if !linked[p.name] && !decision {
			t.Errorf("%s is linked neither from README.md nor from docs/README.md", p.name)
		}
	}
	if !linked["docs/README.md"] {
		t.Error("README.md does not link to docs/README.md")
	}
}

// TestNavigation holds that mkdocs.yml lists each page that is not a decision.
func TestNavigation(t *testing.T) {
	nav, err := os.ReadFile("../mkdocs.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages(t) {
		name, below := strings.CutPrefix(p.name, "docs/")
		if below && !strings.HasPrefix(name, "decisions/") && !strings.Contains(string(nav), ": "+name+"\n") {
			t.Errorf("mkdocs.yml does not list %s", name)
		}
	}
}
