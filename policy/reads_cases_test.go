package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/test/cases/testdata"
	"github.com/open-policy-agent/opa/v1/util"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// asked wraps the query of a case of OPA's suite into a decision.
const asked = "package gatehouse_wrapper\n\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"r\": %s}}\n"

// TestReadsOnOPAsOwnCases checks Reads on OPA's conformance suite: changing or removing unread input does not change the result.
func TestReadsOnOPAsOwnCases(t *testing.T) {
	used, tried := 0, 0
	for _, c := range suite(t) {
		if c.Input == nil {
			continue
		}
		input, isObject := (*c.Input).(map[string]any)
		s := wrapped(c)
		if !isObject || s == nil {
			continue
		}
		want := outcome(t, s, input)
		if want != outcome(t, s, input) {
			continue // depends on the time or on randomness
		}
		used++
		if got := outcome(t, s, projected(input, s.Reads())); got != want {
			t.Errorf("%s: with nothing but what is read %s instead of %s", c.Note, got, want)
		}
		if got := outcome(t, s, projectedText(t, input, s.Reads())); got != want {
			t.Errorf("%s: with what is read taken out of the text %s instead of %s", c.Note, got, want)
		}
		for _, path := range append(paths(input, nil), strangers(input, nil)...) {
			if s.Reads().Any(path...) {
				tried += compareProjected(t, c.Note, s, input, path)
				continue
			}
			for _, replacement := range []any{nil, "junk", map[string]any{"a": json.Number("1")}, absent} {
				tried++
				if got := outcome(t, s, replace(input, path, replacement)); got != want {
					t.Errorf("%s: reads no input.%s, yet with %v there %s instead of %s",
						c.Note, strings.Join(path, "."), replacement, got, want)
				}
			}
		}
	}
	t.Logf("%d cases, %d changed inputs", used, tried)
	if used < 200 || tried < 500 {
		t.Errorf("only %d cases and %d changed inputs", used, tried)
	}
}

// compareProjected changes read parts of an input, and compares the decision with that for only the read parts.
func compareProjected(t *testing.T, note string, s *policy.Snapshot, input map[string]any, path []string) (tried int) {
	t.Helper()
	for _, replacement := range []any{nil, map[string]any{}, map[string]any{"a": json.Number("1")}, absent} {
		changed := replace(input, path, replacement)
		want, again := outcome(t, s, changed), outcome(t, s, changed)
		if got := outcome(t, s, projected(changed, s.Reads())); got != want && want == again {
			t.Errorf("%s: with %v at input.%s %s, and %s with nothing but what is read", note, replacement, strings.Join(path, "."), want, got)
		}
		tried++
	}
	return tried
}

// projected returns what is read of an object. An object without any such part is omitted, as it cannot be told from an absent one.
func projected(object map[string]any, reads reach.Reads) map[string]any {
	out := map[string]any{}
	for key, value := range object {
		inner, isObject := value.(map[string]any)
		switch {
		case !reads.Any(key):
		case isObject && len(inner) > 0:
			if inner = projected(inner, reads.Below(key)); len(inner) > 0 {
				out[key] = inner
			}
		default:
			out[key] = value
		}
	}
	return out
}

// projectedText projects an object's JSON text.
func projectedText(t *testing.T, object map[string]any, reads reach.Reads) map[string]any {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if text, err = reads.Project(nil, text); err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := util.Unmarshal(text, &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

// suite returns OPA's cases for Rego v1.
func suite(t *testing.T) []cases.TestCase {
	var all []cases.TestCase
	err := fs.WalkDir(testdata.V1, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := testdata.V1.ReadFile(path)
		if err != nil {
			return err
		}
		var set cases.Set
		if err := util.Unmarshal(content, &set); err != nil {
			return err
		}
		all = append(all, set.Cases...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wrapped compiles a case that queries one document; nil if it queries more, or needs disabled built-ins.
func wrapped(c cases.TestCase) *policy.Snapshot {
	document, _, _ := strings.Cut(c.Query, " = ")
	if !strings.HasPrefix(document, "data.") || strings.ContainsAny(document, "[;( ") {
		return nil
	}
	files := tree{"wrapper.rego": fmt.Sprintf(asked, document)}
	for i, m := range c.Modules {
		files[fmt.Sprintf("m%d.rego", i)] = m
	}
	if c.Data != nil {
		data, err := json.Marshal(*c.Data)
		if err != nil {
			return nil
		}
		files["data.json"] = string(data)
	}
	b, err := bundle.Read("case", files.fs(), bundle.Limits{})
	if err != nil {
		return nil
	}
	s, err := policy.Compile(context.Background(), policy.Config{Decision: "gatehouse_wrapper/allow"}, []*bundle.Bundle{b})
	if err != nil {
		return nil
	}
	return s
}

// outcome renders a decision or an error as comparable text.
func outcome(t *testing.T, s *policy.Snapshot, input map[string]any) string {
	t.Helper()
	v, err := rego.FromJSON(input)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := s.Decide(ctx, v, noon)
	switch {
	case errors.Is(err, policy.ErrUndefined):
		return "undefined"
	case errors.Is(err, policy.ErrEvaluation):
		return "failed"
	case err != nil:
		t.Fatal(err)
	}
	text, err := json.Marshal(d.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type missing struct{}

var absent = missing{}

// paths returns the path of every value within objects.
func paths(object map[string]any, at []string) [][]string {
	var all [][]string
	for _, key := range slices.Sorted(maps.Keys(object)) {
		here := append(slices.Clone(at), key)
		all = append(all, here)
		if below, ok := object[key].(map[string]any); ok {
			all = append(all, paths(below, here)...)
		}
	}
	return all
}

// strangers returns for each object the path of a key that it does not have.
func strangers(object map[string]any, at []string) [][]string {
	all := [][]string{append(slices.Clone(at), "stranger")}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if below, ok := object[key].(map[string]any); ok {
			all = append(all, strangers(below, append(slices.Clone(at), key))...)
		}
	}
	return all
}

// replace returns a copy of the input with another value, or none, at the path.
func replace(object map[string]any, path []string, value any) map[string]any {
	object = maps.Clone(object)
	switch {
	case len(path) > 1:
		object[path[0]] = replace(object[path[0]].(map[string]any), path[1:], value)
	case value == any(absent):
		delete(object, path[0])
	default:
		object[path[0]] = value
	}
	return object
}

// TestAnswersOnOPAsOwnCases compares results with those that OPA's suite expects: this package evaluates queries as OPA does.
func TestAnswersOnOPAsOwnCases(t *testing.T) {
	agreed := 0
	for _, c := range suite(t) {
		if c.WantResult == nil || len(*c.WantResult) != 1 || c.Input == nil || c.StrictError || c.InputTerm != nil || c.SortBindings {
			continue
		}
		_, variable, ok := strings.Cut(c.Query, " = ")
		input, isObject := (*c.Input).(map[string]any)
		want, has := (*c.WantResult)[0][variable]
		s := wrapped(c)
		if !ok || !isObject || !has || s == nil {
			continue
		}
		var got struct{ R any }
		if err := util.UnmarshalJSON([]byte(outcome(t, s, input)), &got); err != nil {
			t.Errorf("%s: %v", c.Note, err)
			continue
		}
		if diff := cmp.Diff(want, got.R); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.Note, diff)
		}
		agreed++
	}
	t.Logf("%d cases", agreed)
	if agreed < 100 {
		t.Errorf("only %d cases", agreed)
	}
}
