package config

import (
	"fmt"
	"strings"
)

// Problems collects what is wrong with a configuration, each with the place of its key.
type Problems struct {
	Doc  *Document
	Errs []error
}

// Add files every error that err joins under the key at path.
func (p *Problems) Add(path string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.Add(path, e)
		}
		return
	}
	at := p.Doc.At(path)
	if found := p.Doc.locate(err.Error()); found != "" {
		at = found
	}
	p.Errs = append(p.Errs, fmt.Errorf("%s: %w", at, err))
}

// Problems are those of the document so far.
func (d *Document) Problems() *Problems { return &Problems{Doc: d, Errs: d.Errs} }

// locate finds the key that a message begins with, as in "policy.timeout: must be above zero".
func (d *Document) locate(message string) string {
	path, _, ok := strings.Cut(message, ": ")
	if !ok || strings.ContainsAny(path, " \"") {
		return ""
	}
	if _, known := d.Lines[path]; !known {
		return ""
	}
	return d.At(path)
}
