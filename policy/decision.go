package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/bounds"
	"gatehouse/policy/rego"
)

// Decision is a policy's decision on one request. The zero value denies.
type Decision struct {
	Allowed bool
	Reason  string // deny: shown to the client

	// Headers are set on the upstream request on allow, on the response to the client on deny.
	Headers         []Header
	ResponseHeaders []Header         // allow: added to the upstream's response
	RemoveHeaders   []string         // allow: removed from the request
	SetQuery        []QueryParameter // allow
	RemoveQuery     []string         // allow

	Body   string // deny
	Status int    // deny: 200 to 599; 0 is the default
	// Metadata is dynamic_metadata as plain JSON with json.Number for numbers; nil if the policy set none. The receiver owns it.
	Metadata map[string]any

	// Result is the policy's result, unchanged, for the decision log.
	Result rego.Value
	// Kept is a slot in which the receiver may cache what it derives from Result, since every hit of a memoised decision shares the same
	// Result: at most MaxKept bytes, and no more than Result takes. nil for a decision that is not memoised.
	Kept *atomic.Value

	// Asked are the policy's directory queries, in order, at most 64 and about 8 KiB; AskedTruncated says that there were more. A failed
	// decision has them too. They are shared and must not be changed; those of a decision that was not memoised may alias the input.
	Asked          []Question
	AskedTruncated bool
	// AskedKept is to Asked what Kept is to Result.
	AskedKept *atomic.Value
}

// EmptyBody reports whether the policy wants a denial with an empty body instead of the default one.
func (d *Decision) EmptyBody() bool {
	v, ok := d.Result.(ast.Object)
	return ok && !d.Allowed && d.Body == "" && member(v, "body") != nil
}

// MaxKept bounds the values in Decision.Kept and Decision.AskedKept, each, in bytes.
const MaxKept = 1 << 10

// Header is one header with one value; a header with several values is repeated.
type Header struct {
	Name, Value string
	// AppendAction is empty or one of Envoy's HeaderAppendAction names: APPEND_IF_EXISTS_OR_ADD, ADD_IF_ABSENT,
	// OVERWRITE_IF_EXISTS_OR_ADD, OVERWRITE_IF_EXISTS.
	AppendAction string
}

// QueryParameter is one query parameter with one value, not percent-encoded.
type QueryParameter struct{ Name, Value string }

const (
	// maxMetadataDepth bounds the nesting of dynamic_metadata. Protobuf parsers give up at 100 nested messages, and a level of JSON takes up
	// to three. A response that the proxy cannot parse is an error to it, and the proxy may be configured to allow on errors.
	maxMetadataDepth = 24

	// maxHeader bounds a header's name and value in bytes: Envoy's validation rule on HeaderValue.
	maxHeader = 16384
)

var appendActions = []string{
	"APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS",
}

// refusedHeaders are the headers that frame a message or belong to one connection (RFC 9110 section 7.6.1, RFC 9112 section 6), and host.
// Pseudo-headers are refused by their colon.
var refusedHeaders = []string{
	"host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
	"content-length",
}

// output checks a policy's result. It holds the header names that configuration allows although they are refused by default.
type output struct {
	allowed []string // in lower case
}

func newOutput(allow []string) (output, error) {
	var o output
	for _, name := range allow {
		name = strings.ToLower(name)
		if !isToken(strings.TrimPrefix(name, ":")) {
			return output{}, fmt.Errorf("%q in the list of allowed headers is not a header name", name)
		}
		o.allowed = append(o.allowed, name)
	}
	return o, nil
}

// fieldErrorf returns an ErrEvaluation about a key of the decision.
func fieldErrorf(key, format string, args ...any) error {
	return fmt.Errorf("%w: decision: %s: %s", ErrEvaluation, key, fmt.Sprintf(format, args...))
}

// decision parses the decision document: true, false, or an object with the boolean "allowed". Only the keys that apply to the outcome are
// read.
func (o output) decision(result rego.Value) (Decision, error) {
	switch v := result.(type) {
	case ast.Boolean:
		return Decision{Allowed: bool(v), Result: result}, nil
	case ast.Object:
		return o.object(v)
	}
	return Decision{}, fmt.Errorf("%w: the decision is of type %s: it must be true, false or an object with the key allowed",
		ErrEvaluation, ast.ValueName(result))
}

