package gate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/gate"
	"gatehouse/routes"
)

// TestRulesOfARoute: the places of a route's rule; the first that exists decides alone.
func TestRulesOfARoute(t *testing.T) {
	const table = `  - GET, HEAD, POST /orders/
  - GET, HEAD /orders/<int:id>/
  - GET, HEAD /orders/<int:id>/GET/
  - ANY /admin/users/
  - GET, HEAD /admin/
  - GET, HEAD /administration/
  - re_path: GET, HEAD ^(?:api|elsewhere)+$
`
	for name, c := range map[string]struct {
		modules []string
		allowed string // requests, the others are denied
		notice  string
	}{
		"nothing": {allowed: ""},
		"one package for all methods": {
			[]string{"package shop.ANY.orders\ndefault GET := false\nGET if true\ndefault POST := false"}, "GET /orders/, HEAD /orders/", ""},
		"one rule for all methods": {
			[]string{"package shop.ANY.orders\nallowed := true"}, "GET /orders/, HEAD /orders/, POST /orders/", ""},
		"a method's own rule comes before the one for all": {
			[]string{"package shop.ANY.orders\nallowed := true\nPOST := false"}, "GET /orders/, HEAD /orders/", ""},
		"the convention comes first": {
			[]string{"package shop.GET.orders\ndefault allowed := false", "package shop.ANY.orders\nGET := true\nPOST := true"}, "POST /orders/", ""},
		"HEAD's own": {
			[]string{"package shop.ANY.orders\nHEAD := true\nGET := false"}, "HEAD /orders/", ""},
		"a prefix": {
			[]string{"package shop.ANY.admin[\"/**\"]\nallowed := true"}, "GET /admin/, HEAD /admin/, GET /admin/users/, PURGE /admin/users/, HEAD /admin/users/, POST /admin/users/", ""},
		"a prefix and a method": {
			[]string{"package shop.GET.admin[\"/**\"]\nallowed := true"}, "GET /admin/, HEAD /admin/, GET /admin/users/, HEAD /admin/users/", ""},
		"a route's own rule comes before its prefix": {
			[]string{"package shop.ANY.admin[\"/**\"]\nallowed := true", "package shop.ANY.admin.users\nallowed := false"}, "GET /admin/, HEAD /admin/", ""},
		"the longest prefix": {
			[]string{"package shop.ANY[\"/**\"]\nallowed := true", "package shop.ANY.orders[\"/**\"]\nallowed := false", "package shop.ANY.admin[\"/**\"]\nallowed := false"},
			"GET /administration/, HEAD /administration/, GET /elsewhere, HEAD /elsewhere", ""},
		"a prefix is not meant for an expression that only looks like it": {
			[]string{"package shop.ANY.api[\"/**\"]\nallowed := true"}, "", "rule data.shop.ANY.api[\"/**\"].allowed belongs to no route"},
		"a package is no rule": {
			[]string{"package shop.ANY.orders.__id.GET\nallowed := true"}, "GET /orders/1/GET/, HEAD /orders/1/GET/", ""},
		"a set is no rule": {
			[]string{"package shop.ANY.orders\nGET contains \"allowed\""}, "", ""},
		"no route": {
			[]string{"package shop.ANY.order\nGET := true\nhelper := true"}, "", "rule data.shop.ANY.order.GET belongs to no route"},
	} {
		t.Run(name, func(t *testing.T) {
			g := openApps(t, compileFiles(t, append(c.modules, "package other\nx := 1")...), map[string]*routes.Table{"": routeTable(t, "django", table)},
				gate.App{Root: []string{"shop"}})
			var got []string
			for _, path := range []string{"/orders/", "/orders/1/", "/orders/1/GET/", "/admin/", "/admin/users/", "/administration/", "/elsewhere"} {
				for _, method := range []string{"GET", "HEAD", "POST", "PURGE"} {
					if a := g.Check(t.Context(), &gate.Request{Method: method, Path: path, Host: "shop", Scheme: "http"}); a.Allow {
						got = append(got, method+" "+path)
					} else if a.Reason != gate.NoRoute && a.Reason != gate.NoDecision && a.Reason != gate.Denied {
						t.Errorf("%s %s: %v", method, path, a.Reason)
					}
				}
			}
			want := strings.Split(c.allowed, ", ")
			if c.allowed == "" {
				want = nil
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("allowed are\n%q, want\n%q", got, want)
			}
			var foreign []string
			for _, n := range g.View().Notices() {
				if strings.Contains(n, "belongs to no route") {
					foreign = append(foreign, n)
				}
			}
			if strings.Join(foreign, "; ") != strings.TrimSpace(c.notice) && (c.notice == "" || !strings.HasSuffix(strings.Join(foreign, "; "), c.notice)) {
				t.Errorf("notices %q, want %q", foreign, c.notice)
			}
		})
	}
}

// TestRulesByTheirNames: RulePathNamed reads every name that routes.RuleName writes.
func TestRulesByTheirNames(t *testing.T) {
	for _, path := range [][]string{{"orders", "GET", "orders", "__id"}, {"a", "GET", "x-y", "v1.2", "it's", `q"q`, "a/b", "[", "é"}, {"a", "GET"}} {
		got, byRoute := gate.RulePathNamed(routes.RuleName(path))
		if want := append(path, "allowed"); !byRoute || !cmp.Equal(got, want) {
			t.Errorf("%s: %q %v, want %q", routes.RuleName(path), got, byRoute, want)
		}
	}
	for name, want := range map[string][]string{"envoy/authz/allow": {"envoy", "authz", "allow"}, "allow": {"allow"}, "": nil} {
		if got, byRoute := gate.RulePathNamed(name); byRoute || !cmp.Equal(got, want) {
			t.Errorf("%s: %q %v", name, got, byRoute)
		}
	}
	for _, broken := range []string{"a..b", "a[", `a["x`, "a.[", "."} {
		gate.RulePathNamed(broken) // whatever it is, it ends
	}
}
