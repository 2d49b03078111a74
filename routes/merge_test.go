package routes_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/routes"
)

// TestMerge holds what a forced import keeps of a file.
func TestMerge(t *testing.T) {
	for name, c := range map[string]struct{ kept, found, want string }{
		"a group, its comments and its routes": {
			kept: `framework: django
server: asgi # uvicorn
routes:
  # The shop's own file.
  - include: /shop/
    routes:
      # sold here
      - route: GET <int:id>/
        allow: [encoded_slash]
  - GET /other/<int:id>/
`,
			found: `framework: django
routes:
  - include: /shop/
    routes:
      - GET <int:id>/
      - GET new/
  - route: GET /other/<int:id>/
    name: other
`,
			want: `framework: django
server: asgi # uvicorn
routes:
  # The shop's own file.
  - include: /shop/
    routes:
      # sold here
      - route: GET <int:id>/
        allow: [encoded_slash]
      - GET new/
  - route: GET /other/<int:id>/
    name: other
`},
		"settings of the place, not of the application": {
			kept:  "framework: fastapi\nmount: {prefix: /api, rewrite: /}\nroot_path: /api\nredirect_slashes: false\nroutes:\n  - GET /a\n",
			found: "framework: fastapi\nroutes:\n  - GET /b\n",
			want:  "framework: fastapi\nmount: {prefix: /api, rewrite: /}\nroot_path: /api\nroutes:\n  - GET /b\n"},
		"methods in another order, hosts apart": {
			kept: `framework: flask
host_matching: true
routes:
  - {route: "POST,GET /", host: a.example.com, tags: [a]}
  - {route: "GET, POST /", host: b.example.com, tags: [b]}
`,
			found: `framework: flask
host_matching: true
routes:
  - {route: "GET, POST /", host: b.example.com}
  - {route: "GET, POST /", host: a.example.com}
`,
			want: `framework: flask
host_matching: true
routes:
  - route: GET, POST /
    host: b.example.com
    tags: [b]
  - route: GET, POST /
    host: a.example.com
    tags: [a]
`},
		"routes of their keeper's own": {
			kept: `framework: django
routes:
  # Served by the proxy behind.
  - route: GET, HEAD /first
    own: true
  - GET /a/
  - route: GET, HEAD /static/<path:path> # WhiteNoise
    own: true
  - GET /gone/
  - include: /shop/
    routes:
      - GET <int:id>/
      - route: GET pictures/<path:p>
        own: true
  - include: /old/
    routes:
      - GET x/
      - {route: GET y/, own: true}
`,
			found: "framework: django\nroutes:\n  - GET /new/\n  - GET /a/\n  - include: /shop/\n    routes: [GET <int:id>/]\n",
			want: `framework: django
routes:
  # Served by the proxy behind.
  - route: GET, HEAD /first
    own: true
  - GET /new/
  - GET /a/
  - route: GET, HEAD /static/<path:path> # WhiteNoise
    own: true
  - include: /shop/
    routes:
      - GET <int:id>/
      - route: GET pictures/<path:p>
        own: true
  - include: /old/
    routes:
      - {route: GET y/, own: true}
`},
		"bodies that stay unread": {
			kept:  "framework: flask\nroutes:\n  - {route: POST /a, body: ignore}\n",
			found: "framework: flask\nroutes:\n  - POST /a\n  - POST /b\n",
			want:  "framework: flask\nroutes:\n  - route: POST /a\n    body: ignore\n  - POST /b\n"},
		"another framework": {
			kept:  "framework: django\nserver: asgi\nmount: /api\nroutes:\n  - GET /a/\n",
			found: "framework: openapi\nroutes:\n  - GET /a/\n",
			want:  "framework: openapi\nmount: /api\nroutes:\n  - GET /a/\n"},
		"the same route twice": {
			kept:  "framework: fastapi\nroutes:\n  - {route: GET /a, tags: [first]}\n  - {route: GET /a, tags: [second]}\n",
			found: "framework: fastapi\nroutes:\n  - GET /a\n  - GET /a\n  - GET /a\n",
			want:  "framework: fastapi\nroutes:\n  - route: GET /a\n    tags: [first]\n  - route: GET /a\n    tags: [second]\n  - GET /a\n"},
	} {
		t.Run(name, func(t *testing.T) {
			parse(t, c.kept)
			got, _, err := routes.Merge([]byte(c.kept), parse(t, c.found))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzMerge holds that a file that was good stays good, and matches as the application does.
func FuzzMerge(f *testing.F) {
	found := parse(f, "framework: flask\nroutes:\n  - route: GET, POST /orders\n    name: orders\n  - GET /orders/<int:id>\n")
	f.Add("framework: flask\nroutes:\n  - route: GET /orders/<int:id> # one\n    tags: [a]\n")
	f.Add("# top\nframework: flask\nmount: /shop\nroutes: [{route: 'POST,GET /orders', allow: [double_slash]}, GET /x]\n# end\n")
	f.Add("framework: flask\nroutes:\n  - mount: /orders\n    routes: [GET /<int:id>]\n")
	f.Add("framework: flask\nroutes:\n  - {route: GET /own, own: true}\n  - route: GET /orders/<int:id>\n  - mount: /x\n    routes: [{route: GET /y, own: true}, GET /z]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, _, err := routes.Parse("kept.yaml", []byte(text)); err != nil {
			return
		}
		merged, _, err := routes.Merge([]byte(text), found)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if changes := routes.Diff(parse(t, string(merged)), found); len(changes) > 0 {
			t.Errorf("%v\n%s", changes, merged)
		}
	})
}
