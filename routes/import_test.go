package routes_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/routes"
	"gatehouse/routes/importer"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestImportPythonSaysWhatFailed(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, c := range []struct {
		framework, target, python string
		want                      []string
	}{
		{routes.Flask, "busted_import:app", "", []string{
			`importing flask application "busted_import:app": KeyError: 'database' at ` + filepath.Join(apps(t), "busted_import.py") + ":7\n",
			"\n  KeyError: 'database'"}},
		{routes.Flask, "no_such_module:app", "", []string{`ModuleNotFoundError: No module named 'no_such_module'`, `name the directory that the application's modules are in with --dir`}},
		{routes.Flask, "busted_needs:app", "", []string{`No module named 'no_such_package'`, `if the application's own Python has it, name that with --python`}},
		{routes.Flask, "flask_app:nothing", "", []string{`module 'flask_app' has no 'nothing'`}},
		{routes.Flask, "flask_app:create_app(open('x'))", "", []string{`arguments must be plain values`}},
		{routes.Flask, "flask_app:Blueprint", "", []string{`importing flask application "flask_app:Blueprint": `}},
		{routes.Flask, "busted_exits:app", "", []string{`ended without an answer (exit status 3)`, "\n  about to go"}},
		{routes.Flask, "busted_hangs:app", "", []string{`not done after 2s`}},
		{routes.Django, "no_settings", "", []string{`ModuleNotFoundError: No module named 'no_settings'`, `with --dir`}},
		{routes.FastAPI, "flask_app:app", "", []string{`neither a Starlette nor a FastAPI application`}},
		{routes.Flask, "flask_app:app", "/no/such/python", []string{`starting "/no/such/python"`}},
		{"rails", "app", "", []string{`no Python framework`}},
	} {
		app := importer.PythonApp{Framework: c.framework, Target: c.target, Python: python(t), Dir: apps(t), Timeout: time.Minute}
		if c.python != "" {
			app.Python = c.python
		}
		if strings.Contains(c.target, "hangs") {
			app.Timeout = 2 * time.Second
		}
		_, _, err := importer.Python(t.Context(), app)
		if err == nil {
			t.Errorf("%s: no error", c.target)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v\n  does not say %q", c.target, err, want)
			}
		}
	}
}

func TestImportPythonWithoutTheFramework(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain.py"), []byte("import flask\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "python") // the same interpreter without its packages
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nexec %q -S \"$@\"\n", python(t)), 0o700); err != nil {
		t.Fatal(err)
	}
	_, _, err := importer.Python(t.Context(), importer.PythonApp{Framework: routes.Flask, Target: "plain:app", Python: script, Dir: dir})
	want := `importing flask application "plain:app": ModuleNotFoundError: No module named 'flask' at ` + filepath.Join(dir, "plain.py") +
		":1: this Python does not have the framework; name the application's own with --python"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestImportPythonDoesNotServe(t *testing.T) {
	table, notices, err := importer.Python(t.Context(), importer.PythonApp{
		Framework: routes.Flask, Target: "aserto_app:app", Python: python(t), Dir: apps(t), Timeout: time.Minute,
	})
	if err != nil || len(notices) > 0 {
		t.Fatal(err, notices)
	}
	m := table.Match("GET", "", "/protected_route/42")
	if got := told(m); got != "match /protected_route/<parameter> parameter=42" {
		t.Error(got)
	}
	path, err := routes.RulePath([]string{"app"}, "GET", m.Route.Template)
	if got := routes.RuleName(path); err != nil || got != "app.GET.protected_route.__parameter" {
		t.Error(got, err)
	}
}

func TestImportPythonStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := importer.Python(ctx, importer.PythonApp{Framework: routes.Flask, Target: "busted_hangs:app", Python: python(t), Dir: apps(t)})
	if err == nil {
		t.Error("no error")
	}
}

