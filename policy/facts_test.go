package policy_test

import (
	"errors"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy"
	"gatehouse/policy/explain"
	"gatehouse/policy/rego"
)

// answers is a directory that calls a function.
type answers func(builtin string, args []rego.Value, now time.Time) (rego.Value, error)

func (f answers) Ask(builtin string, args []rego.Value, now time.Time) (rego.Value, error) {
	return f(builtin, args, now)
}

func (f answers) Epoch(time.Time) uint64 { return 0 }

// directory returns facts in which ann is a member; asked counts the queries.
func directory(asked *int) policy.Facts {
	return policy.Facts{Directory: answers(func(builtin string, args []rego.Value, _ time.Time) (rego.Value, error) {
		*asked++
		object, ok := args[0].(ast.Object)
		if builtin != "ds.check" || !ok {
			return nil, errors.New("not a question of this test")
		}
		return ast.Boolean(object.Get(ast.StringTerm("subject")).Equal(ast.StringTerm("ann"))), nil
	})}
}

// TestFacts queries a directory in each kind of evaluation.
func TestFacts(t *testing.T) {
	s := compile(t, module(`allow if ds.check({"subject": input.user})`))
	entry, err := s.Entry([]string{"authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	if len(entry.Memoisable().Impure) > 0 {
		t.Error("a call of the directory counts as impure")
	}
	r := remember(t, s) // without a version, decisions with queries are not memoised
	decide := map[string]func(rego.Value, policy.Facts) (policy.Decision, error){
		"Decide": func(v rego.Value, f policy.Facts) (policy.Decision, error) {
			return entry.Decide(t.Context(), v, f, noon)
		},
		"DecideWithin": func(v rego.Value, f policy.Facts) (policy.Decision, error) {
			return entry.DecideWithin(t.Context(), time.Minute, v, f, noon)
		},
		"DecideIsolated": func(v rego.Value, f policy.Facts) (policy.Decision, error) {
			return entry.DecideIsolated(t.Context(), time.Minute, v, f, noon)
		},
		"Key.Decide": func(v rego.Value, f policy.Facts) (policy.Decision, error) {
			k := r.key(v)
			defer k.Done()
			if _, ok := k.Lookup(f, noon); ok {
				t.Error("a decision that read facts was remembered")
			}
			return k.Decide(t.Context(), time.Minute, v, f, noon)
		},
		"Explain": func(v rego.Value, f policy.Facts) (policy.Decision, error) {
			e := explain.Of(t.Context(), entry, v, f, noon, explain.Options{})
			return e.Decision, e.Err
		},
	}
	for door, decide := range decide {
		for range 2 {
			asked := 0
			for user, want := range map[string]bool{"ann": true, "bob": false} {
				d, err := decide(value(t, `{"user": "`+user+`"}`), directory(&asked))
				if d.Allowed != want || want && err != nil {
					t.Errorf("%s: %s: allowed %v, error %v", door, user, d.Allowed, err)
				}
			}
			if asked < 2 {
				t.Errorf("%s asked the directory %d times", door, asked)
			}
			if d, err := decide(value(t, `{"user": "ann"}`), policy.Facts{}); d.Allowed || !errors.Is(err, policy.ErrUndefined) {
				t.Errorf("%s without facts: allowed %v, error %v", door, d.Allowed, err)
			}
		}
	}
	asked := 0
	d, unsure, err := entry.Replayer().Decide(t.Context(), value(t, `{"user": "ann"}`), directory(&asked), noon)
	if d.Allowed || unsure != "ds.check" || err != nil || asked != 1 {
		t.Errorf("Replayer: allowed %v, unsure %q, error %v, asked %d times", d.Allowed, unsure, err, asked)
	}
}

// A failing directory is a failing built-in.
func TestFactsFail(t *testing.T) {
	e, err := compile(t, module(`allow if ds.check({"x": 1})`)).Entry([]string{"authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	facts := policy.Facts{Directory: answers(func(string, []rego.Value, time.Time) (rego.Value, error) { return nil, errors.New("not there") })}
	if d, err := e.Decide(t.Context(), value(t, `{}`), facts, noon); d.Allowed || !errors.Is(err, policy.ErrEvaluation) {
		t.Errorf("allowed %v, error %v", d.Allowed, err)
	}
}
