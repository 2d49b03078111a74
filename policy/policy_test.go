package policy_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// tree is a bundle's files by path.
type tree map[string]string

func (t tree) fs() fstest.MapFS {
	files := fstest.MapFS{}
	for name, content := range t {
		files[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o444}
	}
	return files
}

func read(t testing.TB, name string, files tree) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Read(name, files.fs(), bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compile compiles one bundle named app for the decision authz/allow.
func compile(t testing.TB, files tree) *policy.Snapshot {
	t.Helper()
	return gatetest.Compile(t, policy.Config{Decision: "authz/allow"}, "app", files)
}

// module returns a policy of one module with the package authz.
func module(rules string) tree { return tree{"authz.rego": "package authz\n" + rules} }

func value(t testing.TB, text string) rego.Value {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var x any
	if err := decoder.Decode(&x); err != nil {
		t.Fatal(err)
	}
	v, err := rego.FromJSON(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// decide compiles a policy and evaluates it on one input.
func decide(t *testing.T, rules, input string) (policy.Decision, error) {
	t.Helper()
	return compile(t, module(rules)).Decide(context.Background(), value(t, input), noon)
}
