package routes_test

import (
	"strings"
	"testing"
	"time"

	"gatehouse/routes"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: no text makes Parse panic or take long, and what it reads it writes and reads again as the same table.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"framework: flask\nroutes:\n  - GET /a/<int(min=1):x>/<path:p>\n  - {route: 'ANY /<any(a,b):y>', host: '<h>.x', defaults: {z: 1}}\n",
		"framework: starlette\nroutes:\n  - mount: /m/{x}\n    routes: ['GET /{a}-{b}', {host_mount: '{h}.x', routes: [GET /]}]\n",
		"framework: django\nconverters: {y: {regex: '[0-9]{4}'}}\nroutes:\n  - re_include: ^(a|b)/\n    routes: [{re_path: 'ANY ^(?P<x>\\d+)$'}, ANY <y:z>]\n",
		"framework: openapi\nroot_path: /v1\nroutes: ['GET /a/{x}.json', GET /a/b, 'POST /a/{y}']\n",
		"framework: flask\nconverters: {c: {regex: 'a.*/', weight: 3}}\nmount: {prefix: /a, rewrite: /b}\nroutes: [{mount: /m, routes: [ANY /<c:x>]}]\n",
	} {
		f.Add(text, "/a/1/b")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		if len(text) > 4096 || len(path) > 4096 {
			return
		}
		start := time.Now()
		table, _, err := routes.Parse("f", []byte(text))
		if err != nil {
			return
		}
		again, _, err := routes.Parse("f", table.YAML())
		if err != nil {
			t.Fatalf("what was written does not parse: %v\n%s", err, table.YAML())
		}
		for _, one := range []*routes.Table{table, table.Allowing(routes.AllForms())} {
			a := told(one.Match("GET", "h.x", path))
			if one == table {
				if b := told(again.Match("GET", "h.x", path)); a != b {
					t.Fatalf("%q: %s, after writing %s\n%s", path, a, b, table.YAML())
				}
			}
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Fatalf("%s", took)
		}
	})
}

// FuzzMatch: for no path does the tree say anything else than trying the routes one by one, and none takes long.
func FuzzMatch(f *testing.F) {
	tables := map[string]*routes.Table{}
	for framework, text := range map[string]string{
		routes.Flask:     "routes:\n  - GET /\n  - GET /a/<int:x>/\n  - GET /a/<x>-<y>\n  - GET /<path:p>/e/\n  - POST /a/<float(signed=True):f>\n  - GET /<string(length=2):l>/<uuid:u>\n",
		routes.Starlette: "routes:\n  - GET /\n  - GET /a/{x:int}/\n  - GET /a/{x}-{y}\n  - mount: /m/{k}\n    routes: ['GET /{p:path}', GET /q]\n  - GET /b/{p:path}/e\n  - POST /{u:uuid}\n",
		routes.Django:    "routes:\n  - GET /\n  - GET /a/<int:x>/\n  - include: /g/<path:p>/\n    routes: [GET <int:n>/, {re_path: 'GET ^(\\d+)x$'}]\n  - {re_path: 'GET (?P<z>[a-z]+)/end'}\n  - GET /<str:s>/t\n",
		routes.OpenAPI:   "routes:\n  - GET /a/{x}\n  - GET /a/b\n  - GET /{x}/b\n  - GET /{a}.{b}/c\n  - POST /a/{y}\n",
	} {
		tables[framework] = parse(f, "framework: "+framework+"\n"+text).Allowing(routes.AllForms())
	}
	for _, path := range []string{"/", "/a/1/", "/a/x-y-z", "/m/1/q%0A", "/g/a/b/12/", "/%FF/%E2%82", "/a//b", "", "x", "/ab/0f8fad5b-d9cb-469f-a165-70867728950e", "/" + strings.Repeat("a-", 50)} {
		f.Add("GET", path)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		if len(path) > 1<<16 {
			return
		}
		for framework, table := range tables {
			start := time.Now()
			fast, slow := told(table.Match(method, "h", path)), told(table.MatchInOrder(method, "h", path))
			if diff := cmp.Diff(slow, fast); diff != "" {
				t.Fatalf("%s %q: %s", framework, path, diff)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Fatalf("%s %q: %s", framework, path, took)
			}
		}
	})
}
