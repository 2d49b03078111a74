package record

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/input"
)

// added is a schema with a field of each kind that a table may be extended by. They show values that an input has anyway.
func added(t testing.TB) *input.Schema {
	t.Helper()
	schema, err := input.Standard().With(
		input.Field{Path: "user.id", Text: func(in *Input) *string { return &in.ID }, Number: 901},
		input.Field{Path: "user.level", Int: func(in *Input) *int64 { return &in.Size }, Number: 902},
		input.Field{Path: "user.locked", Bool: func(in *Input) *bool { return &in.RawHeader }, Always: true, Number: 903},
		input.Field{Path: "user.roles", List: func(in *Input) *[]string { return &in.Identity.Roles }, Number: 904},
		input.Field{Path: "user.labels", Labels: func(in *Input) *map[string]string { return &in.Extensions }, Number: 905},
		input.Field{Path: "user.attributes", Object: func(in *Input) *map[string]any { return &in.RouteMetadata }, Number: 906},
		input.Field{Path: "user.note", Text: func(in *Input) *string { return &in.Fragment }, Number: 907, Unlogged: true},
		input.Field{Path: "user.absent", Text: func(*Input) *string { return nil }, Number: 908},
	)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestAddedFields has fields that the table was extended by: in the packed entry, in both forms of the line and masked; and passed over by
// who does not know them.
func TestAddedFields(t *testing.T) {
	const secret = "k3y-hunter2-Zq"
	c, p := testCodec()
	schema := added(t)
	c.schema, p.schema = schema, schema
	e := &Entry{DecisionID: "d", Time: time.Unix(17, 5), Asked: true, Digests: Digests{Routes: "1"}, Input: Input{Request: input.Request{
		Path: "/", ID: "ann", Size: 7, Fragment: "unlogged", Headers: []Header{{Name: "authorization", Value: "Bearer " + secret}},
		Extensions:    map[string]string{"team": "a", "password": "s3cret", "note": "is " + secret},
		RouteMetadata: map[string]any{"plan": json.Number("1"), "token": "s3cret", "list": []any{"a", "has " + secret}}},
		Identity: Identity{Roles: []string{"viewer", "x " + secret}}}}
	var o Packing
	p.Pack(&o, e)
	if bytes.Contains(o.buf, []byte("s3cret")) || bytes.Count(o.buf, []byte("unlogged")) != 1 {
		t.Errorf("packed: %q", o.buf)
	}
	if !compareLines(t, c, o.buf) {
		t.Error("the line is not made straight from the packed entry")
	}
	line, err := c.appendLine(nil, o.buf)
	if err != nil {
		t.Fatal(err)
	}
	got := decodeLine(t, line)
	want := map[string]any{"id": "ann", "level": json.Number("7"), "locked": false, "roles": []any{"viewer", "x [redacted]"},
		"labels":     map[string]any{"team": "a", "password": "[redacted]", "note": "is [redacted]"},
		"attributes": map[string]any{"plan": json.Number("1"), "token": "[redacted]", "list": []any{"a", "has [redacted]"}}}
	if user := got["input"].(map[string]any)["user"]; !reflect.DeepEqual(user, want) {
		t.Errorf("user is   %v\nit must be %v", user, want)
	}
	for _, at := range []string{"roles/1", "labels/password", "labels/note", "attributes/token", "attributes/list/1"} {
		if !slices.Contains(got["masked"].([]any), any("/input/user/"+at)) {
			t.Errorf("%s is not among %v", at, got["masked"])
		}
	}

	known, _ := testCodec() // of a release without these fields
	before := *p
	before.schema = known.schema
	var without Packing
	before.Pack(&without, e)
	for name, make := range map[string]func(*codec, []byte) ([]byte, error){
		"straight": func(c *codec, b []byte) ([]byte, error) { return c.appendLine(nil, b) },
		"plain":    func(c *codec, b []byte) ([]byte, error) { return c.plainLine(nil, b) },
	} {
		is, err := make(known, o.buf)
		if err != nil {
			t.Fatal(err)
		}
		want, err := make(known, without.buf)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := decodeLine(t, is)["input"], decodeLine(t, want)["input"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: without knowing the fields\n%v\nwithout them\n%v", name, got, want)
		}
	}
	e.ParsedBody = tree{strings.Repeat("x", p.max)} // no input, then none of its fields
	p.Pack(&o, e)
	line, err = c.appendLine(nil, o.buf)
	if got := decodeLine(t, line); err != nil || got["input"] != nil || strings.Contains(string(line), "/input/user") {
		t.Errorf("%v: %s", err, line)
	}
}

// FuzzAdded is FuzzUnpack for entries that have fields with numbers.
func FuzzAdded(f *testing.F) {
	c, p := testCodec()
	c.schema, p.schema = added(f), added(f)
	var o Packing
	p.Pack(&o, &Entry{Asked: true, Input: Input{Request: input.Request{ID: "i", Size: 1, Extensions: map[string]string{"a": "b"}, RouteMetadata: map[string]any{"x": 1}}}})
	f.Add(o.buf)
	f.Fuzz(func(t *testing.T, b []byte) {
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
