package decisionlog

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// liner makes a line straight from the packed entry: nothing is turned into values on the way, and nothing is allocated. It does that
// for the usual entry. What is rare, such as one that is too large, it leaves to codec.plainLine, which says what a line is: a
// fuzz target holds the two against each other.
type liner struct {
	packedReader
	redact *redactor
	rare   bool // something is not for us

	// Reused from line to line.
	parts   []byte // what stands in a line more than once, or not in the order of the packed entry
	input   []byte
	masked  []byte // pointers, each with a comma before it
	erased  []byte
	names   []text // of headers
	changed []text // names of parameters that redaction changed
}

// span is a piece of liner.parts.
type span struct{ from, to int }

// usual is what a packed entry holds.
type usual struct {
	flags                                         uint64
	time                                          time.Time
	took                                          int64
	status                                        uint64
	id, app, route, outcome, reason, method, host text
	path, decision                                text
	kind, name, subject, issuer                   text
	roles, groups, scopes, claims                 span
	peer, requestedBy, traceID, spanID, revision  text
	bundles, params                               span
	problem                                       text
	result                                        span
	scheme, protocol, requestID, query, fragment  text
	size                                          int64
	began                                         time.Time
	headers, source, destination                  span
	principal                                     text // of the source
	extensions, metadata, routeMetadata           span
	sni, spiffe, peerSubject                      text
	sans                                          span
	inputApp, routeName, template                 text
	body                                          span
	routesDigest, keysDigest, directoryDigest     text
}

const notUsual = flagNoInput | flagNoResult | flagNoRoles | flagHeaderMap | flagSource | flagDestination

// appendLine appends the line of a packed entry, unless there is something about it that is not usual.
func (l *liner) appendLine(dst, packed []byte, c *codec) ([]byte, bool) {
	l.packedReader, l.rare, l.redact = packedReader{in: packed}, false, &c.redact
	l.parts, l.input, l.masked, l.erased, l.names, l.changed = l.parts[:0], l.input[:0], l.masked[:0], l.erased[:0], l.names[:0], l.changed[:0]
	var e usual
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
		line = append(append(line, `,"input":`...), l.input...)
	}
	line = append(line, "}\n"...)
	if l.rare || len(line)-len(dst) > c.max {
		return dst, false
	}
	return line, true
}

// read goes through the packed entry in its order.
func (l *liner) read(e *usual) {
	if l.byte() != packVersion {
		l.rare = true
		return
	}
	if e.flags = l.uint(); e.flags&notUsual != 0 {
		l.rare = true
		return
	}
	e.time, e.took, e.status = l.time(), l.int(), l.uint()
	l.plain(&e.id, &e.app, &e.route, &e.outcome, &e.reason, &e.method, &e.host)
	if e.path = l.text(); e.path.changed != 0 {
		l.mask("/request/path")
	}
	l.plain(&e.decision, &e.kind, &e.name, &e.subject, &e.issuer)
	e.roles, e.groups, e.scopes, e.claims = l.list(), l.list(), l.list(), l.object(0)
	l.plain(&e.peer, &e.requestedBy, &e.traceID, &e.spanID, &e.revision)
	e.bundles, e.params = l.bundleObject(), l.paramObject()
	if e.problem = l.text(); e.problem.changed != 0 {
		l.mask("/error/message")
	}
	if e.flags&flagResult != 0 {
		e.result = l.part(func() { l.value(0) })
	}
	if e.flags&flagAsked != 0 {
		l.readInput(e)
	}
	for range l.count() {
		l.maskText(l.text())
	}
	if e.flags&flagDigests != 0 {
		l.plain(&e.routesDigest, &e.keysDigest, &e.directoryDigest)
	}
}

