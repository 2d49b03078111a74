// Package recorded rebuilds requests from the inputs in decision logs, so that a decision can be made again: it
// inverts the gate's input by the same table of fields (package input). It is part of the gate, for tools. It imports
// gate/body and identity.
package recorded

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/gate/body"
	"gatehouse/identity"
	"gatehouse/input"
)

// errInput: a document is not a policy input.
var errInput = errors.New("not the input of a decision")

// Request is the inverse of the policy's input: the request that would give this input, which the decision log holds.
// Numbers are json.Number or float64. The identity is taken from the input, without a credential; an input without
// one is that of an anonymous caller.
//
// The log does not keep bodies. A missing body is built from parsed_body, with the recorded length, if its type is
// JSON, a form or multipart; the body of a gRPC message stays empty. Masked values stay masked.
//
// An error names the part that is not valid in an input. The caller bounds sizes.
func Request(document map[string]any) (*input.Request, error) {
	return RequestOf(input.Standard(), document)
}

// RequestOf is Request for inputs of another schema.
func RequestOf(schema *input.Schema, document map[string]any) (*input.Request, error) {
	r := &inputReader{}
	http := r.object(r.object(r.object(document, "attributes"), "request"), "http")
	if r.err == nil && len(http) == 0 {
		return nil, fmt.Errorf("%w: it has no attributes.request.http", errInput)
	}
	var in input.Input
	r.read(schema.Root, document, &in)
	req := &in.Request
	r.body(req, http, document)
	if req.As = &in.Identity; document["identity"] == nil {
		*req.As = identity.Anonymous()
	}
	if r.err != nil {
		return nil, r.err
	}
	if in.User != nil && in.User.ID != "" {
		req.User = in.User
	}
	return req, nil
}

// Caller is who called and his user in the directory, from an input that need not have a request. user is nil where the
// input has none.
func Caller(document map[string]any) (id *identity.Identity, user *input.User, err error) {
	r := &inputReader{}
	var in input.Input
	of := map[string]any{}
	for _, name := range []string{"identity", "user"} {
		if value := document[name]; value != nil {
			of[name] = value
		}
	}
	r.read(input.Standard().Root, of, &in)
	if id = &in.Identity; of["identity"] == nil {
		*id = identity.Anonymous()
	}
	if in.User != nil && in.User.ID != "" {
		user = in.User
	}
	return id, user, r.err
}

// inputReader reads plain JSON. err is the first invalid part.
type inputReader struct{ err error }

// read reads the members of an object that are not derived. Where two fields share a place the first counts.
func (r *inputReader) read(members []input.Node, from map[string]any, in *input.Input) {
	for i := range members {
		n := &members[i]
		value, is := from[n.Name]
		if !is || n.Computed {
			continue
		}
		switch n.Kind {
		case input.KindGroup:
			if n.Make != nil {
				n.Make(in)
			}
			r.read(n.Below, r.object(from, n.Name), in)
		case input.KindText:
			text := r.textMember(from, n.Name)
			if at := n.Text(in); at != nil && *at == "" {
				*at = text
			}
		case input.KindInt:
			set(n.Int(in), r.number(from, n.Name))
		case input.KindBool:
			truth, _ := value.(bool)
			set(n.Bool(in), truth)
		case input.KindList:
			set(n.List(in), r.strings(from, n.Name))
		case input.KindLabels:
			set(n.Labels(in), r.labels(from, n.Name))
		case input.KindObject, input.KindClaims:
			set(n.Object(in), r.object(from, n.Name))
		case input.KindPlace:
			set(n.Address(in), r.address(from, n.Name))
		case input.KindMoment:
			if at := r.object(from, n.Name); value != nil {
				set(n.Time(in), time.Unix(r.number(at, "seconds"), r.number(at, "nanos")).UTC())
			}
		case input.KindHeaders, input.KindHeaderMap:
			in.RawHeader, in.Headers = false, nil // the one has the other's
			r.headers(&in.Request, from)
		}
	}
}

func set[V any](at *V, v V) {
	if at != nil {
		*at = v
	}
}

func (r *inputReader) typeError(key, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %q is not %s", errInput, key, want)
	}
}

func (r *inputReader) object(from map[string]any, key string) map[string]any {
	value, ok := from[key]
	if !ok || value == nil {
		return nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		r.typeError(key, "an object")
	}
	return object
}

func (r *inputReader) textMember(from map[string]any, key string) string {
	value, ok := from[key]
	if !ok || value == nil {
		return ""
	}
	text, ok := value.(string)
	if !ok {
		r.typeError(key, "a string")
	}
	return text
}

func (r *inputReader) number(from map[string]any, key string) int64 {
	switch value := from[key].(type) {
	case nil:
		return 0
	case json.Number:
		if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
			return n
		}
	case float64:
		if n := int64(value); float64(n) == value {
			return n
		}
	}
	r.typeError(key, "a whole number")
	return 0
}

