package scaffold

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"gatehouse/project"
	"gatehouse/routes"
	"gatehouse/terminal"
)

// Summary says what was written to a folder, what was taken for granted, and what to do next. app is nil for what is no Python application.
func (s *Contents) Summary(w io.Writer, dir string, app *project.Project) {
	in := func(name string) string { return filepath.ToSlash(filepath.Join(dir, name)) }
	fmt.Fprintf(w, "wrote %s for %s:\n\n", terminal.Count(s.Files, "file"), s.Name)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, what string) { fmt.Fprintf(columns, "  %s\t%s\n", in(name), what) }
	row("routes.yaml", terminal.Count(len(s.Table.Routes()), "route")+", as "+s.Table.Framework()+" matches them")
	if s.PerRoute {
		what := ", one for each route and method; all deny"
		if s.Static {
			what += " but those of static files"
		}
		row("policy", terminal.Count(s.Rules, "rule")+what)
	} else {
		row("policy/data.json", "who may what: "+s.AdminRole+" everything, no one else anything")
		row("policy/"+s.Name+".rego", "the rule that reads it")
	}
	if s.Directory {
		row("directory", "users by the sub of their tokens, with groups and roles; ann@example.com is made up")
	} else {
		row("directory", "was there, and is as it was")
	}
	row("tests.yaml", terminal.Count(s.Tests, "request")+" and what is to become of them")
	row("gatehouse.yaml", "runs as it is; callers are anonymous until identity is set")
	row("envoy.yaml", "runs as it is: clients on port 8080, the application on port 8000")
	_ = columns.Flush() // as every other line here, to a terminal
	s.assumed(w, app)
	s.next(w, in)
}

// assumed says what was found and not asked for, with what changes it.
func (s *Contents) assumed(w io.Writer, app *project.Project) {
	if app == nil {
		return
	}
	all := slices.Clone(app.Assumed)
	add := func(text, change string) { all = append(all, project.Assumption{Text: text, Change: change}) }
	if s.CORS != "" {
		add("CORS         answered by "+s.CORS+", so preflights are not put to the policy", "bypass in gatehouse.yaml")
	}
	for _, r := range s.Table.Routes() {
		if slices.Contains(r.Methods, routes.WebSocket) {
			add("websockets   let through, as for "+r.Template, "upgrade_configs in envoy.yaml")
			break
		}
	}
	if s.Static {
		add("static files open to everybody", "their rules in policy")
	}
	t := app.Traits()
	if t.Uploads != "" {
		add("uploads      pass whole, policies see the first 64 KiB ("+t.Uploads+")", "with_request_body in envoy.yaml")
	}
	if t.Streams != "" {
		add("streams      end where nothing is sent for 5 minutes ("+t.Streams+")", "stream_idle_timeout in envoy.yaml")
	}
	if len(all) == 0 {
		return
	}
	fmt.Fprint(w, "\nAssumed, and what changes it:\n\n")
	for _, a := range all {
		fmt.Fprintf(w, "  %s\n               %s\n", terminal.Visible(a.Text), terminal.Visible(a.Change))
	}
}

// next leads to a first allow.
func (s *Contents) next(w io.Writer, in func(string) string) {
	config := " --config " + terminal.ShellWord(in("gatehouse.yaml"))
	if in("") == "." {
		config = "" // the default
	}
	fmt.Fprintf(w, "\nNext:\n\n  gatehouse test%s\n", config)
	if s.Table.Framework() == routes.OpenAPI {
		fmt.Fprintf(w, "  gatehouse up%s -- YOUR SERVER --port {port}   # it, Gatehouse and Envoy, for development\n", config)
	} else {
		fmt.Fprintf(w, "  gatehouse up%s   # the application, Gatehouse and Envoy, for development\n", config)
	}
	fmt.Fprintf(w, "  gatehouse serve --config %s   # in production, beside: envoy -c %s\n", terminal.ShellWord(in("gatehouse.yaml")), terminal.ShellWord(in("envoy.yaml")))
	if s.Example == nil {
		return
	}
	fmt.Fprintf(w, "  $EDITOR %s\n\n", terminal.ShellWord(in(s.Example.File)))
	edit := fmt.Sprintf(`take the # off "%s := true"`, s.Example.Rule)
	if !s.PerRoute {
		edit = fmt.Sprintf("put %q into anyone", s.Example.Route)
	}
	fmt.Fprintf(w, "There %s, save, and it is in force:\n\n", edit)
	fmt.Fprintf(w, "  gatehouse check%s %s %s\n", config, s.Example.Method, terminal.ShellWord(s.Example.Path))
	fmt.Fprintf(w, "  curl -i -X %s %s\n", s.Example.Method, terminal.ShellWord("http://127.0.0.1:8080"+s.Example.Path))
	if !s.Directory {
		return
	}
	fmt.Fprintf(w, "\nThen let a role in. Who brings a token with the sub ann@example.com is that user of %s, and ", in("directory/directory.yaml"))
	if s.PerRoute {
		fmt.Fprintf(w, "a viewer:\n\n  %s if \"viewer\" in input.user.roles\n", s.Example.Rule)
	} else {
		fmt.Fprintf(w, "%s\nonce the # is off that line:\n\n  - role:%s#member@group:staff#member\n", s.AdminRole, s.AdminRole)
	}
	fmt.Fprintf(w, "  gatehouse check%s %s %s --as ann@example.com\n", config, s.Example.Method, terminal.ShellWord(s.Example.Path))
}

// ManyRoutes is from where on a file for each route is too much to keep.
const ManyRoutes = 50

// SuggestFewerFiles says what is easier to keep where there are many files. command is the one that made them.
func (s *Contents) SuggestFewerFiles(w io.Writer, command string) {
	if s.PerRoute && s.StubFiles > ManyRoutes {
		fmt.Fprintf(w, "%d files of rules are many to keep. One table of roles and routes has them all:\n  %s --rules rbac --force\n"+
			"or one rule for all routes below a path, as often as needed:\n  %s --prefix /admin/ --force\n", s.StubFiles, command, command)
	}
}
