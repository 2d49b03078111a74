package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gatehouse/children"
)

// process is one child, with a file for what it says.
type process struct {
	*children.Child
	name    string
	logFile string
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
	env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "TMPDIR="+os.TempDir(), "GORACE="+os.Getenv("GORACE"))
	child, err := children.Start(children.Command{Name: name, Argv: argv, Dir: dir, Env: env, Output: out})
	if err != nil {
		return nil, err
	}
	return &process{child, name, logFile}, nil
}

// stop ends the program, and says where its output is if it had to be killed.
func (p *process) stop(grace time.Duration) error {
	if err := p.Stop(grace); err != nil {
		return fmt.Errorf("%w; its output is in %s", err, p.logFile)
	}
	return nil
}

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
		case <-p.Done(): // also where a stranger answers on our port
			return fmt.Errorf("%s stopped while starting (%s): %s; all of its output is in %s", p.name, p.State(), p.lastOutput(), p.logFile)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%w): %s; all of its output is in %s", p.name, ctx.Err(), p.lastOutput(), p.logFile)
		case <-tick.C:
			if isUp {
				return nil
			}
		}
	}
}
