package reach

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/rego"
)

// errText means invalid JSON, or JSON that no input could be.
var errText = errors.New("not the JSON text of one value")

// Project appends to dst the part of a JSON document that is read. What it omits cannot change the decision: documents with the same
// projection are decided alike, at the same time.
//
// Omitted parts are skipped without validation; the error means malformed JSON.
func (r Reads) Project(dst, document []byte) ([]byte, error) {
	p := projector{Scanner: rego.Scanner{Text: document}, out: dst}
	if !p.value(r.at, 0) || p.Peek() != 0 || p.At != len(document) {
		return dst, fmt.Errorf("%w: it goes wrong at byte %d", errText, p.At)
	}
	return p.out, nil
}

// projector copies the part of a document that is read.
type projector struct {
	rego.Scanner
	out []byte
}

// value copies the part of the current value that is read. A value that is not the expected object is copied whole: the policy can see that
// the member is missing.
func (p *projector) value(r *reads, depth int) bool {
	if depth > rego.MaxDepth {
		return false
	}
	if c := p.Peek(); c != '{' || r == nil || r.whole {
		from := p.At
		ok := p.skip()
		p.out = append(p.out, p.Text[from:p.At]...)
		return ok
	}
	p.At++
	p.out = append(p.out, '{')
	for first, some := true, false; p.Peek() != '}'; first = false {
		if !first && !p.Take(',') || p.Peek() != '"' {
			return false
		}
		raw, plain := p.Quoted()
		below := r.quoted(raw, plain)
		if raw == nil || !p.Take(':') {
			return false
		}
		if below == nil {
			if !p.skip() {
				return false
			}
			continue
		}
		if some {
			p.out = append(p.out, ',')
		}
		some = true
		p.out = append(append(p.out, raw...), ':')
		if !p.value(below, depth+1) {
			return false
		}
	}
	p.At++
	p.out = append(p.out, '}')
	return true
}

// quoted returns what is read of the member with this quoted name, nil if nothing is.
func (r *reads) quoted(raw []byte, plain bool) *reads {
	if plain && len(raw) > 1 {
		return r.member(string(raw[1 : len(raw)-1]))
	}
	if name, ok := rego.Unquote(raw, plain).(ast.String); ok {
		return r.member(string(name))
	}
	return nil
}

// skip skips one value.
func (p *projector) skip() bool {
	open := 0
	for {
		switch p.Peek() {
		case 0:
			return false
		case '"':
			if !p.skipText() {
				return false
			}
		case '{', '[':
			open++
			p.At++
		case '}', ']':
			open--
			p.At++
		case ',', ':':
			if open == 0 {
				return false
			}
			p.At++
			continue
		default:
			if len(p.Bare()) == 0 {
				return false
			}
		}
		if open <= 0 {
			return open == 0
		}
	}
}

// skipText skips a string.
func (p *projector) skipText() bool {
	for p.At++; ; p.At++ {
		end := bytes.IndexByte(p.Text[p.At:], '"')
		if end < 0 {
			p.At = len(p.Text)
			return false
		}
		p.At += end
		if escapes(p.Text[:p.At])%2 == 0 {
			p.At++
			return true
		}
	}
}

// escapes counts the backslashes at the end of a text.
func escapes(text []byte) int {
	return len(text) - len(bytes.TrimRight(text, `\`))
}