func (r *inputReader) strings(from map[string]any, key string) []string {
	value, ok := from[key]
	if !ok || value == nil {
		return nil
	}
	list, ok := value.([]any)
	if !ok {
		r.typeError(key, "a list")
	}
	var out []string
	for _, member := range list {
		text, ok := member.(string)
		if !ok {
			r.typeError(key, "a list of strings")
		}
		out = append(out, text)
	}
	return out
}

func (r *inputReader) labels(from map[string]any, key string) map[string]string {
	object := r.object(from, key)
	if object == nil {
		return nil
	}
	out := make(map[string]string, len(object))
	for name := range object {
		out[name] = r.textMember(object, name)
	}
	return out
}

// headers reads the header lines: one per name, or all in order where the proxy sent a list of lines.
func (r *inputReader) headers(req *input.Request, http map[string]any) {
	if headerMap := r.object(http, "headerMap"); headerMap != nil {
		req.RawHeader = true
		lines, _ := headerMap["headers"].([]any)
		for _, member := range lines {
			line, ok := member.(map[string]any)
			if !ok {
				r.typeError("headerMap", "a list of headers")
				return
			}
			value := r.textMember(line, "value")
			if raw := r.textMember(line, "rawValue"); raw != "" {
				decoded, err := base64.StdEncoding.DecodeString(raw)
				if value = string(decoded); err != nil {
					value = raw // masked
				}
			}
			req.Headers = append(req.Headers, input.Header{Name: r.textMember(line, "key"), Value: value})
		}
		return
	}
	object := r.object(http, "headers")
	for _, name := range slices.Sorted(maps.Keys(object)) {
		req.Headers = append(req.Headers, input.Header{Name: name, Value: r.textMember(object, name)})
	}
}

// body takes the recorded body, or builds one that parses to the same value.
func (r *inputReader) body(req *input.Request, http, document map[string]any) {
	if raw := r.textMember(http, "rawBody"); raw != "" {
		decoded, err := base64.StdEncoding.DecodeString(raw)
		if err != nil {
			r.typeError("rawBody", "base64")
		}
		req.Body, req.RawBody = string(decoded), true
		return
	}
	if req.Body = r.textMember(http, "body"); req.Body != "" {
		return
	}
	if truncated, _ := document["truncated_body"].(bool); truncated {
		req.Body = " " // one of the bytes that content-length states
		return
	}
	parsed := document["parsed_body"]
	contentType, params := body.MediaType(req.Headers.Get("content-type"))
	switch {
	case parsed == nil:
		return
	case body.IsJSON(contentType):
		req.Body = r.json(parsed)
	case contentType == "application/x-www-form-urlencoded":
		req.Body = r.form(parsed)
	case contentType == "multipart/form-data":
		req.Body = r.multipart(parsed, params["boundary"])
	default:
		return
	}
	r.pad(req, contentType)
}

// pad extends a body to its stated length, because a shorter one would count as truncated.
func (r *inputReader) pad(req *input.Request, contentType string) {
	const most = 1 << 24
	stated, err := strconv.Atoi(req.Headers.Get("content-length"))
	missing := stated - len(req.Body)
	if err != nil || missing <= 0 || missing > most {
		return
	}
	filler := " "
	if contentType == "application/x-www-form-urlencoded" {
		filler = "&"
	}
	req.Body += strings.Repeat(filler, missing)
}

func (r *inputReader) json(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		r.typeError("parsed_body", "JSON")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (r *inputReader) form(parsed any) string {
	fields, ok := parsed.(map[string]any)
	if !ok {
		r.typeError("parsed_body", "a form")
	}
	values := url.Values{}
	for name := range fields {
		values[name] = r.strings(fields, name)
	}
	return values.Encode()
}

func (r *inputReader) multipart(parsed any, boundary string) string {
	fields, ok := parsed.(map[string]any)
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if !ok || w.SetBoundary(boundary) != nil {
		r.typeError("parsed_body", "a multipart form")
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		values, _ := fields[name].([]any)
		for _, value := range values {
			header := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + quoteName(name) + `"`}}
			text, isString := value.(string)
			if !isString {
				header.Set("Content-Type", "application/json")
				text = r.json(value)
			}
			if part, err := w.CreatePart(header); err == nil { // writes to memory: cannot fail
				_, _ = part.Write([]byte(text))
			}
		}
	}
	_ = w.Close()
	return strings.TrimPrefix(b.String(), "\r\n") // a form without parts begins with it
}

// quoteName escapes a parameter of Content-Disposition (RFC 7578 section 4.2).
func quoteName(name string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) }

func (r *inputReader) address(from map[string]any, key string) (a input.Address) {
	address := r.object(from, key)
	socket := r.object(address, "socketAddress")
	port := r.number(socket, "portValue")
	switch {
	case len(address) == 0:
	case len(address) == 1 && socket != nil && onlyKeys(socket, "address", "portValue") && port >= 0 && port <= 1<<32-1:
		a.Host, a.Port = r.textMember(socket, "address"), uint32(port)
	default:
		a.Other = address
	}
	return a
}

func onlyKeys(object map[string]any, names ...string) bool {
	for key := range object {
		if !slices.Contains(names, key) {
			return false
		}
	}
	return true
}
