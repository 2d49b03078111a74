package record

import (
	"bytes"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/input"
)

// Fields that others of the input are worked out from, or whose members have pointers of their own.
const (
	pathField    = "attributes.request.http.path"
	methodField  = "attributes.request.http.method"
	headersField = "attributes.request.http.headers"
)

// readHead reads the fields that an entry has in front of its input.
func (l *lineWriter) readHead() {
	for _, f := range l.schema.Head {
		s := &l.slots[f.Index]
		switch f.Kind {
		case input.KindText:
			if s.text = l.readText(); s.text.changed != 0 {
				if f.Secret == input.SecretPath {
					l.mask(f.Line)
				} else {
					l.rare = true
				}
			}
		case input.KindList:
			s.at = l.list()
		case input.KindClaims:
			s.at = l.object(0)
		}
	}
}

func (l *lineWriter) readInput(e *commonEntry) {
	for _, f := range l.schema.Input {
		s := &l.slots[f.Index]
		switch f.Kind {
		case input.KindText:
			if s.text = l.readText(); s.text.changed != 0 {
				l.mask(f.Pointer)
			}
		case input.KindInt:
			s.n = l.int()
		case input.KindMoment:
			if e.flags&flagTime != 0 {
				s.at = l.timestamp(l.time())
			}
		case input.KindList:
			s.at = l.list()
		case input.KindLabels:
			s.at = l.labels()
		case input.KindObject:
			s.at = l.object(0)
		case input.KindPlace:
			s.at = l.address()
		case input.KindHeaders:
			s.at = l.headerObject()
		case input.KindParsedBody:
			if e.flags&flagParsedBody != 0 {
				s.at = l.part(func() { l.value(0) })
			}
		}
	}
}

// readAdded reads the fields that have a number, and what of them is masked.
func (l *lineWriter) readAdded() {
	for range l.count() {
		number, value := l.uint(), l.part(func() { l.value(0) })
		if f := l.schema.Numbered(number); f != nil && !l.err {
			l.slots[f.Index] = slot{at: value, present: true}
		}
		l.readExtra(number, value)
	}
	for range l.count() {
		l.maskText(l.readText())
	}
}

// headerObject leaves headers in the order in which they came. A name that repeats is rare.
func (l *lineWriter) headerObject() span {
	n := l.count()
	if l.rare = l.rare || n > maxHeaders; l.rare {
		return span{}
	}
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	var seen [16]uint64 // by a hash of the name
	for range n {
		name, value := l.readText(), l.readText()
		at := nameHash(name.bytes) % 1024
		l.rare = l.rare || name.changed != 0 || seen[at/64]&(1<<(at%64)) != 0 && l.hasHeader(name.bytes)
		seen[at/64] |= 1 << (at % 64)
		l.names = append(l.names, name)
		l.parts = appendText(appendName(l.parts, name), value)
		if value.changed != 0 {
			l.mask(l.headersAt, name)
		}
	}
	l.parts = append(l.parts, '}')
	return span{from, len(l.parts)}
}

// nameHash is of what names mostly differ in: length, beginning, middle and end.
func nameHash(name []byte) uint {
	n := len(name)
	if n < 2 {
		return uint(n)
	}
	return uint(n)*37 ^ uint(name[0])*5 ^ uint(name[n/2])*11 ^ uint(name[n-2])*59 ^ uint(name[n-1])*3
}

func (l *lineWriter) hasHeader(name []byte) bool {
	return slices.ContainsFunc(l.names, func(t packedText) bool { return bytes.Equal(t.bytes, name) })
}

// maxHeaders bounds what is compared with each other.
const maxHeaders = 128

// address is host and port, as others are rare.
func (l *lineWriter) address() span {
	var host packedText
	l.readUnchanged(&host)
	port := l.uint()
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	if len(host.bytes) > 0 || port != 0 {
		l.parts = append(l.parts, `"socketAddress":{`...)
		l.parts = appendMember(l.parts, "address", host)
		if port != 0 {
			l.parts = strconv.AppendUint(appendKey(l.parts, "portValue"), port, 10)
		}
		l.parts = append(l.parts, '}')
	}
	l.parts = append(l.parts, '}')
	return span{from, len(l.parts)}
}

func (l *lineWriter) timestamp(t time.Time) span {
	from := len(l.parts)
	l.parts = appendNumber(append(l.parts, '{'), "nanos", int64(t.Nanosecond()))
	l.parts = append(appendNumber(l.parts, "seconds", t.Unix()), '}')
	return span{from, len(l.parts)}
}

