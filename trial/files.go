package trial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"gatehouse/config"
)

// FindFiles finds the tables, and says where it looked. A directory stands for its tests.yaml and tests/*.yaml; where it has
// neither, for the YAML files in it. Where nothing is named, it looks beside the configuration.
func FindFiles(configuration string, args []string) (looked, files []string, err error) {
	if len(args) == 0 {
		dir := filepath.Dir(configuration) // "." where there is no file
		files, err = tablesIn(dir)
		return []string{filepath.Join(dir, "tests.yaml"), filepath.Join(dir, "tests", "*.yaml")}, files, err
	}
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, nil, err
		}
		found := []string{arg}
		if info.IsDir() {
			if found, err = tablesIn(arg); err == nil && len(found) == 0 {
				found, err = yamlFiles(arg)
			}
		}
		if err != nil {
			return nil, nil, err
		}
		looked, files = append(looked, arg), append(files, found...)
	}
	return looked, files, nil
}

// tablesIn lists a project's tables.
func tablesIn(dir string) ([]string, error) {
	files, err := yamlFiles(filepath.Join(dir, "tests"))
	if table := filepath.Join(dir, "tests.yaml"); err == nil {
		if _, err := os.Stat(table); err == nil {
			return append([]string{table}, files...), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return files, err
}

// yamlFiles lists the YAML files in a directory, none where it does not exist.
func yamlFiles(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for tests: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// ReadFiles reads all tables and reports all that is wrong with them. A file that was not named and has no tests is
// about something else: it is left out.
func ReadFiles(files []string, named bool) (tests []*Test, leftOut []error, err error) {
	var errs []error
	for i, file := range files {
		if slices.Contains(files[:i], file) {
			continue // named twice
		}
		text, err := config.ReadUpTo(file, MaxFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading tests: %w", err))
			continue
		}
		found, err := Read(file, text)
		switch {
		case errors.Is(err, ErrNoTests) && !named && filepath.Base(file) != "tests.yaml":
			leftOut = append(leftOut, err)
		case err != nil:
			errs = append(errs, err)
		}
		tests = append(tests, found...)
	}
	return tests, leftOut, errors.Join(errs...)
}
