// Package body parses the body of a request as the application behind the gate does: JSON, forms, multipart/form-data
// and gRPC messages. What frameworks read differently is an error, because the policy would decide about another body
// than the application acts on.
//
// It owns the meaning of content types and the bounds of a body. It may import input, policy for its values, and
// query. It decides nothing: when a body is parsed, and that an invalid one is bad_request, is up to the gate.
package body

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"gatehouse/input"
	"gatehouse/policy/rego"
	"gatehouse/query"
)

// maxFields bounds the fields of one form.
const maxFields = 10_000

var (
	errBodyJSON      = errors.New("the body is not JSON")
	errBodyForm      = errors.New("the body is not a form")
	errBodyText      = errors.New("the proxy sent the body as text, in which each byte that is not UTF-8 is an exclamation mark, and there is one where it matters (set pack_as_bytes)")
	errContentLength = errors.New("content-length is not a number")
)

// Partial reports whether the body is incomplete: Envoy says so, or content-length exceeds what came. A proxy that
// sends no body at all is not counted: then there is nothing to misread. Where headers come as a list, Envoy's header
// stands beside the client's of the same name, and the worse value counts.
func Partial(h input.Headers, body string) (bool, error) {
	for i := range h {
		if h[i].Name == "x-envoy-auth-partial-body" && strings.EqualFold(h[i].Value, "true") {
			return true, nil
		}
	}
	length := h.Get("content-length")
	if body == "" || length == "" {
		return false, nil
	}
	n, err := strconv.ParseInt(length, 10, 64)
	if err != nil {
		return false, errContentLength
	}
	return n > int64(len(body)), nil
}

// Parse gives contract's parsed_body: the body by its content type, null for unknown types. What applications could
// read differently from the policy is an error. Errors use fixed words without the parser's message, because they may
// reach a log that quotes the body.
func Parse(req *input.Request, protos *Descriptors, path []string) (rego.Value, error) {
	if req.Body == "" {
		return rego.Null(), nil
	}
	m, err := bodyType(req.Headers)
	if err != nil {
		return rego.Null(), err
	}
	var parse func(*media, *input.Request) (rego.Value, error)
	switch {
	case m.grpc():
		parse = func(m *media, req *input.Request) (rego.Value, error) { return protos.parse(m, req, path) }
	case m.json():
		parse = jsonBody
	case m.name == "application/x-www-form-urlencoded":
		parse = formBody
	case m.name == "multipart/form-data" && m.has("boundary"):
		parse = multipartBody
	default:
		return rego.Null(), nil
	}
	if encoding := req.Headers.Get("content-encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return rego.Null(), errContentEncoding
	}
	return parse(&m, req)
}

// jsonBody parses JSON. Django REST framework decodes it by the charset, others detect UTF-16 and UTF-32: both are
// rejected before.
func jsonBody(m *media, req *input.Request) (rego.Value, error) {
	if err := m.utf8(req.Body); err != nil {
		return rego.Null(), err
	}
	return parseJSON(req.Body, req.LossyBody)
}

// formBody parses application/x-www-form-urlencoded: an object of arrays of strings. Non-ASCII bytes must be escaped,
// because Starlette reads raw ones as Latin-1, and must decode to UTF-8. Some parsers separate fields at a raw
// semicolon. A percent sign without two hex digits is literal in all of them.
func formBody(m *media, req *input.Request) (rego.Value, error) {
	fields := url.Values{}
	if !isASCII(req.Body) {
		return rego.Null(), withReason(errBodyForm, "it holds bytes beyond ASCII that are not escaped")
	}
	count := 0
	for rest := req.Body; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		if req.LossyBody && strings.IndexByte(key, '!') >= 0 {
			return rego.Null(), errBodyText
		}
		name, agreed := query.Decode(key)
		text, agreed2 := query.Decode(value)
		switch count++; {
		case strings.IndexByte(pair, ';') >= 0:
			return rego.Null(), withReason(errBodyForm, "it holds a semicolon that is not escaped, which separates fields for some readers")
		case !agreed, !agreed2:
			return rego.Null(), withReason(errBodyForm, "a field is not UTF-8")
		case count > maxFields:
			return rego.Null(), withReason(errBodyForm, "it has too many fields")
		}
		if m.utf8(name) != nil || m.utf8(text) != nil {
			return rego.Null(), errCharset
		}
		fields[name] = append(fields[name], text)
	}
	return lists(fields), nil
}

// withReason adds a fixed reason to an error: logs that quote no bodies show it.
func withReason(what error, why string) error { return fmt.Errorf("%w: %s", what, why) }

// lists converts a query or a form to an object of arrays of strings.
func lists(values url.Values) rego.Value {
	members := make([]rego.Member, 0, len(values))
	for name, v := range values {
		members = append(members, rego.Member{Key: name, Value: rego.Strings(v)})
	}
	return rego.Object(members...)
}
