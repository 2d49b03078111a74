package gate

import (
	"errors"
	"fmt"
)

// FieldError says what is wrong with one field of the Settings. Path names it in the terms of this package, such as Limits.Message or
// Apps[1].Hosts: under which key of a configuration that stands, whoever read the configuration knows.
type FieldError struct {
	Path string
	Err  error
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// ErrDecisionOrRoot says that an application has neither Decision nor Root, or both.
var ErrDecisionOrRoot = errors.New("set one of Decision and Root")

func wrong(path, format string, args ...any) error {
	return &FieldError{Path: path, Err: fmt.Errorf(format, args...)}
}

func element(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// SameHeaderError says that two of the identity headers, by their fields, have one name.
type SameHeaderError struct{ First, Second, Name string }

func (e *SameHeaderError) Error() string {
	return fmt.Sprintf("%s and %s are both %q", e.First, e.Second, e.Name)
}
