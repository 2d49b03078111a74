package routes_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"gatehouse/routes"
)

// redirectTables are those of the applications in testdata/redirects.py.
var redirectTables = map[string]string{
	routes.Flask: `framework: flask
routes:
  - {route: "GET, POST /docs/", name: docs}
  - {route: GET /plain, name: plain}
  - {route: "GET /items/<int:id>/", name: item}
  - {route: "GET /items/<int:id>/parts/<path:p>/", name: part}
  - {route: GET /loose/, name: loose, strict_slashes: false}
  - {route: GET /pages/, name: pages, defaults: {page: 1}}
  - {route: "GET /pages/<int:page>", name: pages}
  - {route: GET /moved, name: moved, redirects: true}
  - {route: POST /only/post/, name: only}
`,
	routes.Django: `framework: django
routes:
  - ANY /docs/
  - ANY /plain
  - GET /items/<int:id>/
  - ANY /items/<int:id>/parts/<path:p>/
  - re_path: ANY ^years/(?P<y>\d{4})/$
  - {route: ANY /never/, append_slash: false}
  - POST /only/post/
`,
	routes.Starlette: `framework: starlette
routes:
  - GET, POST /docs/
  - GET /plain
  - GET /items/{id:int}/
  - mount: /sub
    routes: [GET /, GET /in/, GET /out]
  - POST /only/post/
  - GET /files/{p:path}
`,
}

// TestRedirectTargets holds against the frameworks themselves that where a request is decided as another path's, the application
// redirects it to that very path and serves nothing; and that the plain cases are among those.
func TestRedirectTargets(t *testing.T) {
	parts := []string{"docs", "plain", "items", "7", "x", "parts", "a", "loose", "pages", "1", "moved", "only", "post", "sub", "in", "out", "files", "years", "2026", "never", "%64ocs", "d;x", "a%20b"}
	var paths []string
	for _, a := range parts {
		paths = append(paths, "/"+a)
		for _, b := range parts {
			paths = append(paths, "/"+a+"/"+b)
			if a == "items" && (b == "7" || b == "x") || a == "sub" && b == "in" {
				for _, c := range parts {
					paths = append(paths, "/"+a+"/"+b+"/"+c, "/"+a+"/"+b+"/"+c+"/a", "/"+a+"/"+b+"/"+c+"/a/b")
				}
			}
		}
	}
	paths = append(paths, "/")
	for _, p := range slices.Clone(paths) {
		paths = append(paths, p+"/")
	}
	for framework, text := range redirectTables {
		t.Run(framework, func(t *testing.T) {
			t.Parallel()
			table := parse(t, text)
			type request struct {
				Method string `json:"method"`
				Path   string `json:"path"`
			}
			var asked []request
			var in bytes.Buffer
			for _, p := range paths {
				for _, m := range []string{"GET", "POST", "HEAD"} {
					asked = append(asked, request{m, p})
					line, _ := json.Marshal(request{m, p})
					in.Write(append(line, '\n'))
				}
			}
			c := exec.CommandContext(t.Context(), python(t), "testdata/redirects.py", framework)
			var problems bytes.Buffer
			c.Stdin, c.Stderr = &in, &problems
			out, err := c.Output()
			if err != nil {
				t.Fatal(err, problems.String())
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if len(lines) != len(asked) {
				t.Fatalf("%d answers to %d requests: %s", len(lines), len(asked), problems.String())
			}
			decided := map[string]bool{}
			for i, r := range asked {
				var theirs struct {
					Status   int
					Location *string
				}
				if err := json.Unmarshal([]byte(lines[i]), &theirs); err != nil {
					t.Fatal(err)
				}
				target, ok := table.RedirectTarget(r.Method, "app", r.Path)
				if !ok {
					continue
				}
				decided[r.Method+" "+r.Path] = true
				if theirs.Status < 301 || theirs.Status > 308 || theirs.Location == nil {
					t.Errorf("%s %s is decided as %s, and the application answers %d", r.Method, r.Path, target.Route.Template, theirs.Status)
					continue
				}
				there := table.Match(r.Method, "app", (&url.URL{Path: unescaped(t, *theirs.Location)}).EscapedPath())
				if there.Outcome != routes.Matched || there.Route != target.Route || !slices.Equal(there.Params, target.Params) {
					t.Errorf("%s %s is decided as %s %v, and is sent to %s: %v", r.Method, r.Path, target.Route.Template, target.Params, *theirs.Location, there)
				}
			}
			for _, plain := range map[string][]string{
				routes.Flask:     {"GET /docs", "POST /docs", "HEAD /docs", "GET /items/7", "GET /items/7/parts/a", "POST /only/post", "GET /%64ocs"},
				routes.Django:    {"GET /docs", "POST /docs", "HEAD /docs", "GET /items/7", "GET /items/7/parts/a", "POST /only/post", "GET /years/2026"},
				routes.Starlette: {"GET /docs", "POST /docs", "HEAD /docs", "GET /plain/", "GET /items/7", "GET /sub", "GET /sub/in", "GET /sub/out/", "POST /only/post"},
			}[framework] {
				if !decided[plain] {
					t.Errorf("%s has no target", plain)
				}
			}
			t.Logf("%d of %d requests are decided as another path's", len(decided), len(asked))
		})
	}
}

func unescaped(t *testing.T, path string) string {
	t.Helper()
	plain, err := url.PathUnescape(path)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