func TestImportOpenAPI(t *testing.T) {
	file := filepath.Join("testdata", "petstore.yaml")
	server := httptest.NewServer(http.FileServer(http.Dir("testdata")))
	defer server.Close()
	for _, source := range []string{file, server.URL + "/petstore.yaml"} {
		data, err := importer.ReadOpenAPI(t.Context(), server.Client(), source)
		if err != nil {
			t.Fatal(err)
		}
		table, notices, err := importer.OpenAPI("petstore.yaml", data)
		if err != nil {
			t.Fatal(err)
		}
		want := `framework: openapi
source: openapi petstore.yaml
root_path: /v1
routes:
  - route: GET /pets
    name: listPets
    tags: [pets]
  - route: POST /pets
    name: addPet
  - route: GET /pets/{petId}
    name: getPet
  - route: GET /pets/mine
    name: myPets
  - route: DELETE /toys
    name: dropToys
  - route: ANY /elsewhere/{x}
    unsupported: described in other.yaml#/paths/elsewhere
`
		if diff := cmp.Diff(want, string(table.YAML())); diff != "" {
			t.Error(diff)
		}
		if len(notices) == 0 || notices[0].String() != `petstore.yaml:19: path "/elsewhere/{x}" is described elsewhere (other.yaml#/paths/elsewhere): its requests are refused until it is put in` {
			t.Errorf("notices: %v", notices)
		}
		for path, want := range map[string]string{
			"/v1/pets/mine": "match /pets/mine", "/v1/pets/7": "match /pets/{petId} petId=7", "/v1/elsewhere/1": "refused", "/v1/toys": "405",
		} {
			if got := told(table.Match("GET", "", path)); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
	if _, err := importer.ReadOpenAPI(t.Context(), server.Client(), server.URL+"/none.yaml"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a missing description: %v", err)
	}
}

func TestImportOpenAPISaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"openapi: 3.0.0\npaths:\n  pets:\n    get: {}\n":   `api.yaml:3: path "pets" does not start with a slash`,
		"openapi: 3.0.0\npaths:\n  /pets: [get]\n":         `api.yaml:3: path "/pets": expected operations`,
		"openapi: 3.0.0\n":                                 `api.yaml:1: paths: is missing or not a mapping`,
		"title: x\npaths: {}\n":                            `api.yaml:1: not an OpenAPI description: neither openapi nor swagger is among its keys`,
		"openapi: 3.0.0\npaths:\n  /a: {get: {tags: b}}\n": `api.yaml:3: expected a list`,
		"{": `api.yaml:1: `,
		"openapi: 3.0.0\nservers: [{url: 'http://[x'}]\npaths: {}\n": `api.yaml:2: server "http://[x"`,
	} {
		if _, _, err := importer.OpenAPI("api.yaml", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestImportLog(t *testing.T) {
	var log strings.Builder
	line := func(method, path string) {
		fmt.Fprintf(&log, `{"attributes":{"request":{"http":{"method":%q,"path":%q}}}}`+"\n", method, path)
	}
	line("GET", "/orders")
	line("POST", "/orders?x=1")
	line("GET", "/orders/17")
	line("GET", "/orders/18")
	line("DELETE", "/orders/0f8fad5b-d9cb-469f-a165-70867728950e/lines/3")
	for i := range 30 {
		line("GET", fmt.Sprintf("/users/name%c%c/posts", 'a'+i%26, 'a'+i/26))
	}
	line("GET", "/a/../b")
	log.WriteString("not json\n" + `{"input":{"attributes":{"request":{"http":{"method":"GET","path":"/nested"}}}}}` + "\n" + `{"outcome":"deny","request":{"method":"GET","host":"h","path":"/top"}}` + "\n")
	table, notices, err := importer.Log("decisions.log", strings.NewReader(log.String()))
	if err != nil {
		t.Fatal(err)
	}
	want := `framework: openapi
source: log decisions.log
routes:
  - route: GET /nested
    guess: true
  - route: GET, POST /orders
    guess: true
  - route: GET /orders/{id}
    guess: true
  - route: DELETE /orders/{id}/lines/{id2}
    guess: true
  - route: GET /top
    guess: true
  - route: GET /users/{id}/posts
    guess: true
`
	if diff := cmp.Diff(want, string(table.YAML())); diff != "" {
		t.Error(diff)
	}
	if last := notices[len(notices)-1].String(); last != "decisions.log: 2 lines are left out: no request, or an ambiguous path" {
		t.Error(last)
	}
	if _, _, err := importer.Log("empty", strings.NewReader("")); err == nil {
		t.Error("an empty log gives no table")
	}
}
