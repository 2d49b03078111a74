package record

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/input"
)

// inputReader makes the input's document. Its names and what it leaves out are those of the input that the policy got.
type inputReader struct {
	*unpacking
	flags       uint64
	rec         *record
	pathChanged bool
	lines       []any // of the headers
}

func (r *inputReader) has(flag uint64) bool { return r.flags&flag != 0 }

// head reads the fields that an entry has in front of its input, for the record and for the input.
func (u *unpacking) head(rec *record, flags uint64) (pathChanged bool) {
	for _, f := range u.schema.Head {
		switch {
		case f.Kind == input.KindText:
			text, changed := u.string()
			if changed != 0 && f.Line != "" {
				u.scan.mask(f.Line)
			}
			pathChanged = pathChanged || changed != 0 && f.Secret == input.SecretPath
			u.values[f.Index] = text
		case flags&flagNoRoles != 0:
			if f.Line == "/identity/roles" {
				u.scan.erase(f.Line)
			}
		case f.Kind == input.KindList:
			u.values[f.Index] = u.list()
		case f.Kind == input.KindClaims:
			if claims := u.object(0); len(claims) > 0 {
				u.values[f.Index] = claims
			}
		}
		rec.set(f.Line, u.values[f.Index])
	}
	rec.Identity.Authenticated = flags&flagAuthenticated != 0
	return pathChanged
}

// set sets a member of the envelope that is a field of the input, too.
func (rec *record) set(pointer string, value any) {
	switch pointer {
	case "/request/method":
		rec.Request.Method, _ = value.(string)
	case "/request/host":
		rec.Request.Host, _ = value.(string)
	case "/request/path":
		rec.Request.Path, _ = value.(string)
	case "/path":
		rec.Path, _ = value.(string)
	case "/identity/type":
		rec.Identity.Type, _ = value.(string)
	case "/identity/subject":
		rec.Identity.Subject, _ = value.(string)
	case "/identity/issuer":
		rec.Identity.Issuer, _ = value.(string)
	case "/identity/roles":
		rec.Identity.Roles, _ = value.([]string)
	case "/identity/groups":
		rec.Identity.Groups, _ = value.([]string)
	case "/identity/scopes":
		rec.Identity.Scopes, _ = value.([]string)
	case "/identity/claims":
		rec.Identity.Claims, _ = value.(map[string]any)
	}
}

// read reads the fields in the order of the packed entry, and notes what is masked and erased.
func (r *inputReader) read() {
	for _, f := range r.schema.Input {
		switch f.Kind {
		case input.KindText:
			r.values[f.Index] = r.readNoted(f.Pointer, "")
		case input.KindInt:
			r.values[f.Index] = r.int()
		case input.KindMoment:
			if r.has(flagTime) {
				r.values[f.Index] = timestamp(r.time())
			}
		case input.KindList:
			r.values[f.Index] = r.list()
		case input.KindLabels:
			r.values[f.Index] = r.labels()
		case input.KindObject:
			r.values[f.Index] = r.unpacking.object(0)
		case input.KindPlace:
			r.values[f.Index] = r.address(f)
		case input.KindHeaders:
			r.values[f.Index] = r.headers(f.Pointer)
		case input.KindParsedBody:
			if r.has(flagParsedBody) {
				r.values[f.Index] = r.value(0)
			}
		}
	}
	if r.pathChanged {
		r.scan.mask(r.schema.Field(pathField).Pointer)
	}
	if r.has(flagMatched) {
		for _, p := range r.scan.masked {
			if name, ok := strings.CutPrefix(p, "/parameters/"); ok {
				r.scan.mask("/input/route/params/" + name)
				r.scan.mask("/input/resource/" + name)
			}
		}
	}
	for _, f := range erasable(r.schema) {
		if at := erased(f, r.flags); at != "" {
			r.scan.erase(at)
		}
	}
}

// added reads what has a number, and what of it is masked.
func (u *unpacking) added(rec *record) {
	if len(u.in) == 0 {
		return
	}
	for range u.count() {
		number, value := u.uint(), u.value(0)
		if f := u.schema.Numbered(number); f != nil {
			u.values[f.Index] = addedField{value}
		}
		u.setExtra(rec, number, value)
	}
	for range u.count() {
		u.scan.mask(u.readNoted("", ""))
	}
}

