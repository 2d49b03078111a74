package bundle

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxProblems bounds how many problems, and how many notices, one bundle or one compilation reports.
const MaxProblems = 10

// Problem is one thing that is wrong with a bundle.
type Problem struct {
	Stage  string // what was being done: "reading" or "compiling"
	Bundle string // the bundle's name; empty if the problem belongs to no single bundle
	File   string // path within the bundle; empty if it belongs to no file
	Line   int    // from 1; 0 where unknown
	Column int    // in characters, from 1; 0 where unknown
	Source string // the line itself; "" where unknown
	Text   string // what is wrong and, if known, what to do
}

// Error returns the problem in one line, for example: reading bundle "app": orders.rego:3: var x is unsafe
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Stage)
	if p.Bundle != "" {
		fmt.Fprintf(&b, " bundle %q", p.Bundle)
	} else {
		b.WriteString(" the policy")
	}
	if p.File != "" {
		b.WriteString(": " + p.File)
		if p.Line > 0 {
			b.WriteString(":" + strconv.Itoa(p.Line))
		}
	}
	b.WriteString(": " + p.Text)
	return b.String()
}

// Problems is the error that Read and Compile return: at least one problem, at most ten, then one that says that there are more.
type Problems []Problem

// Error returns one line per problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// full reports whether further problems are dropped.
func (p Problems) full() bool { return len(p) > MaxProblems }

// Add appends a problem, or the one that says that there are more.
func (p *Problems) Add(q Problem) {
	switch {
	case p.full():
	case len(*p) == MaxProblems:
		*p = append(*p, Problem{Stage: q.Stage, Bundle: q.Bundle, Text: "there are further problems"})
	default:
		*p = append(*p, q)
	}
}

// err returns nil when there are none: a nil Problems in an error would not be nil.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// AddNotice appends a notice up to the limit, then one that says that there are more.
func AddNotice(notices []string, text string) []string {
	switch {
	case len(notices) < MaxProblems:
		return append(notices, text)
	case len(notices) == MaxProblems:
		return append(notices, "there are further notices")
	}
	return notices
}
