package directory

import (
	"errors"
	"io"
)

// WriteTo writes a binary snapshot.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return 0, errors.ErrUnsupported }

// Read reads a binary snapshot.
func Read(r io.Reader, l Limits) (*Snapshot, error) { return nil, errors.ErrUnsupported }
