package routes_test

import (
	"os"
	"strings"
	"testing"

	"gatehouse/routes"
	"gatehouse/routes/importer"
)

// importApp reads an application of testdata, and the table that comes back from its own text.
func importApp(t *testing.T, app importer.PythonApp) (*routes.Table, string) {
	t.Helper()
	app.Python, app.Dir = python(t), apps(t)
	table, notices, err := importer.Python(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := routes.Parse("routes.yaml", table.YAML())
	if err != nil {
		t.Fatalf("%v\n%s", err, table.YAML())
	}
	text := ""
	for _, n := range notices {
		text += n.String() + "\n"
	}
	return again, text
}

// TestMiddlewareThatChangesTheRoute: what may lead a request to another route than its path says makes the table refuse, and what
// does not leaves it alone.
func TestMiddlewareThatChangesTheRoute(t *testing.T) {
	for _, framework := range []struct{ name, module string }{{routes.FastAPI, "middleware_asgi"}, {routes.Flask, "middleware_wsgi"}} {
		table, notices := importApp(t, importer.PythonApp{Framework: framework.name, Target: framework.module + ":everything()"})
		for kind, want := range map[string]routes.Outcome{"changed": routes.Refused, "same": routes.Matched} {
			for _, name := range namesIn(t, framework.module, strings.ToUpper(kind)) {
				path := "/" + kind + "/" + strings.ReplaceAll(name, " ", "-") + "/public"
				if m := table.Match("GET", "x", path); m.Outcome != want {
					t.Errorf("%s %s: %s, want %s", framework.name, path, m.Outcome, want)
				}
			}
		}
		if t.Failed() {
			t.Logf("%s\n%s", notices, table.YAML())
		}
		outside, _ := importApp(t, importer.PythonApp{Framework: framework.name, Target: framework.module + ":outside()"})
		for _, path := range []string{"/public", "/sub/public", "/foreign/x", "/foreign", "/"} {
			if m := outside.Match("GET", "x", path); m.Outcome != routes.Refused {
				t.Errorf("%s %s: %s\n%s", framework.name, path, m.Outcome, outside.YAML())
			}
		}
		if framework.name != routes.FastAPI {
			continue
		}
		for _, name := range namesIn(t, framework.module, "BELOW") {
			below := "/below/" + strings.ReplaceAll(name, " ", "-")
			for path, want := range map[string]routes.Outcome{"/public": routes.Matched, "/sub/public": routes.Refused, "/sub/x": routes.Refused} {
				if m := table.Match("GET", "x", below+path); m.Outcome != want {
					t.Errorf("%s: %s, want %s\n%s", below+path, m.Outcome, want, table.YAML())
				}
			}
		}
	}
}

// namesIn are the keys of a dictionary in a module of testdata: its lines that begin like entries.
func namesIn(t *testing.T, module, dict string) []string {
	t.Helper()
	text, err := os.ReadFile("testdata/apps/" + module + ".py")
	if err != nil {
		t.Fatal(err)
	}
	_, body, ok := strings.Cut(string(text), "\n"+dict+" = {")
	if body, _, _ = strings.Cut(body, "}\n"); !ok || body == "" {
		t.Fatalf("no %s in %s", dict, module)
	}
	var names []string
	for i, part := range strings.Split(body, `"`) {
		if i%2 == 1 && !strings.HasPrefix(part, "/") {
			names = append(names, part)
		}
	}
	return names
}

func TestDjangoMiddlewareThatChangesTheRoute(t *testing.T) {
	for middleware, want := range map[string]routes.Outcome{
		"Plain plain_function Base":          routes.Matched,
		"ByHost Named Path Method":           routes.Refused,
		"Calls CallsMatch Meta Inherits":     routes.Refused,
		"Plain function plain_function Base": routes.Refused,
		"CallsHeld Vars DictUpdate":          routes.Refused,
		"ObjectSet Renamed":                  routes.Refused,
	} {
		t.Run(middleware, func(t *testing.T) {
			names := strings.Fields(middleware)
			t.Setenv("DJANGOMW", "djangomw.mw."+strings.Join(names, " djangomw.mw."))
			table, notices := importApp(t, importer.PythonApp{Framework: routes.Django, Target: "djangomw.settings"})
			m := table.Match("GET", "x", "/public/")
			if m.Outcome != want {
				t.Fatalf("%s, want %s\n%s\n%s", m.Outcome, want, notices, table.YAML())
			}
			for _, name := range names {
				harmless := name == "Plain" || name == "plain_function" || name == "Base"
				if said := m.Route.Unsupported; !harmless && name != "Inherits" && !strings.Contains(said, "djangomw.mw."+name+".") && !strings.Contains(said, "djangomw.mw."+name+" ") {
					t.Errorf("%s is not said to change the route: %s", name, said)
				} else if name == "Inherits" && !strings.Contains(said, "djangomw.mw.choose ") {
					t.Errorf("what %s calls is not said to change the route: %s", name, said)
				}
			}
		})
	}
	t.Run("django-hosts", func(t *testing.T) {
		t.Setenv("DJANGOMW", "django_hosts.middleware.HostsRequestMiddleware")
		table, _ := importApp(t, importer.PythonApp{Framework: routes.Django, Target: "djangomw.settings"})
		if m := table.Match("GET", "x", "/public/"); m.Outcome != routes.Refused || !strings.Contains(m.Route.Unsupported, "urlconf") {
			t.Errorf("%s\n%s", m.Outcome, table.YAML())
		}
	})
	t.Run("WSGI_APPLICATION", func(t *testing.T) {
		for name, want := range map[string]routes.Outcome{"changed": routes.Refused, "same": routes.Matched, "own": routes.Refused} {
			t.Setenv("DJANGOMW_WSGI", "djangomw.mw."+name+"_wsgi")
			table, _ := importApp(t, importer.PythonApp{Framework: routes.Django, Target: "djangomw.settings"})
			if m := table.Match("GET", "x", "/public/"); m.Outcome != want {
				t.Errorf("%s: %s\n%s", name, m.Outcome, table.YAML())
			}
		}
	})
	t.Run("trusted", func(t *testing.T) {
		t.Setenv("DJANGOMW", "djangomw.mw.ByHost djangomw.mw.Path")
		for want, trust := range map[routes.Outcome][]string{
			routes.Matched: {"djangomw.mw.ByHost", "djangomw.mw.Path"}, routes.Refused: {"djangomw.mw.ByHost"},
		} {
			table, _ := importApp(t, importer.PythonApp{Framework: routes.Django, Target: "djangomw.settings", Trust: trust})
			if m := table.Match("GET", "x", "/public/"); m.Outcome != want {
				t.Errorf("%v: %s\n%s", trust, m.Outcome, table.YAML())
			}
		}
	})
}

// TestMountedApplications: what is mounted below a prefix has its own routes where they can be read, and one for all of them where not.
func TestMountedApplications(t *testing.T) {
	flask, _ := importApp(t, importer.PythonApp{Framework: routes.Flask, Target: "middleware_wsgi:dispatched()"})
	asgi, notices := importApp(t, importer.PythonApp{Framework: routes.FastAPI, Target: "middleware_asgi:wsgi()"})
	for _, tt := range []struct {
		table      *routes.Table
		path, want string
	}{
		{flask, "/admin", "match /admin"}, {flask, "/sub/admin", "match /sub/admin"}, {flask, "/sub/x", "404"}, {flask, "/odd/admin", "refused"},
		{flask, "/foreign/x", "match /foreign/<path:path> path=x"}, {asgi, "/public", "match /public"}, {asgi, "/flask/x", "match /flask/{path:path} path=x"},
	} {
		if got := told(tt.table.Match("GET", "x", tt.path)); got != tt.want {
			t.Errorf("%s: %s, want %s\n%s", tt.path, got, tt.want, tt.table.YAML())
		}
	}
	if !strings.Contains(notices, "WSGIMiddleware is mounted there") {
		t.Errorf("notices: %s", notices)
	}
}

// TestDjangoMiddlewareThatHidesIt: what changes the route is found behind helpers of another package and behind decorators.
func TestDjangoMiddlewareThatHidesIt(t *testing.T) {
	for names, want := range map[string][]string{
		"Late": {"elsewhere.to_admin_urlconf"}, "Elsewhere Helper Decorated": {"elsewhere.to_admin_urlconf", "elsewhere.Chooser.apply", "by_tenant.<locals>.inner"},
	} {
		t.Setenv("DJANGOMW", "djangomw.mw."+strings.ReplaceAll(names, " ", " djangomw.mw."))
		table, _ := importApp(t, importer.PythonApp{Framework: routes.Django, Target: "djangomw.settings"})
		m := table.Match("GET", "x", "/public/")
		for _, one := range want {
			if m.Outcome != routes.Refused || !strings.Contains(m.Route.Unsupported, one) {
				t.Errorf("%s: %s, want it to name %s\n%s", names, m.Outcome, one, table.YAML())
			}
		}
	}
}

// TestHostOfAHeader: where the routes are chosen by the host, one that ProxyFix takes from X-Forwarded-Host is not the table's.
func TestHostOfAHeader(t *testing.T) {
	for target, want := range map[string]routes.Outcome{"hosts(0)": routes.Matched, "hosts(1)": routes.Refused} {
		table, _ := importApp(t, importer.PythonApp{Framework: routes.Flask, Target: "middleware_wsgi:" + target})
		if m := table.Match("GET", "a.example.com", "/public"); m.Outcome != want {
			t.Errorf("%s: %s, want %s\n%s", target, m.Outcome, want, table.YAML())
		}
	}
}
