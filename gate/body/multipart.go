package body

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"gatehouse/input"
	"gatehouse/policy/rego"
)

// Bounds of one multipart body and of the headers of one part.
const (
	maxParts       = 1000
	maxBoundary    = 70 // RFC 2046 section 5.1.1
	maxPartHeaders = 16
	maxPartHeader  = 8 << 10
)

var errDisposition = withReason(errBodyMultipart, `the content-disposition of a part is not form-data; name="..."; filename="..." with names that all readers take alike`)

var errBodyMultipart = errors.New("the body is not multipart/form-data")

// multipartBody parses multipart/form-data (RFC 7578): an object of arrays, strings or, for JSON parts, values.
//
// Werkzeug, python-multipart and Django all accept more than the RFCs, each in its own way: what one skips or
// truncates another reads. So only what all read alike is accepted: delimiters with CRLF on both sides and parts
// between them, no preamble or epilogue, and the delimiter's text nowhere else. The differential test in
// body_differential_test.go checks this against all three.
// this against all three.
func multipartBody(m *media, req *input.Request) (rego.Value, error) {
	boundary, _ := m.param("boundary")
	if !isBoundary(boundary) {
		return rego.Null(), withReason(errBodyMultipart, "the boundary is not one of RFC 2046")
	}
	delimiter := "--" + boundary
	rest, found := strings.CutPrefix(req.Body, delimiter)
	form := form{request: m, lossy: req.LossyBody, fields: map[string]*field{}}
	for n := 0; ; n++ {
		switch {
		case !found:
			return rego.Null(), withReason(errBodyMultipart, "a delimiter does not stand where one belongs")
		case n > maxParts:
			return rego.Null(), withReason(errBodyMultipart, "it has too many parts")
		}
		if end, closed := strings.CutPrefix(rest, "--"); closed {
			if strings.Trim(end, " \r\n") != "" {
				return rego.Null(), withReason(errBodyMultipart, "it goes on after the last delimiter")
			}
			return form.value(), nil
		}
		var section string
		if section, rest, found = strings.Cut(rest, "\r\n"+delimiter); !found || strings.Contains(section, delimiter) {
			return rego.Null(), withReason(errBodyMultipart, "it has no last delimiter, or the text of one within a part")
		}
		if err := form.part(section); err != nil {
			return rego.Null(), err
		}
	}
}