func (o output) object(v ast.Object) (Decision, error) {
	allowed, ok := member(v, "allowed").(ast.Boolean)
	if !ok {
		return Decision{}, fieldErrorf("allowed", "a boolean is required")
	}
	d := Decision{Allowed: bool(allowed), Result: v}
	fill := o.deny
	if d.Allowed {
		fill = o.allow
	}
	if err := fill(&d, v); err != nil {
		return Decision{}, err
	}
	return d, nil
}

// allow reads the keys that apply on allow.
func (o output) allow(d *Decision, v ast.Object) (err error) {
	if d.Headers, err = o.headers(v, "headers"); err != nil {
		return err
	}
	if d.ResponseHeaders, err = o.headers(v, "response_headers_to_add"); err != nil {
		return err
	}
	if d.RemoveHeaders, err = list(v, "request_headers_to_remove", o.headerName); err != nil {
		return err
	}
	if d.RemoveQuery, err = list(v, "query_parameters_to_remove", checkPlain); err != nil {
		return err
	}
	if d.SetQuery, err = queryParameters(v, "query_parameters_to_set"); err != nil {
		return err
	}
	d.Metadata, err = metadata(v)
	return err
}

// deny reads the keys that apply on deny.
func (o output) deny(d *Decision, v ast.Object) (err error) {
	if d.Headers, err = o.headers(v, "headers"); err != nil {
		return err
	}
	if d.Body, err = stringMember(v, "body"); err != nil {
		return err
	}
	if d.Reason, err = stringMember(v, "reason"); err != nil {
		return err
	}
	if d.Status, err = status(v); err != nil {
		return err
	}
	d.Metadata, err = metadata(v)
	return err
}

// member returns the value of an object's key, nil if it is absent.
func member(v ast.Object, key string) rego.Value {
	term := decisionKeys[key]
	if term == nil {
		term = ast.StringTerm(key)
	}
	if found := v.Get(term); found != nil {
		return found.Value
	}
	return nil
}

// decisionKeys are the terms of a decision's keys, made once and only read.
var decisionKeys = func(names ...string) map[string]*ast.Term {
	terms := map[string]*ast.Term{}
	for _, name := range names {
		terms[name] = ast.StringTerm(name)
	}
	return terms
}("allowed", "headers", "response_headers_to_add", "request_headers_to_remove", "query_parameters_to_remove",
	"query_parameters_to_set", "body", "reason", "http_status", "dynamic_metadata", "value", "append_action")

// stringMember returns a string, which may hold line breaks but must be valid UTF-8.
func stringMember(v ast.Object, key string) (string, error) {
	found := member(v, key)
	if found == nil {
		return "", nil
	}
	s, ok := found.(ast.String)
	if !ok {
		return "", fieldErrorf(key, "a %s where a string belongs", ast.ValueName(found))
	}
	if !utf8.ValidString(string(s)) {
		return "", fieldErrorf(key, "not valid UTF-8")
	}
	return string(s), nil
}

// status returns the HTTP status of a denial. 403.0 and 4.03e2 are refused, as by opa-envoy-plugin.
func status(v ast.Object) (int, error) {
	const key = "http_status"
	found := member(v, key)
	if found == nil {
		return 0, nil
	}
	n, ok := found.(ast.Number)
	if !ok {
		return 0, fieldErrorf(key, "a %s where a number belongs", ast.ValueName(found))
	}
	code, ok := n.Int64()
	if !ok || code < 200 || code > 599 {
		return 0, fieldErrorf(key, "%s is not an integer from 200 to 599", rego.OneLine(n.String()))
	}
	return int(code), nil
}

func metadata(v ast.Object) (map[string]any, error) {
	const key = "dynamic_metadata"
	found := member(v, key)
	if found == nil {
		return nil, nil
	}
	if _, ok := found.(ast.Object); !ok {
		return nil, fieldErrorf(key, "a %s where an object belongs", ast.ValueName(found))
	}
	plain, err := rego.JSONAt(found, rego.MaxDepth-maxMetadataDepth)
	if err != nil {
		return nil, fieldErrorf(key, "nested deeper than %d", maxMetadataDepth)
	}
	if err := sendable(plain); err != nil {
		return nil, fieldErrorf(key, "%v", err)
	}
	return plain.(map[string]any), nil
}

