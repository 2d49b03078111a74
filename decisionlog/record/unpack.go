package record

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"gatehouse/decisionlog/spool"
	"gatehouse/input"
)

// ErrPacked says that bytes are no packed entry that this release reads.
var ErrPacked = errors.New("this is not a packed entry of version 1")

// unpacking reads a packed entry into values.
type unpacking struct {
	packedReader
	scan   *scan     // gets a pointer to each string that redaction changed
	redact *redactor // knows which query parameters are secret by name
	schema *input.Schema
	values []any // of the input's fields, by their place in the schema; nil: not there
}

// unpacked is an entry as its line shows it: the envelope and the two documents in plain JSON.
type unpacked struct {
	record        *record
	result, input any
	has           struct{ result, input bool }
}

// unpack reads what pack wrote. It never reads beyond what it was given, and takes memory in proportion to it.
func (u *unpacking) unpack() (out unpacked, err error) {
	if u.byte() != packVersion {
		return out, ErrPacked
	}
	flags := u.uint()
	u.values = make([]any, len(u.schema.Fields))
	rec := &record{Format: 1}
	out.record = rec
	rec.Timestamp = Stamp(u.time())
	rec.Metrics.Handler = u.int()
	rec.Status = int(u.uint())
	rec.DryRun, rec.Memo = flags&flagDryRun != 0, flags&flagMemo != 0
	for _, f := range []struct {
		into *string
		at   string
	}{{&rec.DecisionID, "/decision_id"}, {&rec.App, "/app"}, {&rec.Route, "/route"}, {&rec.Outcome, "/outcome"}, {&rec.Reason, "/reason"}} {
		*f.into = u.readNoted(f.at, "")
	}
	pathChanged := u.head(rec, flags)
	for _, f := range []struct {
		into *string
		at   string
	}{{&rec.Peer, "/peer"}, {&rec.RequestedBy, "/requested_by"}, {&rec.TraceID, "/trace_id"}, {&rec.SpanID, "/span_id"}, {&rec.Revision, "/revision"}} {
		*f.into = u.readNoted(f.at, "")
	}
	u.bundles(rec)
	params := u.params("/parameters")
	rec.Parameters = params
	u.error(rec)
	if flags&flagNoInput != 0 {
		u.scan.erase("/input")
	}
	if flags&flagNoResult != 0 {
		u.scan.erase("/result")
	}
	var in *inputReader
	if flags&flagResult != 0 {
		out.result, out.has.result = u.value(0), true
	}
	if flags&flagAsked != 0 && flags&flagNoInput == 0 {
		in = &inputReader{unpacking: u, flags: flags, rec: rec, pathChanged: pathChanged}
		in.read()
	}
	for range u.count() {
		u.scan.mask(u.readNoted("", ""))
	}
	if flags&flagDigests != 0 {
		rec.Digests.Routes, _ = u.string()
		rec.Digests.Keys, _ = u.string()
		rec.Digests.Directory, _ = u.string()
	}
	u.added(rec)
	if in != nil {
		out.input, out.has.input = in.object(u.schema.Root), true
	}
	if u.err {
		return unpacked{}, ErrPacked
	}
	return out, nil
}

func (u *unpacking) error(rec *record) {
	text, changed := u.string()
	if text == "" {
		return
	}
	rec.Error = &recordError{Code: rec.Reason, Message: text}
	if slices.Contains(u.scan.masked, "/reason") {
		u.scan.mask("/error/code")
	}
	if changed != 0 {
		u.scan.mask("/error/message")
	}
}

func (u *unpacking) bundles(rec *record) {
	n := u.count()
	if n > 0 {
		rec.Bundles = make(map[string]recordBundle, n)
	}
	for range n {
		name, _ := u.string()
		revision, _ := u.string()
		digest, _ := u.string()
		rec.Bundles[name] = recordBundle{Revision: revision, Digest: digest}
	}
}

func (u *unpacking) params(at string) map[string]string {
	n := u.count()
	if n == 0 {
		return nil
	}
	params := make(map[string]string, n)
	for range n {
		name, _ := u.string()
		params[name] = u.readNoted(at, name)
	}
	return params
}

func (u *unpacking) labels() map[string]any {
	n := u.count()
	m := make(map[string]any, n)
	for range n {
		name, _ := u.string()
		m[name], _ = u.string()
	}
	return m
}

