package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"gatehouse/input"
)

// maxEntry is the default of the log's configuration.
const maxEntry = 64 << 10

func testCodec() (*codec, *Packer) {
	cfg := Config{MaxEntry: maxEntry}
	c := newCodec(&cfg)
	return &c, NewPacker(cfg)
}

type tree struct{ v any }

func (d tree) JSON() (any, error) { return d.v, nil }

// packed is a packed entry that has something of everything.
func packed() []byte {
	_, p := testCodec()
	endpoint := input.Endpoint{Address: input.Address{Host: "h", Port: 1}, Labels: map[string]string{"a": "b"}, Principal: "p"}
	e := &Entry{DecisionID: "d", Time: time.Unix(17, 5), Bundles: []Bundle{{"a", "b", "c"}}, Error: "e", Asked: true,
		Result: tree{[]any{nil, true, false, json.Number("1.5"), "s", map[string]any{"a": 1}}},
		Input: input.Input{Request: input.Request{Path: "/a?token=s3cret", Headers: []input.Header{{Name: "cookie", Value: "s3cret"}, {Name: "a", Value: "b"}, {Name: "a", Value: "c"}}, RawHeader: true,
			Time: time.Unix(1, 2), Source: endpoint,
			Destination: input.Endpoint{Address: input.Address{Other: map[string]any{"pipe": "x"}}},
			Metadata:    map[string]any{"filterMetadata": map[string]any{jwtAuthn: 1, "x": 2.5}}, TLS: &input.TLSSession{}},
			Params: []input.Param{{Name: "a", Value: "b"}}, ParsedBody: tree{map[string]any{"password": "s3cret"}}, HasBody: true, Matched: true,
			Peer: input.Peer{SANs: []string{"a"}}}}
	var o Packing
	p.Pack(&o, e)
	return o.buf
}

// TestPackedHoldsNoSecret looks at the bytes themselves.
func TestPackedHoldsNoSecret(t *testing.T) {
	if b := packed(); bytes.Contains(b, []byte("s3cret")) || !bytes.Contains(b, []byte("cookie")) {
		t.Errorf("%q", b)
	}
}

// FuzzUnpack gives the reader bytes that nobody packed: it says so, or makes one line of JSON of them.
func FuzzUnpack(f *testing.F) {
	f.Add(packed())
	f.Add([]byte{packVersion, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _ := testCodec()
		line, err := c.appendLine(nil, b)
		if err != nil {
			return
		}
		if !json.Valid(line) || bytes.IndexByte(line, '\n') != len(line)-1 || len(line) > c.max {
			t.Errorf("%d bytes: %s", len(line), line)
		}
		compareLines(t, c, b)
	})
}

// compareLines holds the line that is made straight from a packed entry against the one that is made by way of values. It reports whether there
// was one.
func compareLines(t *testing.T, c *codec, packed []byte) bool {
	t.Helper()
	line, ok := c.straight.appendLine([]byte("before"), packed, c)
	if !ok || !utf8.Valid(packed) { // of names that are no UTF-8 several may come out as one
		return ok
	}
	plain, err := c.plainLine(nil, packed)
	if err != nil {
		t.Fatalf("the plain way: %v", err)
	}
	if got, want := decodeLine(t, bytes.TrimPrefix(line, []byte("before"))), decodeLine(t, plain); !reflect.DeepEqual(got, want) {
		t.Errorf("straight %s\nplain    %s", line, plain)
	}
	return true
}

// decodeLine is a line as values, the pointers in order and each once.
func decodeLine(t *testing.T, line []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for _, name := range []string{"erased", "masked"} {
		list, _ := v[name].([]any)
		slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		if list = slices.Compact(list); list != nil {
			v[name] = list
		}
	}
	return v
}

