package record

import (
	"net/url"
	"slices"
	"strings"

	"gatehouse/input"
	"gatehouse/query"
)

// parsedPath is the input's parsed_path: the decoded segments. A percent sign that begins no escape stands for itself; where
// that is refused there is no input.
func parsedPath(path string) []string {
	raw, _, _ := strings.Cut(path, "?")
	decoded, err := url.PathUnescape(raw)
	if err != nil {
		decoded = lenientUnescape(raw)
	}
	return strings.Split(strings.TrimLeft(decoded, "/"), "/")
}

func lenientUnescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				out.WriteString(c)
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// parsedQuery is the input's parsed_query.
func parsedQuery(path string) url.Values {
	_, raw, _ := strings.Cut(path, "?")
	values, _ := query.Parse(raw) // where it has an error there is no input
	return values.Values
}

// ReleaseInput leaves of an entry's input only what the envelope shows of it, and the headers whose values are secret: these may stand elsewhere.
func (p *Packer) ReleaseInput(e *Entry) {
	secret := func(h input.Header) bool { return p.redact.kind(h.Name) == secretHeader }
	headers := slices.DeleteFunc(slices.Clone(e.Input.Headers), func(h input.Header) bool { return !secret(h) })
	in := &e.Input
	e.Input = input.Input{Request: input.Request{Method: in.Method, Host: in.Host, Path: in.Path, Headers: headers}, Identity: in.Identity,
		DecisionPath: in.DecisionPath, Params: in.Params}
	e.InputSize, e.inputLost = 0, e.Asked
}
