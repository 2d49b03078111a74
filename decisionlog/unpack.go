package decisionlog

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

var errPacked = errors.New("this is no packed entry of version 1")

// unpacking reads a packed entry into values.
type unpacking struct {
	packedReader
	scan   *scan     // gets a pointer to each string that redaction changed
	redact *redactor // knows which query parameters are secret by name
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
		return out, errPacked
	}
	flags := u.uint()
	rec := &record{Format: 1}
	out.record = rec
	rec.Timestamp = stamp(u.time())
	rec.Metrics.Handler = u.int()
	rec.Status = int(u.uint())
	rec.DryRun, rec.Memo = flags&flagDryRun != 0, flags&flagMemo != 0
	for _, f := range []struct {
		into *string
		at   string
	}{{&rec.DecisionID, "/decision_id"}, {&rec.App, "/app"}, {&rec.Route, "/route"}, {&rec.Outcome, "/outcome"}, {&rec.Reason, "/reason"},
		{&rec.Request.Method, "/request/method"}, {&rec.Request.Host, "/request/host"}} {
		*f.into = u.text(f.at, "")
	}
	path, changed := u.string()
	if rec.Request.Path = path; changed != 0 {
		u.scan.mask("/request/path")
	}
	rec.Path = u.text("/path", "")
	u.identity(rec, flags)
	for _, f := range []struct {
		into *string
		at   string
	}{{&rec.Peer, "/peer"}, {&rec.RequestedBy, "/requested_by"}, {&rec.TraceID, "/trace_id"}, {&rec.SpanID, "/span_id"}, {&rec.Revision, "/revision"}} {
		*f.into = u.text(f.at, "")
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
	if flags&flagResult != 0 {
		out.result, out.has.result = u.value(0), true
	}
	if flags&flagAsked != 0 && flags&flagNoInput == 0 {
		in := inputReader{unpacking: u, flags: flags, rec: rec, pathChanged: changed != 0}
		out.input, out.has.input = in.read(), true
	}
	for range u.count() {
		u.scan.mask(u.text("", ""))
	}
	if flags&flagDigests != 0 {
		rec.Digests.Routes, _ = u.string()
		rec.Digests.Keys, _ = u.string()
		rec.Digests.Directory, _ = u.string()
	}
	if u.err {
		return unpacked{}, errPacked
	}
	return out, nil
}

// unpackGap reads what packGap wrote.
func (u *unpacking) unpackGap() (g gap, err error) {
	if u.byte() != packVersion {
		return gap{}, errPacked
	}
	g.dropped, g.damaged = u.uint(), u.uint()
	g.since, g.until = u.time(), u.time()
	g.segment, _ = u.string()
	if u.err {
		return gap{}, errPacked
	}
	return g, nil
}

func (u *unpacking) identity(rec *record, flags uint64) {
	id := &rec.Identity
	id.Type = u.text("/identity/type", "")
	id.name, _ = u.string()
	id.Subject = u.text("/identity/subject", "")
	id.Issuer = u.text("/identity/issuer", "")
	id.Authenticated = flags&flagAuthenticated != 0
	if flags&flagNoRoles != 0 {
		u.scan.erase("/identity/roles")
		return
	}
	id.Roles, id.Groups, id.Scopes = u.list(), u.list(), u.list()
	if n := u.count(); n > 0 {
		id.Claims = make(map[string]any, n)
		for range n {
			name, _ := u.string()
			id.Claims[name] = u.value(0)
		}
	}
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
		params[name] = u.text(at, name)
	}
	return params
}

// inputReader makes the input's document. Its names and what it leaves out are those of the input that the policy got.
type inputReader struct {
	*unpacking
	flags       uint64
	rec         *record
	pathChanged bool
}

func (r *inputReader) has(flag uint64) bool { return r.flags&flag != 0 }

