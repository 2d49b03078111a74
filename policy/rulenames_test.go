package policy_test

import (
	"cmp"
	"testing"

	differ "github.com/google/go-cmp/cmp"

	"gatehouse/gate/gatetest"
	"gatehouse/policy"
)

func TestNoticesForRulesThatNobodyAsksFor(t *testing.T) {
	routeRules := policy.Asked{Package: []string{"app"}, Name: "allowed", Below: true}
	for name, tt := range map[string]struct {
		text  string
		want  []string
		other string
	}{
		"a letter less":            {"package app.GET\n\ndefault allowd := false\n\nallowd if input.x", []string{`app/p.rego:3: rule "allowd" is used by nobody; did you mean "allowed"?`}, ""},
		"beside the right one":     {"package app.GET\n\nallowed if input.x\n\nAllowed if input.y", []string{`app/p.rego:5: rule "Allowed" is used by nobody; did you mean "allowed"?`}, ""},
		"the decision's in others": {"package app.GET.a\n\nallow if input.x", []string{`app/p.rego:3: rule "allow" is used by nobody; did you mean "allowed"?`}, ""},
		"the decision's package":   {"package authz\n\nallow if input.x\n\nallowed := true", []string{`app/p.rego:5: rule "allowed" is used by nobody; did you mean "allow"?`}, ""},
		"used in its package":      {"package app.GET\n\nallowed if allowd\n\nallowd if input.x", nil, ""},
		"used elsewhere":           {"package app.GET\n\nallow if input.x\n\nother := data.app.GET.allow", nil, ""},
		"its package is used":      {"package app.GET\n\nallow if input.x\n\nvisible := true", nil, "package lib\n\nany if data.app[input.method].visible"},
		"a function":               {"package app.GET\n\nallows(x) if x", nil, ""},
		"another name":             {"package app.GET\n\nvisible if input.x\n\nallowed_by_owner if input.x", nil, ""},
		"no package of a route":    {"package app\n\nallow if input.x", nil, ""},
		"a library":                {"package lib\n\nalow if input.x", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := gatetest.Compile(t, policy.Config{Decision: "authz/allow", Asked: []policy.Asked{routeRules}}, "app",
				map[string]string{"p.rego": tt.text, "l.rego": cmp.Or(tt.other, "package lib"), "d.rego": "package authz\n\ndefault allow := false\n"})
			if diff := differ.Diff(tt.want, s.Notices()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
