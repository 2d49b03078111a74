package envoy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// uvicorn and gunicorn are the commands that serve an application, or what its gunicorn.conf.py names.
func uvicorn(python, app string) []string {
	return []string{python, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "PORT", "--no-access-log", "--log-level", "warning",
		"--timeout-keep-alive", "10", app}
}

func gunicorn(python string, app ...string) []string {
	return append([]string{python, "-m", "gunicorn", "--bind", "127.0.0.1:PORT", "--keep-alive", "10", "--threads", "4", "--no-control-socket"}, app...)
}

// flaskPython is the interpreter that the sandbox runs Flask applications with.
func flaskPython(t *testing.T) string {
	t.Helper()
	python, err := filepath.Abs(filepath.Join(root, ".venv", "bin", "python"))
	if err != nil {
		t.Fatal(err)
	}
	return python
}

// The FastAPI example, one rule for each route, and requests as they are meant and as they are not.
func TestFastAPIExample(t *testing.T) {
	t.Parallel()
	dir := initExample(t, "fastapi-items", "--fastapi", "app:app", "--name", "shop")
	s := startStack(t, dir, map[int]int{8000: serve(t, "uvicorn", dir, uvicorn(pythonOf(t, "fastapi-items"), "app:app"))})
	s.play(t, "items.example.com", "shop", []scene{
		{request: "GET /healthz", want: "gatehouse 403"}, {request: "GET /items", want: "gatehouse 403"}, {request: "GET /nothing", want: "gatehouse 403"},
	})
	amend(t, filepath.Join(dir, "policy", "GET", "healthz.rego"), "default allowed := false", "allowed := true")
	s.awaitAnswer(t, "GET /healthz", "items.example.com", "app 200")
	s.finish(t, "fastapi-items")
	const lamp = `{"name": "lamp", "price": 45}`
	s.play(t, "items.example.com", "shop", []scene{
		{request: "GET /healthz", want: "app 200"},
		{request: "GET /items/cheapest", want: "app 200"},
		{request: "GET /items", want: "gatehouse 401"},
		{request: "GET /items/1", want: "gatehouse 401"},
		{"vera", "viewer", "GET /items", "app 200", ""},
		{"vera", "viewer", "GET /items?of=bob", "app 200", ""},
		{"vera", "viewer", "GET /items/1", "app 200", ""},
		{"vera", "viewer", "GET /items/99", "app 404", ""},
		{"vera", "viewer", "GET /items/%31", "app 200", ""},
		{"vera", "viewer", "DELETE /items/1", "gatehouse 403", ""},
		{"vera", "viewer", "POST /items/of/vera", "app 201", lamp},
		{"vera", "viewer", "POST /items/of/bob", "gatehouse 403", lamp},
		{"vera", "viewer", "PUT /items/1", "gatehouse 403", lamp},
		{"carl", "clerk", "PUT /items/1", "app 200", lamp},
		{"carl", "clerk", "DELETE /items/1", "gatehouse 403", ""},
		{"ada", "admin", "DELETE /items/1", "app 200", ""},
		{"dave", "", "GET /items/2", "app 200", ""},
		{"dave", "", "GET /items/3", "gatehouse 403", ""},
		{"dave", "", "GET /items/02", "gatehouse 403", ""},
		{"bob", "", "GET /items/of/bob", "app 200", ""},
		{"bob", "", "GET /items/of/%62ob", "app 200", ""},
		{"bob", "", "GET /items/of/alice", "gatehouse 403", ""},
		// The parameter takes what is left of the path, and the rule sees what the application sees.
		{"vera", "viewer", "GET /items/manuals/lamps/desk.txt", "app 200", ""},
		{"vera", "viewer", "GET /items/manuals/chairs/office.txt", "gatehouse 403", ""},
		{"vera", "viewer", "GET /items/manuals/%63hairs/office.txt", "gatehouse 403", ""},
		{"vera", "viewer", "GET /items/manuals/x/../chairs/office.txt", "gatehouse 403", ""},
		{"vera", "viewer", "GET /items/manuals//chairs/office.txt", "gatehouse 400", ""},
		{"vera", "viewer", "GET /items/manuals/lamps%2fdesk.txt", "envoy 400", ""},
		{"carl", "clerk", "GET /items/manuals/chairs/office.txt", "app 200", ""},
		// The mounted application has routes of its own.
		{"ada", "admin", "GET /reports/total", "app 200", ""},
		{"vera", "viewer", "GET /reports/total", "gatehouse 403", ""},
		{"bob", "", "GET /reports/by-owner/bob", "app 200", ""},
		{"bob", "", "GET /reports/by-owner/alice", "gatehouse 403", ""},
		// What the framework brings along is a route as well.
		{"vera", "viewer", "GET /openapi.json", "gatehouse 403", ""},
		{"dora", "developer", "GET /openapi.json", "app 200", ""},
		{"dora", "developer", "HEAD /openapi.json", "app 200", ""},
		{"dora", "developer", "GET /docs/oauth2-redirect", "app 200", ""},
		// No route takes these, whoever asks: not there, another method, a redirect to the other spelling.
		{"ada", "admin", "GET /admin", "gatehouse 403", ""},
		{"ada", "admin", "PATCH /items/2", "gatehouse 403", ""},
		{"ada", "admin", "HEAD /items", "gatehouse 403", ""},
		{"ada", "admin", "GET /items/", "gatehouse 403", ""},
		{"ada", "admin", "GET /Items", "gatehouse 403", ""},
		{"ada", "admin", "GET /items/two", "gatehouse 403", ""},
		{"ada", "admin", "GET /items/2.0", "gatehouse 403", ""},
		{"ada", "admin", "GET /items/%D9%A2", "gatehouse 403", ""},
		// Paths that two readers may read in two ways.
		{"ada", "admin", "GET /items/2;x", "gatehouse 403", ""},
		{"ada", "admin", "GET /items%2f2", "envoy 400", ""},
		{"ada", "admin", "GET //items/2", "gatehouse 400", ""},
		{"ada", "admin", "GET /items/%252e", "gatehouse 400", ""},
		{"ada", "admin", "GET /items/of/bob%00", "envoy 400", ""},
		{"bob", "", "GET /items/of/bob/../alice", "gatehouse 403", ""},
		{"bob", "", "GET /items/of/bob%3f", "gatehouse 400", ""},
		{"bob", "", "GET /items/of/alice?owner=bob", "gatehouse 403", ""},
		{"bob", "", "GET /reports/../items/of/alice", "gatehouse 403", ""},
		{"vera", "viewer", "GET /items/2", "app 200", "X-HTTP-Method-Override: DELETE"},
		{"vera", "viewer", "GET /items/2", "app 200", ""},
	})
	if page := s.status(t); len(page.Notices) > 0 || len(page.Routes) != 1 || page.Routes[0].Routes != 15 {
		t.Errorf("/status: %+v", page)
	}
}