func (r *inputReader) read() map[string]any {
	const at = "/input/attributes"
	attributes, input := map[string]any{}, map[string]any{}
	request := r.request(at + "/request")
	put(attributes, "request", request)
	put(attributes, "source", r.endpoint(at+"/source", flagSource))
	put(attributes, "destination", r.endpoint(at+"/destination", flagDestination))
	put(attributes, "contextExtensions", r.labels())
	put(attributes, "metadataContext", r.object(0))
	if r.has(flagJWTAuthn) {
		r.scan.erase(at + "/metadataContext/filterMetadata/" + jwtAuthn)
	}
	put(attributes, "routeMetadataContext", r.object(0))
	if sni, _ := r.string(); r.has(flagTLS) {
		session := map[string]any{}
		putText(session, "sni", sni)
		attributes["tlsSession"] = session
	}
	put(input, "attributes", attributes)
	input["version"] = map[string]any{"ext_authz": "v3", "encoding": "protojson"}
	input["truncated_body"] = r.has(flagTruncated)
	put(input, "identity", r.who())
	r.peer(input)
	app, _ := r.string()
	putText(input, "app", app)
	r.route(input)
	r.path(input)
	if input["parsed_body"] = nil; r.has(flagParsedBody) {
		input["parsed_body"] = r.value(0)
	}
	if r.rec.Path != "" {
		input["policy"] = map[string]any{"path": r.rec.Path}
	}
	if source, _ := attributes["source"].(map[string]any); source["principal"] != nil {
		input["source_principal"] = source["principal"]
	}
	return input
}

func (r *inputReader) request(at string) map[string]any {
	http := map[string]any{}
	text := func(name string) { putText(http, name, r.text(at+"/http/", name)) }
	text("scheme")
	text("protocol")
	text("id")
	text("query")
	text("fragment")
	putText(http, "method", r.rec.Request.Method)
	putText(http, "host", r.rec.Request.Host)
	if putText(http, "path", r.rec.Request.Path); r.pathChanged {
		r.scan.mask(at + "/http/path")
	}
	putNumber(http, "size", r.int())
	request := map[string]any{}
	if r.has(flagTime) {
		t, at := r.time(), map[string]any{}
		putNumber(at, "seconds", t.Unix())
		putNumber(at, "nanos", int64(t.Nanosecond()))
		request["time"] = at
	}
	r.headers(http, at+"/http")
	switch {
	case !r.has(flagBody):
	case r.has(flagRawBody):
		r.scan.erase(at + "/http/rawBody")
	default:
		r.scan.erase(at + "/http/body")
	}
	put(request, "http", http)
	return request
}

// headers makes headers and headerMap. The values of a name that repeats are joined with a comma.
func (r *inputReader) headers(http map[string]any, at string) {
	n := r.count()
	headers, lines := make(map[string]any, n), make([]any, 0, n)
	for i := range n {
		name, _ := r.string()
		value, changed := r.string()
		old, again := headers[name].(string)
		if pointer := at + "/headers/" + escape(name); changed != 0 && !slices.Contains(r.scan.masked, pointer) {
			r.scan.mask(pointer)
		}
		switch {
		case again && changed == textSecret:
		case again:
			headers[name] = old + "," + value
		default:
			headers[name] = value
		}
		if r.has(flagHeaderMap) {
			lines = append(lines, headerLine(name, value, changed))
			if changed != 0 {
				r.scan.mask(at + "/headerMap/headers/" + strconv.Itoa(i) + "/rawValue")
			}
		}
	}
	put(http, "headers", headers)
	if r.has(flagHeaderMap) {
		http["headerMap"] = map[string]any{"headers": lines}
	}
}

func headerLine(name, value string, changed uint64) map[string]any {
	line := map[string]any{}
	putText(line, "key", name)
	if changed != textSecret {
		value = base64.StdEncoding.EncodeToString([]byte(value))
	}
	putText(line, "rawValue", value)
	return line
}

