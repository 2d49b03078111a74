package policies

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"gatehouse/policy/bundle"
)

// Process is the name that this program is started by, as its argument 0, where it is to be the judge of one bundle.
const Process = "gatehouse-judge"

// Checker has bundles checked, each in a process of its own: this program, started under the name Process. The process
// begins with an empty environment and no file but its pipes, and package judge takes the rest from it before it looks
// at the bundle: it can open no file and no socket and start no program, and what it may use of memory and of the
// processor's time is bounded by the kernel.
type Checker struct {
	Program string        // default: this one
	Memory  int64         // bytes of data that it may have; default 1 GiB
	Time    time.Duration // that it may take; default 30 s

	turns chan struct{}
}

// What a check may take, and how many are made at the same time: those who push are few.
const (
	checkMemory  = 1 << 30
	checkTime    = 30 * time.Second
	checksAtOnce = 1

	maxVerdict = 1 << 20
	maxErrors  = 16 << 10
)

// NewChecker makes a Checker.
func NewChecker(with Checker) *Checker {
	if with.Memory == 0 {
		with.Memory = checkMemory
	}
	if with.Time == 0 {
		with.Time = checkTime
	}
	with.turns = make(chan struct{}, checksAtOnce)
	for range checksAtOnce {
		with.turns <- struct{}{}
	}
	return &with
}

// Environment variables of the process: it has no others.
const (
	memoryVariable  = "GATEHOUSE_JUDGE_MEMORY"
	secondsVariable = "GATEHOUSE_JUDGE_SECONDS"
)

// run starts the process and reads its verdict.
func (c *Checker) run(ctx context.Context, job Job) (*Verdict, error) {
	select {
	case <-c.turns:
		defer func() { c.turns <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	program := c.Program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	job.Tests = int(c.Time.Seconds() / 2)
	input, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, c.Time)
	defer stop()
	out, errs := &bounded{most: maxVerdict}, &bounded{most: maxErrors}
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = []string{Process}
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=1", "GOMEMLIMIT=" + strconv.FormatInt(c.Memory/4*3, 10), memoryVariable + "=" + strconv.FormatInt(c.Memory, 10),
		secondsVariable + "=" + strconv.Itoa(int(c.Time.Seconds())+1)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), out, errs
	cmd.WaitDelay = time.Second
	failed := cmd.Run()
	v := &Verdict{}
	if failed == nil {
		if err := json.Unmarshal(out.Bytes(), v); err != nil {
			return nil, fmt.Errorf("checking the bundle: its verdict cannot be read: %w", err)
		}
		return v, nil
	}
	refused := func(text string) (*Verdict, error) {
		return v, bundle.Problems{{Stage: "checking", Bundle: Name, Text: text}}
	}
	said := errs.String()
	switch state := cmd.ProcessState; {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || state != nil && state.String() == "signal: killed":
		return refused(fmt.Sprintf("compiling it and running its tests took more than %s", c.Time))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case strings.Contains(said, "out of memory") || strings.Contains(said, "cannot allocate memory"):
		return refused(fmt.Sprintf("compiling it and running its tests took more than %d MiB of memory", c.Memory>>20))
	case strings.Contains(said, "stack overflow") || strings.Contains(said, "stack exceeds"):
		return refused("compiling it and running its tests went too deep")
	}
	line, _, _ := strings.Cut(said, "\n")
	return nil, fmt.Errorf("checking the bundle: %w: %s", failed, line)
}
