package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/routes"
)

func parsed(t testing.TB, text string) *routes.Table {
	t.Helper()
	table, _, err := routes.Parse("routes.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestMatchAnswersAtOnce holds that a program may ask one request after the other over a pipe.
func TestMatchAnswersAtOnce(t *testing.T) {
	in, ask := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- matchLines(parsed(t, "framework: flask\nroutes:\n  - GET /orders/<int:id>\n"), "", in, out, io.Discard)
		out.Close()
	}()
	lines := bufio.NewScanner(answers)
	for path, want := range map[string]string{
		"/orders/1": `{"outcome":"match","template":"/orders/<int:id>","params":{"id":"1"}}`,
		"/orders":   `{"outcome":"404","template":"","params":{}}`,
	} {
		if _, err := io.WriteString(ask, `{"method": "GET", "path": "`+path+`"}`+"\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("%s: %q, want %s", path, lines.Text(), want)
		}
	}
	ask.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMatchBoundsItsLines(t *testing.T) {
	long := `{"method": "GET", "path": "/` + strings.Repeat("x", 3*maxRequestLine) + `"}`
	fits := `{"method": "GET", "path": "/` + strings.Repeat("x", maxRequestLine/2) + `"}`
	var out, problems bytes.Buffer
	err := matchLines(parsed(t, "framework: flask\nroutes:\n  - GET /\n"), "", strings.NewReader(long+"\n"+fits+"\n"+long), &out, &problems)
	if err == nil || !strings.HasPrefix(err.Error(), "not a request: 2 lines\n") {
		t.Error(err)
	}
	want := `{"error":"line 1: longer than 1048576 bytes"}
{"outcome":"404","template":"","params":{}}
{"error":"line 3: longer than 1048576 bytes"}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	if got := strings.Count(problems.String(), "\n"); got != 2 {
		t.Errorf("%d lines of problems: %s", got, problems.String())
	}
}

// failing takes no byte.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestMatchStopsWhereNobodyReads(t *testing.T) {
	err := matchLines(parsed(t, "framework: flask\nroutes:\n  - GET /\n"), "", strings.NewReader(`{"method": "GET", "path": "/"}`+"\n"), failing{}, io.Discard)
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

// TestMergeTables holds what a forced import keeps of a file.
func TestMergeTables(t *testing.T) {
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
			parsed(t, c.kept)
			got, err := mergeTables([]byte(c.kept), parsed(t, c.found))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzMergeTables holds that a file that was good stays good, and matches as the application does.
func FuzzMergeTables(f *testing.F) {
	found := parsed(f, "framework: flask\nroutes:\n  - route: GET, POST /orders\n    name: orders\n  - GET /orders/<int:id>\n")
	f.Add("framework: flask\nroutes:\n  - route: GET /orders/<int:id> # one\n    tags: [a]\n")
	f.Add("# top\nframework: flask\nmount: /shop\nroutes: [{route: 'POST,GET /orders', allow: [double_slash]}, GET /x]\n# end\n")
	f.Add("framework: flask\nroutes:\n  - mount: /orders\n    routes: [GET /<int:id>]\n")
	f.Add("framework: flask\nroutes:\n  - {route: GET /own, own: true}\n  - route: GET /orders/<int:id>\n  - mount: /x\n    routes: [{route: GET /y, own: true}, GET /z]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, _, err := routes.Parse("kept.yaml", []byte(text)); err != nil {
			return
		}
		merged, err := mergeTables([]byte(text), found)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if changes := routes.Diff(parsed(t, string(merged)), found); len(changes) > 0 {
			t.Errorf("%v\n%s", changes, merged)
		}
	})
}

// TestReplaceFile holds that a file is replaced in one step, keeps its mode, and is written through a link.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "routes.yaml"), filepath.Join(dir, "link.yaml")
	write(t, file, "old")
	if err := errors.Join(os.Chmod(file, 0o600), os.Symlink("routes.yaml", link)); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil || string(text) != "new" {
		t.Error(err, string(text))
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}