// sendable refuses what a protobuf Struct cannot hold: strings and keys that are not UTF-8, numbers beyond a double.
func sendable(x any) error {
	switch x := x.(type) {
	case string:
		if !utf8.ValidString(x) {
			return errors.New("not valid UTF-8")
		}
	case json.Number:
		if _, err := x.Float64(); err != nil {
			return errors.New("a number is out of range")
		}
	case []any:
		for _, e := range x {
			if err := sendable(e); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, e := range x {
			if err := errors.Join(sendable(k), sendable(e)); err != nil {
				return err
			}
		}
	}
	return nil
}

// items returns the elements of an array or a set; in JSON a set is an array.
func items(v rego.Value) ([]*ast.Term, bool) {
	switch v := v.(type) {
	case *ast.Array:
		terms := make([]*ast.Term, 0, v.Len())
		v.Foreach(func(t *ast.Term) { terms = append(terms, t) })
		return terms, true
	case ast.Set:
		return v.Slice(), true
	}
	return nil, false
}

// list reads an array of strings, each of which must pass the check.
func list(v ast.Object, key string, check func(string) error) ([]string, error) {
	found := member(v, key)
	if found == nil {
		return nil, nil
	}
	terms, ok := items(found)
	if !ok {
		return nil, fieldErrorf(key, "a %s where an array of strings belongs", ast.ValueName(found))
	}
	names := make([]string, 0, len(terms))
	for _, t := range terms {
		s, ok := t.Value.(ast.String)
		if !ok {
			return nil, fieldErrorf(key, "a %s where a string belongs", ast.ValueName(t.Value))
		}
		if err := check(string(s)); err != nil {
			return nil, fieldErrorf(key, "%v", err)
		}
		names = append(names, string(s))
	}
	return names, nil
}

// pairs calls add for each name and value of an object whose values are strings or arrays of strings: names sorted, values in order.
func pairs(v ast.Object, add func(name string, value rego.Value) error) error {
	return v.Iter(func(k, v *ast.Term) error {
		name, err := rego.KeyText(k.Value)
		if err != nil {
			return err
		}
		terms, ok := items(v.Value)
		if !ok {
			return add(name, v.Value)
		}
		for _, t := range terms {
			if err := add(name, t.Value); err != nil {
				return err
			}
		}
		return nil
	})
}

func queryParameters(v ast.Object, key string) ([]QueryParameter, error) {
	found := member(v, key)
	if found == nil {
		return nil, nil
	}
	object, ok := found.(ast.Object)
	if !ok {
		return nil, fieldErrorf(key, "a %s where an object belongs", ast.ValueName(found))
	}
	var parameters []QueryParameter
	err := pairs(object, func(name string, value rego.Value) error {
		s, ok := value.(ast.String)
		if !ok {
			return fmt.Errorf("%q: a %s where a string belongs", name, ast.ValueName(value))
		}
		if name == "" {
			return errors.New("a parameter without a name")
		}
		if err := checkPlain(name); err != nil {
			return err
		}
		if err := checkPlain(string(s)); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		parameters = append(parameters, QueryParameter{Name: name, Value: string(s)})
		return nil
	})
	if err != nil {
		return nil, fieldErrorf(key, "%v", err)
	}
	return parameters, nil
}

// headers reads an object of headers or an array of such objects, in the array's order and, within an object, sorted by name. A value is a
// string, an array of strings, or an object with value and append_action.
func (o output) headers(v ast.Object, key string) ([]Header, error) {
	found := member(v, key)
	if found == nil {
		return nil, nil
	}
	objects := []*ast.Term{{Value: found}}
	if terms, ok := items(found); ok {
		objects = terms
	}
	var headers []Header
	for _, t := range objects {
		object, ok := t.Value.(ast.Object)
		if !ok {
			return nil, fieldErrorf(key, "a %s where an object belongs", ast.ValueName(t.Value))
		}
		err := pairs(object, func(name string, value rego.Value) error {
			return o.header(&headers, name, value, "")
		})
		if err != nil {
			return nil, fieldErrorf(key, "%v", err)
		}
	}
	return headers, nil
}

// header appends one header, or those of an object with an append action.
func (o output) header(headers *[]Header, name string, value rego.Value, action string) error {
	if err := o.headerName(name); err != nil {
		return err
	}
	switch v := value.(type) {
	case ast.String:
		if err := checkPlain(string(v)); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if len(v) > maxHeader {
			return fmt.Errorf("%q: a value of %d bytes is longer than %d", name, len(v), maxHeader)
		}
		*headers = append(*headers, Header{Name: name, Value: string(v), AppendAction: action})
		return nil
	case ast.Object:
		if action == "" {
			return o.actionHeader(headers, name, v)
		}
	}
	return fmt.Errorf("%q: a %s where a string belongs", name, ast.ValueName(value))
}

func (o output) actionHeader(headers *[]Header, name string, v ast.Object) error {
	action, ok := member(v, "append_action").(ast.String)
	if !ok || !slices.Contains(appendActions, string(action)) {
		return fmt.Errorf("%q: append_action is one of %s", name, strings.Join(appendActions, ", "))
	}
	value := member(v, "value")
	if value == nil {
		return fmt.Errorf("%q: the value is missing", name)
	}
	terms, ok := items(value)
	if !ok {
		return o.header(headers, name, value, string(action))
	}
	for _, t := range terms {
		if err := o.header(headers, name, t.Value, string(action)); err != nil {
			return err
		}
	}
	return nil
}

// headerName refuses what is not an RFC 9110 token and what would change a message's framing or target.
func (o output) headerName(name string) error {
	lower := strings.ToLower(name)
	bare, pseudo := strings.CutPrefix(lower, ":")
	if !isToken(bare) || len(name) > maxHeader {
		return fmt.Errorf("%q is not a header name", rego.OneLine(name))
	}
	if (pseudo || slices.Contains(refusedHeaders, lower)) && !slices.Contains(o.allowed, lower) {
		return fmt.Errorf("the header %q is not a policy's to set or remove", lower)
	}
	return nil
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// checkPlain refuses control characters and invalid UTF-8: a line break in a header is another header. The text may be secret, so errors do
// not quote it.
func checkPlain(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("a text of %d bytes is not valid UTF-8", len(s))
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Errorf("a text of %d bytes holds a control character at byte %d", len(s), i)
	}
	return nil
}

// LargeInput is the input size in bytes from which an evaluation runs on its own goroutine. What a policy sorts or compares of a smaller
// input takes no time that matters.
const LargeInput = 16 << 10

// DecideIsolated is DecideWithin for a large input: it returns at the deadline whatever the evaluation does. The evaluator checks its deadline
// between steps, and with a large input one step may be long: the evaluation is then abandoned and counted (CountAbandoned). With too many
// abandoned the error is ErrOverloaded. The input must not be in memory that is reused.
func (e *Entry) DecideIsolated(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, _, err := e.decideIsolated(ctx, timeout, input, facts, now)
	return d, err
}

// DecideIsolated is Decide for a large input, like Entry.DecideIsolated. An input whose read part fits into a key is not large.
func (k *Key) DecideIsolated(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	if !k.unfit {
		return k.Decide(ctx, timeout, input, facts, now)
	}
	d, clean, err := k.entry.decideIsolated(ctx, timeout, input, facts, now)
	return k.keep(d, clean, err, facts, now)
}

func (e *Entry) decideIsolated(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, bool, error) {
	type outcome struct {
		decision Decision
		clean    bool
		err      error
	}
	out, err := bounds.RunIsolated(ctx, timeout, func() (o outcome) {
		o.decision, o.clean, o.err = e.decide(ctx, timeout, input, facts, now)
		return o
	})
	if err != nil {
		return Decision{}, false, isolatedError(err)
	}
	return out.decision, out.clean, out.err
}

func isolatedError(err error) error {
	if errors.Is(err, bounds.ErrOverloaded) {
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	}
	return fmt.Errorf("evaluating the policy: %w", err)
}

// Abandoned counts the built-in calls that outlasted their evaluation's deadline, over all snapshots.
type Abandoned struct {
	Running int64  // still running
	Total   uint64 // since the start
	Refused uint64 // not started, because too many were running: ErrOverloaded
}

// CountAbandoned returns the current counts.
func CountAbandoned() Abandoned {
	c := bounds.Abandoned()
	return Abandoned{Running: c.Abandoned, Total: c.Total, Refused: c.Refused}
}
