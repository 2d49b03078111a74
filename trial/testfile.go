package trial

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/yamltext"
)

const (
	// MaxFile bounds one file of tests, in bytes.
	MaxFile = 16 << 20

	maxTestDeep = 100 // levels of a body or of claims
)

// Test is one row of a file of tests: a request, and what must come of it.
type Test struct {
	File string
	Line int
	Name string

	Request Request
	Caller  Caller

	allow  bool
	status int    // 0: any
	reason string // of the closed set, or as the client reads it; "": any
	route  string // name or template; "": any
	want   []wantedHeader
}

// wantedHeader is a header that must go to the app with an allow, or to the client with a denial.
type wantedHeader struct {
	name, value string
	absent      bool
}

// testReader reads a file of tests strictly and collects what is wrong with it.
type testReader struct {
	file  string
	errs  []error
	tests []*Test
}

// ErrNoTests is the error of a YAML file without the key tests: one that may be about something else.
var ErrNoTests = errors.New("there is no key tests")

// Read parses a file of tests. All problems are reported at once, each with its line.
func Read(file string, text []byte) ([]*Test, error) {
	r := &testReader{file: file}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, ErrNoTests)
	} else if err != nil {
		return nil, yamltext.Error(file, err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: a second document begins behind ---: put all tests into one list", file)
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode || !slices.ContainsFunc(top.Content, func(n *yaml.Node) bool { return n.Value == "tests" }) {
		return nil, fmt.Errorf("%s:%d: %w", file, top.Line, ErrNoTests)
	}
	r.pairs(top, "the file", []string{"tests"}, func(_ string, list *yaml.Node) {
		if list.Kind != yaml.SequenceNode {
			r.fail(list, "tests: must be a list")
			return
		}
		for _, row := range list.Content {
			r.row(row)
		}
	})
	return r.tests, errors.Join(r.errs...)
}

func (r *testReader) fail(n *yaml.Node, format string, args ...any) {
	const most = 20
	switch {
	case len(r.errs) < most:
		r.errs = append(r.errs, fmt.Errorf("%s:%d: %s", r.file, n.Line, fmt.Sprintf(format, args...)))
	case len(r.errs) == most:
		r.errs = append(r.errs, fmt.Errorf("%s: there are further problems", r.file))
	}
}

// pairs calls use for each key of a mapping that is among the known ones.
func (r *testReader) pairs(n *yaml.Node, what string, known []string, use func(key string, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s: must be a mapping", what)
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if line, twice := seen[key.Value]; twice {
			r.fail(key, "key %q is already on line %d", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		switch {
		case key.Kind != yaml.ScalarNode:
			r.fail(key, "%s: a key is a plain word", what)
		case known == nil || slices.Contains(known, key.Value):
			use(key.Value, value)
		default:
			r.fail(key, "unknown key %q in %s: %s", key.Value, what, config.Suggestion(key.Value, known))
		}
	}
}

// row reads one test: a name, and one of allow and deny.
func (r *testReader) row(n *yaml.Node) {
	t := &Test{File: r.file, Line: n.Line}
	verdicts := 0
	r.pairs(n, "a test", []string{"name", "allow", "deny"}, func(key string, value *yaml.Node) {
		if key == "name" {
			t.Name = r.text(value, key)
			return
		}
		if verdicts++; verdicts == 1 {
			t.allow = key == "allow"
			r.request(t, key, value)
		}
	})
	if n.Kind == yaml.MappingNode && verdicts != 1 {
		r.fail(n, "a test has one of allow and deny, not %d", verdicts)
	}
	if t.Name == "" {
		t.Name = t.title()
	}
	r.tests = append(r.tests, t)
}

// title describes a test that has no name.
func (t *Test) title() string {
	verdict := "deny"
	if t.allow {
		verdict = "allow"
	}
	title := verdict + " " + t.Request.Method + " " + t.Request.Path
	if t.Caller.As != "" {
		title += " as " + t.Caller.As
	}
	if len(t.Caller.Roles) > 0 {
		title += " [" + strings.Join(t.Caller.Roles, ", ") + "]"
	}
	return title
}

var requestKeys = []string{"as", "roles", "claims", "host", "headers", "body", "route", "status", "reason", "expect_headers"}

// request reads what stands under allow or deny.
func (r *testReader) request(t *Test, verdict string, n *yaml.Node) {
	a := &t.Request
	r.pairs(n, verdict, nil, func(key string, value *yaml.Node) {
		switch key {
		case "as":
			t.Caller.As = r.text(value, key)
		case "roles":
			t.Caller.Roles = r.texts(value, key)
		case "claims":
			claims, ok := r.value(value, key, 0).(map[string]any)
			if t.Caller.Claims = claims; !ok {
				r.fail(value, "claims: must be a mapping")
			}
		case "host":
			a.Host = r.text(value, key)
		case "headers":
			r.headers(a, value)
		case "body":
			a.Body = r.body(value)
		case "expect_headers":
			r.expectations(t, value)
		case "route":
			t.route = r.text(value, key)
		case "reason":
			t.reason = r.text(value, key)
		case "status":
			var err error
			if t.status, err = strconv.Atoi(value.Value); err != nil || t.status < 200 || t.status > 599 {
				r.fail(value, "status: %q is no HTTP status", value.Value)
			}
		default:
			r.target(a, verdict, key, value)
		}
	})
	r.complete(t, n)
}

func (r *testReader) headers(a *Request, n *yaml.Node) {
	r.pairs(n, "headers", nil, func(name string, value *yaml.Node) {
		for _, v := range r.texts(value, "headers."+name) {
			a.Headers = append(a.Headers, gate.Header{Name: strings.ToLower(name), Value: v})
		}
	})
}

func (r *testReader) expectations(t *Test, n *yaml.Node) {
	r.pairs(n, "expect_headers", nil, func(name string, value *yaml.Node) {
		w := wantedHeader{name: strings.ToLower(name), absent: value.Tag == "!!null"}
		if !w.absent {
			w.value = r.text(value, "expect_headers."+name)
		}
		t.want = append(t.want, w)
	})
}

// target reads the one key that is a method, with the path under it.
func (r *testReader) target(a *Request, verdict, key string, value *yaml.Node) {
	meant, ok := IsMethod(key)
	switch {
	case slices.Contains(requestKeys, strings.ToLower(key)), !ok && meant == "":
		r.fail(value, "unknown key %q in %s: %s", key, verdict, config.Suggestion(key, requestKeys))
		return
	case !ok:
		r.fail(value, "unknown key %q in %s: did you mean the method %s?", key, verdict, meant)
		return
	case a.Method != "":
		r.fail(value, "%s: a test makes one request, and there is %s already", key, a.Method)
	}
	if a.Method, a.Path = key, r.text(value, key); a.Path == "" {
		r.fail(value, "%s: a path such as /orders/17 belongs here", key)
	}
}

// complete checks what only the whole of a request shows.
func (r *testReader) complete(t *Test, n *yaml.Node) {
	switch {
	case n.Kind != yaml.MappingNode:
	case t.Request.Method == "":
		r.fail(n, "there is no request: add one such as GET: /orders/17")
	case t.allow && (t.status != 0 || t.reason != ""):
		r.fail(n, "status and reason are for deny: an allowed request has the application's")
	case len(t.Caller.Roles) > 0 && t.Caller.As == "" && t.Caller.Claims == nil:
		r.fail(n, "roles: they need somebody to have them: add as:")
	}
}

// text reads one plain value.
func (r *testReader) text(n *yaml.Node, key string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.fail(n, "%s: must be a single value", key)
		return ""
	}
	return n.Value
}

// texts reads a plain value or a list of them.
func (r *testReader) texts(n *yaml.Node, key string) []string {
	if n.Kind != yaml.SequenceNode {
		return []string{r.text(n, key)}
	}
	var out []string
	for _, item := range n.Content {
		out = append(out, r.text(item, key))
	}
	return out
}

// body is a text as it stands, and everything else as JSON.
func (r *testReader) body(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		return n.Value
	}
	text, err := json.Marshal(r.value(n, "body", 0))
	if err != nil {
		r.fail(n, "body: %v", err)
	}
	return string(text)
}

// value turns YAML into JSON's kinds of values. Numbers keep their digits.
func (r *testReader) value(n *yaml.Node, key string, depth int) any {
	switch {
	case depth > maxTestDeep:
		r.fail(n, "%s: more than %d levels deep", key, maxTestDeep)
	case n.Kind == yaml.MappingNode:
		out := map[string]any{}
		r.pairs(n, key, nil, func(name string, value *yaml.Node) { out[name] = r.value(value, key, depth+1) })
		return out
	case n.Kind == yaml.SequenceNode:
		out := []any{}
		for _, item := range n.Content {
			out = append(out, r.value(item, key, depth+1))
		}
		return out
	case n.Kind != yaml.ScalarNode:
		r.fail(n, "%s: aliases are not supported: write the value out", key)
	case n.Tag == "!!null":
		return nil
	case n.Tag == "!!bool":
		return strings.EqualFold(n.Value, "true")
	case n.Tag == "!!int", n.Tag == "!!float":
		if number := json.Number(n.Value); json.Valid([]byte(n.Value)) {
			return number
		}
		r.fail(n, "%s: %s is not a number in JSON: write it in decimal, or quote it", key, n.Value)
	default:
		return n.Value
	}
	return nil
}