// readNoted reads a string and notes its pointer, at and name, where redaction changed it.
func (u *unpacking) readNoted(at, name string) string {
	s, changed := u.string()
	if changed != 0 {
		if name != "" && !strings.HasSuffix(at, "/") {
			at += "/"
		}
		u.scan.mask(at + escape(name))
	}
	return s
}

func (u *unpacking) list() []string {
	n := u.count()
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i], _ = u.string()
	}
	return list
}

func (u *unpacking) value(depth int) any {
	if depth > maxNesting {
		u.fail()
		return nil
	}
	switch kind := u.byte(); kind {
	case kindNull:
		return nil
	case kindFalse, kindTrue:
		return kind == kindTrue
	case kindNumber:
		s, _ := u.string()
		return json.Number(s)
	case kindString:
		s, _ := u.string()
		return s
	case kindArray:
		return u.array(depth)
	case kindObject:
		return u.object(depth)
	}
	u.fail()
	return nil
}

func (u *unpacking) array(depth int) []any {
	n := u.count()
	list := make([]any, 0, min(n, 1024))
	for i := 0; i < n && !u.err; i++ {
		list = append(list, u.value(depth+1))
	}
	return list
}

func (u *unpacking) object(depth int) map[string]any {
	n := u.count()
	m := make(map[string]any, min(n, 1024))
	for i := 0; i < n && !u.err; i++ {
		name, _ := u.string()
		m[name] = u.value(depth + 1)
	}
	return m
}

// Time reads when a packed entry was, or until when a gap.
func Time(kind spool.Kind, packed []byte) (time.Time, bool) {
	if kind == KindGap {
		g, err := UnpackGap(packed)
		return g.Until, err == nil
	}
	u := packedReader{in: packed}
	if u.byte() != packVersion {
		return time.Time{}, false
	}
	u.uint()
	t := u.time()
	return t, !u.err
}

// ID reads the id of a packed entry; "" where it has none.
func ID(packed []byte) string {
	u := packedReader{in: packed}
	if u.byte() != packVersion {
		return ""
	}
	u.uint()
	u.time()
	u.int()
	u.uint()
	id, _ := u.string()
	return id
}

// packedReader reads what packing writes, in its order. After the first mistake everything is empty, and err is set.
type packedReader struct {
	in  []byte
	err bool
}

// RFC 3339 knows the years 0 to 9999.
const (
	minSeconds = -62167219200
	maxSeconds = 253402300799
)

func (r *packedReader) fail() { r.in, r.err = nil, true }

func (r *packedReader) byte() byte {
	if len(r.in) == 0 {
		r.fail()
		return 0
	}
	b := r.in[0]
	r.in = r.in[1:]
	return b
}

func (r *packedReader) uint() uint64 {
	if len(r.in) > 0 && r.in[0] < 0x80 { // most are small, and there are many
		return uint64(r.byte())
	}
	v, n := binary.Uvarint(r.in)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.in = r.in[n:]
	return v
}

func (r *packedReader) int() int64 {
	v, n := binary.Varint(r.in)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.in = r.in[n:]
	return v
}

// count reads the length of a list, each of whose members takes a byte at least.
func (r *packedReader) count() int {
	n := r.uint()
	if n > uint64(len(r.in)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *packedReader) time() time.Time {
	seconds, nanos := r.int(), r.uint()
	if nanos >= uint64(time.Second) || seconds < minSeconds || seconds > maxSeconds {
		r.fail()
		return time.Time{}
	}
	return time.Unix(seconds, int64(nanos)).UTC()
}

// packedText is a string in the packed entry's own memory, and what redaction did to it. One that is textSecret has no bytes.
type packedText struct {
	bytes   []byte
	changed uint64
}

func (r *packedReader) readText() packedText {
	if in := r.in; len(in) > 0 && in[0] < 0x80 && in[0]&3 != textSecret { // short, as most are
		if end := 1 + int(in[0]>>2); end <= len(in) {
			r.in = in[end:]
			return packedText{in[1:end:end], uint64(in[0] & 3)}
		}
	}
	return r.readLongText()
}

func (r *packedReader) readLongText() (t packedText) {
	n := r.uint()
	if t.changed = n & 3; t.changed == textSecret {
		return t
	}
	if n >>= 2; n > uint64(len(r.in)) {
		r.fail()
		return packedText{}
	}
	t.bytes, r.in = r.in[:n:n], r.in[n:]
	return t
}

// string is readText as a string of its own.
func (r *packedReader) string() (s string, changed uint64) {
	t := r.readText()
	if t.changed == textSecret {
		return redacted, t.changed
	}
	return string(t.bytes), t.changed
}
