package scaffold

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"gatehouse/watch"
)

// ErrInterrupted is the error of work whose context has ended. Nothing was written.
var ErrInterrupted = errors.New("interrupted: nothing was written")

// Write writes all the files, or none: not where one is there already and force is not set, not where what was made does not run,
// and not where the command was interrupted. A directory that is there is kept as it is. What it overwrites is kept; it returns where, "" where nothing was overwritten.
func (s *Scaffold) Write(dir string, force bool) (backup string, err error) {
	if _, err := os.Stat(filepath.Join(dir, directoryFolder)); err == nil {
		s.hasDirectory = true
		s.files = slices.DeleteFunc(s.files, func(f File) bool { return strings.HasPrefix(f.Path, directoryFolder+"/") })
	}
	var taken []string
	for _, f := range s.files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		switch _, err := os.Lstat(path); {
		case err == nil && f.Path == ".gatehouse/.gitignore": // always the same
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
		return "", ErrInterrupted
	}
	return replaceAll(dir, s.files, stale)
}

// methodFolder is the name of a folder of rules for one method.
var methodFolder = regexp.MustCompile(`^[A-Z][A-Z-]{0,63}$`)

// staleStubs are the rules in folders of methods, such as policy/GET, that the new policy does not have: an earlier init wrote them,
// and they would go before rules for a prefix. They are relative to dir.
func (s *Scaffold) staleStubs(dir string) (stale []string, err error) {
	made := map[string]bool{}
	for _, f := range s.files {
		made[f.Path] = true
	}
	folders, err := filepath.Glob(filepath.Join(dir, "policy", "[A-Z]*"))
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if !methodFolder.MatchString(filepath.Base(folder)) {
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
func replaceAll(dir string, files []File, gone []string) (backup string, err error) {
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
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		old, readErr := os.ReadFile(path)
		switch {
		case readErr == nil && bytes.Equal(old, f.Text):
			continue
		case readErr == nil:
			if err := writeBelow(filepath.Join(kept, filepath.FromSlash(f.Path)), old); err != nil {
				return "", fmt.Errorf("keeping %s: %w", path, err)
			}
			backup = kept
			undo = append(undo, func() { _ = ReplaceFile(path, old) })
		case errors.Is(readErr, fs.ErrNotExist):
			undo = append(undo, func() { _ = os.Remove(path) })
		default:
			return "", fmt.Errorf("keeping %s: %w", path, readErr)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", fmt.Errorf("writing %s: %w", path, err)
		}
		if err := ReplaceFile(path, f.Text); err != nil {
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
func (s *Scaffold) verify(dir string, stale []string) error {
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
		if err := writeBelow(filepath.Join(stage, filepath.FromSlash(f.Path)), f.Text); err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	if s.hasDirectory {
		has, err := filepath.Abs(filepath.Join(dir, directoryFolder))
		if err == nil {
			err = os.Symlink(has, filepath.Join(stage, directoryFolder))
		}
		if err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	err = s.try(s.ctx, stage)
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), stage+string(filepath.Separator), "")
	if s.ctx.Err() != nil {
		return ErrInterrupted
	}
	there := "policy"
	if s.hasDirectory && (!others || strings.Contains(text, directoryFolder+"/")) {
		there = directoryFolder
	}
	if others || s.hasDirectory {
		return fmt.Errorf("nothing was written, because it does not run with what is in %s already: %s\nmove that away, or name another directory with --out", filepath.Join(dir, there), text)
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
		text, err := watch.ReadFile(path, maxPolicyFile)
		if err != nil {
			return err
		}
		found = true
		return writeBelow(filepath.Join(to, rel), text)
	})
	return found, err
}

// maxPolicyFile bounds a file of a policy that is copied, in bytes.
const maxPolicyFile = 64 << 20

// ReplaceFile writes a file in one step, so that one that is watched is never seen half written.
func ReplaceFile(file string, text []byte) error {
	if same, err := os.ReadFile(file); err == nil && bytes.Equal(same, text) {
		return nil
	}
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		target = file
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(target); err == nil {
		mode = info.Mode().Perm()
	}
	return PlaceFile(target, text, mode)
}

// PlaceFile writes a file of this very mode beside its place and renames it there.
func PlaceFile(target string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*")
	if about, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: about.Op, Path: target, Err: about.Err} // the draft's name says nothing to anybody
	} else if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), target)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
