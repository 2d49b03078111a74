package policy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

func TestCompileRefuses(t *testing.T) {
	tests := []struct {
		name, decision string
		files          tree
		complaint      string
	}{
		{"an unsafe variable", "", module("\nallow if x == 1\n"), `compiling bundle "app": authz.rego:3: var x is unsafe`},
		{"recursion", "", module("\nallow if b\n\nb if allow\n"), `authz.rego:3: rule data.authz.allow is recursive`},
		{"a wrong type", "", module("\nallow if count(1) > 0\n"), `authz.rego:3: count: invalid argument(s): have:`},
		{"http.send", "", module("\nallow if http.send({\"url\": \"x\"})\n"),
			`authz.rego:3: the built-in http.send is off by default: policy.capabilities turns it on`},
		{"net.lookup_ip_addr", "", module("\nallow if net.lookup_ip_addr(\"x\")\n"), `net.lookup_ip_addr is off by default`},
		{"opa.runtime", "", module("\nallow if opa.runtime().env\n"), `opa.runtime is off by default`},
		{"an unknown function", "", module("\nallow if orders.check({})\n"), `authz.rego:3: there is no function or built-in orders.check`},
		{"a rule where data is", "", tree{"authz.rego": "package authz\n\nallow := true\n", "authz/data.json": `{"allow": true}`},
			`authz.rego:3: conflicting rule for data path authz/allow`},
		{"no rule of that name", "envoy/authz/allow", tree{"policy/orders.rego": "package orders\n\nmay_read := true\n"},
			`decision "envoy/authz/allow" is not defined by any rule: app/policy/orders.rego declares package orders; ` +
				`define the rule or set policy.decision`},
		{"a rule of that name elsewhere", "envoy/authz/allow", module("\nallow := true\n"),
			`to use authz/allow, set policy.decision to it`},
		{"no modules", "", tree{"data.json": `{"a": 1}`}, `no bundle holds a .rego file`},
		{"no decision", "/", module("allow := true"), `decision "/" is not a path`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.decision == "" {
				test.decision = "authz/allow"
			}
			s, err := policy.Compile(context.Background(), policy.Config{Decision: test.decision},
				[]*bundle.Bundle{read(t, "app", test.files)})
			var problems bundle.Problems
			if s != nil || !errors.As(err, &problems) || !strings.Contains(err.Error(), test.complaint) {
				t.Errorf("got error %v, want Problems with %q", err, test.complaint)
			}
		})
	}
}

func TestDecisionPathsThatAreDefined(t *testing.T) {
	tests := []struct {
		name, decision string
		files          tree
	}{
		{"a rule", "authz/allow", module("allow := true")},
		{"a default alone", "authz/allow", module("default allow := true")},
		{"a package", "authz", module("allowed := true")},
		{"below a rule", "authz/decisions/allow", module(`decisions := {"allow": true}`)},
		{"a partial rule", "authz/decisions/allow", module(`decisions["allow"] := true`)},
		{"a rule with a dynamic name", "authz/decisions/allow", module(`decisions[x] := true if some x in ["allow"]`)},
		{"data", "authz/allow", tree{"authz/data.json": `{"allow": true}`, "a.rego": "package a\n"}},
		{"names that are not identifiers", "2fa/a-b/x.y", tree{"a.rego": "package data_only\n", "2fa/data.json": `{"a-b": {"x.y": true}}`}},
		{"a package with such a name", "orders/GET/a-b/allowed", tree{"a.rego": "package orders.GET[\"a-b\"]\n\nallowed := true\n"}},
	}
	for _, test := range tests {
		s, err := policy.Compile(context.Background(), policy.Config{Decision: test.decision},
			[]*bundle.Bundle{read(t, "app", test.files)})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if d, err := s.Decide(context.Background(), nil, noon); err != nil || !d.Allowed {
			t.Errorf("%s: %+v, %v", test.name, d, err)
		}
	}
}

func TestBundlesTogether(t *testing.T) {
	code := read(t, "code", tree{".manifest": `{"revision": "v7", "roots": ["authz", "shared/code"]}`,
		"authz.rego":            "package authz\n\nallow if data.shared.code.x == data.shared.people[input.user]\n",
		"shared/code/data.json": `{"x": 1}`})
	people := read(t, "people", tree{".manifest": `{"roots": ["shared/people"]}`, "shared/people/data.json": `{"ann": 1}`})
	bare := read(t, "bare", module("allow := true"))
	cfg := policy.Config{Decision: "authz/allow"}
	for range 2 { // bundles can be compiled again
		s, err := policy.Compile(context.Background(), cfg, []*bundle.Bundle{people, code})
		if err != nil {
			t.Fatal(err)
		}
		if d, err := s.Decide(context.Background(), value(t, `{"user": "ann"}`), noon); err != nil || !d.Allowed {
			t.Errorf("%+v, %v", d, err)
		}
		if got, want := s.Revision(), "code=v7,people="+people.Digest()[:12]; got != want {
			t.Errorf("revision %q, want %q", got, want)
		}
		infos := s.Bundles()
		if len(infos) != 2 || infos[0] != (bundle.Info{Name: "code", Revision: "v7", Digest: code.Digest(), Rules: 1, Modules: 1}) {
			t.Errorf("bundles %+v", infos)
		}
	}
	for _, test := range []struct {
		bundles   []*bundle.Bundle
		complaint string
	}{
		{[]*bundle.Bundle{code, bare}, `bundles "bare" and "code" overlap: "bare" owns all of data`},
		{[]*bundle.Bundle{people, read(t, "more", tree{".manifest": `{"roots": ["shared"]}`})},
			`bundles "more" and "people" overlap: root "shared" of the one and root "shared/people" of the other`},
		{[]*bundle.Bundle{people, people}, `two bundles are named "people"`},
		{nil, `no bundle holds a .rego file`},
	} {
		_, err := policy.Compile(context.Background(), cfg, test.bundles)
		if err == nil || !strings.Contains(err.Error(), test.complaint) {
			t.Errorf("got %v, want %q", err, test.complaint)
		}
	}
}

func TestCompileCallsNotice(t *testing.T) {
	var got []string
	cfg := policy.Config{Decision: "authz/allow", Notice: func(n string) { got = append(got, n) }}
	s, err := policy.Compile(context.Background(), cfg,
		[]*bundle.Bundle{read(t, "app", tree{"authz.rego": "package authz\n\nallow := true\n", "a.json": ""})})
	if err != nil || len(got) != 1 || fmt.Sprint(got) != fmt.Sprint(s.Notices()) {
		t.Errorf("notices %q, error %v", got, err)
	}
}

func TestCompileEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := policy.Compile(ctx, policy.Config{Decision: "authz/allow"}, []*bundle.Bundle{read(t, "app", module("allow := true"))})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}
