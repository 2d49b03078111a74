package sandbox

import (
	"context"
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

// process is one child, in a process group of its own: a Ctrl-C in the terminal reaches us only, and we stop the
// children in order.
type process struct {
	name    string
	logFile string
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process has ended; then cmd.ProcessState is set
}

// startProcess starts argv in dir. Its output goes to WORKDIR/logs/NAME.log, its environment is a minimal one plus env.
func startProcess(workDir, name, dir string, argv []string, env ...string) (*process, error) {
	logFile := filepath.Join(workDir, "logs", name+".log")
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return nil, fmt.Errorf("making log directory: %w", err)
	}
	out, err := os.Create(logFile)
	if err != nil {
		return nil, fmt.Errorf("making log file: %w", err)
	}
	defer out.Close() // the child has its own copy
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "TMPDIR="+os.TempDir(), "GORACE="+os.Getenv("GORACE"))
	cmd.SysProcAttr = processAttributes()
	p := &process{name: name, logFile: logFile, cmd: cmd, done: make(chan struct{})}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

// start starts the command from a thread that lives as long as the child: Linux ties the parent-death signal to the
// thread that forked, not to the process.
func (p *process) start() error {
	started := make(chan error)
	go func() {
		defer close(p.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is in cmd.ProcessState
		}
	}()
	return <-started
}

// stop asks the process to end, waits up to grace, and kills it if it did not; then whatever is left of its group.
func (p *process) stop(grace time.Duration) error {
	var err error
	select {
	case <-p.done: // its group may still have members
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.done:
		case <-timer.C:
			err = fmt.Errorf("%s did not end within %v of SIGTERM and was killed; its output is in %s", p.name, grace, p.logFile)
		}
	}
	// The group's id is the child's pid. It cannot have gone to somebody else while the group has members, and without
	// members this does nothing.
	if killErr := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); killErr != nil && !errors.Is(killErr, syscall.ESRCH) {
		err = errors.Join(err, fmt.Errorf("killing the process group of %s: %w", p.name, killErr))
	}
	<-p.done
	return err
}

// exit says how the process ended.
func (p *process) exit() string { return p.cmd.ProcessState.String() }

// lastOutput is the last line that the process wrote.
func (p *process) lastOutput() string {
	if line := lastLine(readLog(p)); line != "" {
		return line
	}
	return "it wrote nothing"
}

func readLog(p *process) string {
	if p == nil {
		return ""
	}
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	return strings.ToValidUTF8(string(text), "?")
}

// await returns nil once up is true, and an error when the program ends or ctx does before that.
func (p *process) await(ctx context.Context, up func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		isUp := up()
		select {
		case <-p.done: // also where a stranger answers on our port
			return fmt.Errorf("%s stopped while starting (%s): %s; all of its output is in %s", p.name, p.exit(), p.lastOutput(), p.logFile)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%w): %s; all of its output is in %s", p.name, ctx.Err(), p.lastOutput(), p.logFile)
		case <-tick.C:
			if isUp {
				return nil
			}
		}
	}
}