// step is one field as it is written into a line, or an object of those that follow up to end. It is what a schema's node says, next to
// each other in memory: a line goes through all of them.
type step struct {
	kind  input.Kind
	slot  int32
	end   int32 // of an object
	bit   uint64
	there bool // Always
	added bool // it has a number
	name  string
	key   string // the name as a line has it
	fixed string
}

// steps appends those of an object's members.
func steps(to []step, members []input.Node) []step {
	for i := range members {
		n := &members[i]
		s := step{kind: n.Kind, slot: int32(n.Slot), there: n.Always, added: n.Number > 0, name: n.Name, key: `"` + n.Name + `":`, fixed: n.Constant}
		if n.Bit != input.NoBit {
			s.bit = 1 << n.Bit
		}
		at := len(to)
		to = append(to, s)
		if n.Kind == input.KindGroup {
			to = steps(to, n.Below)
			to[at].end = int32(len(to))
		}
	}
	return to
}

// envelopeSteps are the fields of the head that the envelope has in an object.
func envelopeSteps(schema *input.Schema, object string) (list []step) {
	for _, f := range schema.Head {
		if name, is := strings.CutPrefix(f.Line, object); is && strings.IndexByte(name, '/') < 0 {
			list = append(list, step{kind: f.Kind, slot: int32(f.Index), name: name})
		}
	}
	return list
}

// shown writes fields that the envelope has.
func (l *lineWriter) shown(dst []byte, fields []step) []byte {
	for i := range fields {
		f := &fields[i]
		if s := &l.slots[f.slot]; f.kind == input.KindText {
			dst = appendMember(dst, f.name, s.text)
		} else {
			dst = l.member(dst, f.name, s.at)
		}
	}
	return dst
}

// member adds an object or a list that is not empty.
func (l *lineWriter) member(dst []byte, name string, object span) []byte {
	if object.empty() {
		return dst
	}
	return l.piece(appendKey(dst, name), object)
}

// writeInput writes the input's document, its members in the order of their names.
func (l *lineWriter) writeInput(e *commonEntry) {
	if l.slots[l.path.Index].text.changed != 0 {
		l.mask(l.path.Pointer)
	}
	if e.flags&flagMatched != 0 {
		for _, name := range l.changed {
			l.mask("/input/route/params/", name)
			l.mask("/input/resource/", name)
		}
	}
	l.document = append(l.fields(append(l.document, '{'), 0, int32(len(l.steps)), e), '}')
	l.eraseInput(e)
}

// fields writes those from one step to another.
func (l *lineWriter) fields(in []byte, from, to int32, e *commonEntry) []byte {
	for i := from; i < to; i++ {
		f := &l.steps[i]
		if f.kind == input.KindText && !f.added {
			if t := l.slots[f.slot].text; t.some() {
				in = appendText(append(comma(in), f.key...), t)
			}
			continue
		}
		if f.kind != input.KindGroup {
			in = l.field(in, f, e)
			continue
		}
		if e.flags&f.bit == f.bit {
			mark := len(in)
			in = append(append(comma(in), f.key...), '{')
			begin := len(in)
			if in = l.fields(in, i+1, f.end, e); len(in) == begin && !f.there {
				in = in[:mark]
			} else {
				in = append(in, '}')
			}
		}
		i = f.end - 1
	}
	return in
}

func (l *lineWriter) field(in []byte, f *step, e *commonEntry) []byte {
	s := &l.slots[f.slot]
	if f.added {
		if s.present {
			in = l.piece(append(comma(in), f.key...), s.at)
		}
		return in
	}
	switch f.kind {
	case input.KindInt:
		return appendNumber(in, f.name, s.n)
	case input.KindBool:
		if truth := e.flags&f.bit != 0; truth || f.there {
			in = appendBool(in, f.name, truth)
		}
	case input.KindList:
		if f.there {
			return l.piece(append(comma(in), f.key...), s.at)
		}
		return l.member(in, f.name, s.at)
	case input.KindLabels, input.KindObject, input.KindClaims, input.KindHeaders, input.KindPlace:
		return l.member(in, f.name, s.at)
	case input.KindMoment:
		if e.flags&flagTime != 0 {
			in = l.piece(append(comma(in), f.key...), s.at)
		}
	case input.KindFixed:
		return appendString(append(comma(in), f.key...), f.fixed)
	case input.KindParsedBody:
		if e.flags&flagParsedBody != 0 {
			return l.piece(append(comma(in), f.key...), s.at)
		}
		return append(append(comma(in), f.key...), "null"...)
	case input.KindParsedPath:
		return append(l.parsedPath(append(append(comma(in), f.key...), '['), &l.slots[l.path.Index].text), ']')
	case input.KindParsedQuery:
		return append(l.parsedQuery(append(append(comma(in), f.key...), '{'), &l.slots[l.path.Index].text), '}')
	case input.KindRouteMethod:
		if e.flags&flagWebSocket != 0 {
			return append(append(comma(in), f.key...), `"WEBSOCKET"`...)
		}
		return appendMember(in, f.name, l.slots[l.method.Index].text)
	case input.KindParams:
		if e.flags&flagMatched != 0 {
			in = l.piece(append(comma(in), f.key...), e.params)
		}
	}
	return in
}

