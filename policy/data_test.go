package policy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// FuzzReadData compares our JSON parser with encoding/json.
func FuzzReadData(f *testing.F) {
	for _, text := range []string{
		`{"a": [1, 2.5, -0, 1e3, 12345678901234567890], "b": {"c": null, "d": true}}`, `{"a": "\u00e9\n\"\\", "é": "\ud83d\ude00"}`,
		`{"a": 1, "a": {"b": 2}, "a": 3}`, `{"a": [1,]}`, `{"a": 1,}`, `{,}`, `{"a" 1}`, `{"a": 01}`, `{"a": 1} {}`, "{\"a\": \"\x01\"}", "{\"a\": \"\xff\"}",
		"\xef\xbb\xbf{}", "{}\x00", `{"a": tru}`, `{"a": "\ud800"}`, `[]`, ``, ` {"x":[[],{},[{}]]} `, `{"a": "b`, `{"a": 1e400}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, wantErr := plainJSON(text)
		b, err := bundle.Read("app", tree{"d/data.json": text,
			"a.rego": "package authz\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"d\": data.d}}\n"}.fs(), bundle.Limits{})
		if err != nil && wantErr == nil && (strings.Contains(err.Error(), "number") || strings.Contains(err.Error(), "nested")) {
			return // beyond our limits
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: got %v, encoding/json %v", text, err, wantErr)
		}
		if err != nil {
			return
		}
		s, err := policy.Compile(t.Context(), policy.Config{Decision: "authz/allow"}, []*bundle.Bundle{b})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Decide(t.Context(), nil, time.Time{})
		if err != nil && strings.Contains(err.Error(), "number") {
			return // beyond what metadata can hold
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Metadata["d"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %#v, want %#v", text, got, want)
		}
	})
}

// plainJSON parses exactly one JSON value with encoding/json.
func plainJSON(text string) (value any, err error) {
	d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(text, "\xef\xbb\xbf")))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more follows")
	}
	return value, nil
}

func BenchmarkReadData(b *testing.B) {
	var data strings.Builder
	data.WriteString(`{"users": {`)
	for i := range 200_000 {
		if i > 0 {
			data.WriteString(",\n")
		}
		fmt.Fprintf(&data, `"user-%06d": {"active": true, "department": "dept-%03d", "level": %d, "rev": "1"}`, i, i%500, i%9)
	}
	data.WriteString("}}")
	files := fstest.MapFS{"data.json": {Data: []byte(data.String())}}
	b.SetBytes(int64(data.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bundle.Read("users", files, bundle.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
