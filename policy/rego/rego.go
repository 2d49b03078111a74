// Package rego has Rego's values and what else the parts of a policy need of OPA's syntax tree: making values from plain JSON and JSON text,
// reading and copying them, converting them back, splitting references, and formatting compiler errors in one line.
//
// Values are OPA's own type, so that an input is built once and evaluated without conversion. Packages outside package policy and its parts
// use this package instead of importing OPA. It imports nothing of ours.
package rego

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Path returns the string terms of a reference after its head, up to the first that is no string: a package's path below data.
func Path(ref ast.Ref) []string {
	var segments []string
	for _, t := range ref[1:] {
		s, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		segments = append(segments, string(s))
	}
	return segments
}

// ErrorText returns an OPA error's message in one line, without the source excerpt that the parser adds, but with the type checker's details
// (have, want).
func ErrorText(e *ast.Error) string {
	text := strings.TrimPrefix(e.Message, "error: ")
	if e.Details == nil || e.Code == ast.ParseErr {
		return OneLine(text)
	}
	return OneLine(text + ": " + strings.Join(e.Details.Lines(), "; "))
}

// OneLine joins the lines of a text from elsewhere and bounds it.
func OneLine(text string) string {
	const limit = 500
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}
