package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
	"unsafe"
)

// Bounds of what a directory takes.
const (
	maxID         = 1 << 10
	maxName       = 4 << 10
	maxProperties = 256 << 10
	maxDepth      = 64      // of properties
	maxObjects    = 1 << 31 // numbers have 32 bits
)

// Errors of data, inside a ChangeError.
var (
	ErrInvalid    = errors.New("invalid")
	ErrDuplicate  = errors.New("already there")
	ErrNotFound   = errors.New("does not exist")
	ErrNotAllowed = errors.New("the manifest does not allow this subject of the relation")
	ErrFull       = errors.New("the directory is full")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// alias is b as a string without a copy. What it comes from is never written again.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// knownType is the number of a type of the manifest.
func (y *symbols) knownType(name string) (typeID, error) {
	t, ok := y.typ(name)
	if !ok || !y.types[t].declared {
		return 0, fmt.Errorf("%w %q", ErrUnknownType, name)
	}
	return t, nil
}

// knownRel is the number of a relation of the manifest.
func (y *symbols) knownRel(t typeID, name string) (relID, error) {
	r, ok := y.rel(t, name)
	if !ok || !y.rels[r].declared {
		return 0, fmt.Errorf("%w %q of type %q", ErrUnknownRelation, name, y.typeName(t))
	}
	return r, nil
}

// object checks an object, and makes its properties compact.
func (y *symbols) object(o *Object) (typeID, error) {
	t, err := y.knownType(o.Type)
	if err != nil {
		return 0, err
	}
	if o.ID == wildcard {
		return 0, invalid(`id "*" stands for every object of a type, as the subject of a relation; no object can have it`)
	}
	if err := checkID(o.ID); err != nil {
		return 0, err
	}
	if err := checkName(o.DisplayName); err != nil {
		return 0, err
	}
	o.Properties, err = compactProperties(o.Properties)
	return t, err
}

func checkID(id string) error {
	if len(id) == 0 || len(id) > maxID {
		return invalid("id of %d bytes; 1 to %d are possible", len(id), maxID)
	}
	if !utf8.ValidString(id) {
		return invalid("id %q is not valid UTF-8", id)
	}
	for i := range len(id) {
		if id[i] < ' ' || id[i] == 0x7f {
			return invalid("id %q has a control character", id)
		}
	}
	return nil
}

func checkName(name string) error {
	if len(name) > maxName {
		return invalid("display name of %d bytes; %d are possible", len(name), maxName)
	}
	if !utf8.ValidString(name) {
		return invalid("display name %q is not valid UTF-8", name)
	}
	return nil
}

// compactProperties checks properties and takes out white space. An empty object is none.
func compactProperties(p []byte) ([]byte, error) {
	if len(p) == 0 {
		return nil, nil
	}
	if len(p) > 4*maxProperties {
		return nil, invalid("properties of %d bytes; %d are possible", len(p), maxProperties)
	}
	err := checkProperties(p)
	if err != nil {
		var out bytes.Buffer
		if json.Compact(&out, p) != nil {
			return nil, err
		}
		p = out.Bytes()
		err = checkProperties(p)
	}
	if err != nil || string(p) == "{}" {
		return nil, err
	}
	return p, nil
}

// relation is a relation in numbers, but for the objects.
type relation struct {
	object, subject typeID
	rel, sub        relID
	at              int64
}

// relation checks a relation against the manifest.
func (y *symbols) relation(r *Relation) (out relation, err error) {
	if out.object, err = y.knownType(r.Object.Type); err != nil {
		return out, err
	}
	if out.rel, err = y.knownRel(out.object, r.Relation); err != nil {
		return out, err
	}
	if out.subject, err = y.knownType(r.Subject.Type); err != nil {
		return out, err
	}
	if r.SubjectRelation != "" {
		if out.sub, err = y.knownRel(out.subject, r.SubjectRelation); err != nil {
			return out, err
		}
	}
	if r.Object.ID == wildcard {
		return out, invalid(`the object of a relation cannot be "*"`)
	}
	if !y.allows(out.rel, out.subject, out.sub, r.Subject.ID == wildcard) {
		return out, ErrNotAllowed
	}
	out.at, err = expiry(r.Expires)
	return out, err
}

// endOfTime is the last second that RFC 3339 can write.
const endOfTime = 253402300799

func expiry(t time.Time) (int64, error) {
	if t.IsZero() {
		return 0, nil
	}
	at := t.Unix()
	if at < 1 || at > endOfTime {
		return 0, invalid("expires at %v; only times from 1970 to 9999 are possible", t)
	}
	return at, nil
}
