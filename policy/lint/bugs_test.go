package lint_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/lint"
)

// TestBugs: conditions that compile and do not mean what they say, and their neighbours that do.
func TestBugs(t *testing.T) {
	for body, want := range map[string]string{
		`input.user.roles[_] != "banned"`:         "not-equals-in-loop",
		`not "banned" in input.user.roles`:        "",
		`some i; input.user.roles[i] != "banned"`: "",
		`input.user.name != "eve"`:                "",
		`not deny`:                                "impossible-not",
		`not data.shop.deny`:                      "impossible-not",
		`count(deny) == 0`:                        "",
		`not helper`:                              "",
		`not deny["late"]`:                        "",
		`1 == 1`:                                  "constant-condition",
		`"a" != "b"`:                              "constant-condition",
		`true`:                                    "",
		`input.path == sprintf("/%s/%d", [input.a])`:             "sprintf-arguments-mismatch",
		`input.path == sprintf("/%s 100%%", [input.a, input.b])`: "sprintf-arguments-mismatch",
		`input.path == sprintf("/%s 100%%", [input.a])`:          "",
		`input.path == sprintf(input.format, [1])`:               "",
	} {
		text := "package shop\n\nhelper := input.x == 1\n\ndeny contains \"late\" if input.late\n\nallow if {\n\t" + body + "\n}\n"
		b, err := bundle.Read("shop", fstest.MapFS{"shop.rego": {Data: []byte(text)}}, bundle.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		found, err := lint.Lint(t.Context(), policy.Config{}, b, []*bundle.Bundle{b}, nil)
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		var rules []string
		for _, f := range found {
			if f.Rule != lint.Strict && f.Rule != lint.Notice {
				rules = append(rules, f.Rule)
			}
			if f.Rule == want && f.Line != 8 {
				t.Errorf("%s: line %d", body, f.Line)
			}
		}
		if got := strings.Join(rules, " "); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}
