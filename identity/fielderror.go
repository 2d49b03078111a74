package identity

import (
	"errors"
	"fmt"
)

// FieldError says what is wrong with one field of a Config. Path names it in the terms of this package, such as Issuers[0].Keys.URL: under
// which key of a configuration that stands, whoever read the configuration knows.
type FieldError struct {
	Path   string
	Issuer string // of a Path within Issuers: what people call it, its quoted name or its number and preset
	Err    error
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

func wrong(path, format string, args ...any) error {
	return &FieldError{Path: path, Err: fmt.Errorf(format, args...)}
}

// within puts a path in front of that of an error.
func within(path, issuer string, err error) error {
	if field, ok := errors.AsType[*FieldError](err); ok {
		return &FieldError{path + "." + field.Path, issuer, field.Err}
	}
	return &FieldError{path, issuer, err}
}
