package directory

import (
	"errors"
	"fmt"
)

// missing is an object of a relation that does not exist.
func missing(r Ref) error { return fmt.Errorf("%s %w", r, ErrNotFound) }

// freeNumbers is a stack of the numbers of deleted objects, in parts that are never written again.
type freeNumbers struct {
	numbers []number
	below   *freeNumbers
}

// Apply makes the next snapshot, with all of the changes in their order, or with none of them: then the error is a *ChangeError.
func (s *Snapshot) Apply(changes []Change) (*Snapshot, error) {
	return nil, errors.ErrUnsupported
}
