package scaffold

import (
	"bytes"
	"fmt"
	"strings"

	"gatehouse/routes"
)

// withStatic takes the table with the static files that the application serves, which get one rule. What has no route in the
// application gets one here, marked as the keeper's own.
func (s *Scaffold) withStatic(table *routes.Table) error {
	s.table, s.static = table, map[string]string{}
	facts := table.Facts()
	for _, template := range facts.Static {
		for _, r := range table.Routes() {
			if strings.TrimPrefix(r.Template, "/") == strings.TrimPrefix(template, "/") {
				s.static[r.Template] = "Static files, as the application's framework serves them"
			}
		}
	}
	by := "Static files of " + facts.StaticBy
	var own bytes.Buffer
	for _, path := range facts.StaticFiles {
		s.ownStatic(&own, path, path, by)
	}
	for _, prefix := range facts.StaticPrefixes {
		template := prefix + "<path:path>"
		if table.Framework() == routes.Starlette || table.Framework() == routes.FastAPI {
			template = prefix + "{path:path}"
		}
		s.ownStatic(&own, prefix, template, by)
	}
	if own.Len() == 0 {
		return nil
	}
	with, _, err := routes.Parse("routes.yaml", append(table.YAML(), own.Bytes()...))
	if err != nil {
		return fmt.Errorf("adding static files to the routes: %w", err)
	}
	s.table = with
	return nil
}

// probes are what may stand below a prefix of static files.
var probes = []string{"x", "x.css", "1", "x/y", "x/y.css", "1/2", "x/y/z", "x/", "x/y/", "1/"}

// ownStatic adds a route unless one of the application's takes its requests: then that one's rule decides, for nobody knows whether
// the file is there.
func (s *Scaffold) ownStatic(own *bytes.Buffer, path, template, by string) {
	if strings.ContainsAny(path, "<>{}\"'\\%?#*|") || routes.FormsOf(path) != 0 || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r > 0x7e }) {
		s.note("%s: %q is no path for a route table: write it by hand, with own: true", by, path)
		return
	}
	paths := []string{path}
	if strings.HasSuffix(path, "/") {
		paths = nil
		for _, p := range probes {
			paths = append(paths, path+p)
		}
	}
	for _, p := range paths {
		for _, method := range []string{"GET", "POST"} {
			if m := s.table.Match(method, "", p); m.Outcome != routes.NotFound {
				taker := "a route of the application"
				if m.Route != nil {
					taker = m.Route.Template
				}
				s.note("%s: %s takes requests for %s as well, so its rule decides about them", by, taker, path)
				return
			}
		}
	}
	methods := "GET, HEAD"
	if f := s.table.Framework(); f == routes.Flask || f == routes.Starlette {
		methods = "GET"
	}
	if s.table.Framework() == routes.Flask {
		fmt.Fprintf(own, "  - route: %s %s\n    name: static files\n    automatic_options: false\n    own: true\n", methods, template)
	} else {
		fmt.Fprintf(own, "  - route: %s %s\n    name: static files\n    own: true\n", methods, template)
	}
	s.static[template] = by
}

// openTo says why everybody may use a method of a route, "" where nobody may yet.
func (s *Scaffold) openTo(method string, r *routes.Route) string {
	if method != "GET" && method != "HEAD" {
		return ""
	}
	return s.static[r.Template]
}
