package bundle_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"gatehouse/policy/bundle"
)

func TestExcerpts(t *testing.T) {
	one := bundle.Problem{Stage: "compiling", Bundle: "app", File: "a.rego", Line: 7, Column: 3, Source: "\tä x \x1b", Text: "wrong"}
	bare := bundle.Problem{Stage: "compiling", Bundle: "app", File: "b.rego", Line: 1, Text: "wrong too"}
	long := one
	long.Column, long.Source, long.Line = 500, strings.Repeat("a", 1000), 8
	err := errors.Join(errors.New("first"), fmt.Errorf("nothing was started:\n%w", bundle.Problems{one, bare}), fmt.Errorf("and %w", bundle.Problems{long}))
	want := strings.ReplaceAll(`first
nothing was started:
compiling bundle "app": a.rego:7: wrong
    7:3 | ä x ?
        |  ^
compiling bundle "app": b.rego:1: wrong too
and compiling bundle "app": a.rego:8: wrong
    8:500 | `+strings.Repeat("a", 120)+`
          | `+strings.Repeat(" ", 89)+"^", "?", "�")
	if got := bundle.Excerpts(err); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := err.Error(); strings.Contains(got, "|") {
		t.Errorf("the error itself has an excerpt: %s", got)
	}
}
