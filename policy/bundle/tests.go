package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Tests are the test modules of one bundle: its *_test.rego, which Read leaves out. They are immutable.
type Tests struct {
	name    string
	modules map[string]*ast.Module // by path within the bundle
}

// Name returns the bundle's name.
func (t *Tests) Name() string { return t.name }

// Modules returns the test modules by their path within the bundle. The caller must not change them.
func (t *Tests) Modules() map[string]*ast.Module { return t.modules }

// ReadTests parses a bundle's test modules, in the Rego version that its manifest asks for. The limits are as for Read, and count the test
// modules alone. It returns all problems at once, as Problems.
func ReadTests(name string, files fs.FS, limits Limits) (t *Tests, err error) {
	r := &reader{name: name, files: files, limits: limits.OrDefault(), digest: sha256.New(), bundle: &Bundle{name: name, modules: map[string]*ast.Module{}}}
	defer func() { // as in Read
		if p := recover(); p != nil {
			r.problem(r.at, 0, fmt.Sprintf("the parser failed: %v", p))
			t, err = nil, r.problems.err()
		}
	}()
	if _, err := fs.Stat(files, manifestFile); err == nil {
		r.readManifest()
	}
	r.checkManifest()
	r.listTests()
	if len(r.problems) == 0 {
		parser := newModuleParser(&r.manifest)
		for _, r.at = range r.paths {
			r.readModule(parser, r.at)
		}
	}
	if err := r.problems.err(); err != nil {
		return nil, err
	}
	return &Tests{name: name, modules: r.bundle.modules}, nil
}

// listTests finds the test modules and checks the limits before any is opened.
func (r *reader) listTests() {
	var total int64
	err := fs.WalkDir(r.files, ".", func(file string, entry fs.DirEntry, err error) error {
		r.at = file
		if err != nil {
			return err
		}
		if strings.Count(file, "/") > r.limits.Depth {
			return fmt.Errorf("more than %d folders deep", r.limits.Depth)
		}
		if entry.IsDir() || !strings.HasSuffix(file, "_test.rego") {
			return nil
		}
		info, err := fs.Stat(r.files, file) // the entry may be a symbolic link
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return errors.New("not a regular file")
		}
		r.paths = append(r.paths, file)
		if total += info.Size(); info.Size() > r.limits.File || total > r.limits.Total || len(r.paths) > r.limits.Files {
			return fmt.Errorf("more than %d test modules, or %d bytes of them, or %d bytes in one", r.limits.Files, r.limits.Total, r.limits.File)
		}
		return nil
	})
	if err != nil {
		r.problem(r.at, 0, err.Error())
	}
}
