// Package exchange runs what images are exchanged with in tests: OPA itself, and the Distribution project's registry. Both are
// built from their modules, in the versions that programs/go.mod names, and kept in Go's build cache.
package exchange

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// OPA returns the path of an opa binary of the version that we embed.
func OPA(ctx context.Context) (string, error) { return tool(ctx, "opa") }

// Registry is a running registry, in memory and on a free port of 127.0.0.1.
type Registry struct {
	Address string // host:port
	stdin   io.Closer
	process *exec.Cmd
}

// Options are a registry's. The zero value speaks plain HTTP without authentication.
type Options struct {
	Cert, Key      string // files; both for HTTPS
	User, Password string // both for basic authentication
}

// StartRegistry starts a registry and returns when it listens. Close ends it.
func StartRegistry(ctx context.Context, o Options) (*Registry, error) {
	path, err := tool(ctx, "registry")
	if err != nil {
		return nil, err
	}
	r := &Registry{process: exec.Command(path, "-cert", o.Cert, "-key", o.Key, "-user", o.User)}
	r.process.Env = append(os.Environ(), "REGISTRY_PASSWORD="+o.Password)
	r.process.Stderr = os.Stderr
	if r.stdin, err = r.process.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := r.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.process.Start(); err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	r.Address = strings.TrimSpace(line)
	return r, nil
}

// Close ends the registry, which lives as long as its standard input, and waits for that.
func (r *Registry) Close() error {
	_ = r.stdin.Close()
	return r.process.Wait()
}

// tool builds a program of the module in programs, where that is needed, and returns where it is once it can be started.
func tool(ctx context.Context, name string) (string, error) {
	found, err := output(ctx, "", "go", "list", "-f", "{{.Dir}}", "gatehouse/images/exchange")
	if err != nil {
		return "", err
	}
	path, err := output(ctx, filepath.Join(found, "programs"), "go", "tool", "-n", name)
	if err != nil {
		return "", err
	}
	// A program that was built just now may still be open for writing in a process that the build forked, and then it
	// does not start (golang/go#22315).
	for {
		err := exec.CommandContext(ctx, path, "-h").Run()
		if !errors.Is(err, syscall.ETXTBSY) {
			return path, ctx.Err()
		}
	}
}

func output(ctx context.Context, dir, program string, args ...string) (string, error) {
	var stderr bytes.Buffer
	c := exec.CommandContext(ctx, program, args...)
	c.Dir, c.Stderr = dir, &stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
