package policy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogRules(t *testing.T) {
	const authz = "package authz\n\nallow := true\n"
	for _, tt := range []struct {
		name, rules, event string
		mask               any
		drop               bool
		maskError          string
		dropError          string
	}{
		{"pointers", `mask contains "/input/parsed_body/card"`, `{}`, []any{"/input/parsed_body/card"}, false, "", ""},
		{"by what the event is", `mask contains "/input/parsed_body" if input.input.parsed_body.card` + "\n\n" + `mask contains "/result" if input.result.allowed`,
			`{"input": {"parsed_body": {"card": 1}}, "result": {"allowed": false}}`, []any{"/input/parsed_body"}, false, "", ""},
		{"objects", `mask contains {"op": "upsert", "path": "/input/x", "value": {"n": 1}}`, `{}`,
			[]any{map[string]any{"op": "upsert", "path": "/input/x", "value": map[string]any{"n": "1"}}}, false, "", ""},
		{"nothing to mask", `mask contains "/input/x" if input.nobody`, `{}`, []any{}, false, "", ""},
		{"undefined", `mask := "/x" if input.nobody`, `{}`, nil, false, "", ""},
		{"drop", `drop if input.request.path == "/healthz"`, `{"request": {"path": "/healthz"}}`, nil, true, "", ""},
		{"do not drop", `drop if input.request.path == "/healthz"`, `{"request": {"path": "/orders"}}`, nil, false, "", ""},
		{"drop that is not true", `drop := "yes"`, `{}`, nil, false, "", ""},
		{"a mask that fails", "mask := 1 if input.a\n\nmask := 2 if input.a", `{"a": true}`, nil, false, "app/log.rego:5: eval_conflict_error", ""},
		{"a drop that fails", "drop := true if input.a\n\ndrop := false if input.a", `{"a": true}`, nil, false, "", "app/log.rego:5: eval_conflict_error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := compile(t, tree{"authz.rego": authz, "log.rego": "package system.log\n\n" + tt.rules})
			rules, err := s.LogRules()
			if err != nil {
				t.Fatal(err)
			}
			ev, err := rules.Event([]byte(tt.event+"\n"), noon)
			if err != nil {
				t.Fatal(err)
			}
			mask, err := ev.Mask(context.Background())
			if diff := cmp.Diff(tt.mask, plainNumbers(mask)); diff != "" {
				t.Error(diff)
			}
			complains(t, err, tt.maskError)
			drop, err := ev.Drop(context.Background())
			if drop != tt.drop {
				t.Errorf("drop %v", drop)
			}
			complains(t, err, tt.dropError)
		})
	}
}

// plainNumbers converts numbers to text, for cmp.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
	case interface{ String() string }:
		return v.String()
	}
	return v
}

func complains(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestNoLogRules(t *testing.T) {
	rules, err := compile(t, tree{"authz.rego": "package authz\n\nallow := true\n", "log.rego": "package system.other\n\nmask := 1\n"}).LogRules()
	if rules != nil || err != nil {
		t.Errorf("%v, %v", rules, err)
	}
	rules, err = compile(t, module("allow := true")).LogRules()
	if rules != nil || err != nil {
		t.Errorf("%v, %v", rules, err)
	}
}