// isBoundary accepts what RFC 2046 section 5.1.1 does, less spaces and commas.
func isBoundary(s string) bool {
	if s == "" || len(s) > maxBoundary {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'()+_-./:=?") == ""
}

// form is the state of parsing a multipart body.
type form struct {
	request *media
	lossy   bool
	fields  map[string]*field
}

// field holds the parts of one name. Frameworks keep files apart from other fields, so a name with both has two
// lists.
type field struct {
	values []rego.Value
	kind   partKind
}

// partKind is how frameworks classify a part.
type partKind uint8

const (
	plainField  partKind = iota
	file                 // has a filename
	unnamedFile          // an empty filename, as browsers send where no file was chosen: a file to some parsers, a field to Django
)

func (f *form) value() rego.Value {
	members := make([]rego.Member, 0, len(f.fields))
	for name, field := range f.fields {
		members = append(members, rego.Member{Key: name, Value: rego.Array(field.values...)})
	}
	return rego.Object(members...)
}

// part parses the text between two delimiters.
func (f *form) part(section string) error {
	head, content, found := strings.Cut(section, "\r\n\r\n")
	head, line := strings.CutPrefix(head, "\r\n")
	if !found || !line {
		return withReason(errBodyMultipart, "a part does not begin with header lines that end in CRLF")
	}
	p, err := f.head(head)
	if err != nil || !p.named {
		return err
	}
	if p.kind != file {
		if !utf8.ValidString(content) || f.request.utf8(content) != nil || p.media.utf8(content) != nil {
			return withReason(errBodyMultipart, "a field is not UTF-8, or says that it is in another charset")
		}
		if p.name == "_charset_" && !strings.EqualFold(content, "utf-8") {
			return errCharset
		}
	}
	value := rego.String(content)
	if p.media.json() {
		if value, err = parseJSON(content, f.lossy); err != nil {
			return err
		}
	}
	at := f.fields[p.name]
	if at == nil {
		at = &field{kind: p.kind}
		f.fields[p.name] = at
	}
	if at.kind != p.kind {
		return withReason(errBodyMultipart, "a field and a file have one name")
	}
	at.values = append(at.values, value)
	return nil
}

// partHead is the parsed header of a part.
type partHead struct {
	name  string
	named bool // a part without a name is skipped, as by opa-envoy-plugin
	kind  partKind
	media media
}

// head parses the header lines of a part: an RFC 9110 name, a colon, a value without control characters, CRLF.
// Repeated and folded lines are rejected.
func (f *form) head(lines string) (p partHead, err error) {
	switch {
	case len(lines) > maxPartHeader:
		return p, withReason(errBodyMultipart, "the headers of a part are too long")
	case f.lossy && strings.IndexByte(lines, '!') >= 0:
		return p, errBodyText
	}
	seen := map[string]bool{}
	for line := range strings.SplitSeq(lines, "\r\n") {
		name, value, found := strings.Cut(line, ":")
		value = strings.Trim(value, " ")
		key := input.Fold(name)
		if !found || !isToken(name) || seen[key] || len(seen) == maxPartHeaders || !isPartHeader(value) {
			return p, withReason(errBodyMultipart, "a header line of a part is folded, repeated, too many, or not a name, a colon and a value without control characters")
		}
		seen[key] = true
		if err := f.header(&p, key, strings.ToLower(name), value); err != nil {
			return p, err
		}
	}
	if !seen["content-disposition"] {
		return p, withReason(errBodyMultipart, "a part has no content-disposition")
	}
	return p, nil
}

// isPartHeader reports whether a value has no control characters.
func isPartHeader(value string) bool {
	return utf8.ValidString(value) && strings.IndexFunc(value, unicode.IsControl) < 0
}

func (f *form) header(p *partHead, key, name, value string) (err error) {
	switch key {
	case "content-disposition", "content-type", "content-transfer-encoding", "content-encoding":
		if name != key {
			return withReason(errBodyMultipart, "a header of a part is in another spelling")
		}
	}
	switch key {
	case "content-disposition":
		return f.disposition(p, value)
	case "content-type":
		if p.media, err = strictMedia(value); err != nil || strings.HasPrefix(p.media.name, "multipart/") {
			return withReason(errBodyMultipart, "the content-type of a part does not parse strictly, or is multipart")
		}
	case "content-transfer-encoding":
		if lower := strings.ToLower(value); lower != "binary" && lower != "8bit" && lower != "7bit" {
			return withReason(errBodyMultipart, "the content-transfer-encoding of a part is not binary, 8bit or 7bit")
		}
	case "content-encoding":
		return withReason(errBodyMultipart, "a part has a content-encoding")
	}
	return nil
}

// disposition parses `form-data; name="a"; filename="b"`. .NET and others add a filename* (RFC 8187), which only some
// parsers read: it is accepted only beside a filename, so that all see a file.
func (f *form) disposition(p *partHead, value string) error {
	params, ok := strings.CutPrefix(value, "form-data")
	if !ok {
		return errDisposition
	}
	all, ok := parseParams(params, false)
	if !ok {
		return errDisposition
	}
	for i, param := range all {
		switch param.name {
		case "name":
			if i > 0 || !isFieldName(param.value) || f.request.utf8(param.value) != nil {
				return errDisposition
			}
			p.name, p.named = param.value, true
		case "filename":
			if p.kind = file; param.value == "" {
				p.kind = unnamedFile
			}
		case "filename*":
			if p.kind != file || !isExtValue(param.value) {
				return errDisposition
			}
		default:
			return errDisposition
		}
	}
	if p.kind != plainField && !p.named {
		return errDisposition
	}
	return nil
}

// isFieldName rejects names that are trimmed (Django), or in which %22 is a quote (Werkzeug).
func isFieldName(name string) bool {
	return name != "" && strings.TrimSpace(name) == name && !strings.Contains(name, "%22")
}

// isExtValue reports whether a value is RFC 8187's UTF-8'language'value.
func isExtValue(s string) bool {
	charset, rest, _ := strings.Cut(s, "'")
	_, text, found := strings.Cut(rest, "'")
	decoded, err := url.PathUnescape(text)
	return found && strings.EqualFold(charset, "utf-8") && err == nil && utf8.ValidString(decoded) && strings.IndexFunc(decoded, unicode.IsControl) < 0
}
