package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gatehouse/config"
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

// tryConfiguration starts what a configuration says, off to the side, and holds it against its tests.
func tryConfiguration(ctx context.Context, src config.Source, adjust func(*config.Config), tables ...string) error {
	t, err := newTrial(ctx, src, nil, adjust, io.Discard)
	if err != nil {
		return err
	}
	defer t.close()
	var outcomes []trial.Outcome
	if hasRegoTests(t.config) {
		if outcomes, err = t.regoTests(ctx, regexp.MustCompile("")); err != nil {
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
