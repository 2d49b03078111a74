// Command disable-checks shows that the attack suite sees every check of package identity: it takes one check at a time out of
// the source, builds the package's tests with that, and runs the suite, of which at least one case must then fail. It
// prints a table and exits with 1 where a check could go unnoticed. The source itself is not touched (go build -overlay).
//
//	go run ./hack/disable-checks            all of them: some minutes
//	go run ./hack/disable-checks -run crit  those whose name matches
//	go run ./hack/disable-checks -from 40 -to 60  the 40th to the 60th of them
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	pkg   = "identity" // it and its parts have the checks, from the module's root
	suite = "^(TestAttack|TestCacheIsInvisible)"
	limit = 5 * time.Minute // for building and running one of them
)

func main() {
	only := flag.String("run", "", "take out only the checks whose name matches this regular expression")
	from := flag.Int("from", 1, "take out only this check of them and those after it, counted from 1")
	to := flag.Int("to", len(checks), "take out only this check of them and those before it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	names, err := regexp.Compile(*only)
	if err == nil {
		err = run(ctx, names, *from, *to)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "disable-checks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only *regexp.Regexp, from, to int) error {
	dir, err := os.MkdirTemp("", "disable-checks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if seen, err := try(ctx, dir, check{name: "none"}); err != nil || seen != "" {
		return errors.Join(fmt.Errorf("the suite fails with every check in place: %s", seen), err)
	}
	tried, survivors, matched := 0, 0, 0
	for _, c := range checks {
		if !only.MatchString(c.name) {
			continue
		}
		if matched++; matched < from || matched > to {
			continue
		}
		seen, err := try(ctx, dir, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		tried++
		switch {
		case err != nil:
			survivors++
			seen = "NOT TRIED: " + err.Error()
		case seen == "":
			survivors++
			seen = "NOTHING NOTICES"
		}
		fmt.Printf("%-30s %-56s %s\n", c.function, c.name, seen)
	}
	fmt.Printf("%d checks taken out, %d not noticed\n", tried, survivors)
	if survivors > 0 || tried == 0 {
		return errors.New("each check needs a case in identity/attack that fails without it")
	}
	return nil
}

// try runs the suite without one check and gives the first line that it fails with, or nothing when it does not fail.
func try(ctx context.Context, dir string, c check) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	overlay, err := c.overlay(dir)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "identity.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, "./"+pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building without it: %w\n%s", err, out)
	}
	test := exec.CommandContext(ctx, binary, "-test.run", suite, "-test.failfast")
	test.Dir = pkg
	out, err := test.CombinedOutput()
	if err == nil {
		return "", nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return firstFailure(out), nil
}

// firstFailure is the first message behind "--- FAIL", or what a panic said.
func firstFailure(out []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "panic: "):
			return line
		case strings.HasPrefix(line, "--- FAIL") && i+1 < len(lines):
			_, message, _ := strings.Cut(strings.TrimSpace(lines[i+1]), ": ")
			return message
		}
	}
	return lines[len(lines)-1]
}

// check is one check, and how to take it out.
type check struct {
	function string   // that does it, with the type of a method: Verifier.check. It may stand in any file of the package and its parts
	name     string   // what is then no longer checked
	edits    []string // old text and new, in turn; each old one is in the function exactly once
}

// without is the file that the function is in, as it is and without the check.
func (c check) without(dir string) (path, text, changed string, err error) {
	err = fmt.Errorf("%s has no function %s; bring hack/disable-checks up to date", dir, c.function)
	walked := filepath.WalkDir(dir, func(file string, d fs.DirEntry, broken error) error {
		switch {
		case broken != nil:
			return broken
		case d.IsDir() && (d.Name() == "attack" || d.Name() == "testdata"):
			return filepath.SkipDir
		case !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		return c.lookInto(file, func(whole, edited string, problem error) {
			switch {
			case path == "" && problem == nil: // of several functions of that name, the one in which the text is
				path, text, changed, err = file, whole, edited, nil
			case path == "":
				err = problem
			case problem == nil:
				err = fmt.Errorf("the text to change is in %s of %s and of %s; bring hack/disable-checks up to date", c.function, path, file)
			}
		})
	})
	if walked != nil {
		return "", "", "", walked
	}
	return path, text, changed, err
}

// lookInto calls found for each function of the check's name in a file: with the file as it is and without the check, or with the problem.
func (c check) lookInto(path string, found func(text, changed string, problem error)) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	places, text := token.NewFileSet(), string(raw)
	file, err := parser.ParseFile(places, path, raw, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && nameOf(f) == c.function {
			from, to := places.Position(f.Pos()).Offset, places.Position(f.End()).Offset
			function, err := c.edited(text[from:to])
			found(text, text[:from]+function+text[to:], err)
		}
	}
	return nil
}

// edited is the function without the check.
func (c check) edited(function string) (string, error) {
	for i := 0; i < len(c.edits); i += 2 {
		if n := strings.Count(function, c.edits[i]); n != 1 {
			return "", fmt.Errorf("the text to change is %d times in %s and not once; bring hack/disable-checks up to date: %q", n, c.function, c.edits[i])
		}
		function = strings.Replace(function, c.edits[i], c.edits[i+1], 1)
	}
	return function, nil
}

func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	of := f.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	if id, ok := of.(*ast.Ident); ok {
		return id.Name + "." + f.Name.Name
	}
	return f.Name.Name
}

// overlay writes the changed file and what go build's -overlay wants to know of it.
func (c check) overlay(dir string) (string, error) {
	replace := map[string]string{}
	if c.function != "" {
		path, _, changed, err := c.without(pkg)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return "", err
		}
		replace[path] = filepath.Join(dir, "changed.go")
		if err := os.WriteFile(replace[path], []byte(changed), 0o600); err != nil {
			return "", err
		}
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, raw, 0o600)
}
