package explain_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/explain"
	"gatehouse/policy/rego"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var update = flag.Bool("update", false, "write what is explained into testdata")

// TestExplain compares explanations with testdata. In each archive a file that starts with a slash is part of the bundle; NAME.json is an
// input and NAME.txt its explanation.
func TestExplain(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
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
	files, changed := fstest.MapFS{}, false
	for _, f := range archive.Files {
		if name, ok := strings.CutPrefix(f.Name, "/"); ok {
			files[name] = &fstest.MapFile{Data: f.Data}
		}
	}
	b, err := bundle.Read("app", files, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(context.Background(), policy.Config{Decision: "envoy/authz/allow"}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range archive.Files {
		name, isInput := strings.CutSuffix(f.Name, ".json")
		if !isInput || strings.HasPrefix(f.Name, "/") {
			continue
		}
		got := text(t, s, f.Data)
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

// secret is what must not be shown.
var secret = explain.Options{
	Secret:  [][]string{{"attributes", "request", "http", "headers", "x-api-key"}, {"identity", "claims"}},
	Hide:    []string{"hunter22"},
	Timeout: time.Minute,
}

func text(t *testing.T, s *policy.Snapshot, input []byte) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(input)))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	v, err := rego.FromJSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := s.Entry([]string{"envoy", "authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	e := explain.Of(context.Background(), entry, v, policy.Facts{}, noon, secret)
	want, wantErr := entry.Decide(context.Background(), v, policy.Facts{}, noon)
	if e.Allowed != want.Allowed || (wantErr == nil) != (e.Err == nil) || errors.Is(wantErr, policy.ErrUndefined) != errors.Is(e.Err, policy.ErrUndefined) {
		t.Errorf("explains allowed %v, %v; it is %v, %v", e.Allowed, e.Err, want.Allowed, wantErr)
	}
	return e.Text()
}

// TestExplainKeepsSecrets passes a secret through the ways in which a policy may use one. No explanation may show it, nor what it is
// compared with, unless that is a literal of the policy.
func TestExplainKeepsSecrets(t *testing.T) {
	input := `{"attributes": {"request": {"http": {"method": "GET", "headers": {"x-api-key": "mark-of-the-caller", "x-b": "c"}}}},
		"identity": {"subject": "ann", "roles": ["a"], "claims": {"mail": "mark-of-the-claims", "list": ["mark-1", "mark-2"], "deep": {"mark-key": true}}}}`
	data := `{"keys": ["mark-of-data"], "by_key": {"mark-of-data": {"level": "mark-inside"}}}`
	const headers = "input.attributes.request.http.headers"
	for _, rules := range []string{
		`allow if ` + headers + `["x-api-key"] in data.keys`,
		`allow if ` + headers + `["X_Api_Key"] == "x"`,
		`allow if data.by_key[` + headers + `["x-api-key"]].level == "x"`,
		"allow if {\n\tk := " + headers + "[\"x-api-key\"]\n\tdata.by_key[k].level == \"x\"\n}",
		"allow if {\n\tsome k in [" + headers + "[\"x-api-key\"]]\n\tk == \"x\"\n}",
		"allow if {\n\tsome name, value in " + headers + "\n\tvalue == \"x\"\n\tname != \"y\"\n}",
		"allow if {\n\tsome name\n\tstartswith(" + headers + "[name], \"x\")\n}",
		"allow if sprintf(\"%v/%v\", [input.identity.subject, input.identity.claims.mail]) == \"x\"",
		"allow if upper(json.marshal(input)) == lower(json.marshal(input))",
		"allow if json.marshal(input) == \"x\"",
		"allow if count(json.marshal(input.identity)) == 1\n\nallow if split(json.marshal(input.identity), \":\")[2] == \"x\"",
		"allow if {\n\tevery v in input.identity.claims.list { v == \"x\" }\n}",
		"allow if {\n\tevery k, v in input.identity.claims.deep { k == \"x\"; v }\n}",
		"allow if {\n\twalk(input.identity, [path, value])\n\tvalue == \"x\"\n\tpath != []\n}",
		"allow if {\n\tm := input.identity.claims.mail\n\tevery r in input.identity.roles { m == \"x\"; r }\n}",
		"allow if f(input.identity.claims.mail)\n\nf(m) if {\n\tevery r in input.identity.roles { m == \"x\"; r }\n}",
		"allow if f(input.identity.claims.mail)\n\nf(m) if {\n\tevery r in input.identity.roles { not m != r }\n}",
		"allow if not input.identity.claims.mail",
		"allow if not contains(input.identity.claims.mail, \"of\")",
		"allow if not f(input.identity.claims.mail)\n\nf(x) if x != \"x\"",
		"allow if f(input.identity.claims)\n\nf(c) if c.mail == \"x\"",
		"allow if f(input)\n\nf(c) if c.identity.claims.mail == \"x\"",
		"allow if f(input.identity)\n\nf({\"claims\": c, \"subject\": _}) if c.mail == \"x\"\n\nf(x) if x.claims == \"x\"",
		"allow if f([input.identity.claims.mail])\n\nf(l) if g(l[0])\n\ng(x) if x == \"x\"",
		"mail := input.identity.claims.mail\n\nallow if mail == \"x\"\n\nallow if [mail] == [\"x\"]\n\nallow if {\"m\": mail}.m == \"x\"",
		"mails contains m if some m in input.identity.claims.list\n\nallow if \"x\" in mails\n\nallow if mails == {\"x\"}",
		"by[m] := 1 if some m in input.identity.claims.list\n\nallow if by.x == 1\n\nallow if by == {\"x\": 1}",
		"allow if {m | some m in input.identity.claims.list} == {\"x\"}",
		"allow if {\n\t[a, b] = input.identity.claims.list\n\ta == \"x\"\n\tb == \"y\"\n}",
		"allow if {\n\tx := object.union(input.identity.claims, {})\n\tx.mail == \"x\"\n}",
		"allow if {\n\tx := input.identity\n\tx.claims.mail == \"x\"\n}",
		"allow if {\n\tx := input.identity.claims.mail with input.a as 1\n\tx == \"x\"\n}",
		"allow := true if input.identity.claims.mail == \"x\"\n\nelse := true if input.identity.claims.list[_] == \"x\"",
		"allow if to_number(input.identity.claims.mail) == 3",
		"allow if {\n\tx := to_number(input.identity.claims.mail)\n\tx > 3\n}",
		"allow if data.keys[_] == " + headers + "[\"x-api-key\"]",
		"allow if {\n\tdata.keys[i] == " + headers + "[\"x-api-key\"]\n\ti > 1\n}",
		"who := input.identity.claims.mail\n\nwho := input.subject if input.identity.subject\n\nwho := \"x\" if input.identity.subject\n\nallow if who == 1",
		"allow if concat(\"\", [\"a\", " + headers + "[\"x-api-key\"]]) in data.keys",
		"allow if object.get(" + headers + ", \"x-api-key\", \"none\") in data.keys",
		"allow if object.get(" + headers + ", [\"x-api-key\"], \"none\") in data.keys",
		"default who := \"nobody\"\n\nwho := input.identity.claims.mail\n\nallow if who == \"x\"",
		"http := input.attributes.request.http\n\nallow if http.headers == {\"x\": \"y\"}\n\nallow if http == \"x\"",
	} {
		s := compileFiles(t, "package envoy.authz\n\n"+rules+"\n", data)
		got := text(t, s, []byte(input))
		if !strings.HasPrefix(got, "denied") {
			t.Errorf("%s\nis allowed:\n%s", rules, got)
		}
		if at := strings.Index(strings.ToLower(got), "mark-"); at >= 0 {
			t.Errorf("%s\nis explained with a secret:\n%s", rules, got)
		}
	}
}

func compileFiles(t *testing.T, rego, data string) *policy.Snapshot {
	t.Helper()
	b, err := bundle.Read("app", fstest.MapFS{"p.rego": {Data: []byte(rego)}, "data.json": {Data: []byte(data)}}, bundle.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", rego, err)
	}
	s, err := policy.Compile(context.Background(), policy.Config{Decision: "envoy/authz/allow"}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatalf("%s: %v", rego, err)
	}
	return s
}

// TestExplainBeside explains while requests are decided with the same snapshot.
func TestExplainBeside(t *testing.T) {
	s := compileFiles(t, "package envoy.authz\n\nallow if {\n\tsome r in input.roles\n\tr in {\"a\", \"b\", \"c\"}\n\tf(r)\n}\n\nf(x) if x in data.x\n", `{"x": ["d"]}`)
	entry, err := s.Entry([]string{"envoy", "authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	input, err := rego.FromJSON(map[string]any{"roles": []any{"z", "a"}})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range 50 {
				if i%2 == 0 {
					_, _ = entry.Decide(t.Context(), input, policy.Facts{}, noon)
				} else if e := explain.Of(t.Context(), entry, input, policy.Facts{}, noon, explain.Options{}); len(e.WhyNot) != 1 || e.Cut {
					t.Errorf("%+v", e)
				}
			}
		})
	}
	group.Wait()
}

// TestExplainIsBounded checks that an explanation ends in time, and says that it is incomplete.
func TestExplainIsBounded(t *testing.T) {
	many := strings.Repeat("allow if input.x == 1\n\n", 500)
	slow := "allow if {\n\tsome i in numbers.range(1, 3000)\n\tsome j in numbers.range(1, 3000)\n\ti + j == 0\n}\n"
	for name, rules := range map[string]string{"many rules": many, "a slow rule": slow} {
		entry, err := compileFiles(t, "package envoy.authz\n\n"+rules, "{}").Entry([]string{"envoy", "authz", "allow"})
		if err != nil {
			t.Fatal(err)
		}
		input, _ := rego.FromJSON(map[string]any{"x": strings.Repeat("long ", 100_000)}) // plain JSON
		begin := time.Now()
		e := explain.Of(t.Context(), entry, input, policy.Facts{}, noon, explain.Options{Timeout: 200 * time.Millisecond})
		if !e.Cut || !strings.Contains(e.Text(), "this is not all of it") {
			t.Errorf("%s: not said to be cut:\n%s", name, e.Text())
		}
		if took := time.Since(begin); took > time.Minute || len(e.Text()) > 20_000 {
			t.Errorf("%s: took %s and has %d bytes", name, took, len(e.Text()))
		}
	}
}