// TestStraight has entries that must not need the plain way, and some that must.
func TestStraight(t *testing.T) {
	c, p := testCodec()
	c.labelsText, c.labels = `,"labels":{"a":"b"}`, map[string]string{"a": "b"}
	base := func(change func(*Entry)) []byte {
		e := &Entry{DecisionID: "d", Time: time.Unix(17, 5), Outcome: "deny", Reason: "denied", Status: 403,
			Bundles: []Bundle{{"a", "b", "c"}, {"b", "", ""}}, Error: "e\xff", Memo: true,
			Digests: Digests{Routes: "1", Directory: "3"}, Asked: true,
			Result: tree{map[string]any{"headers": map[string]any{"set-cookie": "s3cret"}, "b": []any{nil, true, false, json.Number("-1.5e3"), "<s>"}}},
			Input: input.Input{Request: input.Request{Method: "GET", Host: "h", Path: "/a//b%2Fc/eyJh.eyJi.c?token=s3cret&x=1&x=eyJh.eyJi.c&%7e/=2",
				Scheme: "https", Query: "code=s3cret", Headers: []input.Header{{Name: "x-b", Value: "1"}, {Name: "cookie", Value: "s3cret"}, {Name: "a~/", Value: "Bearer x"}},
				Size: -1, Time: time.Unix(1, 0),
				Source:      input.Endpoint{Address: input.Address{Host: "h"}, Labels: map[string]string{"b": "1", "a": "2"}, Principal: "p"},
				Destination: input.Endpoint{Address: input.Address{Port: 1}, Service: "s"}, Extensions: map[string]string{"k": "v"},
				Metadata:      map[string]any{"filterMetadata": map[string]any{jwtAuthn: 1, "x": 2.5}},
				RouteMetadata: map[string]any{"x": map[string]any{}}, TLS: &input.TLSSession{SNI: "n"}}, DecisionPath: "a/b",
				Params:   []input.Param{{Name: "a", Value: "eyJh.eyJi.c"}, {Name: "b/~", Value: "2"}},
				Identity: input.Identity{Type: "t", Identity: "i", Subject: "s", Issuer: "u", Roles: []string{"r", "\u2028"}, Claims: map[string]any{"x": 1}},
				HasBody:  true, Truncated: true, ParsedBody: tree{map[string]any{"password": "s3cret", "b": []any{}}},
				Peer: input.Peer{SPIFFEID: "s", SANs: []string{"a"}}, App: "app", Matched: true, RouteName: "n", RouteTemplate: "t"}}
		change(e)
		var o Packing
		p.Pack(&o, e)
		return o.buf
	}
	for name, tt := range map[string]struct {
		change func(*Entry)
		plain  bool
	}{
		"everything":    {change: func(*Entry) {}},
		"a WebSocket":   {change: func(e *Entry) { e.Input.WebSocket = true }},
		"nothing":       {change: func(e *Entry) { *e = Entry{} }},
		"nothing asked": {change: func(e *Entry) { *e = Entry{Asked: true} }},
		"not asked":     {change: func(e *Entry) { e.Asked = false }},
		"no result":     {change: func(e *Entry) { e.Result = nil }},
		"root":          {change: func(e *Entry) { e.Path = "/" }},
		"no path":       {change: func(e *Entry) { e.Path = "" }},
		"empty query":   {change: func(e *Entry) { e.Path = "/a?" }},
		"raw body":      {change: func(e *Entry) { e.Input.RawBody, e.Input.ParsedBody = true, nil }},
		"peer's name":   {change: func(e *Entry) { e.Input.Peer = input.Peer{Subject: "s"} }},
		"method only":   {change: func(e *Entry) { *e = Entry{Asked: true, Input: input.Input{Request: input.Request{Method: "GET"}}} }},
		"header map":    {change: func(e *Entry) { e.Input.RawHeader = true }, plain: true},
		"a repeated header": {change: func(e *Entry) {
			e.Input.Headers = []input.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, {Name: "a", Value: "3"}}
		}, plain: true},
		"a pipe's address": {change: func(e *Entry) { e.Input.Source.Address.Other = map[string]any{"pipe": "x"} }, plain: true},
		"no JSON":          {change: func(e *Entry) { e.Result = tree{json.Number("x")} }, plain: true},
		"cut to size":      {change: func(e *Entry) { e.Host = strings.Repeat("h", maxEntry) }, plain: true},
		"many headers":     {change: func(e *Entry) { e.Input.Headers = manyHeaders(maxHeaders + 1) }, plain: true},
		"too large":        {change: func(e *Entry) { e.Result = tree{strings.Repeat("\x01", maxEntry/2)} }, plain: true},
	} {
		t.Run(name, func(t *testing.T) {
			if straight := compareLines(t, c, base(tt.change)); straight == tt.plain {
				t.Errorf("made straight: %v", straight)
			}
		})
	}
}

