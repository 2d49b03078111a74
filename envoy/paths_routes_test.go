package envoy_test

import (
	"fmt"
	"path/filepath"
	"testing"
)

// routed is an application that only its route table protects.
type routed struct {
	name   string
	app    int // its port
	python string
	dir    string   // below testdata
	from   []string // what `gatehouse routes import` is told
	table  string
}

// byRoute lets everything through but one route: no path form is refused, and what no route takes reaches the application.
const byRoute = `listen: {grpc: ["{GRPC}"], admin: "{ADMIN}"}
routes: {file: "{DIR}/routes.yaml", unmatched: policy}
policy: {timeout: 2s, bundles: [{name: all, path: "{DIR}/policy"}]}
paths:
  allow: [dot_segments, double_slash, encoded_slash, backslash, control_bytes, bad_escape, double_encoding, invalid_utf8, fragment,
    not_absolute, encoded_question, encoded_semicolon]
`

const allButSecret = `package envoy.authz

default allow := true

allow := false if input.route.name == "secret"
`

func routedApps(t *testing.T) []*routed {
	t.Helper()
	gunicornArgs := func(python, app string) []string { return gunicorn(python, "--header-map", "dangerous", app) }
	dir := func(name string) string {
		abs, err := filepath.Abs(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	flask, django := flaskPython(t), pythonOf(t, "django-todo")
	fastapi := pythonOf(t, "fastapi-items")
	apps := []*routed{
		{name: "Flask", python: flask, dir: dir("flask"), from: []string{"flask", "app:app"}},
		{name: "FastAPI", python: fastapi, dir: dir("fastapi"), from: []string{"fastapi", "app:app"}},
		{name: "Django", python: django, dir: dir("django"), from: []string{"django", "settings"}},
	}
	apps[0].app = serve(t, "flask", apps[0].dir, gunicornArgs(flask, "app:app"))
	apps[1].app = serve(t, "fastapi", apps[1].dir, uvicorn(fastapi, "app:app"))
	apps[2].app = serve(t, "django", apps[2].dir, gunicornArgs(django, "wsgi:application"))
	for _, a := range apps {
		a.table = filepath.Join(t.TempDir(), "routes.yaml")
		gatehouse(t, a.dir, append([]string{"routes", "import", "--python", a.python, "--out", a.table}, a.from...)...)
	}
	return apps
}

// The route that the table says is the one that the application takes, for every spelling and with all other defences down: one
// route is denied, everything else is let through, and the application never serves what belongs to that route.
func TestHostilePathsByRoute(t *testing.T) {
	t.Parallel()
	apps := routedApps(t)
	var doors []door
	for _, a := range apps {
		g := startGatehouse(t, "gatehouse-"+a.name, byRoute, map[string]string{"routes.yaml": read(t, a.table), "policy/all.rego": allButSecret})
		for _, manager := range []string{normalising, notNormalising, unescaping} {
			doors = append(doors, door{Port: freePort(t), App: a.app, Authz: []int{g.port}, Manager: manager})
		}
	}
	file := filepath.Join(withDoors(t, doors), "envoy.yaml")
	amend(t, file, "port_value: 9901}", fmt.Sprintf("port_value: %d}", freePort(t)))
	envoy := program(t, "envoy", filepath.Dir(file), []string{envoyBinary, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"})
	if err := envoy.Ready(t.Context(), "http://"+at(doors[0].Port)+"/healthz"); err != nil {
		t.Fatal(err)
	}
	for i, a := range apps {
		alone, denied, through := 0, 0, 0
		for _, sp := range spellings {
			if contains(send(t, a.app, sp.request("")).Body, jewels) {
				alone++
			}
			for _, d := range doors[3*i : 3*i+3] {
				switch got := send(t, d.Port, sp.request("")); {
				case contains(got.Body, jewels):
					t.Errorf("%s serves the protected resource for %s (manager: %s)", a.name, sp, d.Manager)
				case got.Who == "gatehouse":
					denied++
				case got.Who == "app":
					through++
				}
			}
		}
		t.Logf("%s: of %d spellings the application alone serves %d; through three Envoys %d were denied and %d reached it", a.name, len(spellings), alone, denied, through)
		if alone < 10 || denied < 30 || through < 30 {
			t.Errorf("%s: %d served alone, %d denied, %d through: this says nothing", a.name, alone, denied, through)
		}
	}
}
