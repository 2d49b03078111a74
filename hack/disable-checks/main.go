// Command disable-checks shows that the attack suite sees every check of package identity: it takes one check at a time out of
// the source, builds the package's tests with that, and runs the suite, of which at least one case must then fail. It
// prints a table and exits with 1 where a check could go unnoticed. The source itself is not touched (go build -overlay).
//
//	go run ./hack/disable-checks            all of them: some minutes
//	go run ./hack/disable-checks -run crit  those whose name matches
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	pkg   = "identity" // where the checks are, from the module's root
	suite = "^(TestAttack|TestCacheIsInvisible)"
	limit = 5 * time.Minute // for building and running one of them
)

func main() {
	only := flag.String("run", "", "take out only the checks whose name matches this regular expression")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	names, err := regexp.Compile(*only)
	if err == nil {
		err = run(ctx, names)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "disable-checks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only *regexp.Regexp) error {
	dir, err := os.MkdirTemp("", "disable-checks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if seen, err := try(ctx, dir, check{name: "none"}); err != nil || seen != "" {
		return errors.Join(fmt.Errorf("the suite fails with every check in place: %s", seen), err)
	}
	tried, survivors := 0, 0
	for _, c := range checks {
		if !only.MatchString(c.name) {
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
		fmt.Printf("%-14s %-56s %s\n", c.file, c.name, seen)
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
	file, name string
	edits      []string // old text and new, in turn; each old one is in the file exactly once
}

// without is the file's text without the check.
func (c check) without(text string) (string, error) {
	for i := 0; i < len(c.edits); i += 2 {
		if n := strings.Count(text, c.edits[i]); n != 1 {
			return "", fmt.Errorf("the text to change is there %d times and not once; bring hack/disable-checks up to date: %q", n, c.edits[i])
		}
		text = strings.Replace(text, c.edits[i], c.edits[i+1], 1)
	}
	return text, nil
}

// overlay writes the changed file and what go build's -overlay wants to know of it.
func (c check) overlay(dir string) (string, error) {
	replace := map[string]string{}
	if c.file != "" {
		path, err := filepath.Abs(filepath.Join(pkg, c.file))
		if err != nil {
			return "", err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		changed, err := c.without(string(text))
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