func manyHeaders(n int) (list []input.Header) {
	for i := range n {
		list = append(list, input.Header{Name: fmt.Sprintf("x-%03d", n-i), Value: "v"})
	}
	return list
}

func BenchmarkLine(b *testing.B) {
	c, _ := testCodec()
	var e Entry
	for i := range 20 {
		e.Input.Headers = append(e.Input.Headers, input.Header{Name: fmt.Sprintf("x-custom-%02d", i), Value: "a value of the usual length"})
	}
	e.DecisionID, e.Outcome, e.Method, e.Host, e.Path, e.Asked, e.Time = "OPXCZ3VQJZ6LTJ3V2ZJCDSR5WA", "allow", "GET", "orders.example.com", "/orders/17", true, time.Unix(1767225600, 5)
	var o Packing
	(&Packer{schema: c.schema, redact: c.redact, max: c.max}).Pack(&o, &e)
	for name, plain := range map[string]bool{"straight": false, "plain": true} {
		b.Run(name, func(b *testing.B) {
			c.plain = plain
			var line []byte
			b.ReportAllocs()
			for b.Loop() {
				line, _ = c.appendLine(line[:0], o.buf)
			}
			b.SetBytes(int64(len(line)))
		})
	}
}

// TestKeptResult has a result that several entries share: it is packed once, redacted anew where other things are secret, and cut like any other.
func TestKeptResult(t *testing.T) {
	c, p := testCodec()
	made := 0
	result := counted{&made, map[string]any{"headers": map[string]any{"set-cookie": "s3cret", "x-partner": "p4rtner"}, "s": strings.Repeat("s", 600)}}
	var kept atomic.Value
	pack := func(p *Packer, host string) string {
		var o Packing
		p.Pack(&o, &Entry{Result: result, ResultKept: &kept, Input: input.Input{Request: input.Request{Host: host}}})
		line, err := c.appendLine(nil, o.buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(line)
	}
	first, second := pack(p, "h"), pack(p, "h")
	if first != second || made != 1 || strings.Contains(first, "s3cret") || !strings.Contains(first, `"masked":["/result/headers/set-cookie"]`) {
		t.Errorf("made %d times\n%s\n%s", made, first, second)
	}
	if line := pack(p, strings.Repeat("h", maxEntry)); !strings.Contains(line, `"erased":["/result"]`) {
		t.Errorf("a line that is too large: %s", line)
	}
	other := *p
	other.redact = newRedactor(Redact{Headers: []string{"x-partner"}})
	if line := pack(&other, "h"); strings.Contains(line, "p4rtner") || strings.Contains(line, "s3cret") {
		t.Errorf("with more that is secret: %s", line)
	}
	if line := pack(&other, "h"); strings.Contains(line, "p4rtner") {
		t.Errorf("with more that is secret, kept: %s", line)
	}
}

type counted struct {
	made *int
	v    map[string]any
}

func (d counted) JSON() (any, error) {
	*d.made++
	headers := d.v["headers"].(map[string]any)
	return map[string]any{"headers": maps.Clone(headers), "s": d.v["s"]}, nil
}
