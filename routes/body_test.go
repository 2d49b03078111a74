package routes_test

import (
	"strings"
	"testing"

	"gatehouse/routes"
)

// TestBodyOfARoute reads the switch by which a route's bodies are left alone, and writes it back.
func TestBodyOfARoute(t *testing.T) {
	const text = "framework: flask\nroutes:\n  - route: POST /events\n    body: ignore\n  - route: POST /orders\n    body: parse\n  - POST /users\n"
	table, _, err := routes.Parse("routes.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(table.YAML()); got != text {
		t.Errorf("written back:\n%s", got)
	}
	for path, want := range map[string]bool{"/events": true, "/orders": false, "/users": false} {
		if m := table.Match("POST", "x.test", path); m.Outcome != routes.Matched || m.Route.IgnoreBody != want {
			t.Errorf("%s: %v, ignored: %v, want %v", path, m.Outcome, m.Route.IgnoreBody, want)
		}
	}
	for wrong, want := range map[string]string{
		"flask\nroutes:\n  - route: POST /events\n    body: none\n":                            `routes.yaml:4: body: "none": parse or ignore`,
		"flask\nroutes:\n  - route: POST /events\n    body: [ignore]\n":                        "routes.yaml:4: expected text",
		"starlette\nroutes:\n  - mount: /a\n    body: ignore\n    routes: [GET /b]\n":          "routes.yaml:3: body: belongs to a route, not to a group",
		"django\nroutes:\n  - include: a/\n    body: ignore\n    routes: [ANY b]\n  - GET c\n": "routes.yaml:3: body: belongs to a route, not to a group",
	} {
		if _, _, err := routes.Parse("routes.yaml", []byte("framework: "+wrong)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", wrong, err, want)
		}
	}
}
