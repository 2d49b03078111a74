package scaffold

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/routes"
)

// Stubs makes a file for each route of a table that has no rule yet, beside the files of the policy's folder. root is where the rules are,
// below data; the table must have no RuleConflicts there.
func Stubs(ctx context.Context, table *routes.Table, root []string, snapshot *policy.Snapshot, dir string) ([]File, error) {
	defined := snapshot.Defined()
	shared := map[string]bool{} // packages that have a rule for each method
	prefix := strings.Join(append(slices.Clone(root), "ANY"), policy.PathSeparator) + policy.PathSeparator
	for key := range defined {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			shared[rest[:max(0, strings.LastIndex(rest, policy.PathSeparator))]] = true
		}
	}
	var failed error
	wanted := func(r *routes.Route, method string) bool {
		candidates, err := gate.RuleCandidates(root, method, r.Template, r.Methods == nil || slices.Contains(r.Methods, "GET"))
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
	made := &Scaffold{ctx: ctx, table: table, perRoute: true, name: rootPlaceholder, front: whereOf(table), static: map[string]string{}}
	rules, err := made.routeRules(wanted, shared)
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	for _, r := range rules {
		r.path = append(slices.Clone(root), r.path[1:]...)
	}
	taken, err := filesBelow(dir)
	if err != nil {
		return nil, err
	}
	made.rootTerms = len(root)
	if err := made.stubsBeside(rules, taken); err != nil {
		return nil, err
	}
	for i := range made.files { // relative to the policy's folder
		made.files[i].Path = strings.TrimPrefix(made.files[i].Path, "policy/")
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

// WriteStubs writes what Stubs made into the policy's folder. Before that try is given copies of the folder with them and of the table, whose
// text is given: where that fails, nothing is written.
func WriteStubs(ctx context.Context, dir string, made []File, table []byte, try func(table, policy string) error) error {
	stage, err := os.MkdirTemp("", "gatehouse-stubs-*")
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	defer os.RemoveAll(stage)
	if _, err := copyPolicy(stage, dir); err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	for _, f := range made {
		if err := writeBelow(filepath.Join(stage, filepath.FromSlash(f.Path)), f.Text); err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	staged, err := os.CreateTemp("", "gatehouse-routes-*.yaml")
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	defer os.Remove(staged.Name())
	_, err = staged.Write(table)
	if err := errors.Join(err, staged.Close()); err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	err = try(staged.Name(), stage)
	if ctx.Err() != nil {
		return ErrInterrupted
	}
	if err != nil {
		return fmt.Errorf("nothing was written, because the policy and the new routes do not run together: %w", err)
	}
	_, err = replaceAll(dir, made, nil) // the rules first: a table with a route that has none may be refused
	return err
}
