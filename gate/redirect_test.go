package gate_test

import (
	"testing"

	"gatehouse/gate"
	"gatehouse/routes"
)

// TestRedirectsAreDecidedByTheirTarget: only a trailing-slash redirect is decided like its target.
func TestRedirectsAreDecidedByTheirTarget(t *testing.T) {
	tables := map[string][]string{
		"flask":     {"  - GET, POST /docs/", "  - GET /secret/", "  - GET /items/<int:id>/", "  - POST /post/"},
		"django":    {"  - GET, HEAD, POST /docs/", "  - GET /secret/", "  - GET /items/<int:id>/", "  - POST /post/", "  - {route: GET /never/, append_slash: false}"},
		"starlette": {"  - GET, POST /docs/", "  - GET /secret/", "  - GET /things", "  - POST /post/"},
		"openapi":   {"  - GET, POST /docs/", "  - GET /things"},
	}
	yes := map[string]map[string]bool{
		"flask":     {"GET /docs": true, "POST /docs": true, "HEAD /docs": true, "GET /items/7": true},
		"django":    {"GET /docs": true, "POST /docs": true, "HEAD /docs": true, "GET /items/7": true},
		"starlette": {"GET /docs": true, "POST /docs": true, "HEAD /docs": true, "GET /things/": true},
		"openapi":   {},
	}
	for framework, lines := range tables {
		for _, on := range []bool{true, false} {
			g := openApps(t, compileFiles(t, `package envoy.authz
default allow := false
allow if {
	input.route.template in {"/docs/", "/things", "/items/<int:id>/", "/never/", "/post/"}
	input.route.redirect == true
}
`), map[string]*routes.Table{"": routeTable(t, framework, lines...)}, gate.App{Decision: single, Redirects: on})
			for _, request := range []string{"GET /docs", "POST /docs", "HEAD /docs", "DELETE /docs", "GET /docs/", "GET /secret", "GET /items/7", "GET /items/x", "GET /things/",
				"GET /post", "GET /never", "GET /docs//", "GET //docs", "GET /docs%2f", "GET /docs/.", "GET /", "GET /docs/x"} {
				got := g.Check(t.Context(), asks(request, "app")).Allow
				if want := on && yes[framework][request]; got != want {
					t.Errorf("%s, redirects %t: %s: allow is %t", framework, on, request, got)
				}
			}
		}
	}
}
