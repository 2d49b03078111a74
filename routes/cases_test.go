package routes_test

import (
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/routes"
	"gatehouse/routes/importer"
)

// TestReportedCases: small applications that the importer once read wrongly, or not at all.
func TestReportedCases(t *testing.T) {
	for dir, requests := range map[string]map[string]string{
		"dispatch_handles_post": {"POST /delete/": "match /delete/", "GET /delete/": "match /delete/"},
		"django_i18n_patterns": {"GET /health/": "match /health/", "GET /de/shop/7/": "match /de/shop/<int:id>/ id=7", "GET /en/shop/7/": "match /en/shop/<int:id>/ id=7",
			"GET /shop/7/": "404", "GET /fr/shop/7/": "404", "GET /api/7/": "match /api/<int:id>/ id=7"},
		"drf_default_router":    {"GET /api/things/": "match /api/things/$", "GET /api/": "match /api/", "DELETE /api/things/": "405", "GET /api/things.json": "match /api/things\\.(?P<format>[a-z0-9]+)/?$ format=json"},
		"starlette_empty_mount": {"GET /": "match /", "GET /ws/chat": "404", "GET /ws/x": "404", "WEBSOCKET /ws/chat": "match /ws/chat"},
		"ws_behind_catch_all":   {"WEBSOCKET /ws/admin": "match /ws/admin", "GET /ws/admin": "match /{path:path} path=ws/admin", "WEBSOCKET /x": "404"},
	} {
		framework, target := routes.Django, "settings"
		if dir == "starlette_empty_mount" || dir == "ws_behind_catch_all" {
			framework, target = routes.FastAPI, "app:app"
		}
		abs, err := filepath.Abs(filepath.Join("testdata", "cases", dir))
		if err != nil {
			t.Fatal(err)
		}
		made, _, err := importer.Python(t.Context(), importer.PythonApp{Framework: framework, Target: target, Python: python(t), Dir: abs})
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		table, _, err := routes.Parse("routes.yaml", made.YAML())
		if err != nil {
			t.Errorf("%s: %v\n%s", dir, err, made.YAML())
			continue
		}
		for request, want := range requests {
			method, path, _ := strings.Cut(request, " ")
			if got := told(table.Match(method, "x", path)); got != want {
				t.Errorf("%s: %s: %s, want %s", dir, request, got, want)
			}
		}
	}
}
