package record

import (
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
		"x-session-id", "x-auth", "private-token", "ocp-apim-subscription-key", "x-functions-key", "x-original-authorization",
		"x-forwarded-authorization",
	}
	defaultParams = []string{
		"access_token", "refresh_token", "id_token", "id_token_hint", "token", "jwt",
		"api_key", "apikey", "password", "passwd", "secret", "client_secret",
		"assertion", "client_assertion", "code_verifier", "private_key",
		"sig", "signature", "x-amz-signature", "x-amz-security-token", "SAMLResponse", "SAMLRequest",
		"authorization", "pwd", "passphrase", "otp", "pin", "jsessionid", "phpsessid", "sessionid", "session_id", "csrfmiddlewaretoken",
		"bearer", "credential", "credentials", "x-amz-credential", "cookie", "set-cookie", "session_key", "auth", "user_code", "device_code",
	}
	// Only in queries: an OAuth authorization code.
	queryParams = []string{"code"}
	// Headers whose value is a URL, or its path.
	urlHeaders = []string{
		":path", "referer", "location", "x-envoy-original-path", "x-original-uri",
		"x-original-url", "x-forwarded-uri", "x-rewrite-url",
	}
)

// scan collects what redaction did to one entry.
type scan struct {
	erased, masked []string
	secrets        []string            // that were found by the names of their members
	hide           func(string) string // takes out what is known to be secret; nil: nothing is
}

func (s *scan) reset()               { s.erased, s.masked = s.erased[:0], s.masked[:0] }
func (s *scan) mask(pointer string)  { s.masked = append(s.masked, pointer) }
func (s *scan) erase(pointer string) { s.erased = append(s.erased, pointer) }

// eraseAll replaces what was found below a pointer by the pointer itself.
func (s *scan) eraseAll(pointer string) {
	below := func(p string) bool { return strings.HasPrefix(p, pointer+"/") }
	s.erased = append(slices.DeleteFunc(s.erased, below), pointer)
	s.masked = slices.DeleteFunc(s.masked, below)
}

// drop forgets what was found below a pointer: what is there is left out.
func (s *scan) drop(pointer string) {
	s.masked = slices.DeleteFunc(s.masked, func(p string) bool { return strings.HasPrefix(p, pointer+"/") })
}

// redactor is the set of names whose values are secret. It is never changed.
type redactor struct {
	query, body map[string]bool
	folded      map[string]bool // secret headers, as paramName has them
	cookies     map[string]bool // that hold credentials
	headers     map[string]headerKind
	only        map[string]bool // of a request's headers; nil: all

	traits [4]uint64 // of the names in headers, so that most others need no lookup
}

// What a header's name says of its value.
type headerKind int

const (
	otherHeader headerKind = iota
	urlHeader
	secretHeader
)

func (r *redactor) kind(name string) headerKind {
	if t := traits(name); r.traits[t/64]&(1<<(t%64)) == 0 {
		return endingKind(name)
	}
	if kind, known := r.headers[name]; known || isHeaderName(name) {
		return max(kind, endingKind(name))
	}
	return max(r.headers[headerName(name)], endingKind(name))
}

// secretEndings are those of secret headers' names.
var secretEndings = []string{"-token", "-secret", "-password", "api-key", "apikey", "-jwt", "access-key"}

// endingKind tells secret headers by the ends of their names.
func endingKind(name string) headerKind {
	if len(name) < 4 {
		return otherHeader
	}
	switch name[len(name)-1] | 0x20 {
	case 'n', 't', 'd', 'y':
		for _, ending := range secretEndings {
			if ending[len(ending)-1] == name[len(name)-1]|0x20 && endsIn(name, ending) {
				return secretHeader
			}
		}
	}
	return otherHeader
}

