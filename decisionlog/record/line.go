package record

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"gatehouse/input"
)

// lineWriter makes a line straight from the packed entry: nothing is turned into values on the way, and nothing is allocated. It does that
// for the usual entry. What is rare, such as one that is too large, it leaves to codec.plainLine, which says what a line is: a
// fuzz target holds the two against each other.
type lineWriter struct {
	packedReader
	redact *redactor
	schema *input.Schema
	rare   bool // something is not for us

	// Reused from line to line.
	parts    []byte // what stands in a line more than once, or not in the order of the packed entry
	document []byte // the input
	masked   []byte // pointers, each with a comma before it
	erased   []byte
	names    []packedText // of headers
	changed  []packedText // names of parameters that redaction changed
	slots    []slot       // of the fields, by their place in the schema
	extra    extra

	path, method *input.Field
	erasable     []*input.Field
	steps        []step // the whole input
	// What the envelope shows of the input: beside it, and in two objects of its own.
	top, identity, request []step
	headersAt              string // pointer to the headers, with a slash
}

// span is a piece of lineWriter.parts.
type span struct{ from, to int }

// commonEntry is what a packed entry holds beside the fields of its input, which are in lineWriter.slots.
type commonEntry struct {
	flags                                        uint64
	time                                         time.Time
	took                                         int64
	status                                       uint64
	id, app, route, outcome, reason              packedText
	peer, requestedBy, traceID, spanID, revision packedText
	bundles, params                              span
	problem                                      packedText
	result                                       span
	routesDigest, keysDigest, directoryDigest    packedText
}

// slot is the value of one field of the input.
type slot struct {
	text    packedText
	n       int64
	at      span
	present bool // of a field that has a number
}

const notCommon = flagNoInput | flagNoResult | flagNoRoles | flagHeaderMap | flagSource | flagDestination

// follow prepares for a schema.
func (l *lineWriter) follow(schema *input.Schema) {
	l.schema, l.slots = schema, make([]slot, len(schema.Fields))
	l.path, l.method, l.erasable = schema.Field(pathField), schema.Field(methodField), erasable(schema)
	l.steps = steps(nil, schema.Root)
	l.top, l.identity, l.request = envelopeSteps(schema, "/"), envelopeSteps(schema, "/identity/"), envelopeSteps(schema, "/request/")
	l.headersAt = schema.Field(headersField).Pointer + "/"
}

// appendLine appends the line of a packed entry, unless there is something about it that is not usual.
func (l *lineWriter) appendLine(dst, packed []byte, c *codec) ([]byte, bool) {
	l.packedReader, l.rare, l.redact = packedReader{in: packed}, false, &c.redact
	if l.schema == nil {
		l.follow(c.schema)
	}
	for _, f := range l.schema.Added { // the others are written before they are read
		l.slots[f.Index].present = false
	}
	l.parts, l.document, l.masked, l.erased, l.names, l.changed = l.parts[:0], l.document[:0], l.masked[:0], l.erased[:0], l.names[:0], l.changed[:0]
	var e commonEntry
	if l.read(&e); l.err || l.rare {
		return dst, false
	}
	hasInput := e.flags&flagAsked != 0
	if hasInput {
		l.writeInput(&e)
	}
	line := l.envelope(dst, &e, c.labelsText)
	if e.flags&flagResult != 0 {
		line = l.piece(append(line, `,"result":`...), e.result)
	}
	if hasInput {
		line = append(append(line, `,"input":`...), l.document...)
	}
	line = append(line, "}\n"...)
	if l.rare || len(line)-len(dst) > c.max {
		return dst, false
	}
	return line, true
}

// read goes through the packed entry in its order.
func (l *lineWriter) read(e *commonEntry) {
	if l.byte() != packVersion {
		l.rare = true
		return
	}
	if e.flags = l.uint(); e.flags&notCommon != 0 {
		l.rare = true
		return
	}
	e.time, e.took, e.status = l.time(), l.int(), l.uint()
	l.readUnchanged(&e.id, &e.app, &e.route, &e.outcome, &e.reason)
	l.readHead()
	l.readUnchanged(&e.peer, &e.requestedBy, &e.traceID, &e.spanID, &e.revision)
	e.bundles, e.params = l.bundleObject(), l.paramObject()
	if e.problem = l.readText(); e.problem.changed != 0 {
		l.mask("/error/message")
	}
	if e.flags&flagResult != 0 {
		e.result = l.part(func() { l.value(0) })
	}
	if e.flags&flagAsked != 0 {
		l.readInput(e)
	}
	for range l.count() {
		l.maskText(l.readText())
	}
	if e.flags&flagDigests != 0 {
		l.readUnchanged(&e.routesDigest, &e.keysDigest, &e.directoryDigest)
	}
	if l.extra = (extra{}); len(l.in) > 0 {
		l.readAdded()
	}
}

