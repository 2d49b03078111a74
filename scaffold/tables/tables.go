// Package tables writes imported route tables, or what they would change, and the rules that their routes lack. Behind `gatehouse routes
// import`. It may import scaffold, routes, and trial/node, which tries table and rules together before either is written.
package tables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/routes"
	"gatehouse/scaffold"
	"gatehouse/terminal"
	"gatehouse/trial/node"
)

// DriftError is the answer of Check where a file is not what the application has.
type DriftError struct{ error }

// Destination is where an imported table goes.
type Destination struct {
	File         string // - is w of Deliver
	Check, Force bool   // compare only; write although there is a file
	Stubs        bool   // also the rules that are missing
	Config       string // with Stubs: the configuration that the table belongs to
}

// Deliver writes the table, or the drift where there is one already.
func (d Destination) Deliver(ctx context.Context, table *routes.Table, w, messages io.Writer) error {
	readBack, _, err := routes.Parse(d.File, table.YAML())
	if err != nil {
		return fmt.Errorf("the imported table cannot be read back, and is not written: %w\nthis is a bug in Gatehouse: please report it with the application's routes", err)
	}
	if d.File == "-" {
		_, err := w.Write(table.YAML())
		return err
	}
	text, err := config.ReadUpTo(d.File, edge.MaxRoutes)
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.Check:
		return fmt.Errorf("%s is not there to be compared\nwithout --check it is written", d.File)
	case errors.Is(err, fs.ErrNotExist):
		return d.write(ctx, table.YAML(), readBack, len(table.Routes()), messages)
	case err != nil:
		return fmt.Errorf("reading the route table: %w", err)
	}
	old, _, err := routes.Parse(d.File, text)
	if err != nil {
		if d.Force {
			err = fmt.Errorf("%w\n--force keeps what is yours in the file, so it must be readable: correct it, or remove it", err)
		}
		return err
	}
	changes := routes.Diff(old, table)
	for _, change := range changes {
		fmt.Fprintln(w, change)
	}
	switch {
	case len(changes) == 0 && d.Stubs:
		return d.write(ctx, text, old, len(old.Routes()), messages)
	case len(changes) == 0:
		fmt.Fprintf(messages, "%s is up to date: %d routes\n", d.File, len(old.Routes()))
		return nil
	case d.Check:
		return DriftError{fmt.Errorf("%s is not up to date: %s\nimport again with --force to write it", d.File, terminal.Count(len(changes), "change"))}
	case !d.Force && !d.Stubs:
		fmt.Fprintf(messages, "%s is as it was: --force writes %s, and keeps your tags, allow, mount and comments\n", d.File, terminal.Count(len(changes), "change"))
		return nil
	}
	merged, readBack, err := routes.Merge(text, table)
	if err != nil {
		return fmt.Errorf("writing %s: %w", d.File, err)
	}
	return d.write(ctx, merged, readBack, len(table.Routes()), messages)
}

// write writes a table that was read back, and says how many routes the application has.
func (d Destination) write(ctx context.Context, text []byte, readBack *routes.Table, count int, messages io.Writer) error {
	if d.Stubs {
		policy, err := findStubbed(d.Config, d.File)
		if err != nil {
			return err
		}
		if err := policy.add(ctx, readBack, text, messages); err != nil {
			return err
		}
	}
	if err := scaffold.ReplaceFile(d.File, text); err != nil {
		return fmt.Errorf("writing the route table: %w", err)
	}
	fmt.Fprintf(messages, "wrote %s: %d routes\n", d.File, count)
	return nil
}

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
		s.app = edge.Apps(cfg)[i]
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

// add writes a file for each route of the table that has no rule yet, in the way of `gatehouse init`. text is the table's. It touches no
// file that is there. Rules and table are tried together before.
func (s *stubbed) add(ctx context.Context, table *routes.Table, text []byte, messages io.Writer) error {
	made, err := s.missing(ctx, table)
	if err != nil {
		return err
	}
	dir := s.cfg.Policy.Bundles[s.bundle].Path
	err = scaffold.WriteStubs(ctx, dir, made, text, func(table, policy string) error {
		return node.Try(ctx, s.src, func(c *config.Config) {
			*s.routes(c), c.Policy.Bundles[s.bundle].Path = table, policy
		})
	})
	if err != nil {
		return err
	}
	for _, f := range made {
		fmt.Fprintf(messages, "wrote %s\n", filepath.Join(dir, filepath.FromSlash(f.Path)))
	}
	if len(made) == 0 {
		fmt.Fprintln(messages, "every route has a rule")
	}
	return nil
}

// missing makes the stubs.
func (s *stubbed) missing(ctx context.Context, table *routes.Table) ([]scaffold.File, error) {
	t, err := node.New(ctx, s.src, nil, func(c *config.Config) {
		for i := range c.Apps { // the old table need not fit
			c.Apps[i].Policy.StrictRoutes = false
		}
		c.Policy.StrictRoutes = false
	}, func(string) {})
	if err != nil {
		return nil, fmt.Errorf("--stubs: the policy has to run first: %w", err)
	}
	defer t.Close()
	if conflicts := table.RuleConflicts(s.app.Root, "allowed"); len(conflicts) > 0 {
		return nil, fmt.Errorf("--stubs: %s", conflicts[0])
	}
	return scaffold.Stubs(ctx, table, s.app.Root, t.Static.Policy, s.cfg.Policy.Bundles[s.bundle].Path)
}