func (l *lineWriter) eraseInput(e *commonEntry) {
	for _, f := range l.erasable {
		if at := erased(f, e.flags); at != "" {
			l.erase(at)
		}
	}
}

// erasable are the fields that the log does not keep, or not all of.
func erasable(s *input.Schema) (list []*input.Field) {
	for i := len(s.Fields) - 1; i >= 0; i-- {
		if f := &s.Fields[i]; f.Kind == input.KindBody || f.Kind == input.KindRawBody || f.Kind == input.KindClaims || f.Payload {
			list = append(list, f)
		}
	}
	return list
}

// erased is the pointer to what of a field was there and is not recorded; "" where that is nothing.
func erased(f *input.Field, flags uint64) string {
	switch {
	case f.Kind == input.KindBody && flags&(flagBody|flagRawBody) == flagBody, f.Kind == input.KindRawBody && flags&flagBody != 0 && flags&flagRawBody != 0,
		f.Kind == input.KindClaims && flags&flagClaims != 0:
		return f.Pointer
	case f.Payload && flags&flagJWTAuthn != 0:
		return f.Pointer + "/filterMetadata/" + jwtAuthn
	}
	return ""
}

// parsedPath writes the segments of the path. What is escaped is taken apart as the plain way does it.
func (l *lineWriter) parsedPath(in []byte, path *packedText) []byte {
	raw, _, _ := bytes.Cut(path.bytes, []byte("?"))
	if bytes.IndexByte(raw, '%') >= 0 {
		for i, s := range parsedPath(string(raw)) {
			in = l.derived(in, i, []byte(s), path)
		}
		return in
	}
	raw = bytes.TrimLeft(raw, "/")
	for i := 0; ; i++ {
		segment, rest, more := bytes.Cut(raw, []byte("/"))
		if in = l.derived(in, i, segment, path); !more {
			return in
		}
		raw = rest
	}
}

func (l *lineWriter) derived(in []byte, i int, segment []byte, path *packedText) []byte {
	if i > 0 {
		in = append(in, ',')
	}
	clean := segment
	if mayHoldSecret(l.redact, segment) {
		clean = []byte(l.redact.redactText(string(segment)))
	}
	if !bytes.Equal(clean, segment) || path.changed != 0 && bytes.Contains(clean, []byte(redacted)) {
		l.mask("/input/parsed_path/" + strconv.Itoa(i))
	}
	return appendBytes(in, clean)
}

// parsedQuery is rare enough to be taken apart as the plain way does it.
func (l *lineWriter) parsedQuery(in []byte, path *packedText) []byte {
	if at := bytes.IndexByte(path.bytes, '?'); at < 0 || at == len(path.bytes)-1 {
		return in
	}
	values := parsedQuery(string(path.bytes))
	for _, name := range sortedQuery(values) {
		at := "/input/parsed_query/" + escape(name)
		in = append(appendString(comma(in), name), ':')
		if l.redact.secretName(name, l.redact.query) {
			in = appendString(in, redacted)
			l.mask(at)
			continue
		}
		in = append(in, '[')
		for i, v := range values[name] {
			if i > 0 {
				in = append(in, ',')
			}
			clean := l.redact.redactText(v)
			if clean != v || path.changed != 0 && strings.Contains(clean, redacted) {
				l.mask(at + "/" + strconv.Itoa(i))
			}
			in = appendString(in, clean)
		}
		in = append(in, ']')
	}
	return in
}

func sortedQuery(values url.Values) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
