// Package rego has the values of Rego and what else of OPA's syntax tree all parts of a policy need: values are made of plain JSON and of JSON
// text, read, copied and turned back, references taken apart, errors of the compiler put into one line.
//
// A value is of OPA's own type, so that an input is built once and evaluated without a conversion; whoever is outside of package policy and its
// parts builds and reads values by this package and never imports OPA for it. It imports nothing of ours.
package rego

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Path returns the terms of a reference below its first, up to the first that is no string: the segments of a package's path below data.
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

// ErrorText is the message of one of OPA's errors in one line. The drawing of the source line that the parser adds is left
// out; what the type checker adds (have, want) is kept.
func ErrorText(e *ast.Error) string {
	text := strings.TrimPrefix(e.Message, "error: ")
	if e.Details == nil || e.Code == ast.ParseErr {
		return OneLine(text)
	}
	return OneLine(text + ": " + strings.Join(e.Details.Lines(), "; "))
}

// OneLine bounds a text from elsewhere and joins its lines.
func OneLine(text string) string {
	const limit = 500
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}
