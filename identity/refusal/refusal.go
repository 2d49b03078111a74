// Package refusal is why a credential is not accepted: one of two kinds, with a cause from a closed set of texts. The parts of package
// identity make their errors with it, each once, at start: a flood of bad tokens allocates no errors, and no request can put text of its own
// into one. It imports nothing of ours.
package refusal

import "errors"

// The two kinds. Each Refusal wraps exactly one of them.
var (
	ErrBadCredential = errors.New("bad credential")
	ErrUnavailable   = errors.New("identity unavailable")
)

// Refusal is one cause of one kind. Its text is the kind's, a colon and the cause, such as "bad credential: token expired".
type Refusal struct {
	kind  error
	cause string
	lasts bool
}

func (r *Refusal) Error() string { return r.kind.Error() + ": " + r.cause }

// Unwrap gives the kind.
func (r *Refusal) Unwrap() error { return r.kind }

// Bad is an ErrBadCredential.
func Bad(cause string) error { return &Refusal{ErrBadCredential, cause, false} }

// Unavailable is an ErrUnavailable.
func Unavailable(cause string) error { return &Refusal{ErrUnavailable, cause, false} }

// Lasting is an ErrBadCredential that the same token, clock and keys always give, and that took some work to find: it may be cached.
func Lasting(cause string) error { return &Refusal{ErrBadCredential, cause, true} }

// Lasts reports whether an error may be cached.
func Lasts(err error) bool {
	r, ok := err.(*Refusal)
	return ok && r.lasts
}
