package edge

import (
	"errors"
	"strings"
	"testing"

	"gatehouse/gate"
)

// TestSettingsAreNamedByTheirKeys: every error in the gate's settings names the keys of gatehouse.yaml.
func TestSettingsAreNamedByTheirKeys(t *testing.T) {
	s := &gate.Settings{
		Headers: gate.IdentityHeaders{Subject: "X-Subject", Roles: "x-same", Groups: "x-same", Scopes: "x scopes", Email: "cookie", JSON: "-", Token: "X-Token"},
		Apps:    []gate.App{{}, {Name: "b", Hosts: []string{"a b"}, Decision: []string{"x"}}, {Name: "b", Decision: []string{"x"}, Root: []string{"y"}}},
		Bypass:  []gate.Bypass{{Path: "/x"}, {Method: "GET", Path: "/a/*"}, {Method: "POST", Preflight: true}},
		Limits:  gate.Limits{Concurrent: -1},
	}
	_, denials := gate.NewDenials("javascript:x", map[int]gate.Template{200: {}, 404: {Body: "{{"}, 500: {}})
	none := (&gate.Settings{}).Validate()
	found := WithKeys(errors.Join(s.Validate(), denials, none))
	text := "\n" + found.Error() + "\n"
	for _, want := range []string{
		`headers.subject: "X-Subject": use lower-case`, `headers: roles and groups are both "x-same"`, `headers.scopes: "x scopes": use`, `headers.email: "cookie" is where`,
		`headers.json: "-": use`, `headers.jwt.name: "X-Token": use`, "headers.jwt.audience: required", "headers.jwt: nothing makes",
		"apps[0]: name is missing", "apps[0]: set one of policy.decision and policy.root", `apps[1].match.hosts: "a b" is neither`, `apps[2]: the name "b" is taken`,
		"apps[2]: set one of policy.decision and policy.root", "apps: there is none",
		"bypass[0]: method is missing", `bypass[1]: path "/a/*": give`, "bypass[2]: a preflight's method",
		"policy.timeout: 0s: must be above zero", "limits.message: must be above zero", "limits.headers: must be above zero", "limits.concurrent: must not be below zero",
		`denials.login_url: "javascript:x": give`, "denials.templates: 200: a denial has a status", "denials.templates.404: template: 404", `denials.templates.500: content_type "" is not`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("nothing says %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	for _, e := range found.(interface{ Unwrap() []error }).Unwrap() {
		for line := range strings.Lines(e.Error()) {
			if key, _, _ := strings.Cut(line, ":"); key != strings.ToLower(key) {
				t.Errorf("%q has no key", line)
			}
		}
	}
}
