// Package children runs programs beside this one: each in a process group of its own, so that a Ctrl-C in the terminal reaches us alone and we
// stop them in order, and so that what a program has started itself ends with it. It also finds free ports of loopback for them, and takes locks on
// files, for what two processes of ours must not do at once. It imports nothing of ours.
package children

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Command says what to run.
type Command struct {
	Name string   // for errors
	Argv []string // the program, and its arguments
	Dir  string   // it runs in
	Env  []string // all of its environment
	// Output gets what it writes to standard output and error. A file is handed to the program itself; any other writer must not block for long.
	Output io.Writer
	// Whole sends the SIGTERM of Stop to all of the group, as a terminal sends Ctrl-C: for programs that have children of their own and leave them alone.
	Whole bool
}

// Child is a program that was started.
type Child struct {
	name   string
	whole  bool
	cmd    *exec.Cmd
	output io.Writer
	exited chan struct{} // closed when the program itself has ended; then cmd.ProcessState is set
	done   chan struct{} // closed when its output has ended too
}

// outputDelay is how long output is awaited of what a program has left running when it ended.
const outputDelay = time.Second

// Start starts the program. On Linux the kernel ends it should we be killed.
func Start(c Command) (*Child, error) {
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = c.Dir, c.Env, attributes()
	p := &Child{name: c.Name, whole: c.Whole, cmd: cmd, output: c.Output, exited: make(chan struct{}), done: make(chan struct{})}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Name, err)
	}
	return p, nil
}

// start starts the command, and what reads its output.
func (p *Child) start() error {
	if file, ok := p.output.(*os.File); ok || p.output == nil {
		if file != nil { // and not a nil in an interface
			p.cmd.Stdout, p.cmd.Stderr = file, file
		}
		p.done = p.exited
		return p.fork()
	}
	from, to, err := os.Pipe()
	if err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = to, to
	err = p.fork()
	to.Close() // the child has its own
	if err != nil {
		from.Close()
		return err
	}
	copied := make(chan struct{})
	go func() { // goroutine: ends with the output, which the next one closes
		defer close(copied)
		_, _ = io.Copy(p.output, from) // a writer that fails ends the program by SIGPIPE
	}()
	go func() { // goroutine: ends with the child
		defer close(p.done)
		<-p.exited
		select {
		case <-copied:
		case <-time.After(outputDelay):
		}
		from.Close()
		<-copied
	}()
	return nil
}

// fork starts the command from a thread that lives as long as the child: Linux ties the parent-death signal to the
// thread that forked, not to the process.
func (p *Child) fork() error {
	started := make(chan error)
	go func() { // goroutine: ends with the child
		defer close(p.exited)
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

// Done is closed when the program has ended, and all that it wrote is in Output.
func (p *Child) Done() <-chan struct{} { return p.done }

// State says how the program ended. It is nil until it has.
func (p *Child) State() *os.ProcessState {
	select {
	case <-p.exited:
		return p.cmd.ProcessState
	default:
		return nil
	}
}

// PID is the program's process id, and that of its group.
func (p *Child) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the program alone.
func (p *Child) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the program to end, waits up to grace, and kills it if it did not; then whatever is left of its group. The error says that it had to be
// killed. It may be called more than once.
func (p *Child) Stop(grace time.Duration) error {
	var err error
	select {
	case <-p.exited: // its group may still have members
	default:
		if p.whole {
			_ = syscall.Kill(-p.PID(), syscall.SIGTERM)
		} else {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.exited:
		case <-timer.C:
			err = fmt.Errorf("%s did not end within %v of SIGTERM and was killed", p.name, grace)
		}
	}
	// The group's id is the child's pid. It cannot have gone to somebody else while the group has members, and without
	// members this does nothing.
	if killErr := syscall.Kill(-p.PID(), syscall.SIGKILL); killErr != nil && !errors.Is(killErr, syscall.ESRCH) {
		err = errors.Join(err, fmt.Errorf("killing the process group of %s: %w", p.name, killErr))
	}
	<-p.done
	return err
}

// ErrLocked is TryLock's answer when another process has the lock.
var ErrLocked = errors.New("locked by another process")

// TryLock takes an advisory lock on path, which is created and stays. It goes with the process at the latest.
func TryLock(path string) (unlock func(), err error) {
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
		return nil, ErrLocked
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}

// Lock waits for the lock until ctx ends.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		unlock, err := TryLock(path)
		if !errors.Is(err, ErrLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another program that holds %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