// addedField is a value that is there as it is, were it null.
type addedField struct{ value any }

// object makes an object of the input.
func (r *inputReader) object(members []input.Node) map[string]any {
	out := map[string]any{}
	for i := range members {
		n := &members[i]
		if n.Kind != input.KindGroup {
			r.member(out, n)
			continue
		}
		if n.Bit != input.NoBit && !r.has(1<<n.Bit) {
			continue
		}
		if object := r.object(n.Below); len(object) > 0 || n.Always {
			out[n.Name] = object
		}
	}
	return out
}

func (r *inputReader) member(out map[string]any, n *input.Node) {
	value := r.values[n.Slot]
	if n.Number > 0 {
		if added, is := value.(addedField); is {
			out[n.Name] = added.value
		}
		return
	}
	switch n.Kind {
	case input.KindText:
		text, _ := value.(string)
		putText(out, n.Name, text)
	case input.KindInt:
		number, _ := value.(int64)
		putNumber(out, n.Name, number)
	case input.KindBool:
		if truth := r.has(1 << n.Bit); truth || n.Always {
			out[n.Name] = truth
		}
	case input.KindList:
		if list, _ := value.([]string); len(list) > 0 || n.Always {
			out[n.Name] = anyStrings(list)
		}
	case input.KindLabels, input.KindObject, input.KindClaims, input.KindHeaders, input.KindPlace:
		object, _ := value.(map[string]any)
		put(out, n.Name, object)
	case input.KindMoment:
		if value != nil {
			out[n.Name] = value
		}
	case input.KindFixed:
		out[n.Name] = n.Constant
	case input.KindHeaderMap:
		if r.has(flagHeaderMap) {
			out[n.Name] = map[string]any{"headers": r.lines}
		}
	case input.KindParsedBody:
		out[n.Name] = value
	case input.KindParsedPath:
		out[n.Name] = r.parsedPath()
	case input.KindParsedQuery:
		out[n.Name] = r.parsedQuery()
	case input.KindRouteMethod:
		if r.has(flagWebSocket) {
			out[n.Name] = "WEBSOCKET"
		} else {
			putText(out, n.Name, r.rec.Request.Method)
		}
	case input.KindParams:
		if r.has(flagMatched) {
			params := map[string]any{}
			for name, v := range r.rec.Parameters {
				params[name] = v
			}
			out[n.Name] = params
		}
	}
}

func timestamp(t time.Time) map[string]any {
	at := map[string]any{}
	putNumber(at, "seconds", t.Unix())
	putNumber(at, "nanos", int64(t.Nanosecond()))
	return at
}

// address is host and port or, where a flag says so, plain JSON.
func (r *inputReader) address(f *input.Field) map[string]any {
	host, _ := r.string()
	port := r.uint()
	switch {
	case f.Bit != input.NoBit && r.has(1<<f.Bit):
		return r.unpacking.object(0)
	case host == "" && port == 0:
		return nil
	}
	address := map[string]any{}
	putText(address, "address", host)
	putNumber(address, "portValue", int64(port))
	return map[string]any{"socketAddress": address}
}

// headers makes headers and headerMap. The values of a name that repeats are joined with a comma.
func (r *inputReader) headers(at string) map[string]any {
	n := r.count()
	headers, lines := make(map[string]any, n), make([]any, 0, n)
	for i := range n {
		name, _ := r.string()
		value, changed := r.string()
		old, again := headers[name].(string)
		if pointer := at + "/" + escape(name); changed != 0 && !slices.Contains(r.scan.masked, pointer) {
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
				r.scan.mask(strings.TrimSuffix(at, "/headers") + "/headerMap/headers/" + strconv.Itoa(i) + "/rawValue")
			}
		}
	}
	r.lines = lines
	return headers
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

// path makes what is worked out of the path, which redaction went over already.
func (r *inputReader) parsedPath() []any {
	segments := parsedPath(r.rec.Request.Path)
	list := make([]any, len(segments))
	for i, s := range segments {
		list[i] = r.derived(s, "/input/parsed_path/"+strconv.Itoa(i))
	}
	return list
}

func (r *inputReader) parsedQuery() map[string]any {
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
	return query
}

// derived notes the pointer of a string that came out of one that redaction changed, and looks at it once more: what was
// escaped is not any longer.
func (r *inputReader) derived(s, pointer string) string {
	text := r.redact.redactText(s)
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