// readUnchanged reads strings that redaction leaves alone; in an entry that is cut to size it may not have.
func (l *lineWriter) readUnchanged(into ...*packedText) {
	for _, t := range into {
		*t = l.readText()
		l.rare = l.rare || t.changed != 0
	}
}

// part keeps what write adds to the parts.
func (l *lineWriter) part(write func()) span {
	from := len(l.parts)
	write()
	return span{from, len(l.parts)}
}

func (s span) empty() bool { return s.to-s.from <= len("{}") }

func (l *lineWriter) piece(dst []byte, s span) []byte { return append(dst, l.parts[s.from:s.to]...) }

func (l *lineWriter) list() span {
	from := len(l.parts)
	l.parts = append(l.parts, '[')
	for i := range l.count() {
		if i > 0 {
			l.parts = append(l.parts, ',')
		}
		l.parts = appendText(l.parts, l.readText())
	}
	l.parts = append(l.parts, ']')
	return span{from, len(l.parts)}
}

// object is an object of plain JSON, and labels one of strings.
func (l *lineWriter) object(depth int) span {
	from := len(l.parts)
	l.members(depth)
	return span{from, len(l.parts)}
}

func (l *lineWriter) labels() span {
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	for range l.count() {
		l.parts = appendName(l.parts, l.readText())
		l.parts = appendText(l.parts, l.readText())
	}
	l.parts = append(l.parts, '}')
	return span{from, len(l.parts)}
}

func (l *lineWriter) bundleObject() span {
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	for range l.count() {
		var name, revision, digest packedText
		l.readUnchanged(&name, &revision, &digest)
		l.parts = append(appendName(l.parts, name), `{"revision":`...)
		l.parts = appendText(l.parts, revision)
		l.parts = appendMember(l.parts, "digest", digest)
		l.parts = append(l.parts, '}')
	}
	l.parts = append(l.parts, '}')
	return span{from, len(l.parts)}
}

func (l *lineWriter) paramObject() span {
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	for range l.count() {
		name, value := l.readText(), l.readText()
		l.parts = appendText(appendName(l.parts, name), value)
		if value.changed != 0 {
			l.mask("/parameters/", name)
			l.changed = append(l.changed, name)
		}
		l.rare = l.rare || name.changed != 0
	}
	l.parts = append(l.parts, '}')
	return span{from, len(l.parts)}
}

// value copies one value of plain JSON to the parts.
func (l *lineWriter) value(depth int) {
	if depth > maxNesting {
		l.fail()
		return
	}
	switch l.byte() {
	case kindNull:
		l.parts = append(l.parts, "null"...)
	case kindFalse:
		l.parts = append(l.parts, "false"...)
	case kindTrue:
		l.parts = append(l.parts, "true"...)
	case kindNumber:
		n := l.readText().bytes
		if len(n) == 0 || n[0] > '9' || !json.Valid(n) {
			l.rare = true
		}
		l.parts = append(l.parts, n...)
	case kindString:
		l.parts = appendText(l.parts, l.readText())
	case kindArray:
		l.parts = append(l.parts, '[')
		n := l.count()
		for i := 0; i < n && !l.err; i++ {
			if i > 0 {
				l.parts = append(l.parts, ',')
			}
			l.value(depth + 1)
		}
		l.parts = append(l.parts, ']')
	case kindObject:
		l.members(depth)
	default:
		l.fail()
	}
}

func (l *lineWriter) members(depth int) {
	l.parts = append(l.parts, '{')
	n := l.count()
	for i := 0; i < n && !l.err; i++ {
		l.parts = appendName(l.parts, l.readText())
		l.value(depth + 1)
	}
	l.parts = append(l.parts, '}')
}

