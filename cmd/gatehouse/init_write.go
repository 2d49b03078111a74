package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gatehouse/config"
)

var errInterrupted = errors.New("interrupted: nothing was written")

// scaffoldFile is one that is to be written, relative to the output directory.
type scaffoldFile struct {
	path string // with slashes
	text []byte
}

// write writes all the files, or none: not where one is there already and force is not set, not where what was made does not run,
// and not where the command was interrupted. What it overwrites is kept; it returns where, "" where nothing was overwritten.
func (s *scaffold) write(dir string, force bool) (backup string, err error) {
	var taken []string
	for _, f := range s.files {
		path := filepath.Join(dir, filepath.FromSlash(f.path))
		switch _, err := os.Lstat(path); {
		case err == nil && f.path == ".gatehouse/.gitignore": // always the same
		case err == nil:
			taken = append(taken, path)
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("nothing was written: %w", err)
		}
	}
	if len(taken) > 0 && !force {
		return "", fmt.Errorf("nothing was written, because these are there already:\n  %s\n--force overwrites them, --out names another directory",
			strings.Join(taken, "\n  "))
	}
	var stale []string
	if force {
		if stale, err = s.staleStubs(dir); err != nil {
			return "", fmt.Errorf("nothing was written: %w", err)
		}
	}
	if err := s.verify(dir, stale); err != nil {
		return "", err
	}
	if s.ctx.Err() != nil {
		return "", errInterrupted
	}
	return replaceAll(dir, s.files, stale)
}

// staleStubs are the rules in folders of methods, such as policy/GET, that the new policy does not have: an earlier init wrote them,
// and they would go before rules for a prefix. They are relative to dir.
func (s *scaffold) staleStubs(dir string) (stale []string, err error) {
	made := map[string]bool{}
	for _, f := range s.files {
		made[f.path] = true
	}
	folders, err := filepath.Glob(filepath.Join(dir, "policy", "[A-Z]*"))
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if !methodName.MatchString(filepath.Base(folder)) {
			continue
		}
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".rego" {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if rel = filepath.ToSlash(rel); err == nil && !made[rel] {
				stale = append(stale, rel)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return stale, nil
}

// replaceAll writes files below dir, takes away others, and keeps what was there under .gatehouse. After an error it takes back what it wrote.
func replaceAll(dir string, files []scaffoldFile, gone []string) (backup string, err error) {
	kept := filepath.Join(dir, ".gatehouse", "backup-"+time.Now().UTC().Format("20060102T150405.000Z"))
	var undo []func()
	defer func() {
		for i := len(undo) - 1; i >= 0 && err != nil; i-- {
			undo[i]()
		}
	}()
	for _, name := range gone {
		path := filepath.Join(dir, filepath.FromSlash(name))
		old, err := os.ReadFile(path)
		if err == nil {
			err = writeBelow(filepath.Join(kept, filepath.FromSlash(name)), old)
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return "", fmt.Errorf("keeping %s: %w", path, err)
		}
		backup = kept
		undo = append(undo, func() { _ = writeBelow(path, old) })
	}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.path))
		old, readErr := os.ReadFile(path)
		switch {
		case readErr == nil && bytes.Equal(old, f.text):
			continue
		case readErr == nil:
			if err := writeBelow(filepath.Join(kept, filepath.FromSlash(f.path)), old); err != nil {
				return "", fmt.Errorf("keeping %s: %w", path, err)
			}
			backup = kept
			undo = append(undo, func() { _ = replaceFile(path, old) })
		case errors.Is(readErr, fs.ErrNotExist):
			undo = append(undo, func() { _ = os.Remove(path) })
		default:
			return "", fmt.Errorf("keeping %s: %w", path, readErr)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", fmt.Errorf("writing %s: %w", path, err)
		}
		if err := replaceFile(path, f.text); err != nil {
			return "", fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return backup, nil
}

func writeBelow(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// verify reads back what was made, beside what is in the policy's folder already, and runs its tests.
func (s *scaffold) verify(dir string, stale []string) error {
	stage, err := os.MkdirTemp("", "gatehouse-init-*")
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	defer os.RemoveAll(stage)
	others, err := copyPolicy(filepath.Join(stage, "policy"), filepath.Join(dir, "policy"))
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	for _, name := range stale {
		if err := os.Remove(filepath.Join(stage, filepath.FromSlash(name))); err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	for _, f := range s.files {
		if err := writeBelow(filepath.Join(stage, filepath.FromSlash(f.path)), f.text); err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	err = tryConfiguration(s.ctx, config.Source{File: filepath.Join(stage, "gatehouse.yaml")}, func(*config.Config) {}, filepath.Join(stage, "tests.yaml"))
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), stage+string(filepath.Separator), "")
	if s.ctx.Err() != nil {
		return errInterrupted
	}
	if others {
		return fmt.Errorf("nothing was written, because it does not run with what is in %s already: %s\nmove that away, or name another directory with --out", filepath.Join(dir, "policy"), text)
	}
	return fmt.Errorf("nothing was written, because what was made does not run: %s\n--rules rbac, or --rules per-route, is another way", text)
}

// copyPolicy copies the files of a policy and says whether there are any.
func copyPolicy(to, from string) (found bool, err error) {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		text, err := config.ReadUpTo(path, maxTry)
		if err != nil {
			return err
		}
		found = true
		return writeBelow(filepath.Join(to, rel), text)
	})
	return found, err
}

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
	var outcomes []outcome
	if hasRegoTests(t.config) {
		if outcomes, err = t.regoTests(ctx, regexp.MustCompile("")); err != nil {
			return err
		}
	}
	var tests []*requestTest
	if len(tables) > 0 {
		if tests, err = readTestFiles(tables, true, io.Discard); err != nil {
			return err
		}
	}
	for _, test := range tests {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		outcomes = append(outcomes, t.requestTest(ctx, test, &coverage{}))
	}
	for _, o := range outcomes {
		if o.failed {
			return fmt.Errorf("%s: %s: %s", o.place, o.name, strings.Join(o.details, "; "))
		}
	}
	return nil
}
