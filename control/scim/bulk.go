package scim

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxBulk bounds the operations of a bulk request.
const maxBulk = 500

// bulked is one operation of a bulk request.
type bulked struct {
	method, path, id string
	version          string
	data             any
	waits            map[string]bool // bulkIds of other operations that it refers to
	answer           map[string]any  // nil: it was not tried
}

// bulk executes many operations, each a write of its own: RFC 7644, section 3.7.
func (s *Server) bulk(r *request) (*response, error) {
	if r.method != http.MethodPost || len(r.path) != 1 || r.bulk {
		return nil, fail(http.StatusMethodNotAllowed, "", "%s is not possible here", r.method)
	}
	list, most, err := parseBulk(r.body)
	if err != nil {
		return nil, err
	}
	made := map[string]string{} // bulkId: id
	failed := 0
	for progress := true; progress; {
		progress = false
		for _, o := range list {
			if o.answer != nil || most > 0 && failed >= most {
				continue
			}
			if o.waitsFor(made) {
				continue
			}
			progress = true
			if !s.one(r, o, made) {
				failed++
			}
		}
	}
	out := []any{}
	for _, o := range list {
		if o.answer == nil && (most == 0 || failed < most) { // what it refers to failed, or they refer to each other
			o.refuse(&failure{http.StatusConflict, "invalidValue", "a bulkId that it refers to was not made"})
		}
		if o.answer != nil {
			out = append(out, o.answer)
		}
	}
	return &response{status: http.StatusOK, body: map[string]any{"schemas": []any{urnBulked}, "Operations": out}}, nil
}

func parseBulk(body []byte) (out []*bulked, failOnErrors int, err error) {
	in, err := decode(body)
	if err != nil {
		return nil, 0, err
	}
	if list, _ := in["schemas"].([]any); !slices.Contains(list, any(urnBulk)) {
		return nil, 0, invalid("invalidSyntax", "schemas lacks %s", urnBulk)
	}
	if n, ok := in["failOnErrors"].(json.Number); ok {
		if failOnErrors, err = strconv.Atoi(n.String()); err != nil || failOnErrors < 0 {
			return nil, 0, invalid("invalidValue", "failOnErrors is no number")
		}
	}
	list, _ := in["Operations"].([]any)
	switch {
	case len(list) == 0:
		return nil, 0, invalid("invalidSyntax", "there are no Operations")
	case len(list) > maxBulk:
		return nil, 0, fail(http.StatusRequestEntityTooLarge, "tooMany", "there are %d operations: %d are possible", len(list), maxBulk)
	}
	ids := map[string]bool{}
	for i, one := range list {
		object, ok := one.(map[string]any)
		if !ok {
			return nil, 0, invalid("invalidSyntax", "operation %d is no object", i+1)
		}
		o := &bulked{method: strings.ToUpper(str(object["method"])), path: str(object["path"]), id: str(object["bulkId"]), version: str(object["version"]), data: object["data"]}
		switch {
		case o.method == http.MethodPost && o.id == "":
			return nil, 0, invalid("invalidSyntax", "operation %d is a POST without a bulkId", i+1)
		case o.id != "" && ids[o.id]:
			return nil, 0, invalid("invalidSyntax", "the bulkId %q is there twice", o.id)
		}
		ids[o.id] = true
		out = append(out, o)
	}
	for _, o := range out {
		o.refer(ids)
	}
	return out, failOnErrors, nil
}

const bulkID = "bulkId:"

// refer notes which operations an operation refers to: once, as its data may be long. One that refers to nothing fails by itself.
func (o *bulked) refer(ids map[string]bool) {
	o.waits = map[string]bool{}
	see := func(s string) string {
		if id, is := strings.CutPrefix(s, bulkID); is && ids[id] {
			o.waits[id] = true
		}
		return s
	}
	resolve(o.data, see)
	for _, part := range strings.Split(o.path, "/") {
		see(part)
	}
}

// waitsFor reports whether an operation refers to one that is not done.
func (o *bulked) waitsFor(made map[string]string) bool {
	for id := range o.waits {
		if made[id] == "" {
			return true
		}
		delete(o.waits, id)
	}
	return false
}

// resolve replaces the texts in a value.
func resolve(v any, with func(string) string) any {
	switch v := v.(type) {
	case string:
		return with(v)
	case []any:
		for i := range v {
			v[i] = resolve(v[i], with)
		}
	case map[string]any:
		for name := range v {
			v[name] = resolve(v[name], with)
		}
	}
	return v
}

// one executes an operation.
func (s *Server) one(r *request, o *bulked, made map[string]string) bool {
	known := func(text string) string {
		if id, is := strings.CutPrefix(text, bulkID); is && made[id] != "" {
			return made[id]
		}
		return text
	}
	parts := strings.Split(strings.Trim(o.path, "/"), "/")
	for i := range parts {
		parts[i] = known(parts[i])
	}
	body, err := json.Marshal(resolve(o.data, known))
	inner := &request{Context: r.Context, e: r.e, token: r.token, link: r.link, base: r.base, method: o.method, path: parts, query: url.Values{}, body: body, match: o.version, bulk: true}
	var out *response
	switch {
	case err != nil:
	case o.method == http.MethodGet, len(parts) > 2 || parts[0] != "Users" && parts[0] != "Groups" || len(parts) == 2 && parts[1] == ".search":
		err = invalid("invalidPath", "%s %s is no operation on a user or group", o.method, o.path)
	default:
		out, err = s.answer(inner)
	}
	if err != nil {
		f, _ := asFailure(err)
		o.refuse(f)
		return false
	}
	o.answer = map[string]any{"method": o.method, "status": strconv.Itoa(out.status)}
	location := out.location
	if location == "" {
		location = r.base + "/" + strings.Join(parts, "/")
	}
	o.answer["location"] = location
	if out.etag != "" {
		o.answer["version"] = out.etag
	}
	if o.id != "" {
		o.answer["bulkId"] = o.id
		made[o.id] = str(out.body["id"])
	}
	return true
}

func (o *bulked) refuse(f *failure) {
	o.answer = map[string]any{"method": o.method, "status": strconv.Itoa(f.status), "response": f.document()}
	if o.id != "" {
		o.answer["bulkId"] = o.id
	}
}
