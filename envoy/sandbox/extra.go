package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gatehouse/children"
)

// Process is a program that a caller runs beside a Sandbox: a second Gatehouse, another application. It ends with this
// process at the latest.
type Process struct{ p *process }

// Run starts argv in dir with a minimal environment plus env. All its output goes to WORKDIR/logs/NAME.log, which a later
// Run of the same name replaces.
func Run(workDir, name, dir string, argv []string, env ...string) (*Process, error) {
	p, err := startProcess(workDir, name, dir, argv, env...)
	if err != nil {
		return nil, err
	}
	return &Process{p: p}, nil
}

// Ready returns nil once url answers with a status below 500, and an error when the program ends or ctx does before that.
func (p *Process) Ready(ctx context.Context, url string) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return p.p.await(ctx, func() bool {
		resp, err := client.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode < 500
	})
}

// Signal sends a signal to the program.
func (p *Process) Signal(s syscall.Signal) error { return p.p.Signal(s) }

// CPU is the processor time that the program has used so far, to a hundredth of a second; 0 where it cannot be told.
func (p *Process) CPU() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.p.PID()))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from the third on, the state
	const user, system, tick = 14 - 3, 15 - 3, 10 * time.Millisecond
	if len(fields) <= system {
		return 0
	}
	u, _ := strconv.ParseInt(fields[user], 10, 64)
	s, _ := strconv.ParseInt(fields[system], 10, 64)
	return time.Duration(u+s) * tick
}

// Status is a size from the program's /proc/PID/status, such as VmRSS, in bytes; 0 where it cannot be told.
func (p *Process) Status(key string) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.p.PID()))
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if fields := strings.Fields(value); name == key && len(fields) > 0 {
			n, _ := strconv.ParseInt(fields[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// Log is all that the program has written so far.
func (p *Process) Log() string { return readLog(p.p) }

// Stop sends SIGTERM, waits for the end and returns the exit code. A program that does not end in time is killed, with an
// error. It may be called more than once.
func (p *Process) Stop() (exitCode int, err error) {
	err = p.p.stop(stopGrace)
	return p.p.State().ExitCode(), err
}

// PrepareExtra makes the virtual environment ROOT/.venv/NAME from one requirements file, if it is not there or not
// current, and returns its Python. It goes when .venv is made anew. Two processes may call it at once.
func PrepareExtra(ctx context.Context, root, name, requirements string, progress func(string)) (python string, err error) {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	root, err = filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("resolving checkout: %w", err)
	}
	text, err := os.ReadFile(requirements)
	if err != nil {
		return "", fmt.Errorf("reading requirements: %w", err)
	}
	sum := sha256.Sum256(text)
	want := hex.EncodeToString(sum[:]) + "\n"
	unlock, err := children.Lock(ctx, filepath.Join(root, ".venv.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()

	dir := filepath.Join(root, ".venv", name)
	python, stamp := filepath.Join(dir, "bin", "python"), filepath.Join(dir, "requirements.sha256")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want && exec.CommandContext(ctx, python, "-c", "").Run() == nil {
		return python, nil
	}
	progress(fmt.Sprintf("making .venv/%s (only this once)", name))
	base, err := findPython(ctx)
	if err != nil {
		return "", err
	}
	for _, command := range [][]string{
		{base, "-m", "venv", "--clear", dir},
		{python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", "-r", requirements},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("making %s: %s (%w); check the network, and pip's proxy and index settings", dir, firstError(string(out)), err)
		}
	}
	if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
		return "", fmt.Errorf("marking %s as complete: %w", dir, err)
	}
	return python, nil
}
