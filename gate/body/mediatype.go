package body

import (
	"errors"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"gatehouse/input"
)

var (
	errContentType     = errors.New("content-type does not parse strictly")
	errContentTypes    = errors.New("content-type, content-length or content-encoding is there twice or in another spelling")
	errContentEncoding = errors.New("the body has a content-encoding")
	errCharset         = errors.New("the charset of the body is not UTF-8")
)

// param is one parameter of a media type or Content-Disposition, its name in lower case.
type param struct{ name, value string }

// media is an unambiguous media type.
type media struct {
	name   string // type/subtype in lower case, "" where there is none
	params []param
}

func (m *media) param(name string) (value string, found bool) {
	for i := range m.params {
		if m.params[i].name == name {
			return m.params[i].value, true
		}
	}
	return "", false
}

// json reports whether the type is JSON: application/json, or by structured syntax suffix (RFC 6839 section 3.1).
// gRPC's +json is framed, and not JSON.
func (m *media) json() bool { return IsJSON(m.name) }

// IsJSON reports whether a media type, in lower case and without parameters, is JSON.
func IsJSON(name string) bool {
	return name == "application/json" || strings.HasSuffix(name, "+json") && !strings.HasPrefix(name, "application/grpc")
}

// grpc reports whether the body is gRPC, in any encoding. gRPC-Web is a different protocol.
func (m *media) grpc() bool {
	return m.name == "application/grpc" || strings.HasPrefix(m.name, "application/grpc+")
}

// utf8 checks that text decodes the same by its charset (Django, Starlette) and as UTF-8 (others). ASCII text is the
// same in all accepted charsets.
func (m *media) utf8(text string) error {
	charset, stated := m.param("charset")
	switch {
	case !stated, strings.EqualFold(charset, "utf-8"), strings.EqualFold(charset, "utf8"):
		return nil
	case strings.EqualFold(charset, "us-ascii"), strings.EqualFold(charset, "ascii"), strings.EqualFold(charset, "iso-8859-1"):
		if isASCII(text) {
			return nil
		}
	}
	return errCharset
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// bodyHeaders describe a body.
var bodyHeaders = [3]string{"content-type", "content-length", "content-encoding"}

// bodyType parses the content type of a body. Frameworks use the first or the last of two, some servers read
// Content_Type as the same header, and Envoy joins two with a comma: all of these are rejected.
func bodyType(h input.Headers) (media, error) {
	var seen [3]bool
	for i := range h {
		if len(h[i].Name) < len("content-type") {
			continue
		}
		name := input.Fold(h[i].Name)
		if at := slices.Index(bodyHeaders[:], name); at >= 0 {
			if h[i].Name != name || seen[at] {
				return media{}, errContentTypes
			}
			seen[at] = true
		}
	}
	return strictMedia(h.Get("content-type"))
}

// strictMedia parses a media type by RFC 9110 section 8.3.1, less what parsers treat differently: quoted pairs, tabs,
// commas (of two joined headers), wildcards (DRF accepts */* for every type), repeated parameters, and those of RFC
// 2231.
func strictMedia(value string) (media, error) {
	value = strings.Trim(value, " ")
	if value == "" {
		return media{}, nil
	}
	end := strings.IndexByte(value, ';')
	if end < 0 {
		end = len(value)
	}
	name := strings.ToLower(strings.TrimRight(value[:end], " "))
	kind, sub, _ := strings.Cut(name, "/")
	if !isToken(kind) || !isToken(sub) || strings.IndexByte(name, '*') >= 0 || strings.IndexByte(value, ',') >= 0 || !isASCII(value) {
		return media{}, errContentType
	}
	params, ok := parseParams(value[end:], true)
	if !ok {
		return media{}, errContentType
	}
	return media{name, params}, nil
}

// maxParams bounds the parameters of one header.
const maxParams = 16

// parseParams parses `; name=value; name="value"` with only spaces around the semicolons. empty permits empty
// parameters, where the header's grammar does.
func parseParams(s string, empty bool) (params []param, ok bool) {
	for s != "" {
		s = strings.TrimLeft(s, " ")
		if s == "" || s[0] != ';' {
			return nil, false
		}
		s = strings.TrimLeft(s[1:], " ")
		if empty && (s == "" || s[0] == ';') {
			continue
		}
		p, rest, ok := parseParam(s)
		if !ok || len(params) == maxParams || (&media{params: params}).has(p.name) {
			return nil, false
		}
		params, s = append(params, p), rest
	}
	return params, true
}

func (m *media) has(name string) bool { _, found := m.param(name); return found }

// parseParam parses one name=value. The asterisk of RFC 2231 is accepted at the end of a name only, to tell
// Content-Disposition's filename* from others.
func parseParam(s string) (p param, rest string, ok bool) {
	name, value, found := strings.Cut(s, "=")
	if !found || !isToken(name) || strings.IndexByte(name, '*') >= 0 && name != "filename*" {
		return p, "", false
	}
	p.name = strings.ToLower(name)
	if !strings.HasPrefix(value, `"`) {
		end := strings.IndexAny(value, " ;")
		if end < 0 {
			end = len(value)
		}
		p.value = value[:end]
		return p, value[end:], isToken(p.value)
	}
	p.value, rest, found = strings.Cut(value[1:], `"`)
	return p, rest, found && isPlainText(p.value)
}

// isPlainText reports whether a quoted string has neither control characters nor escapes.
func isPlainText(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f || s[i] == '\\' {
			return false
		}
	}
	return utf8.ValidString(s)
}

// tokenBytes are the bytes of RFC 9110's token.
var tokenBytes = func() (set [256]bool) {
	for c := range set {
		set[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c < utf8.RuneSelf && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return set
}()

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

// MediaType returns the type in lower case (media types are case-insensitive, RFC 9110 section 8.3.1). Parameters
// that do not parse are dropped, the type stays. It is for responses; a request body's type is parsed by strictMedia.
func MediaType(value string) (string, map[string]string) {
	contentType, params, err := mime.ParseMediaType(value)
	if err != nil {
		contentType, _, _ = strings.Cut(value, ";")
		contentType = strings.ToLower(strings.TrimSpace(contentType))
	}
	return contentType, params
}
