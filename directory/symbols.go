package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"
	"unsafe"
)

type (
	// number is an object's number in one Snapshot. Numbers of deleted objects are reused.
	number uint32
	// typeID numbers type names, from 1.
	typeID uint16
	// relID numbers pairs of a type and its relation, from 1. 0 is none: the subject itself.
	relID uint16
)

// symbols numbers the names of types and relations. It is immutable. A number is permanent: stored data refers to it,
// also under a manifest that no longer has the name, so that orphans can still be named.
type symbols struct {
	types []typeSymbol // by typeID
	rels  []relSymbol  // by relID
	ids   map[string]typeID
}

type typeSymbol struct {
	name     string
	declared bool // in the manifest of this snapshot
	rels     map[string]relID
}

type relSymbol struct {
	typ      typeID
	name     string
	declared bool
	subjects []subjectRule // the allowed subjects
}

// subjectRule is one alternative of a relation's definition: user, group#member, or user:*.
type subjectRule struct {
	typ typeID
	rel relID
	any bool
}

func newSymbols(m *Manifest) *symbols {
	none := &symbols{types: make([]typeSymbol, 1), rels: make([]relSymbol, 1)}
	return none.with(m)
}

// with adds the names of a manifest, with its declarations and allowed subjects.
func (y *symbols) with(m *Manifest) *symbols {
	out := &symbols{types: slices.Clone(y.types), rels: slices.Clone(y.rels), ids: maps.Clone(y.ids)}
	if out.ids == nil {
		out.ids = map[string]typeID{}
	}
	for i := range out.types {
		out.types[i].declared = false
		out.types[i].rels = maps.Clone(out.types[i].rels)
	}
	for i := range out.rels {
		out.rels[i].declared, out.rels[i].subjects = false, nil
	}
	for _, name := range m.Types() {
		t := out.addType(name)
		out.types[t].declared = true
		for _, relation := range m.Relations(name) {
			out.rels[out.addRel(t, relation)].declared = true
		}
	}
	for i := range out.rels {
		if out.rels[i].declared {
			out.rels[i].subjects = out.rules(m.subjects(out.types[out.rels[i].typ].name, out.rels[i].name))
		}
	}
	return out
}

func (y *symbols) addType(name string) typeID {
	t, ok := y.ids[name]
	if !ok {
		t = typeID(len(y.types))
		y.types = append(y.types, typeSymbol{name: name, rels: map[string]relID{}})
		y.ids[name] = t
	}
	return t
}

func (y *symbols) addRel(t typeID, name string) relID {
	r, ok := y.types[t].rels[name]
	if !ok {
		r = relID(len(y.rels))
		y.rels = append(y.rels, relSymbol{typ: t, name: name})
		y.types[t].rels[name] = r
	}
	return r
}

func (y *symbols) rules(allowed []allowedSubject) []subjectRule {
	var out []subjectRule
	for _, a := range allowed {
		r := subjectRule{typ: y.ids[a.typ], any: a.any}
		if a.relation != "" {
			r.rel = y.types[r.typ].rels[a.relation]
		}
		out = append(out, r)
	}
	return out
}

// typ is the number of a type's name.
func (y *symbols) typ(name string) (typeID, bool) {
	t, ok := y.ids[name]
	return t, ok
}

// rel is the number of a relation of a type.
func (y *symbols) rel(t typeID, name string) (relID, bool) {
	r, ok := y.types[t].rels[name]
	return r, ok
}

func (y *symbols) typeName(t typeID) string { return y.types[t].name }

// relName is a relation's name; "" for none.
func (y *symbols) relName(r relID) string { return y.rels[r].name }

// relType is the type that a relation belongs to.
func (y *symbols) relType(r relID) typeID { return y.rels[r].typ }

