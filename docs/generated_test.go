package docs

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Two pages are made of what the code says: make docs writes them, and the tests hold them to it.

// TestMetricsPage holds that metrics.md lists the metrics that the code registers.
func TestMetricsPage(t *testing.T) { current(t, "metrics.md", metricsPage(sources(t))) }

// TestEventsPage holds that events.md lists what the process logs.
func TestEventsPage(t *testing.T) { current(t, "events.md", eventsPage(sources(t))) }

// current compares a page with what it should be, or writes it where WRITE_DOCS is set.
func current(t *testing.T, name, want string) {
	t.Helper()
	if os.Getenv("WRITE_DOCS") != "" {
		fail(t, os.WriteFile(name, []byte(want), 0o600))
		return
	}
	got, err := os.ReadFile(name)
	if err != nil || string(got) != want {
		t.Errorf("docs/%s is not what the code says: make docs (%v)", name, err)
	}
}

// source is a file of Go, below the checkout.
type source struct {
	name string
	*ast.File
}

// sources are the files that the program is made of: no tests, no tools, nothing generated.
func sources(t *testing.T) (all []source) {
	t.Helper()
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && name != "." || slices.Contains([]string{"hack", "testdata", "examples", "bin", "dist", "site"}, entry.Name()) || name == "k8s/test"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go"):
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		all = append(all, source{name, file})
		return err
	})
	fail(t, err)
	return all
}

type metric struct{ name, kind, labels, help string }

func metricsPage(files []source) string {
	var all []metric
	for _, file := range files {
		all = append(all, descriptions(file)...)
		ast.Inspect(file.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			opts, ok := call.Args[0].(*ast.CompositeLit)
			if !ok || !strings.HasSuffix(called(opts.Type), "Opts") {
				return true
			}
			m := metric{kind: strings.ToLower(strings.TrimSuffix(called(opts.Type), "Opts"))}
			for _, e := range opts.Elts {
				if pair, ok := e.(*ast.KeyValueExpr); ok {
					switch fmt.Sprint(pair.Key) {
					case "Name":
						m.name = text(pair.Value)
					case "Help":
						m.help = text(pair.Value)
					}
				}
			}
			if len(call.Args) > 1 {
				m.labels = list(call.Args[1])
			}
			if strings.HasPrefix(m.name, "gatehouse_") && !strings.HasSuffix(m.name, "...") {
				all = append(all, m)
			}
			return true
		})
	}
	slices.SortFunc(all, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	all = slices.Compact(all)
	var page strings.Builder
	page.WriteString(`# Metrics

<!-- Generated from the code by: make docs. -->

At ` + "`/metrics` of `listen.admin`" + `, in Prometheus' format. Names and labels are closed lists: none grows with callers, paths or tokens. The names in brackets are labels.
Metrics of a part that is not configured are not there. Alerts on them are in packaging/prometheus/rules.yaml, each with a section of the [runbook](runbook.md); a dashboard is in
packaging/grafana.
`)
	area := ""
	for _, m := range all {
		if a := strings.Split(m.name, "_")[1]; a != area {
			area = a
			fmt.Fprintf(&page, "\n## %s\n\n", area)
		}
		labels := ""
		if m.labels != "" {
			labels = "{" + m.labels + "}"
		}
		fmt.Fprintf(&page, "- `%s%s`, %s: %s\n", m.name, labels, m.kind, m.help)
	}
	return page.String()
}

