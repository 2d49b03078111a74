package bundle

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxProblems bounds how many problems, and how many notices, one bundle or one compilation reports.
const MaxProblems = 10

// A Problem is one thing that is wrong with a bundle.
type Problem struct {
	Stage  string // what was being done: "reading" or "compiling"
	Bundle string // the bundle's name; empty where the problem belongs to no single bundle
	File   string // path within the bundle; empty where it belongs to no file
	Line   int    // from 1; 0 where unknown
	Text   string // what is wrong and, where we know it, what to do
}

// Error is the problem in one line, for example: reading bundle "app": orders.rego:3: var x is unsafe
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

// Problems is the error that Read and Compile return: at least one problem, at most ten and then one that says that there
// are more.
type Problems []Problem

// Error gives each problem a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// full reports whether no further problem would be kept.
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

// err is the problems as an error, nil when there are none.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// AddNotice appends a notice up to the bound, then one that says that there are more.
func AddNotice(notices []string, text string) []string {
	switch {
	case len(notices) < MaxProblems:
		return append(notices, text)
	case len(notices) == MaxProblems:
		return append(notices, "there are further notices")
	}
	return notices
}
