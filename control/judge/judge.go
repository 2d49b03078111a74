// Package judge is the process that checks one bundle which somebody pushed to control: it compiles, its own tests pass,
// and the requests of its tables come out as written. Whoever wrote the bundle may be an enemy. The process has an empty
// environment, reads the bundle from its standard input, gives up all that it could do harm with (confine), and only then
// looks at the bundle.
//
// It may import gate, policy, trial and control/policies. Main is called first thing by every program that serves control.
package judge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // rules that name a time zone: the process can open no file

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/bundles/tarball"
	"gatehouse/control/policies"
	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/trial"
)

// Main is the whole process where the program was started as one, and otherwise returns at once.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != policies.Process {
		return
	}
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// maxJob bounds what is read, in bytes.
const maxJob = 256 << 20

func run(from io.Reader, to io.Writer) error {
	if err := bounds(); err != nil {
		return fmt.Errorf("bounding the process: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(from, maxJob))
	if err != nil {
		return err
	}
	if err := confine(); err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	var job policies.Job
	if err := json.Unmarshal(text, &job); err != nil {
		return err
	}
	v := &policies.Verdict{}
	if err := judge(context.Background(), &job, v); err != nil {
		problems, ok := errors.AsType[bundle.Problems](err)
		if !ok {
			return err
		}
		v.Problems = problems
	}
	return json.NewEncoder(to).Encode(v)
}

// judge fills the verdict in. What is wrong with the bundle is bundle.Problems.
func judge(ctx context.Context, job *policies.Job, v *policies.Verdict) error {
	files := tarball.Tree(job.Files)
	b, err := bundle.Read(policies.Name, files, policies.Limits())
	if err != nil {
		return err
	}
	tests, err := bundle.ReadTests(policies.Name, files, policies.Limits())
	if err != nil {
		return err
	}
	settings := policy.Config{Decision: job.Decision, Directory: true}
	snapshot, err := policy.Compile(ctx, settings, []*bundle.Bundle{b})
	if err != nil {
		return err
	}
	v.Rules, v.Notices = b.Info().Rules, snapshot.Notices()
	within, stop := context.WithTimeout(ctx, time.Duration(job.Tests)*time.Second)
	defer stop()
	results, err := policy.RunTests(within, settings, []*bundle.Bundle{b}, []*bundle.Tests{tests}, nil)
	if within.Err() != nil {
		return bundle.Problems{{Stage: "testing", Bundle: policies.Name, Text: fmt.Sprintf("its own tests were not done after %d s", job.Tests)}}
	}
	if err != nil {
		return err
	}
	var problems bundle.Problems
	for _, r := range results {
		if r.Failed {
			_, file, _ := strings.Cut(r.File, "/")
			problems.Add(bundle.Problem{Stage: "testing", Bundle: policies.Name, File: file, Line: r.Line, Text: r.Name + ": " + r.Problem})
		} else if !r.Skipped {
			v.Tests++
		}
	}
	if len(problems) > 0 {
		return problems
	}
	return smoke(ctx, job, snapshot, v)
}

// smoke puts the requests of the tables to a gate with the policy, an empty directory and no issuers.
func smoke(ctx context.Context, job *policies.Job, s *policy.Snapshot, v *policies.Verdict) error {
	var problems bundle.Problems
	var all []*trial.Test
	for _, t := range job.Smoke {
		tests, err := trial.Read(t.Name, t.Text)
		if err != nil {
			problems.Add(bundle.Problem{Stage: "smoke", Text: err.Error()})
		}
		all = append(all, tests...)
	}
	if len(problems) > 0 {
		return problems
	}
	if len(all) == 0 {
		return nil
	}
	g, err := gate.New(gate.Config{Registerer: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = panics.LoopError(ctx, "trying a policy", g.Run) }) // ends with ctx, without an error
	defer running.Wait()
	defer stop()
	decision := strings.Split(job.Decision, "/")
	denials, err := gate.NewDenials("", nil)
	if err != nil {
		return err
	}
	settings := &gate.Settings{Apps: []gate.App{{Decision: decision}}, Timeout: time.Second, Users: &gate.Users{ByID: true}, Denials: denials,
		Memo: gate.Memo{Off: true}, Limits: gate.Limits{Message: 1 << 20, Headers: 256}}
	nobody := directory.New(directory.DefaultManifest(), directory.Limits{})
	if err := g.Publish(ctx, func(next *gate.View) { next.Settings, next.Policy, next.Directory = settings, s, nobody }); err != nil {
		return bundle.Problems{{Stage: "smoke", Bundle: policies.Name, Text: err.Error()}}
	}
	t := trial.New(trial.Config{Gate: g})
	for _, test := range all {
		o := t.Run(ctx, test, &trial.Coverage{})
		if !o.Failed {
			v.Smoke++
			continue
		}
		problems.Add(bundle.Problem{Stage: "smoke", File: test.File, Line: test.Line, Text: o.Name + ": " + strings.Join(o.Details, "; ")})
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
}