// The Django example, one table for all routes.
func TestDjangoExample(t *testing.T) {
	t.Parallel()
	python := pythonOf(t, "django-todo")
	dir := initExample(t, "django-todo", "--django", "config.settings", "--name", "todos", "--rules", "rbac")
	database := "TODO_DATABASE=" + dir + "/todo.db"
	migrate := exec.CommandContext(t.Context(), python, "manage.py", "migrate", "--verbosity", "0")
	migrate.Dir, migrate.Env = dir, append(migrate.Environ(), database, "PYTHONDONTWRITEBYTECODE=1")
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("manage.py migrate: %v\n%s", err, out)
	}
	app := serve(t, "gunicorn", dir, gunicorn(python), database)
	s := startStack(t, dir, map[int]int{8000: app})
	s.play(t, "todo.example.com", "todos", []scene{
		{request: "GET /healthz", want: "gatehouse 403"}, {request: "GET /todos/", want: "gatehouse 403"}, {request: "GET /nothing", want: "gatehouse 403"},
	})
	amend(t, filepath.Join(dir, "policy", "data.json"), `"anyone": []`, `"anyone": ["GET /healthz"]`)
	s.awaitAnswer(t, "GET /healthz", "todo.example.com", "app 200")
	s.finish(t, "django-todo")
	const todo = `{"owner": "vera", "title": "sweep", "due": "2026-07-01"}`
	s.play(t, "todo.example.com", "todos", []scene{
		{request: "GET /healthz", want: "app 200"},
		{request: "HEAD /healthz", want: "app 200"},
		{request: "GET /todos/", want: "gatehouse 401"},
		{"vera", "viewer", "GET /todos/", "app 200", ""},
		{"vera", "viewer", "HEAD /todos/1/", "app 200", ""},
		{"vera", "viewer", "GET /todos/1/", "app 200", ""},
		{"vera", "viewer", "GET /todos/99/", "app 404", ""},
		{"vera", "viewer", "POST /todos/", "gatehouse 403", todo},
		{"vera", "viewer", "DELETE /todos/1/", "gatehouse 403", ""},
		{"vera", "viewer", "GET /todos/tagged/home/", "app 200", ""},
		{"vera", "viewer", "GET /todos/due/2026/05/", "gatehouse 403", ""},
		{"carl", "clerk", "GET /todos/due/2026/05/", "app 200", ""},
		{"carl", "clerk", "POST /todos/", "app 201", todo},
		{"carl", "clerk", "PUT /todos/1/", "app 200", `{"done": true}`},
		{"carl", "clerk", "DELETE /todos/1/", "gatehouse 403", ""},
		{"carl", "clerk", "OPTIONS /todos/1/", "gatehouse 403", ""},
		{"ada", "admin", "OPTIONS /todos/1/", "app 200", ""},
		{"ada", "admin", "DELETE /todos/1/", "app 200", ""},
		{"alice", "", "GET /todos/alice/list/", "app 200", ""},
		{"alice", "", "GET /todos/%61lice/list/", "app 200", ""},
		{"alice", "", "GET /todos/bob/list/", "gatehouse 403", ""},
		{"alice", "", "GET /todos/alice%2flist/../bob/list/", "envoy 400", ""},
		{"alice", "", "GET /todos/alice/../bob/list/", "gatehouse 403", ""},
		{"alice", "", "GET /todos/bob/list/?owner=alice", "gatehouse 403", ""},
		// The framework would redirect or refuse these.
		{"ada", "admin", "GET /todos", "gatehouse 403", ""},
		{"ada", "admin", "GET /todos/1", "gatehouse 403", ""},
		{"ada", "admin", "PATCH /todos/1/", "gatehouse 403", ""},
		{"ada", "admin", "PUT /todos/", "gatehouse 403", todo},
		{"ada", "admin", "GET /todos/due/1999/05/", "gatehouse 403", ""},
		{"ada", "admin", "GET /todos/due/2026/5/", "gatehouse 403", ""},
		{"ada", "admin", "GET /todos/due/2026/05/x/", "gatehouse 403", ""},
		{"ada", "admin", "GET /admin/", "gatehouse 403", ""},
		{"ada", "admin", "GET /todos//1/", "gatehouse 400", ""},
		{"ada", "admin", "GET /todos/1/%0a", "gatehouse 400", ""},
		{"ada", "admin", "GET /todos/tagged/h%C3%B6me/", "gatehouse 403", ""},
		{"vera", "viewer", "POST /todos/1/", "gatehouse 403", "X-HTTP-Method-Override: DELETE"},
		{"vera", "viewer", "GET /healthz", "envoy 400", "Script_Name: /healthz"},
	})
	if page := s.status(t); len(page.Routes) != 1 || page.Routes[0].Routes != 6 {
		t.Errorf("/status: %+v", page)
	}
}