// descriptions are the metrics that are made by prometheus.NewDesc: in place, or in a function that gets the last part of the name.
func descriptions(file source) (all []metric) {
	type maker struct{ prefix, labels, kind string }
	makers := map[string]maker{}
	ast.Inspect(file.File, func(n ast.Node) bool {
		var name string
		var body *ast.BlockStmt
		switch f := n.(type) {
		case *ast.FuncDecl:
			name, body = f.Name.Name, f.Body
		case *ast.AssignStmt:
			if literal, ok := f.Rhs[0].(*ast.FuncLit); ok {
				name, body = fmt.Sprint(f.Lhs[0]), literal.Body
			}
		}
		if body == nil {
			return true
		}
		ast.Inspect(body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 || makers[name] != (maker{}) {
				return true
			}
			opts, _ := call.Args[0].(*ast.CompositeLit)
			switch {
			case called(call.Fun) == "NewDesc" && text(call.Args[1]) == "":
				makers[name] = maker{strings.TrimSuffix(text(call.Args[0]), "..."), list(call.Args[2]), ""}
			case opts != nil && strings.HasSuffix(called(opts.Type), "Opts"):
				by := maker{kind: strings.ToLower(strings.TrimSuffix(called(opts.Type), "Opts"))}
				for _, e := range opts.Elts {
					if pair, ok := e.(*ast.KeyValueExpr); ok && fmt.Sprint(pair.Key) == "Name" {
						if _, whole := pair.Value.(*ast.Ident); !whole {
							if by.prefix, ok = strings.CutSuffix(text(pair.Value), "..."); !ok {
								return true
							}
						}
					}
				}
				if len(call.Args) > 1 {
					by.labels = list(call.Args[1])
				}
				makers[name] = by
			}
			return true
		})
		return true
	})
	ast.Inspect(file.File, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 2 || text(call.Args[0]) == "" || text(call.Args[1]) == "" {
			return true
		}
		m := metric{name: text(call.Args[0]), help: text(call.Args[1]), kind: "gauge"}
		if by, ok := makers[called(call.Fun)]; ok {
			m.name, m.labels, m.kind = by.prefix+m.name, by.labels, cmp.Or(by.kind, m.kind)
		} else if called(call.Fun) == "NewDesc" {
			m.labels = list(call.Args[2])
		} else {
			return true
		}
		switch {
		case strings.HasSuffix(m.name, "_total"):
			m.kind = "counter"
		case called(call.Fun) == "newLatencies":
			m.kind = "histogram"
		}
		if strings.HasPrefix(m.name, "gatehouse_") {
			all = append(all, m)
		}
		return true
	})
	return all
}

type event struct{ level, message, fields, where string }

func eventsPage(files []source) string {
	var all []event
	for _, file := range files {
		ast.Inspect(file.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			level := slices.Index([]string{"Error", "Warn", "Info"}, called(call.Fun))
			message := text(call.Args[0])
			if !ok || level < 0 || message == "" || strings.HasSuffix(message, "%") || fmt.Sprint(selector.X) == "slog" {
				return true
			}
			var fields []string
			for _, a := range call.Args[1:] {
				field, ok := a.(*ast.CallExpr)
				if !ok {
					continue
				}
				from, ok := field.Fun.(*ast.SelectorExpr)
				if !ok || fmt.Sprint(from.X) != "zap" {
					continue
				}
				name := "error"
				if from.Sel.Name != "Error" && len(field.Args) > 0 {
					name = text(field.Args[0])
				}
				if name != "" {
					fields = append(fields, name)
				}
			}
			all = append(all, event{[]string{"error", "warn", "info"}[level], message, strings.Join(fields, ", "), path.Dir(file.name)})
			return true
		})
	}
	slices.SortFunc(all, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.message, b.message), cmp.Compare(a.where, b.where), cmp.Compare(a.fields, b.fields))
	})
	all = slices.CompactFunc(all, func(a, b event) bool { return a.level == b.level && a.message == b.message })
	var page strings.Builder
	page.WriteString(`# Events: the operators' log

<!-- Generated from the code by: make docs. -->

What a process says on standard error: one line each, JSON or for people (` + "`log.format`" + `), from ` + "`log.level`" + ` on. ` + "`msg`" + ` is what stands here, and the names in brackets are further keys.
A message that repeats is said at most 50 times a second, and then every hundredth time. Decisions are not here: they are in the [decision log](decisionlog.md).
Denials have the message "denied" with their reason, at the level that [the gate](reasons.md) gives it; ` + "`log.level: debug`" + ` shows the usual ones too.
`)
	for _, level := range []string{"error", "warn", "info"} {
		meaning := map[string]string{"error": "somebody should look", "warn": "it goes on, and something is not as it should be", "info": "what happened"}[level]
		fmt.Fprintf(&page, "\n## %s: %s\n\n", level, meaning)
		for _, e := range all {
			if e.level != level {
				continue
			}
			fields := ""
			if e.fields != "" {
				fields = " (" + e.fields + ")"
			}
			fmt.Fprintf(&page, "- %s%s\n", e.message, fields)
		}
	}
	return page.String()
}

// called is the name of the function, or of the type, without its package.
func called(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// text is a constant text, also one that is joined with plus, where ... stands for what is no constant.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return cmp.Or(text(e.X), "...") + cmp.Or(text(e.Y), "...")
	}
	return ""
}

// list are the texts of []string{...}.
func list(e ast.Expr) string {
	var all []string
	if literal, ok := e.(*ast.CompositeLit); ok {
		for _, e := range literal.Elts {
			all = append(all, text(e))
		}
	}
	return strings.Join(all, ", ")
}