func (r *inputReader) endpoint(at string, other uint64) map[string]any {
	out := map[string]any{}
	host, _ := r.string()
	port := r.uint()
	switch {
	case r.has(other):
		out["address"] = r.object(0)
	case host != "" || port != 0:
		address := map[string]any{}
		putText(address, "address", host)
		putNumber(address, "portValue", int64(port))
		out["address"] = map[string]any{"socketAddress": address}
	}
	for _, name := range []string{"service", "", "principal", "certificate"} {
		if name == "" {
			put(out, "labels", r.labels())
			continue
		}
		putText(out, name, r.text(at+"/", name))
	}
	return out
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

func (r *inputReader) who() map[string]any {
	id, who := &r.rec.Identity, map[string]any{}
	putText(who, "type", id.Type)
	putText(who, "identity", id.name)
	putText(who, "subject", id.Subject)
	putText(who, "issuer", id.Issuer)
	who["roles"], who["groups"], who["scopes"] = anyStrings(id.Roles), anyStrings(id.Groups), anyStrings(id.Scopes)
	who["authenticated"] = id.Authenticated
	if len(id.Claims) > 0 {
		who["claims"] = id.Claims
	}
	if r.has(flagClaims) {
		r.scan.erase("/input/identity/claims")
	}
	return who
}

func (r *inputReader) peer(input map[string]any) {
	peer := map[string]any{}
	putText(peer, "spiffe_id", r.text("/input/peer/", "spiffe_id"))
	putText(peer, "subject", r.text("/input/peer/", "subject"))
	if sans := r.list(); len(sans) > 0 {
		peer["sans"] = anyStrings(sans)
	}
	put(input, "peer", peer)
}

func (r *inputReader) route(input map[string]any) {
	name, _ := r.string()
	template, _ := r.string()
	if !r.has(flagMatched) {
		return
	}
	route := map[string]any{}
	putText(route, "name", name)
	if r.has(flagWebSocket) {
		route["method"] = "WEBSOCKET"
	} else {
		putText(route, "method", r.rec.Request.Method)
	}
	putText(route, "template", template)
	if r.has(flagRedirect) {
		route["redirect"] = true
	}
	params, resource := map[string]any{}, map[string]any{}
	for name, v := range r.rec.Parameters {
		params[name], resource[name] = v, v
	}
	route["params"], input["resource"], input["route"] = params, resource, route
	for _, p := range r.scan.masked {
		if name, ok := strings.CutPrefix(p, "/parameters/"); ok {
			r.scan.mask("/input/route/params/" + name)
			r.scan.mask("/input/resource/" + name)
		}
	}
}

// path makes what is worked out of the path, which redaction went over already.
func (r *inputReader) path(input map[string]any) {
	segments := parsedPath(r.rec.Request.Path)
	list := make([]any, len(segments))
	for i, s := range segments {
		list[i] = r.derived(s, "/input/parsed_path/"+strconv.Itoa(i))
	}
	input["parsed_path"] = list
	query := map[string]any{}
	values := parsedQuery(r.rec.Request.Path)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		values, at := values[name], "/input/parsed_query/"+escape(name)
		if r.redact.secretName(name, r.redact.query) {
			query[name] = redacted
			r.scan.mask(at)
			continue
		}
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = r.derived(v, at+"/"+strconv.Itoa(i))
		}
		query[name] = list
	}
	input["parsed_query"] = query
}

// derived notes the pointer of a string that came out of one that redaction changed, and looks at it once more: what was
// escaped is not any longer.
func (r *inputReader) derived(s, pointer string) string {
	text := r.redact.text(s)
	if text != s || r.pathChanged && strings.Contains(s, redacted) {
		r.scan.mask(pointer)
	}
	return text
}

// put sets a member unless it is empty.
func put(m map[string]any, name string, v map[string]any) {
	if len(v) > 0 {
		m[name] = v
	}
}

func putText(m map[string]any, name, s string) {
	if s != "" {
		m[name] = s
	}
}

func putNumber(m map[string]any, name string, n int64) {
	if n != 0 {
		m[name] = n
	}
}

func anyStrings(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// text reads a string and notes its pointer, at and name, where redaction changed it.
func (u *unpacking) text(at, name string) string {
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

// packedTime reads when a packed entry was, or until when a gap.
func packedTime(kind uint32, packed []byte) (time.Time, bool) {
	if kind == frameGap {
		g, err := (&unpacking{packedReader: packedReader{in: packed}}).unpackGap()
		return g.until, err == nil
	}
	u := packedReader{in: packed}
	if u.byte() != packVersion {
		return time.Time{}, false
	}
	u.uint()
	t := u.time()
	return t, !u.err
}

// packedID reads the id of a packed entry; "" where it has none.
func packedID(packed []byte) string {
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