// The examples contain not one line about authorization, and their envoy.yaml is valid as it stands.
func TestExamplesAsTheyStand(t *testing.T) {
	for example, least := range map[string]int{"fastapi-items": 3, "django-todo": 3, "rebac-drive": 1} {
		dir := filepath.Join(root, "examples", example)
		sources := 0
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".py" {
				return err
			}
			sources++
			text := strings.ToLower(read(t, path))
			for _, word := range []string{"auth", "token", "role", "permission", "login", "401", "403"} {
				if contains(text, word) {
					t.Errorf("%s speaks of %q", path, word)
				}
			}
			return nil
		})
		if err != nil || sources < least {
			t.Errorf("%s: %d sources, %v", example, sources, err)
		}
		out, err := exec.CommandContext(t.Context(), envoyBinary, "--mode", "validate", "-c", filepath.Join(dir, "envoy.yaml")).CombinedOutput()
		if err != nil {
			t.Errorf("envoy --mode validate: %v\n%s", err, out)
		}
	}
}

// A change of the route table is in force at once. One that cannot be used is reported with its line, and the old one stays.
func TestRouteTableWhileRunning(t *testing.T) {
	t.Parallel()
	dir := copyOf(t, "fastapi-items")
	s := startStack(t, dir, map[int]int{8000: serve(t, "uvicorn", dir, uvicorn(pythonOf(t, "fastapi-items"), "app:app"))})
	file, host := filepath.Join(dir, "routes.yaml"), "items.example.com"
	table := read(t, file)
	replace := func(text string) {
		t.Helper()
		write(t, file+".draft", text)
		if err := os.Rename(file+".draft", file); err != nil {
			t.Fatal(err)
		}
	}
	s.play(t, host, "shop", []scene{{request: "GET /healthz", want: "app 200"}, {request: "HEAD /items/cheapest", want: "gatehouse 403"}, {request: "GET /items/cheapest", want: "app 200"}})

	// The route of the cheapest item goes: then its path is nobody's, for the next one takes numbers.
	cheapest := "  - route: GET /items/cheapest\n    name: cheapest_item\n    tags: [items]\n"
	if !contains(table, cheapest) {
		t.Fatal("routes.yaml has no such route")
	}
	replace(strings.Replace(table, cheapest, "", 1))
	s.awaitAnswer(t, "GET /items/cheapest", host, "gatehouse 403")
	s.play(t, host, "shop", []scene{{request: "GET /healthz", want: "app 200"}})
	if page := s.status(t); len(page.Routes) != 1 || page.Routes[0].Routes != 14 || page.Routes[0].Error != "" || !contains(strings.Join(page.Notices, "\n"), "shop.GET.items.cheapest.allowed belongs to no route") {
		t.Errorf("/status after a route went: %+v", page)
	}
	replace(table)
	s.awaitAnswer(t, "GET /items/cheapest", host, "app 200")

	// What is not YAML, what no table may say, and what leaves a route without a rule.
	broken := map[string]string{
		strings.Replace(table, cheapest, strings.Replace(cheapest, "name:", "nmae:", 1), 1): fmt.Sprintf("routes.yaml:%d: unknown key \"nmae\"", lineOf(table, "    name: cheapest_item")),
		strings.Replace(table, "GET /items/cheapest", "GET items/{cheapest", 1):             fmt.Sprintf("routes.yaml:%d: ", lineOf(table, "  - route: GET /items/cheapest")),
		strings.Replace(table, "framework: fastapi", "framework: fastpai", 1):               "routes.yaml:1: ",
		table + "  - GET /new\n": "define data.shop.GET.new.allowed",
		strings.Replace(table, cheapest, cheapest+"  - GET /items/{item_id}\n", 1): "line " + fmt.Sprint(lineOf(table, cheapest)+3),
		"": "routes.yaml:1: ",
	}
	for text, want := range broken {
		seen := len(s.gatehouse.Log())
		replace(text)
		if line := s.awaitLog(t, seen, "route table changed and cannot be used"); !contains(logged(t, line), want) {
			t.Errorf("the log says %s, want %q", line, want)
		}
		if page := s.status(t); len(page.Routes) != 1 || !contains(page.Routes[0].Error, want) {
			t.Errorf("/status says %+v, want %q", page.Routes, want)
		}
		s.play(t, host, "shop", []scene{{request: "GET /items/cheapest", want: "app 200"}, {request: "GET /new", want: "gatehouse 403"}})
	}
	seen := len(s.gatehouse.Log())
	replace(table)
	s.awaitLog(t, seen, "route table replaced")
	if page := s.status(t); page.Routes[0].Error != "" {
		t.Errorf("/status still says %+v", page.Routes)
	}
}

// lineOf is the number of the line at which part begins.
func lineOf(text, part string) int {
	before, _, _ := strings.Cut(text, part)
	return strings.Count(before, "\n") + 1
}

// logged is the error of a line of Gatehouse's log.
func logged(t *testing.T, line string) string {
	t.Helper()
	var entry struct{ Error string }
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		t.Fatal(err)
	}
	return entry.Error
}
