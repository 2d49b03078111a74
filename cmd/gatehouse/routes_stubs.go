package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/routes"
)

// stubbed is where `routes import --stubs` adds rules: the application of a configuration whose table is imported, and the folder of
// its policy.
type stubbed struct {
	src    config.Source
	cfg    *config.Config
	app    gate.App
	bundle int // of cfg.Policy.Bundles
	routes func(*config.Config) *string
}

// findStubbed reads the configuration that the table belongs to.
func findStubbed(file, table string) (*stubbed, error) {
	if file == "" {
		file = filepath.Join(filepath.Dir(table), "gatehouse.yaml")
	}
	src := config.Source{File: file}
	cfg, doc, err := src.Read()
	if err != nil {
		return nil, fmt.Errorf("--stubs: %w\n--config names the configuration that the routes belong to", err)
	}
	if len(doc.Errs) > 0 {
		return nil, fmt.Errorf("--stubs: %w", errors.Join(doc.Errs...))
	}
	s := &stubbed{src: src, cfg: cfg, bundle: -1}
	for i, app := range cfg.Applications() {
		if !sameFile(app.Routes.File, table) {
			continue
		}
		s.app = gateApps(cfg)[i]
		s.routes = func(c *config.Config) *string { return &c.Routes.File }
		if len(cfg.Apps) > 0 {
			s.routes = func(c *config.Config) *string { return &c.Apps[i].Routes.File }
		}
	}
	switch {
	case s.routes == nil:
		return nil, fmt.Errorf("--stubs: %s has no routes.file that is %s\n--config names the configuration that the routes belong to", file, table)
	case len(s.app.Root) == 0:
		return nil, fmt.Errorf("--stubs: %s has one decision for all routes, and no rule for each (policy.root)\nsay who may use a new route where the others are, such as in data.json", file)
	}
	for i, b := range cfg.Policy.Bundles {
		if info, err := os.Stat(b.Path); b.Path != "" && err == nil && info.IsDir() {
			s.bundle = i
			break
		}
	}
	if s.bundle < 0 {
		return nil, fmt.Errorf("--stubs: no bundle of %s is a folder here, so there is nowhere to write rules to", file)
	}
	return s, nil
}

func sameFile(a, b string) bool {
	x, errX := filepath.Abs(a)
	y, errY := filepath.Abs(b)
	return errX == nil && errY == nil && x == y
}

// add writes a file for each route of the table that has no rule yet, in the way of `gatehouse init`, and then the table. It touches
// no file that is there. Both were tried together before.
func (s *stubbed) add(ctx context.Context, file string, text []byte, messages io.Writer) error {
	table, _, err := routes.Parse(file, text)
	if err != nil {
		return err
	}
	dir := s.cfg.Policy.Bundles[s.bundle].Path
	made, err := s.missing(ctx, table, dir)
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp("", "gatehouse-stubs-*")
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	defer os.RemoveAll(stage)
	if _, err := copyPolicy(stage, dir); err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	for _, f := range made {
		if err := writeBelow(filepath.Join(stage, filepath.FromSlash(f.path)), f.text); err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	staged, err := os.CreateTemp("", "gatehouse-routes-*.yaml")
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	defer os.Remove(staged.Name())
	if _, err := staged.Write(text); err != nil {
		return fmt.Errorf("nothing was written: %w", errors.Join(err, staged.Close()))
	}
	if err := staged.Close(); err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	err = tryConfiguration(ctx, s.src, func(c *config.Config) {
		*s.routes(c), c.Policy.Bundles[s.bundle].Path = staged.Name(), stage
	})
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return fmt.Errorf("nothing was written, because the policy and the new routes do not run together: %w", err)
	}
	if _, err := replaceAll(dir, made, nil); err != nil { // the rules first: a table with a route that has none may be refused
		return err
	}
	for _, f := range made {
		fmt.Fprintf(messages, "wrote %s\n", filepath.Join(dir, filepath.FromSlash(f.path)))
	}
	if len(made) == 0 {
		fmt.Fprintln(messages, "every route has a rule")
	}
	return nil
}

// missing makes the stubs.
func (s *stubbed) missing(ctx context.Context, table *routes.Table, dir string) ([]scaffoldFile, error) {
	t, err := newTrial(ctx, s.src, nil, func(c *config.Config) {
		for i := range c.Apps { // the old table need not fit
			c.Apps[i].Policy.StrictRoutes = false
		}
		c.Policy.StrictRoutes = false
	}, io.Discard)
	if err != nil {
		return nil, fmt.Errorf("--stubs: the policy has to run first: %w", err)
	}
	defer t.close()
	snapshot := t.engine.policy
	defined := snapshot.Defined()
	shared := map[string]bool{} // packages that have a rule for each method
	prefix := strings.Join(append(slices.Clone(s.app.Root), "ANY"), policy.PathSeparator) + policy.PathSeparator
	for key := range defined {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			shared[rest[:max(0, strings.LastIndex(rest, policy.PathSeparator))]] = true
		}
	}
	var failed error
	wanted := func(r *routes.Route, method string) bool {
		candidates, err := gate.RuleCandidates(s.app.Root, method, r.Template, r.Methods == nil || slices.Contains(r.Methods, "GET"))
		failed = errors.Join(failed, err)
		for i, path := range candidates {
			if defined[strings.Join(path, policy.PathSeparator)] {
				return false
			}
			if entry, err := snapshot.Entry(path); i == 0 && err == nil && entry != nil { // data, not a rule
				return false
			}
		}
		return true
	}
	made := &scaffold{ctx: ctx, table: table, perRoute: true, name: rootPlaceholder, front: whereOf(table), static: map[string]string{}}
	if conflicts := table.RuleConflicts(s.app.Root, "allowed"); len(conflicts) > 0 {
		return nil, fmt.Errorf("--stubs: %s", conflicts[0])
	}
	rules, err := made.routeRules(wanted, shared)
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	for _, r := range rules {
		r.path = append(slices.Clone(s.app.Root), r.path[1:]...)
	}
	taken, err := filesBelow(dir)
	if err != nil {
		return nil, err
	}
	made.rootTerms = len(s.app.Root)
	if err := made.stubsBeside(rules, taken); err != nil {
		return nil, err
	}
	for i := range made.files { // relative to the policy's folder
		made.files[i].path = strings.TrimPrefix(made.files[i].path, "policy/")
	}
	return made.files, nil
}

// rootPlaceholder stands for the root while rules are planned; it may have several terms.
const rootPlaceholder = "root"

// filesBelow are the names in a policy's folder, as ruleFile compares them.
func filesBelow(dir string) (map[string]bool, error) {
	taken := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		name := strings.TrimSuffix(filepath.ToSlash(rel), ".rego")
		taken["policy/"+strings.ToLower(name)] = true
		return err
	})
	return taken, err
}
