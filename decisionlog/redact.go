package decisionlog

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

// mark is a place in a scan to go back to.
type mark struct{ erased, masked int }

func (s *scan) reset()               { s.erased, s.masked = s.erased[:0], s.masked[:0] }
func (s *scan) mask(pointer string)  { s.masked = append(s.masked, pointer) }
func (s *scan) erase(pointer string) { s.erased = append(s.erased, pointer) }
func (s *scan) mark() mark           { return mark{len(s.erased), len(s.masked)} }

// restore forgets what was found since the mark, because all of it is erased.
func (s *scan) restore(m mark, pointer string) {
	s.erased, s.masked = append(s.erased[:m.erased], pointer), s.masked[:m.masked]
}

// eraseAll replaces what was found below a pointer by the pointer itself.
func (s *scan) eraseAll(pointer string) {
	below := func(p string) bool { return strings.HasPrefix(p, pointer+"/") }
	s.erased = append(slices.DeleteFunc(s.erased, below), pointer)
	s.masked = slices.DeleteFunc(s.masked, below)
}

// redactor is the set of names whose values are secret. It is never changed.
type redactor struct {
	headers, query, body, urls map[string]bool
}

func newRedactor(extra Redact) redactor {
	return redactor{
		headers: set(headerName, defaultHeaders, extra.Headers),
		query:   set(paramName, defaultParams, queryParams, extra.Params),
		body:    set(paramName, defaultParams, extra.Params),
		urls:    set(headerName, urlHeaders),
	}
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

// input redacts the document that the policy was given.
func (r redactor) input(v any, s *scan) {
	in, _ := v.(map[string]any)
	remove(in, "/input", "identity", "claims", s)
	if md, _ := at(in, "attributes", "metadataContext").(map[string]any); md != nil {
		remove(md, "/input/attributes/metadataContext", "filterMetadata", "envoy.filters.http.jwt_authn", s)
	}
	if http, _ := at(in, "attributes", "request", "http").(map[string]any); http != nil {
		r.http(http, "/input/attributes/request/http", s)
	}
	if list, _ := in["parsed_path"].([]any); list != nil {
		for i, seg := range list {
			list[i] = r.masked(seg, r.text, "/input/parsed_path/"+strconv.Itoa(i), s)
		}
	}
	if q, _ := in["parsed_query"].(map[string]any); q != nil {
		r.params(q, "/input/parsed_query", s)
	}
	if body, ok := in["parsed_body"]; ok {
		in["parsed_body"] = r.members(body, "/input/parsed_body", 0, s)
	}
}

// http redacts Envoy's AttributeContext.HttpRequest.
func (r redactor) http(http map[string]any, pointer string, s *scan) {
	for _, name := range []string{"body", "rawBody", "raw_body"} {
		if _, ok := http[name]; ok {
			delete(http, name)
			s.erase(pointer + "/" + name)
		}
	}
	if h, _ := http["headers"].(map[string]any); h != nil {
		r.headerObject(h, pointer+"/headers", s)
	}
	for _, name := range []string{"headerMap", "header_map"} {
		if list, _ := at(http, name, "headers").([]any); list != nil {
			r.headerList(list, pointer+"/"+name+"/headers", s)
		}
	}
	for _, name := range []string{"path", "query", "fragment"} {
		clean := r.url
		if name != "path" {
			clean = r.queryString
		}
		if old, ok := http[name]; ok {
			http[name] = r.masked(old, clean, pointer+"/"+name, s)
		}
	}
}

// result redacts what the policy answered.
func (r redactor) result(v any, s *scan) {
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
func (r redactor) headerObject(h map[string]any, pointer string, s *scan) {
	for _, name := range keys(h) {
		p := pointer + "/" + escape(name)
		if list, ok := h[name].([]any); ok && !r.headers[headerName(name)] {
			for i, v := range list {
				list[i] = r.masked(v, r.headerValue(name), p+"/"+strconv.Itoa(i), s)
			}
			continue
		}
		h[name] = r.masked(h[name], r.headerValue(name), p, s)
	}
}

// headerList redacts Envoy's HeaderMap: objects with key, and value or the
// base64 of a raw value.
func (r redactor) headerList(list []any, pointer string, s *scan) {
	for i, one := range list {
		h, _ := one.(map[string]any)
		name, _ := h["key"].(string)
		clean := r.headerValue(name)
		p := pointer + "/" + strconv.Itoa(i) + "/"
		if v, ok := h["value"]; ok {
			h["value"] = r.masked(v, clean, p+"value", s)
		}
		for _, raw := range []string{"rawValue", "raw_value"} {
			if v, ok := h[raw]; ok {
				h[raw] = r.masked(v, inBase64(clean), p+raw, s)
			}
		}
	}
}

// inBase64 applies clean to what a base64 text stands for. The protojson
// mapping writes standard base64; anything else is not ours to guess at.
func inBase64(clean func(string) string) func(string) string {
	if clean == nil {
		return nil
	}
	return func(v string) string {
		raw, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return redacted
		}
		old := string(raw)
		if text := clean(old); text != old {
			return base64.StdEncoding.EncodeToString([]byte(text))
		}
		return v
	}
}

// headerValue returns what cleans a value of the header.
func (r redactor) headerValue(name string) func(string) string {
	name = headerName(name)
	switch {
	case r.headers[name]:
		return nil
	case r.urls[name]:
		return r.url
	}
	return func(v string) string {
		if hasScheme(v, "bearer ") || hasScheme(v, "basic ") {
			return redacted
		}
		return r.text(v)
	}
}

func hasScheme(v, scheme string) bool {
	return len(v) > len(scheme) && strings.EqualFold(v[:len(scheme)], scheme)
}

// masked returns what is to be logged for v, and notes its pointer if that is
// not v. A nil clean means that the value is secret, whatever it is.
func (r redactor) masked(v any, clean func(string) string, pointer string, s *scan) any {
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
func (r redactor) params(q map[string]any, pointer string, s *scan) {
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
func (r redactor) members(v any, pointer string, depth int, s *scan) any {
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
func (r redactor) url(u string) string {
	path, rest, ok := u, "", false
	if i := strings.IndexAny(u, "?#"); i >= 0 {
		path, rest, ok = u[:i+1], u[i+1:], true
	}
	if !ok {
		return r.text(u)
	}
	return r.text(path) + r.queryString(rest)
}

// queryString redacts parameters in place: what is harmless stays as it came,
// byte for byte. "?", "#" and ";" separate too, because something on the way
// may think so.
func (r redactor) queryString(q string) string {
	var out strings.Builder
	changed := false
	for q != "" {
		pair, sep := q, ""
		if i := strings.IndexAny(q, "&;?#"); i >= 0 {
			pair, sep = q[:i], q[i:i+1]
		}
		q = q[len(pair)+len(sep):]
		clean := r.pair(pair)
		changed = changed || clean != pair
		out.WriteString(clean)
		out.WriteString(sep)
	}
	if !changed {
		return r.text(out.String())
	}
	return out.String()
}

// pair redacts one name=value. A name that cannot be read hides its value: we
// do not know how the application reads it.
func (r redactor) pair(pair string) string {
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

// text redacts what is shaped like a JWT anywhere in a text.
func (r redactor) text(v string) string {
	if !strings.Contains(v, "eyJ") {
		return v
	}
	return jwtShape.ReplaceAllLiteralString(v, redacted)
}

// remove deletes obj[parent][name] and notes it as erased.
func remove(obj map[string]any, pointer, parent, name string, s *scan) {
	inner, _ := obj[parent].(map[string]any)
	if _, ok := inner[name]; ok {
		delete(inner, name)
		s.erase(pointer + "/" + escape(parent) + "/" + escape(name))
	}
}

// at follows names down through objects; nil where there is no such thing.
func at(v any, names ...string) any {
	for _, name := range names {
		obj, _ := v.(map[string]any)
		v = obj[name]
	}
	return v
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
