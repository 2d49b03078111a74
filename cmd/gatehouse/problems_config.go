package main

import (
	"fmt"
	"strings"
)

// problems collects what is wrong with a configuration, each with the place of its key.
type problems struct {
	doc  *document
	errs []error
}

// add files every error that err joins under the key at path.
func (p *problems) add(path string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.add(path, e)
		}
		return
	}
	at := p.doc.at(path)
	if found := p.doc.locate(err.Error()); found != "" {
		at = found
	}
	p.errs = append(p.errs, fmt.Errorf("%s: %w", at, err))
}

// locate finds the key that a message begins with, as in "policy.timeout: must be above zero".
func (d *document) locate(message string) string {
	path, _, ok := strings.Cut(message, ": ")
	if !ok || strings.ContainsAny(path, " \"") {
		return ""
	}
	if _, known := d.lines[path]; !known {
		return ""
	}
	return d.at(path)
}
