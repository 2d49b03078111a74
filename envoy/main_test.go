// Package envoy_test runs Gatehouse behind a real Envoy, in front of a real application.
package envoy_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gatehouse/envoy/sandbox"
)

// root is the checkout, as seen from this package's directory.
const root = ".."

// What TestMain prepares: the binary under test, built with the race detector, and the real Envoy.
var gatehouseBinary, envoyBinary string

// moduleDir is the folder of a libgatehouse.so that the tests are to run with, in the place of gatehouse serve; empty: none. make test-module-suite
// sets it.
var moduleDir = os.Getenv("GATEHOUSE_MODULE_DIR")

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, set := os.LookupEnv("GORACE"); !set {
		os.Setenv("GORACE", "atexit_sleep_ms=10") // each gatehouse would wait a second before it exits
	}
	dir, err := os.MkdirTemp("", "gatehouse-e2e-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if gatehouseBinary = os.Getenv("GATEHOUSE_BINARY"); gatehouseBinary == "" {
		gatehouseBinary = filepath.Join(dir, "gatehouse")
		build := exec.Command("go", "build", "-race", "-o", gatehouseBinary, "./cmd/gatehouse")
		build.Dir, build.Stdout, build.Stderr = root, os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fail(fmt.Errorf("building gatehouse: %w", err))
		}
	}
	envoyBinary, err = sandbox.Prepare(context.Background(), root, func(s string) { fmt.Fprintln(os.Stderr, s) })
	if err != nil {
		return fail(err)
	}
	code := m.Run()
	fmt.Fprintln(os.Stderr, &searched)
	if code == 0 && searched.empty() && flag.Lookup("test.run").Value.String() == "" {
		return fail(errors.New("no log was searched for credentials"))
	}
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// start brings up a sandbox for one test and checks, at its end, that everything ended in peace and that neither a data race
// nor a panic was seen.
func start(t *testing.T, cfg sandbox.Config) *sandbox.Sandbox {
	t.Helper()
	cfg.Root, cfg.WorkDir, cfg.HandedOut, cfg.Progress = root, workDir(t), func(token string) { handedOut.add(token) }, func(s string) { t.Log(s) }
	cfg.Plain, cfg.LongDeadlines = plain(), true
	if cfg.Authz == "" {
		cfg.Gatehouse, cfg.Module = gatehouseBinary, moduleDir
	}
	s, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for _, bad := range []string{"DATA RACE", "panic:", "goroutine "} {
			if log := s.GatehouseLog(); contains(log, bad) {
				t.Errorf("gatehouse logged %q:\n%s", bad, log)
				break
			}
		}
		if t.Failed() {
			t.Logf("gatehouse:\n%s\nenvoy:\n%s", tail(s.GatehouseLog()), tail(s.EnvoyLog()))
		}
	})
	return s
}

// echoApp is the application that shows what it received.
func echoApp(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("testdata", "echo"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
