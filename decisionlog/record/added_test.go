package record

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/input"
)

// added is a schema with a field of each kind that a table may be extended by. They show values that an input has anyway.
func added(t testing.TB) *input.Schema {
	t.Helper()
	schema, err := input.Standard().With(
		input.Field{Path: "account.id", Text: func(in *input.Input) *string { return &in.ID }, Number: 901},
		input.Field{Path: "account.level", Int: func(in *input.Input) *int64 { return &in.Size }, Number: 902},
		input.Field{Path: "account.locked", Bool: func(in *input.Input) *bool { return &in.RawHeader }, Always: true, Number: 903},
		input.Field{Path: "account.roles", List: func(in *input.Input) *[]string { return &in.Identity.Roles }, Number: 904},
		input.Field{Path: "account.labels", Labels: func(in *input.Input) *map[string]string { return &in.Extensions }, Number: 905},
		input.Field{Path: "account.attributes", Object: func(in *input.Input) *map[string]any { return &in.RouteMetadata }, Number: 906},
		input.Field{Path: "account.note", Text: func(in *input.Input) *string { return &in.Fragment }, Number: 907, Unlogged: true},
		input.Field{Path: "account.absent", Text: func(*input.Input) *string { return nil }, Number: 908},
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
	e := &Entry{DecisionID: "d", Time: time.Unix(17, 5), Asked: true, Digests: Digests{Routes: "1"}, Input: input.Input{Request: input.Request{
		Path: "/", ID: "ann", Size: 7, Fragment: "unlogged", Headers: []input.Header{{Name: "authorization", Value: "Bearer " + secret}},
		Extensions:    map[string]string{"team": "a", "password": "s3cret", "note": "is " + secret},
		RouteMetadata: map[string]any{"plan": json.Number("1"), "token": "s3cret", "list": []any{"a", "has " + secret}}},
		Identity: input.Identity{Roles: []string{"viewer", "x " + secret}}}}
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
	if user := got["input"].(map[string]any)["account"]; !reflect.DeepEqual(user, want) {
		t.Errorf("user is   %v\nit must be %v", user, want)
	}
	for _, at := range []string{"roles/1", "labels/password", "labels/note", "attributes/token", "attributes/list/1"} {
		if !slices.Contains(got["masked"].([]any), any("/input/account/"+at)) {
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
	if got := decodeLine(t, line); err != nil || got["input"] != nil || strings.Contains(string(line), "/input/account") {
		t.Errorf("%v: %s", err, line)
	}
}

// FuzzAdded is FuzzUnpack for entries that have fields with numbers.
func FuzzAdded(f *testing.F) {
	c, p := testCodec()
	c.schema, p.schema = added(f), added(f)
	var o Packing
	p.Pack(&o, &Entry{DirectoryRevision: 1, Facts: tree{[]any{map[string]any{"question": "q", "answer": true}}}, Asked: true, Input: input.Input{Request: input.Request{ID: "i", Size: 1, Extensions: map[string]string{"a": "b"}, RouteMetadata: map[string]any{"x": 1}}}})
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

// TestFacts has the directory and what was asked of it on record: packed, in both forms of the line, masked and bounded; and passed over by who
// does not know it.
func TestFacts(t *testing.T) {
	const secret = "k3y-hunter2-Zq"
	fact := func(id string, answer any) any {
		return map[string]any{"question": map[string]any{"ds.check": map[string]any{"object_id": id, "password": "s3cret"}}, "answer": answer}
	}
	repeat := func(n int, one any) (list []any) {
		for range n {
			list = append(list, one)
		}
		return list
	}
	for name, test := range map[string]struct {
		facts     any
		asked     bool
		body      string
		want      int
		truncated bool
	}{
		"some":            {[]any{fact("a", true), fact(secret, nil)}, true, "", 2, false},
		"none":            {[]any{}, true, "", 0, false},
		"not asked":       {[]any{fact("a", true)}, false, "", 1, false},
		"many":            {repeat(65, fact("a", json.Number("1"))), true, "", 64, true},
		"large":           {repeat(20, fact(strings.Repeat("x", 1000), "b")), true, "", 7, true},
		"no list":         {"x", true, "", 0, true},
		"no JSON":         {[]any{fact("a", true), make(chan int), fact("b", true)}, true, "", 1, true},
		"without input":   {[]any{fact("a", true)}, true, strings.Repeat("x", maxEntry), 1, false},
		"deeper than any": {[]any{fact("a", deep(maxNesting+1))}, true, "", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := testCodec()
			e := &Entry{DecisionID: "d", Time: time.Unix(17, 5), Asked: test.asked, DirectoryRevision: 12, Digests: Digests{Directory: "abc"}, Facts: tree{test.facts},
				Input: input.Input{Request: input.Request{Path: "/", Headers: []input.Header{{Name: "authorization", Value: "Bearer " + secret}}}, ParsedBody: tree{test.body}}}
			var o Packing
			p.Pack(&o, e)
			if bytes.Contains(o.buf, []byte("s3cret")) || bytes.Contains(o.buf, []byte(secret)) {
				t.Errorf("packed: %q", o.buf)
			}
			if straight := compareLines(t, c, o.buf); !straight && test.body == "" {
				t.Error("the line is not made straight from the packed entry")
			}
			line, err := c.appendLine(nil, o.buf)
			if err != nil {
				t.Fatal(err)
			}
			got := decodeLine(t, line)
			if is := got["directory"]; !reflect.DeepEqual(is, map[string]any{"revision": json.Number("12"), "digest": "abc"}) {
				t.Errorf("directory is %v", is)
			}
			facts, _ := got["facts"].([]any)
			if truncated, _ := got["facts_truncated"].(bool); len(facts) != test.want || truncated != test.truncated {
				t.Errorf("%d facts, truncated %v: %s", len(facts), truncated, line)
			}
			masked, _ := got["masked"].([]any)
			if at := "/facts/0/question/ds.check/password"; slices.Contains(masked, any(at)) != (test.want > 0) {
				t.Errorf("masked is %v", masked)
			}
			if name == "some" {
				want := map[string]any{"answer": nil, "question": map[string]any{"ds.check": map[string]any{"object_id": "[redacted]", "password": "[redacted]"}}}
				if !reflect.DeepEqual(facts[1], want) || !slices.Contains(masked, any("/facts/1/question/ds.check/object_id")) {
					t.Errorf("%v, masked %v", facts[1], masked)
				}
			}
		})
	}
}

// TestKeptFacts has questions that several entries share: they are packed once, and anew where other things are secret.
func TestKeptFacts(t *testing.T) {
	c, p := testCodec()
	made := 0
	facts := countedList{&made, []any{map[string]any{"question": map[string]any{"ds.check": map[string]any{"object_id": "k3y-hunter2-Zq", "password": "s3cret"}}, "answer": true}}}
	var kept atomic.Value
	pack := func(p *Packer, e Entry) string {
		var o Packing
		e.Facts, e.FactsKept, e.Asked = facts, &kept, true
		p.Pack(&o, &e)
		line, err := c.appendLine(nil, o.buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(line)
	}
	first, second := pack(p, Entry{}), pack(p, Entry{})
	if first != second || made != 1 || !strings.Contains(first, `"masked":["/facts/0/question/ds.check/password"]`) || !strings.Contains(first, "hunter2") || strings.Contains(first, "s3cret") {
		t.Errorf("made %d times\n%s\n%s", made, first, second)
	}
	secret := input.Input{Request: input.Request{Headers: []input.Header{{Name: "authorization", Value: "Bearer k3y-hunter2-Zq"}}}}
	if line := pack(p, Entry{Input: secret}); strings.Contains(line, "hunter2") || !strings.Contains(line, "/facts/0/question/ds.check/object_id") {
		t.Errorf("of a caller whose secret is in it: %s", line)
	}
	if line := pack(p, Entry{FactsTruncated: true}); !strings.Contains(line, `"facts_truncated":true`) {
		t.Errorf("with more: %s", line)
	}
	other := *p
	other.redact = newRedactor(Redact{Params: []string{"object_id"}})
	for range 2 {
		if line := pack(&other, Entry{}); strings.Contains(line, "hunter2") {
			t.Errorf("with more that is secret: %s", line)
		}
	}
}

type countedList struct {
	made *int
	v    []any
}

func (d countedList) JSON() (any, error) {
	*d.made++
	return d.v, nil
}

func deep(n int) any {
	var v any
	for range n {
		v = []any{v}
	}
	return v
}