// envelope writes the line up to its documents.
func (l *lineWriter) envelope(dst []byte, e *commonEntry, labels string) []byte {
	dst = appendText(append(dst, `{"decision_id":`...), e.id)
	dst = e.time.AppendFormat(append(dst, `,"timestamp":"`...), time.RFC3339Nano)
	dst = append(append(dst, `","format":1`...), labels...)
	dst = appendMember(dst, "trace_id", e.traceID)
	dst = appendMember(dst, "span_id", e.spanID)
	dst = appendMember(dst, "revision", e.revision)
	if !e.bundles.empty() {
		dst = l.piece(appendKey(dst, "bundles"), e.bundles)
	}
	dst = l.shown(dst, l.top)
	dst = appendMember(dst, "requested_by", e.requestedBy)
	dst = appendMember(dst, "app", e.app)
	dst = appendMember(dst, "route", e.route)
	if !e.params.empty() {
		dst = l.piece(appendKey(dst, "parameters"), e.params)
	}
	dst = l.shown(append(dst, `,"identity":{`...), l.identity)
	dst = append(appendBool(dst, "authenticated", e.flags&flagAuthenticated != 0), '}')
	dst = appendMember(dst, "peer", e.peer)
	dst = append(l.shown(append(dst, `,"request":{`...), l.request), `},"outcome":`...)
	dst = appendMember(appendText(dst, e.outcome), "reason", e.reason)
	if e.status != 0 {
		dst = strconv.AppendUint(appendKey(dst, "status"), e.status, 10)
	}
	if e.flags&flagDryRun != 0 {
		dst = append(dst, `,"dry_run":true`...)
	}
	if e.flags&flagMemo != 0 {
		dst = append(dst, `,"memo":true`...)
	}
	if e.problem.some() {
		dst = append(appendMember(append(dst, `,"error":{`...), "code", e.reason), `,"message":`...)
		if dst = append(appendText(dst, e.problem), '}'); !e.reason.some() {
			l.rare = true
		}
	}
	dst = strconv.AppendInt(append(dst, `,"metrics":{"timer_server_handler_ns":`...), e.took, 10)
	dst = append(dst, '}')
	if e.routesDigest.some() || e.keysDigest.some() || e.directoryDigest.some() {
		dst = append(dst, `,"digests":{`...)
		dst = appendMember(dst, "routes", e.routesDigest)
		dst = appendMember(dst, "keys", e.keysDigest)
		dst = append(appendMember(dst, "directory", e.directoryDigest), '}')
	}
	dst = l.extras(dst, e)
	return l.pointers(l.pointers(dst, `,"erased":[`, l.erased), `,"masked":[`, l.masked)
}

func (l *lineWriter) pointers(dst []byte, name string, list []byte) []byte {
	if len(list) == 0 {
		return dst
	}
	return append(append(append(dst, name...), list[len(","):]...), ']')
}

// mask notes a JSON pointer to what redaction changed, erase to what it took out.
func (l *lineWriter) mask(at string, name ...packedText) {
	l.masked = appendPointer(l.masked, at, name...)
}
func (l *lineWriter) erase(at string) { l.erased = appendPointer(l.erased, at) }

// maskText is mask for a pointer that the packed entry has.
func (l *lineWriter) maskText(t packedText) { l.masked = appendText(append(l.masked, ','), t) }

func appendPointer(dst []byte, at string, name ...packedText) []byte {
	dst = appendEscaped(append(dst, `,"`...), at) // it may have names of the query
	for _, n := range name {
		if bytes.ContainsAny(n.bytes, "~/") {
			dst = appendEscaped(dst, escape(string(n.bytes)))
		} else {
			dst = appendEscaped(dst, n.bytes)
		}
	}
	return append(dst, '"')
}

func (t packedText) some() bool { return len(t.bytes) > 0 || t.changed == textSecret }

func appendText(dst []byte, t packedText) []byte {
	if t.changed == textSecret {
		return append(dst, `"`+redacted+`"`...)
	}
	return appendBytes(dst, t.bytes)
}

// comma separates a member from the one before it.
func comma(dst []byte) []byte {
	if dst[len(dst)-1] == '{' {
		return dst
	}
	return append(dst, ',')
}

func appendKey(dst []byte, name string) []byte {
	return append(append(append(comma(dst), '"'), name...), `":`...)
}

// appendName is appendKey for a name that may need escapes.
func appendName(dst []byte, name packedText) []byte { return append(appendText(comma(dst), name), ':') }

// appendMember adds a string that is not empty.
func appendMember(dst []byte, name string, t packedText) []byte {
	if !t.some() {
		return dst
	}
	return appendText(appendKey(dst, name), t)
}

// appendNumber adds a number that is not zero.
func appendNumber(dst []byte, name string, n int64) []byte {
	if n == 0 {
		return dst
	}
	return strconv.AppendInt(appendKey(dst, name), n, 10)
}

func appendBool(dst []byte, name string, b bool) []byte {
	return strconv.AppendBool(appendKey(dst, name), b)
}
