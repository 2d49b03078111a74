package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/envoy/sandbox"
)

const root = "../.."

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script writes an executable shell script and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// emptyCheckout has the requirements files and nothing else.
func emptyCheckout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"examples/flask-orders/requirements.txt", "envoy/sandbox/requirements.txt"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What is missing on a machine is said in one line that says what to do.
func TestPrepareSaysWhatIsMissing(t *testing.T) {
	for _, c := range []struct{ name, python, want string }{
		{"no Python", "python-that-is-not-there", "not found: install Python 3.10 or newer, or set PYTHON"},
		{"too old", script(t, "echo 3.9; exit 1"), `is Python "3.9": install Python 3.10 or newer`},
		{"no venv module", script(t, `case "$2" in *ensurepip*) exit 1;; *) echo 3.12;; esac`), "has no venv module: on Debian and Ubuntu apt install python3-venv"},
		{"venv fails", script(t, `case "$2" in *import*) echo 3.12;; *) echo disk is full; exit 1;; esac`), "disk is full"},
	} {
		t.Setenv("PYTHON", c.python)
		_, err := sandbox.Prepare(t.Context(), emptyCheckout(t), func(string) {})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", c.name, err, c.want)
		}
	}
}

func TestPrepareOutsideOfACheckout(t *testing.T) {
	_, err := sandbox.Prepare(t.Context(), t.TempDir(), func(string) {})
	if err == nil || !strings.Contains(err.Error(), "run this in a checkout") {
		t.Errorf("got %v", err)
	}
}

// A second Prepare finds everything in place and makes nothing.
func TestPrepareTwice(t *testing.T) {
	if _, err := sandbox.Prepare(t.Context(), root, func(string) {}); err != nil {
		t.Fatal(err)
	}
	envoy, err := sandbox.Prepare(t.Context(), root, func(what string) { t.Errorf("the second time it is %s", what) })
	if err != nil || envoy == "" {
		t.Errorf("got %q, %v", envoy, err)
	}
}

// A process that ends while starting is named with its last words, and the others are stopped.
func TestStartSaysWhoFailed(t *testing.T) {
	dir := t.TempDir()
	s, err := sandbox.Start(t.Context(), sandbox.Config{
		Root: root, WorkDir: dir, Gatehouse: script(t, "echo starting; echo no policy today >&2; exit 3"),
	})
	if err == nil {
		s.Close()
		t.Fatal("started without a gatehouse")
	}
	for _, want := range []string{"gatehouse stopped while starting", "exit status 3", "no policy today", filepath.Join(dir, "logs", "gatehouse.log")} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
}

// Two sandboxes in one directory would overwrite each other.
func TestWorkDirIsTakenOnce(t *testing.T) {
	dir := t.TempDir()
	cfg := sandbox.Config{Root: root, WorkDir: dir, Authz: "127.0.0.1:1"}
	s, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := sandbox.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "another demo is running in "+dir) {
		second.Close()
		t.Errorf("a second one in the same directory: %v", err)
	}
	if got, err := s.Do(t.Context(), sandbox.Call{Path: "/orders"}); err != nil || got.Status != 503 {
		t.Errorf("with nobody to ask: %d, %v, want 503", got.Status, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []sandbox.Config{
		{},
		{Root: root, WorkDir: t.TempDir()},
		{Root: root, WorkDir: t.TempDir(), Gatehouse: "/bin/true", Authz: "127.0.0.1:1"},
	} {
		if _, err := sandbox.Start(t.Context(), cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
