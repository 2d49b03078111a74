package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/policy"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what is explained into testdata/explain")

// TestExplain holds explanations against the text in testdata/explain. In each archive a file that starts with a slash is
// part of the bundle; NAME.json is an input and NAME.txt what is said of it.
func TestExplain(t *testing.T) {
	files, err := filepath.Glob("testdata/explain/*.txtar")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d archives, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { explainArchive(t, file) })
	}
}

func explainArchive(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bundle, changed := fstest.MapFS{}, false
	for _, f := range archive.Files {
		if name, ok := strings.CutPrefix(f.Name, "/"); ok {
			bundle[name] = &fstest.MapFile{Data: f.Data}
		}
	}
	if example := strings.TrimSpace(string(archive.Comment)); strings.HasPrefix(example, "../") {
		bundle = exampleBundle(t, example)
	}
	b, err := policy.Read("app", bundle, policy.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(context.Background(), policy.Config{Decision: "envoy/authz/allow"}, []*policy.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range archive.Files {
		name, isInput := strings.CutSuffix(f.Name, ".json")
		if !isInput || strings.HasPrefix(f.Name, "/") {
			continue
		}
		got := explain(t, s, f.Data)
		if i+1 == len(archive.Files) || archive.Files[i+1].Name != name+".txt" {
			t.Fatalf("%s.txt does not follow %s", name, f.Name)
		}
		want := &archive.Files[i+1]
		if *update {
			changed = changed || string(want.Data) != got
			want.Data = []byte(got)
		} else if diff := cmp.Diff(string(want.Data), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if changed {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// secret is what the tests keep from being shown.
var secret = policy.ExplainOptions{
	Secret:  [][]string{{"attributes", "request", "http", "headers", "x-api-key"}, {"identity", "claims"}},
	Hide:    []string{"hunter22"},
	Timeout: time.Minute,
}

func explain(t *testing.T, s *policy.Snapshot, input []byte) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(input)))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	v, err := policy.FromJSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := s.Entry([]string{"envoy", "authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	e := entry.Explain(context.Background(), v, noon, secret)
	want, wantErr := entry.Decide(context.Background(), v, noon)
	if e.Allowed != want.Allowed || (wantErr == nil) != (e.Err == nil) || errors.Is(wantErr, policy.ErrUndefined) != errors.Is(e.Err, policy.ErrUndefined) {
		t.Errorf("explains allowed %v, %v; it is %v, %v", e.Allowed, e.Err, want.Allowed, wantErr)
	}
	return e.Text()
}

// exampleBundle is the policy of one of the examples.
func exampleBundle(t *testing.T, dir string) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	for _, name := range []string{"orders.rego", "data.json"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = &fstest.MapFile{Data: content}
	}
	return out
}

// TestExplainOnOPAsOwnCases holds what an explanation says came out against what Decide says, on OPA's conformance suite.
func TestExplainOnOPAsOwnCases(t *testing.T) {
	used, denied := 0, 0
	for _, c := range suite(t) {
		input := map[string]any{}
		if c.Input != nil {
			input, _ = (*c.Input).(map[string]any)
		}
		s := wrapped(c)
		if s == nil {
			continue
		}
		v, err := policy.FromJSON(input)
		if err != nil {
			continue
		}
		entry, err := s.Entry([]string{"gatehouse_wrapper", "allow"})
		if err != nil || entry == nil {
			t.Fatal(c.Note, err)
		}
		want, wantErr := entry.Decide(t.Context(), v, noon)
		e := entry.Explain(t.Context(), v, noon, policy.ExplainOptions{Timeout: time.Minute})
		used++
		if e.Allowed != want.Allowed || errors.Is(e.Err, policy.ErrUndefined) != errors.Is(wantErr, policy.ErrUndefined) || (e.Err == nil) != (wantErr == nil) {
			t.Errorf("%s: explains allowed %v, %v; it is %v, %v", c.Note, e.Allowed, e.Err, want.Allowed, wantErr)
		}
		if strings.Contains(e.Text(), "the explanation failed") {
			t.Errorf("%s: %s", c.Note, e.Text())
		}
		if !e.Allowed {
			if denied++; len(e.WhyNot) == 0 && !errors.Is(e.Err, policy.ErrEvaluation) {
				t.Errorf("%s: denied, and nothing says why:\n%s", c.Note, e.Text())
			}
		}
		if len(e.Text()) > 200_000 {
			t.Errorf("%s: %d bytes of explanation", c.Note, len(e.Text()))
		}
	}
	t.Logf("%d cases, %d of them not allowed", used, denied)
	if used < 500 || denied < 100 {
		t.Errorf("only %d cases, %d of them not allowed", used, denied)
	}
}
