package config

import (
	"errors"
	"fmt"
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
	if about, ok := errors.AsType[*KeyError](err); ok {
		if _, known := p.Doc.Lines[about.Path]; known {
			at = p.Doc.At(about.Path)
		}
	}
	p.Errs = append(p.Errs, fmt.Errorf("%s: %w", at, err))
}

// KeyError is what is wrong with the value of one key.
type KeyError struct {
	Path string // such as policy.timeout or apps[1].match.hosts
	Err  error
}

func (e *KeyError) Error() string { return e.Path + ": " + e.Err.Error() }

// Wrong is a KeyError; the format is that of fmt.Errorf.
func Wrong(path, format string, a ...any) error {
	return &KeyError{Path: path, Err: fmt.Errorf(format, a...)}
}

// Unwrap gives what is wrong.
func (e *KeyError) Unwrap() error { return e.Err }

// Problems are those of the document so far.
func (d *Document) Problems() *Problems { return &Problems{Doc: d, Errs: d.Errs} }