// endsIn is strings.HasSuffix for what headerName makes of a name.
func endsIn(name, ending string) bool {
	if len(name) < len(ending) {
		return false
	}
	for i := len(name) - 1; len(ending) > 0; i-- {
		c := name[i]
		switch {
		case c == '_':
			c = '-'
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		}
		if c != ending[len(ending)-1] {
			return false
		}
		ending = ending[:len(ending)-1]
	}
	return true
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
	r.folded, r.cookies = map[string]bool{}, map[string]bool{}
	for name, kind := range r.headers {
		if kind == secretHeader {
			r.folded[paramFold.Replace(name)] = true
		}
	}
	for _, name := range extra.Cookies {
		r.cookies[name] = name != ""
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

// result redacts what the policy answered: by headers' names, by members' names, and by what values look like.
func (r *redactor) result(v any, s *scan) any {
	res, _ := v.(map[string]any)
	if res == nil {
		return r.members(v, "/result", 0, s)
	}
	for _, name := range keys(res) {
		pointer := "/result/" + escape(name)
		switch h := res[name].(type) {
		case map[string]any:
			switch name {
			case "headers", "response_headers_to_add":
				r.headerObject(h, pointer, s)
				continue
			case "query_parameters_to_set":
				r.params(h, pointer, s)
				continue
			}
		case []any:
			if name == "headers" || name == "response_headers_to_add" {
				for i, one := range h {
					if object, _ := one.(map[string]any); object != nil {
						r.headerObject(object, pointer+"/"+strconv.Itoa(i), s)
					} else {
						h[i] = r.members(one, pointer+"/"+strconv.Itoa(i), 1, s)
					}
				}
				continue
			}
		}
		if r.secretName(name, r.body) {
			res[name] = r.masked(res[name], nil, pointer, s)
		} else {
			res[name] = r.members(res[name], pointer, 1, s)
		}
	}
	return v
}

// headerObject redacts headers in an object: name to value, list of values, or value and append_action.
func (r *redactor) headerObject(h map[string]any, pointer string, s *scan) {
	for _, name := range keys(h) {
		p := pointer + "/" + escape(name)
		h[name] = r.eachText(h[name], r.headerValue(name), p, 0, s)
	}
}

// eachText redacts the texts of a header or a parameter, however its values are written. A nil clean means that all of it is secret.
func (r *redactor) eachText(v any, clean func(string) string, pointer string, depth int, s *scan) any {
	if clean == nil || depth > maxDepth {
		return r.masked(v, nil, pointer, s)
	}
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = r.eachText(v[i], clean, pointer+"/"+strconv.Itoa(i), depth+1, s)
		}
		return v
	case map[string]any:
		for _, name := range keys(v) {
			v[name] = r.eachText(v[name], clean, pointer+"/"+escape(name), depth+1, s)
		}
		return v
	}
	return r.masked(v, clean, pointer, s)
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
	if v != "" && v[0]|0x20 == 'b' && (hasScheme(v, "bearer ") || hasScheme(v, "basic ")) {
		return redacted
	}
	return r.redactText(v)
}

func hasScheme(v, scheme string) bool {
	return len(v) > len(scheme) && v[0]|0x20 == scheme[0] && strings.EqualFold(v[:len(scheme)], scheme)
}

// masked returns what is to be logged for v, and notes its pointer if that is
// not v. A nil clean means that the value is secret, whatever it is.
func (r *redactor) masked(v any, clean func(string) string, pointer string, s *scan) any {
	if clean == nil {
		s.mask(pointer)
		s.collect(v, 0)
		return redacted
	}
	old, ok := v.(string)
	if !ok {
		return v
	}
	text := clean(old)
	if s.hide != nil {
		text = s.hide(text)
	}
	if text != old {
		s.mask(pointer)
	}
	return text
}

// collect keeps the texts of what was redacted by its name: they may stand elsewhere too.
func (s *scan) collect(v any, depth int) {
	switch v := v.(type) {
	case string:
		if len(s.secrets) < maxKnown {
			s.secrets = append(s.secrets, v)
		}
	case []any:
		for i := 0; i < len(v) && depth < 4; i++ {
			s.collect(v[i], depth+1)
		}
	case map[string]any:
		for _, one := range v {
			if depth < 4 && len(s.secrets) < maxKnown {
				s.collect(one, depth+1)
			}
		}
	}
}

// params redacts query parameters: name to value or list of values.
func (r *redactor) params(q map[string]any, pointer string, s *scan) {
	for _, name := range keys(q) {
		clean := r.redactText
		if r.secretName(name, r.query) {
			clean = nil
		}
		q[name] = r.eachText(q[name], clean, pointer+"/"+escape(name), 0, s)
	}
}

// oauthMembers are those beside which "code" is an authorization code, not a country's or an error's.
var oauthMembers = []string{"grant_type", "redirect_uri", "code_verifier", "client_id", "state", "session_state", "nonce"}

// members redacts a body: members by name, at any depth.
func (r *redactor) members(v any, pointer string, depth int, s *scan) any {
	if depth > maxDepth {
		s.mask(pointer)
		return redacted
	}
	switch v := v.(type) {
	case map[string]any:
		names := r.body
		for _, name := range oauthMembers {
			if _, oauth := v[name]; oauth {
				names = r.query
			}
		}
		for _, name := range keys(v) {
			p := pointer + "/" + escape(name)
			value := v[name]
			if clean := r.memberName(name, s); clean != name {
				delete(v, name)
				name, p = clean, pointer+"/"+escape(clean)
				s.mask(p)
			}
			if r.secretName(name, names) {
				v[name] = r.masked(value, nil, p, s)
			} else {
				v[name] = r.members(value, p, depth+1, s)
			}
		}
	case []any:
		for i := range v {
			v[i] = r.members(v[i], pointer+"/"+strconv.Itoa(i), depth+1, s)
		}
	case string:
		return r.masked(v, r.redactText, pointer, s)
	}
	return v
}

// memberName redacts a name that is a secret itself.
func (r *redactor) memberName(name string, s *scan) string {
	clean := r.redactText(name)
	if s.hide != nil {
		clean = s.hide(clean)
	}
	return clean
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
