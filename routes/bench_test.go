package routes_test

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse/routes"
)

// table1000 has 1,000 routes in the manner of a large application: resources with ids and sub-resources.
func table1000(t testing.TB, framework string) *routes.Table {
	t.Helper()
	id, name := map[string][2]string{
		routes.Flask:     {"<int:id>", "<name>"},
		routes.Starlette: {"{id:int}", "{name}"},
		routes.FastAPI:   {"{id:int}", "{name}"},
		routes.Django:    {"<int:id>", "<str:name>"},
		routes.OpenAPI:   {"{id}", "{name}"},
	}[framework], ""
	var out strings.Builder
	fmt.Fprintf(&out, "framework: %s\nroutes:\n", framework)
	for i := range 125 {
		base := fmt.Sprintf("/api/v1/resource%03d", i)
		for _, r := range []string{
			"GET " + base, "GET " + base + "/" + id[0], "GET " + base + "/new", "GET " + base + "/" + id[0] + "/parts",
			"GET " + base + "/" + id[0] + "/parts/" + id[1], "POST " + base + "/" + id[0] + "/actions/run",
			"GET " + base + "/by-name/" + id[1], "GET " + base + "/" + id[0] + "/history/" + id[1] + "/diff",
		} {
			fmt.Fprintf(&out, "  - %s%s\n", r, name)
		}
	}
	table, notices, err := routes.Parse("routes.yaml", []byte(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(notices) > 0 {
		t.Fatal(notices[0])
	}
	if n := len(table.Routes()); n != 1000 {
		t.Fatalf("%d routes", n)
	}
	return table
}

var frameworks = []string{routes.Flask, routes.Starlette, routes.FastAPI, routes.Django, routes.OpenAPI}

func BenchmarkMatch(b *testing.B) {
	for _, framework := range frameworks {
		table := table1000(b, framework)
		for name, path := range map[string]string{
			"static": "/api/v1/resource124", "params": "/api/v1/resource124/17/history/abc/diff", "none": "/api/v1/resource124/17/nothing",
		} {
			b.Run(framework+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					table.Match("GET", "api.example.com", path)
				}
			})
		}
	}
}

func TestMatchAllocatesItsParametersOnly(t *testing.T) {
	for _, framework := range frameworks {
		table := table1000(t, framework)
		for path, want := range map[string]float64{
			"/api/v1/resource007":                    0,
			"/api/v1/resource007/17/parts/x":         1,
			"/api/v1/resource124/17/history/a/diff":  1,
			"/api/v1/resource124/17/history/a/diffs": 1, // the path with a slash, for the redirect that may follow a miss
		} {
			if strings.HasSuffix(path, "s") && (framework == routes.Flask || framework == routes.OpenAPI) {
				want = 0 // no such question
			}
			if got := testing.AllocsPerRun(100, func() { table.Match("GET", "h", path) }); got != want {
				t.Errorf("%s %s: %v allocations, want %v", framework, path, got, want)
			}
		}
	}
}
