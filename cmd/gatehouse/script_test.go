package main

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"gatehouse/control/judge"
)

// TestMain puts gatehouse, which is this very binary, into the PATH of scripts and of exec.Command. Under the race detector each of these processes
// would wait a second before it exits, for races that are just being reported: that is most of the time the tests take.
func TestMain(m *testing.M) {
	judge.Main()
	if _, set := os.LookupEnv("GORACE"); !set {
		os.Setenv("GORACE", "atexit_sleep_ms=10")
	}
	// More at once than there are cores, as most of them wait for processes. -parallel says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"gatehouse": main})
}

// TestScripts runs the command lines in testdata/script as a user would type them.
func TestScripts(t *testing.T) {
	python := pythonWithFrameworks(t)
	path := os.Getenv("PATH")
	if plainScripts {
		path = plainBinary(t) + string(os.PathListSeparator) + path
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": collectErrors(t).exits, "decide": decide, "keep": keep},
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", path)
			env.Setenv("NO_COLOR", "1")
			env.Setenv("PYTHON", python)
			return nil
		},
	})
}

// plainBinary builds gatehouse without the race detector and returns its folder. Scripts start it hundreds of times for one thing each: under the race
// detector that is a fifth of what all tests cost, and what runs concurrently has tests of its own package. make test-full does it even so.
func plainBinary(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "gatehouse"), ".").CombinedOutput(); err != nil {
		t.Fatalf("building gatehouse: %v\n%s", err, out)
	}
	return dir
}

// exits runs a program that must end with this exit code: exits 2 gatehouse serv.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		code = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}