func (l *liner) readInput(e *usual) {
	l.plain(&e.scheme, &e.protocol, &e.requestID)
	const at = "/input/attributes/request/http/"
	if e.query = l.text(); e.query.changed != 0 {
		l.mask(at + "query")
	}
	if e.fragment = l.text(); e.fragment.changed != 0 {
		l.mask(at + "fragment")
	}
	e.size = l.int()
	if e.flags&flagTime != 0 {
		e.began = l.time()
	}
	e.headers = l.headerObject()
	e.source, e.principal = l.endpoint()
	e.destination, _ = l.endpoint()
	e.extensions, e.metadata, e.routeMetadata = l.labels(), l.object(0), l.object(0)
	l.plain(&e.sni, &e.spiffe, &e.peerSubject)
	e.sans = l.list()
	l.plain(&e.inputApp, &e.routeName, &e.template)
	if e.flags&flagParsedBody != 0 {
		e.body = l.part(func() { l.value(0) })
	}
}

// plain reads strings that redaction leaves alone; in an entry that is cut to size it may not have.
func (l *liner) plain(into ...*text) {
	for _, t := range into {
		*t = l.text()
		l.rare = l.rare || t.changed != 0
	}
}

// headerObject leaves headers in the order in which they came. A name that repeats is rare.
func (l *liner) headerObject() span {
	n := l.count()
	if l.rare = l.rare || n > mostHeaders; l.rare {
		return span{}
	}
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	var seen [16]uint64 // by a hash of the name
	for range n {
		name, value := l.text(), l.text()
		at := nameHash(name.bytes) % 1024
		l.rare = l.rare || name.changed != 0 || seen[at/64]&(1<<(at%64)) != 0 && l.hasHeader(name.bytes)
		seen[at/64] |= 1 << (at % 64)
		l.names = append(l.names, name)
		l.parts = appendText(appendName(l.parts, name), value)
		if value.changed != 0 {
			l.mask("/input/attributes/request/http/headers/", name)
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

func (l *liner) hasHeader(name []byte) bool {
	return slices.ContainsFunc(l.names, func(t text) bool { return bytes.Equal(t.bytes, name) })
}

// mostHeaders bounds what is compared with each other.
const mostHeaders = 128

// part keeps what write adds to the parts.
func (l *liner) part(write func()) span {
	from := len(l.parts)
	write()
	return span{from, len(l.parts)}
}

func (s span) empty() bool { return s.to-s.from <= len("{}") }

func (l *liner) piece(dst []byte, s span) []byte { return append(dst, l.parts[s.from:s.to]...) }

func (l *liner) list() span {
	from := len(l.parts)
	l.parts = append(l.parts, '[')
	for i := range l.count() {
		if i > 0 {
			l.parts = append(l.parts, ',')
		}
		l.parts = appendText(l.parts, l.text())
	}
	l.parts = append(l.parts, ']')
	return span{from, len(l.parts)}
}

// object is an object of plain JSON, and labels one of strings.
func (l *liner) object(depth int) span {
	from := len(l.parts)
	l.members(depth)
	return span{from, len(l.parts)}
}

func (l *liner) labels() span {
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	for range l.count() {
		l.parts = appendName(l.parts, l.text())
		l.parts = appendText(l.parts, l.text())
	}
	l.parts = append(l.parts, '}')
	return span{from, len(l.parts)}
}

func (l *liner) bundleObject() span {
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	for range l.count() {
		var name, revision, digest text
		l.plain(&name, &revision, &digest)
		l.parts = append(appendName(l.parts, name), `{"revision":`...)
		l.parts = appendText(l.parts, revision)
		l.parts = appendMember(l.parts, "digest", digest)
		l.parts = append(l.parts, '}')
	}
	l.parts = append(l.parts, '}')
	return span{from, len(l.parts)}
}

func (l *liner) paramObject() span {
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	for range l.count() {
		name, value := l.text(), l.text()
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

// endpoint writes one end of a connection; its address is host and port, as others are rare.
func (l *liner) endpoint() (s span, principal text) {
	var host, service, certificate text
	l.plain(&host)
	port := l.uint()
	l.plain(&service)
	labels := l.labels()
	l.plain(&principal, &certificate)
	from := len(l.parts)
	l.parts = append(l.parts, '{')
	if len(host.bytes) > 0 || port != 0 {
		l.parts = append(l.parts, `"address":{"socketAddress":{`...)
		l.parts = appendMember(l.parts, "address", host)
		if port != 0 {
			l.parts = strconv.AppendUint(appendKey(l.parts, "portValue"), port, 10)
		}
		l.parts = append(l.parts, "}}"...)
	}
	l.parts = appendMember(l.parts, "certificate", certificate)
	if !labels.empty() {
		l.parts = l.piece(appendKey(l.parts, "labels"), labels)
	}
	l.parts = appendMember(l.parts, "principal", principal)
	l.parts = append(appendMember(l.parts, "service", service), '}')
	return span{from, len(l.parts)}, principal
}

// value copies one value of plain JSON to the parts.
func (l *liner) value(depth int) {
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
		n := l.text().bytes
		if len(n) == 0 || n[0] > '9' || !json.Valid(n) {
			l.rare = true
		}
		l.parts = append(l.parts, n...)
	case kindString:
		l.parts = appendText(l.parts, l.text())
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

func (l *liner) members(depth int) {
	l.parts = append(l.parts, '{')
	n := l.count()
	for i := 0; i < n && !l.err; i++ {
		l.parts = appendName(l.parts, l.text())
		l.value(depth + 1)
	}
	l.parts = append(l.parts, '}')
}

// envelope writes the line up to its documents.
func (l *liner) envelope(dst []byte, e *usual, labels string) []byte {
	dst = appendText(append(dst, `{"decision_id":`...), e.id)
	dst = e.time.AppendFormat(append(dst, `,"timestamp":"`...), time.RFC3339Nano)
	dst = append(append(dst, `","format":1`...), labels...)
	dst = appendMember(dst, "trace_id", e.traceID)
	dst = appendMember(dst, "span_id", e.spanID)
	dst = appendMember(dst, "revision", e.revision)
	if !e.bundles.empty() {
		dst = l.piece(appendKey(dst, "bundles"), e.bundles)
	}
	dst = appendMember(dst, "path", e.decision)
	dst = appendMember(dst, "requested_by", e.requestedBy)
	dst = appendMember(dst, "app", e.app)
	dst = appendMember(dst, "route", e.route)
	if !e.params.empty() {
		dst = l.piece(appendKey(dst, "parameters"), e.params)
	}
	dst = l.identity(append(dst, `,"identity":{`...), e)
	dst = appendMember(dst, "peer", e.peer)
	dst = append(dst, `,"request":{`...)
	dst = appendMember(dst, "method", e.method)
	dst = appendMember(dst, "host", e.host)
	dst = append(appendMember(dst, "path", e.path), `},"outcome":`...)
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
	return l.pointers(l.pointers(dst, `,"erased":[`, l.erased), `,"masked":[`, l.masked)
}

func (l *liner) pointers(dst []byte, name string, list []byte) []byte {
	if len(list) == 0 {
		return dst
	}
	return append(append(append(dst, name...), list[len(","):]...), ']')
}

func (l *liner) identity(dst []byte, e *usual) []byte {
	dst = appendMember(dst, "type", e.kind)
	dst = appendMember(dst, "subject", e.subject)
	dst = appendMember(dst, "issuer", e.issuer)
	for _, list := range []struct {
		name string
		of   span
	}{{"roles", e.roles}, {"groups", e.groups}, {"scopes", e.scopes}, {"claims", e.claims}} {
		if !list.of.empty() {
			dst = l.piece(appendKey(dst, list.name), list.of)
		}
	}
	return append(appendBool(dst, "authenticated", e.flags&flagAuthenticated != 0), '}')
}

// writeInput writes the input's document, its members in the order of their names.
func (l *liner) writeInput(e *usual) {
	in := append(l.input, '{')
	in = appendMember(in, "app", e.inputApp)
	in = l.attributes(in, e)
	in = l.who(in, e)
	in = appendKey(in, "parsed_body")
	if e.flags&flagParsedBody != 0 {
		in = l.piece(in, e.body)
	} else {
		in = append(in, "null"...)
	}
	if e.flags&flagMatched != 0 {
		for _, name := range l.changed {
			l.mask("/input/route/params/", name)
			l.mask("/input/resource/", name)
		}
	}
	in = l.parsedPath(append(in, `,"parsed_path":[`...), &e.path)
	in = l.parsedQuery(append(in, `],"parsed_query":{`...), &e.path)
	in = append(in, '}')
	if e.spiffe.some() || e.peerSubject.some() || !e.sans.empty() {
		in = append(in, `,"peer":{`...)
		if !e.sans.empty() {
			in = l.piece(appendKey(in, "sans"), e.sans)
		}
		in = appendMember(in, "spiffe_id", e.spiffe)
		in = append(appendMember(in, "subject", e.peerSubject), '}')
	}
	if e.decision.some() {
		in = append(appendText(append(in, `,"policy":{"path":`...), e.decision), '}')
	}
	if e.flags&flagMatched != 0 {
		in = l.route(in, e)
	}
	in = appendMember(in, "source_principal", e.principal)
	in = appendBool(in, "truncated_body", e.flags&flagTruncated != 0)
	l.input = append(in, `,"version":{"encoding":"protojson","ext_authz":"v3"}}`...)
	l.eraseInput(e)
}

func (l *liner) eraseInput(e *usual) {
	const request = "/input/attributes/request/http/"
	switch {
	case e.flags&flagBody == 0:
	case e.flags&flagRawBody != 0:
		l.erase(request + "rawBody")
	default:
		l.erase(request + "body")
	}
	if e.flags&flagJWTAuthn != 0 {
		l.erase("/input/attributes/metadataContext/filterMetadata/" + jwtAuthn)
	}
	if e.flags&flagClaims != 0 {
		l.erase("/input/identity/claims")
	}
}

func (l *liner) attributes(in []byte, e *usual) []byte {
	mark := len(in)
	in = append(appendKey(in, "attributes"), '{')
	begin := len(in)
	in = l.member(in, "contextExtensions", e.extensions)
	in = l.member(in, "destination", e.destination)
	in = l.member(in, "metadataContext", e.metadata)
	in = l.request(in, e)
	in = l.member(in, "routeMetadataContext", e.routeMetadata)
	in = l.member(in, "source", e.source)
	if e.flags&flagTLS != 0 {
		in = append(appendMember(append(appendKey(in, "tlsSession"), '{'), "sni", e.sni), '}')
	}
	if len(in) == begin {
		return in[:mark]
	}
	return append(in, '}')
}

// member adds an object that is not empty.
func (l *liner) member(dst []byte, name string, object span) []byte {
	if object.empty() {
		return dst
	}
	return l.piece(appendKey(dst, name), object)
}

func (l *liner) request(in []byte, e *usual) []byte {
	mark := len(in)
	in = append(appendKey(in, "request"), '{')
	begin := len(in)
	in = l.http(in, e)
	if e.flags&flagTime != 0 {
		in = append(appendKey(in, "time"), '{')
		in = appendNumber(in, "nanos", int64(e.began.Nanosecond()))
		in = append(appendNumber(in, "seconds", e.began.Unix()), '}')
	}
	if len(in) == begin {
		return in[:mark]
	}
	return append(in, '}')
}

func (l *liner) http(in []byte, e *usual) []byte {
	mark := len(in)
	in = append(appendKey(in, "http"), '{')
	begin := len(in)
	in = appendMember(in, "fragment", e.fragment)
	in = l.member(in, "headers", e.headers)
	in = appendMember(in, "host", e.host)
	in = appendMember(in, "id", e.requestID)
	in = appendMember(in, "method", e.method)
	if in = appendMember(in, "path", e.path); e.path.changed != 0 {
		l.mask("/input/attributes/request/http/path")
	}
	in = appendMember(in, "protocol", e.protocol)
	in = appendMember(in, "query", e.query)
	in = appendMember(in, "scheme", e.scheme)
	in = appendNumber(in, "size", e.size)
	if len(in) == begin {
		return in[:mark]
	}
	return append(in, '}')
}

func (l *liner) who(in []byte, e *usual) []byte {
	in = appendBool(append(appendKey(in, "identity"), '{'), "authenticated", e.flags&flagAuthenticated != 0)
	in = l.member(in, "claims", e.claims)
	in = l.piece(appendKey(in, "groups"), e.groups)
	in = appendMember(in, "identity", e.name)
	in = appendMember(in, "issuer", e.issuer)
	in = l.piece(appendKey(in, "roles"), e.roles)
	in = l.piece(appendKey(in, "scopes"), e.scopes)
	in = appendMember(in, "subject", e.subject)
	return append(appendMember(in, "type", e.kind), '}')
}

func (l *liner) route(in []byte, e *usual) []byte {
	in = l.piece(appendKey(in, "resource"), e.params)
	in = append(appendKey(in, "route"), '{')
	if e.flags&flagWebSocket != 0 {
		in = append(appendKey(in, "method"), `"WEBSOCKET"`...)
	} else {
		in = appendMember(in, "method", e.method)
	}
	in = appendMember(in, "name", e.routeName)
	in = l.piece(appendKey(in, "params"), e.params)
	if e.flags&flagRedirect != 0 {
		in = appendBool(in, "redirect", true)
	}
	return append(appendMember(in, "template", e.template), '}')
}

// parsedPath writes the segments of the path. What is escaped is taken apart as the plain way does it.
func (l *liner) parsedPath(in []byte, path *text) []byte {
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

func (l *liner) derived(in []byte, i int, segment []byte, path *text) []byte {
	if i > 0 {
		in = append(in, ',')
	}
	clean := segment
	if suspect(l.redact, segment) {
		clean = []byte(l.redact.text(string(segment)))
	}
	if !bytes.Equal(clean, segment) || path.changed != 0 && bytes.Contains(clean, []byte(redacted)) {
		l.mask("/input/parsed_path/" + strconv.Itoa(i))
	}
	return appendBytes(in, clean)
}

// parsedQuery is rare enough to be taken apart as the plain way does it.
func (l *liner) parsedQuery(in []byte, path *text) []byte {
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
			clean := l.redact.text(v)
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

// mask notes a JSON pointer to what redaction changed, erase to what it took out.
func (l *liner) mask(at string, name ...text) { l.masked = appendPointer(l.masked, at, name...) }
func (l *liner) erase(at string)              { l.erased = appendPointer(l.erased, at) }

// maskText is mask for a pointer that the packed entry has.
func (l *liner) maskText(t text) { l.masked = appendText(append(l.masked, ','), t) }

func appendPointer(dst []byte, at string, name ...text) []byte {
	dst = append(append(dst, `,"`...), at...)
	for _, n := range name {
		if bytes.ContainsAny(n.bytes, "~/") {
			dst = appendEscaped(dst, escape(string(n.bytes)))
		} else {
			dst = appendEscaped(dst, n.bytes)
		}
	}
	return append(dst, '"')
}

func (t text) some() bool { return len(t.bytes) > 0 || t.changed == textSecret }

func appendText(dst []byte, t text) []byte {
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
func appendName(dst []byte, name text) []byte { return append(appendText(comma(dst), name), ':') }

// appendMember adds a string that is not empty.
func appendMember(dst []byte, name string, t text) []byte {
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
