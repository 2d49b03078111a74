package node

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gatehouse/bundles"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/trial"
)

// hasRegoTests says whether a policy of folders has tests of its own: looking for them costs as much as compiling it.
func hasRegoTests(cfg *config.Config) bool {
	found := false
	for _, b := range cfg.Policy.Bundles {
		info, err := os.Stat(b.Path)
		if err != nil || !info.IsDir() {
			return true
		}
		_ = filepath.WalkDir(b.Path, func(path string, _ fs.DirEntry, err error) error {
			found = found || err != nil || strings.HasSuffix(path, "_test.rego")
			return nil
		})
	}
	return found
}

// Try starts what a configuration says, off to the side, and holds it against its tests.
func Try(ctx context.Context, src config.Source, adjust func(*config.Config), tables ...string) error {
	t, err := New(ctx, src, nil, adjust, func(string) {})
	if err != nil {
		return err
	}
	defer t.Close()
	var outcomes []trial.Outcome
	if hasRegoTests(t.Config) {
		if outcomes, err = t.RegoTests(ctx, regexp.MustCompile("")); err != nil {
			return err
		}
	}
	var tests []*trial.Test
	if len(tables) > 0 {
		if tests, _, err = trial.ReadFiles(tables, true); err != nil {
			return err
		}
	}
	for _, test := range tests {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		outcomes = append(outcomes, t.Run(ctx, test, &trial.Coverage{}))
	}
	for _, o := range outcomes {
		if o.Failed {
			return fmt.Errorf("%s: %s: %s", o.Place, o.Name, strings.Join(o.Details, "; "))
		}
	}
	return nil
}

// RegoTests runs the bundles' own tests.
func (t *Node) RegoTests(ctx context.Context, match *regexp.Regexp) ([]trial.Outcome, error) {
	var sources []bundles.Source
	for _, b := range t.Config.Policy.Bundles {
		sources = append(sources, bundles.Source{Name: b.Name, Path: b.Path})
	}
	return trial.RegoTests(ctx, edge.BundlesConfig(t.Config, nil, nil, nil).Policy, sources, match)
}

// BundlePaths are where the policy comes from.
func (t *Node) BundlePaths() string {
	var paths []string
	for _, b := range t.Config.Policy.Bundles {
		paths = append(paths, b.Path)
	}
	return strings.Join(paths, ", ")
}
