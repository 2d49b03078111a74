package decisionlog

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const redacted = "[redacted]"

// maxDepth bounds the walk through a body. What lies deeper is redacted whole.
const maxDepth = 64

var (
	defaultHeaders = []string{
		"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key",
		"api-key", "x-auth-token", "x-access-token", "x-csrf-token", "x-xsrf-token",
		"x-amz-security-token", "x-forwarded-access-token", "x-forwarded-id-token",
	}
	defaultParams = []string{
		"access_token", "refresh_token", "id_token", "id_token_hint", "token", "jwt",
		"api_key", "apikey", "password", "passwd", "secret", "client_secret",
		"assertion", "client_assertion", "code_verifier", "private_key",
		"sig", "signature", "x-amz-signature", "x-amz-security-token", "SAMLResponse",
	}
	// Only in queries: an OAuth authorization code.
	queryParams = []string{"code"}
	// Headers whose value is a URL, or its path.
	urlHeaders = []string{
		":path", "referer", "location", "x-envoy-original-path", "x-original-uri",
		"x-original-url", "x-forwarded-uri", "x-rewrite-url",
	}
	// RFC 7519: two base64url parts that start as a JSON object does, and a dot.
	jwtShape = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]*`)
)

// scan collects what redaction did to one entry.
type scan struct{ erased, masked []string }

func (s *scan) reset()               { s.erased, s.masked = s.erased[:0], s.masked[:0] }
func (s *scan) mask(pointer string)  { s.masked = append(s.masked, pointer) }
func (s *scan) erase(pointer string) { s.erased = append(s.erased, pointer) }

// eraseAll replaces what was found below a pointer by the pointer itself.
func (s *scan) eraseAll(pointer string) {
	below := func(p string) bool { return strings.HasPrefix(p, pointer+"/") }
	s.erased = append(slices.DeleteFunc(s.erased, below), pointer)
	s.masked = slices.DeleteFunc(s.masked, below)
}

// redactor is the set of names whose values are secret. It is never changed.
type redactor struct {
	query, body map[string]bool
	headers     map[string]headerKind
	only        map[string]bool // of a request's headers; nil: all

	traits [4]uint64 // of the names in headers, so that most others need no lookup
}

// What a header's name says of its value.
type headerKind int

const (
	otherHeader headerKind = iota
	secretHeader
	urlHeader
)

func (r *redactor) kind(name string) headerKind {
	if t := traits(name); r.traits[t/64]&(1<<(t%64)) == 0 {
		return otherHeader
	}
	if kind, known := r.headers[name]; known || isHeaderName(name) {
		return kind
	}
	return r.headers[headerName(name)]
}

// isHeaderName reports whether headerName leaves a name as it is, as it does those that Envoy sends.
func isHeaderName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c == '_' || 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// hides reports whether the value of a request's header is not recorded, because its name is not among those whose values are.
func (r *redactor) hides(name string) bool {
	return r.only != nil && !strings.HasPrefix(name, ":") && !r.only[headerName(name)]
}

// traits is a number below 256 that names have in common which are one by headerName: of the length and the two ends.
func traits(name string) byte {
	if name == "" {
		return 0
	}
	fold := func(c byte) byte {
		if c == '_' {
			return '-'
		}
		return c | 0x20 // letters to lower case; what else it makes the same does no harm
	}
	return byte(len(name))*11 ^ fold(name[0])*3 ^ fold(name[len(name)-1])*29
}

func newRedactor(extra Redact) redactor {
	r := redactor{
		query:   set(paramName, defaultParams, queryParams, extra.Params),
		body:    set(paramName, defaultParams, extra.Params),
		headers: map[string]headerKind{},
	}
	if extra.Only != nil {
		r.only = set(headerName, extra.Only)
	}
	for _, name := range urlHeaders {
		r.headers[headerName(name)] = urlHeader
	}
	for name := range set(headerName, defaultHeaders, extra.Headers) {
		r.headers[name] = secretHeader
	}
	for name := range r.headers {
		t := traits(name)
		r.traits[t/64] |= 1 << (t % 64)
	}
	return r
}

func set(norm func(string) string, lists ...[]string) map[string]bool {
	m := make(map[string]bool)
	for _, list := range lists {
		for _, name := range list {
			m[norm(name)] = true
		}
	}
	return m
}

// headerName folds "_" into "-" as CGI and WSGI do: X_Api_Key reaches the
// application as the same header.
func headerName(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }

var paramFold = strings.NewReplacer("_", "", "-", "")

// paramName also drops what makes a list or a map of a parameter: token[],
// token[0].
func paramName(s string) string {
	if i := strings.IndexByte(s, '['); i > 0 {
		s = s[:i]
	}
	return paramFold.Replace(strings.ToLower(s))
}

// result redacts what the policy answered.
func (r *redactor) result(v any, s *scan) {
	res, _ := v.(map[string]any)
	for _, name := range []string{"headers", "response_headers_to_add"} {
		switch h := res[name].(type) {
		case map[string]any:
			r.headerObject(h, "/result/"+name, s)
		case []any:
			for i, one := range h {
				if one, _ := one.(map[string]any); one != nil {
					r.headerObject(one, "/result/"+name+"/"+strconv.Itoa(i), s)
				}
			}
		}
	}
	if q, _ := res["query_parameters_to_set"].(map[string]any); q != nil {
		r.params(q, "/result/query_parameters_to_set", s)
	}
}

// headerObject redacts headers in an object: name to value or list of values.
func (r *redactor) headerObject(h map[string]any, pointer string, s *scan) {
	for _, name := range keys(h) {
		p := pointer + "/" + escape(name)
		if list, ok := h[name].([]any); ok && r.kind(name) != secretHeader {
			for i, v := range list {
				list[i] = r.masked(v, r.headerValue(name), p+"/"+strconv.Itoa(i), s)
			}
			continue
		}
		h[name] = r.masked(h[name], r.headerValue(name), p, s)
	}
}

// headerValue returns what cleans a value of the header.
func (r *redactor) headerValue(name string) func(string) string {
	switch r.kind(name) {
	case secretHeader:
		return nil
	case urlHeader:
		return r.url
	}
	return r.anyHeader
}

// anyHeader redacts a value whose header's name says nothing.
func (r *redactor) anyHeader(v string) string {
	if hasScheme(v, "bearer ") || hasScheme(v, "basic ") {
		return redacted
	}
	return r.text(v)
}

func hasScheme(v, scheme string) bool {
	return len(v) > len(scheme) && v[0]|0x20 == scheme[0] && strings.EqualFold(v[:len(scheme)], scheme)
}

// masked returns what is to be logged for v, and notes its pointer if that is
// not v. A nil clean means that the value is secret, whatever it is.
func (r *redactor) masked(v any, clean func(string) string, pointer string, s *scan) any {
	if clean == nil {
		s.mask(pointer)
		return redacted
	}
	old, ok := v.(string)
	if !ok {
		return v
	}
	text := clean(old)
	if text != old {
		s.mask(pointer)
	}
	return text
}

// params redacts query parameters: name to value or list of values.
func (r *redactor) params(q map[string]any, pointer string, s *scan) {
	for _, name := range keys(q) {
		p := pointer + "/" + escape(name)
		if list, ok := q[name].([]any); ok && !r.query[paramName(name)] {
			for i, v := range list {
				list[i] = r.masked(v, r.text, p+"/"+strconv.Itoa(i), s)
			}
			continue
		}
		clean := r.text
		if r.query[paramName(name)] {
			clean = nil
		}
		q[name] = r.masked(q[name], clean, p, s)
	}
}

// members redacts a body: members by name, at any depth.
func (r *redactor) members(v any, pointer string, depth int, s *scan) any {
	if depth > maxDepth {
		s.mask(pointer)
		return redacted
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range keys(v) {
			p := pointer + "/" + escape(name)
			if r.body[paramName(name)] {
				v[name] = r.masked(v[name], nil, p, s)
			} else {
				v[name] = r.members(v[name], p, depth+1, s)
			}
		}
	case []any:
		for i := range v {
			v[i] = r.members(v[i], pointer+"/"+strconv.Itoa(i), depth+1, s)
		}
	case string:
		return r.masked(v, r.text, pointer, s)
	}
	return v
}

// url redacts the query and the fragment of a URL or of its path.
func (r *redactor) url(u string) string {
	path, rest, ok := u, "", false
	if i := strings.IndexAny(u, "?#"); i >= 0 {
		path, rest, ok = u[:i+1], u[i+1:], true
	}
	if !ok {
		return r.text(u)
	}
	plain, query := r.text(path), r.queryString(rest)
	if plain == path && query == rest {
		return u // as it came, without an allocation
	}
	return plain + query
}

// queryString redacts parameters in place: what is harmless stays as it came,
// byte for byte. "?", "#" and ";" separate too, because something on the way
// may think so.
func (r *redactor) queryString(q string) string {
	changed := false
	for rest := q; rest != "" && !changed; {
		pair, sep := cutPair(rest)
		rest = rest[len(pair)+len(sep):]
		changed = r.pair(pair) != pair
	}
	if !changed {
		return r.text(q)
	}
	var out strings.Builder
	for q != "" {
		pair, sep := cutPair(q)
		q = q[len(pair)+len(sep):]
		out.WriteString(r.pair(pair))
		out.WriteString(sep)
	}
	return out.String()
}

func cutPair(q string) (pair, sep string) {
	if i := strings.IndexAny(q, "&;?#"); i >= 0 {
		return q[:i], q[i : i+1]
	}
	return q, ""
}

// pair redacts one name=value. A name that cannot be read hides its value: we
// do not know how the application reads it.
func (r *redactor) pair(pair string) string {
	name, value, ok := strings.Cut(pair, "=")
	if !ok || value == "" {
		return r.text(pair)
	}
	plain, err := url.QueryUnescape(name)
	if err != nil || r.query[paramName(plain)] {
		return r.text(name) + "=" + redacted
	}
	return r.text(pair)
}

// text is redactJWT.
func (r *redactor) text(v string) string { return redactJWT(v) }

// redactJWT redacts what is shaped like a JWT anywhere in a text.
func redactJWT(v string) string {
	if !strings.Contains(v, "eyJ") {
		return v
	}
	return jwtShape.ReplaceAllLiteralString(v, redacted)
}

// keys are sorted so that equal entries give equal lines.
func keys(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// escape makes a name part of a JSON pointer (RFC 6901).
func escape(name string) string { return pointerEscape.Replace(name) }