// allows reports whether the manifest allows this subject of relation r. any: the wildcard subject.
func (y *symbols) allows(r relID, subject typeID, sub relID, any bool) bool {
	for _, rule := range y.rels[r].subjects {
		if rule == (subjectRule{subject, sub, any}) {
			return true
		}
	}
	return false
}

// Bounds of a directory's content.
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

// alias is b as a string without a copy. b must never be written again.
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

// object checks an object, and compacts its properties.
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

// compactProperties checks properties and removes white space. An empty object becomes none.
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

// relation is a relation in numbers, without its objects.
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

// endOfTime is the last second that RFC 3339 can express.
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

// checkProperties checks stored properties: a JSON object in valid UTF-8, without white space between its parts, at
// most 64 deep. It is stricter than encoding/json and several times faster, which matters for a million objects at
// each start.
func checkProperties(p []byte) error {
	if len(p) > maxProperties {
		return invalid("properties of %d bytes; %d are possible", len(p), maxProperties)
	}
	if !utf8.Valid(p) {
		return invalid("properties are not valid UTF-8")
	}
	if len(p) == 0 || p[0] != '{' {
		return invalid("properties are not a JSON object")
	}
	c := jsonChecker{text: p}
	if !c.value(0) || c.at != len(p) {
		if c.deep {
			return invalid("properties are more than %d deep", maxDepth)
		}
		return invalid("properties are not valid JSON at byte %d", c.at)
	}
	return nil
}

// jsonChecker checks one value. at is the current offset.
type jsonChecker struct {
	text []byte
	at   int
	deep bool
}

// peek is the next byte; 0 at the end, which no JSON text contains.
func (c *jsonChecker) peek() byte {
	if c.at == len(c.text) {
		return 0
	}
	return c.text[c.at]
}

func (c *jsonChecker) skip(b byte) bool {
	if c.peek() != b {
		return false
	}
	c.at++
	return true
}

func (c *jsonChecker) value(depth int) bool {
	if depth > maxDepth {
		c.deep = true
		return false
	}
	switch b := c.peek(); b {
	case '{':
		return c.members('}', depth)
	case '[':
		return c.members(']', depth)
	case '"':
		return c.str()
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	default:
		return c.num()
	}
}

// members checks an object or an array up to its end byte.
func (c *jsonChecker) members(end byte, depth int) bool {
	c.at++
	if c.skip(end) {
		return true
	}
	for {
		if end == '}' && (c.peek() != '"' || !c.str() || !c.skip(':')) {
			return false
		}
		if !c.value(depth + 1) {
			return false
		}
		if !c.skip(',') {
			return c.skip(end)
		}
	}
}

func (c *jsonChecker) str() bool {
	for c.at++; c.at < len(c.text); c.at++ {
		switch b := c.text[c.at]; {
		case b == '"':
			c.at++
			return true
		case b < ' ':
			return false
		case b == '\\':
			if !c.escape() {
				return false
			}
		}
	}
	return false
}

// escape checks what follows a backslash, up to its last byte.
func (c *jsonChecker) escape() bool {
	c.at++
	switch c.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			c.at++
			if b := c.peek(); (b < '0' || b > '9') && (b|0x20 < 'a' || b|0x20 > 'f') {
				return false
			}
		}
		return true
	}
	return false
}

func (c *jsonChecker) word(w string) bool {
	for i := range len(w) {
		if !c.skip(w[i]) {
			return false
		}
	}
	return true
}

func (c *jsonChecker) num() bool {
	c.skip('-')
	if !c.skip('0') && !c.digits() {
		return false
	}
	if c.skip('.') && !c.digits() {
		return false
	}
	if b := c.peek(); b == 'e' || b == 'E' {
		c.at++
		if !c.skip('+') {
			c.skip('-')
		}
		return c.digits()
	}
	return true
}

func (c *jsonChecker) digits() bool {
	from := c.at
	for c.at < len(c.text) && c.text[c.at] >= '0' && c.text[c.at] <= '9' {
		c.at++
	}
	return c.at > from
}
