package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"

	"gatehouse/policy"
)

// maxParts bounds the parts of one multipart body.
const maxParts = 1000

var (
	errBodyJSON      = errors.New("the body is not JSON")
	errBodyForm      = errors.New("the body is not a form")
	errBodyMultipart = errors.New("the body is not multipart/form-data")
	errContentLength = errors.New("content-length is not a number")
)

// partial reports whether less of the body is here than the client sent: Envoy says so, or content-length exceeds what
// came. A proxy that hands over no body at all is not counted: then there is nothing to be misled by.
func partial(h Headers, body string) (bool, error) {
	if strings.EqualFold(h.Get("x-envoy-auth-partial-body"), "true") {
		return true, nil
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

// parseBody gives contract's parsed_body: the body by its content type, null for types it does not know and for a body
// that is not whole. Errors say what the body is not; the parser's own words stay out of them, as they may reach a log
// that quotes the body.
func parseBody(h Headers, body string, protos *Descriptors, path []string) (policy.Value, error) {
	contentType, params := mediaType(h.Get("content-type"))
	if body == "" {
		return policy.Null(), nil
	}
	switch contentType {
	case "application/json":
		return parseJSON(body)
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(body)
		if err != nil {
			return policy.Null(), errBodyForm
		}
		return lists(form), nil
	case "multipart/form-data":
		if params["boundary"] == "" {
			return policy.Null(), nil
		}
		return parseMultipart(body, params["boundary"])
	}
	if contentType == "application/grpc" || strings.HasPrefix(contentType, "application/grpc+") {
		return protos.parse(h, body, path)
	}
	return policy.Null(), nil
}

// mediaType returns the type in lower case, as RFC 9110 section 8.3.1 has media types case-insensitive. Parameters that
// do not parse are dropped, the type stays.
func mediaType(value string) (string, map[string]string) {
	contentType, params, err := mime.ParseMediaType(value)
	if err != nil {
		contentType, _, _ = strings.Cut(value, ";")
		contentType = strings.ToLower(strings.TrimSpace(contentType))
	}
	return contentType, params
}

func parseJSON(body string) (policy.Value, error) {
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		return policy.Null(), errBodyJSON
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return policy.Null(), fmt.Errorf("%w: it goes on after the first value", errBodyJSON)
	}
	v, err := policy.FromJSON(doc)
	if err != nil {
		return policy.Null(), errBodyJSON
	}
	return v, nil
}

func parseMultipart(body, boundary string) (policy.Value, error) {
	r := multipart.NewReader(strings.NewReader(body), boundary)
	parts := map[string][]policy.Value{}
	for n := 0; ; n++ {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) && (n > 0 || strings.Contains(body, "--"+boundary)) {
			break
		}
		if err != nil || n == maxParts {
			return policy.Null(), errBodyMultipart
		}
		var content bytes.Buffer
		if _, err := content.ReadFrom(part); err != nil {
			return policy.Null(), errBodyMultipart
		}
		name := part.FormName()
		if name == "" {
			continue
		}
		value := policy.String(content.String())
		if contentType, _ := mediaType(part.Header.Get("Content-Type")); contentType == "application/json" {
			if value, err = parseJSON(content.String()); err != nil {
				return policy.Null(), err
			}
		}
		parts[name] = append(parts[name], value)
	}
	members := make([]policy.Member, 0, len(parts))
	for name, values := range parts {
		members = append(members, policy.Member{Key: name, Value: policy.Array(values...)})
	}
	return policy.Object(members...), nil
}

// lists turns a query or a form into an object of arrays of strings.
func lists(values url.Values) policy.Value {
	members := make([]policy.Member, 0, len(values))
	for name, v := range values {
		members = append(members, policy.Member{Key: name, Value: policy.Strings(v)})
	}
	return policy.Object(members...)
}
