package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/policy"
	"gatehouse/trial"
)

// maxSmokeFailures bounds what is told of requests that did not come out as they should.
const maxSmokeFailures = 5

// readSmoke reads the tables of requests that every policy has to hold.
func readSmoke(c *config.Config) ([]*trial.Test, error) {
	var all []*trial.Test
	var errs []error
	for _, file := range c.Policy.Smoke {
		text, err := config.ReadUpTo(file, trial.MaxFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("policy.smoke: %w", err))
			continue
		}
		tests, err := trial.Read(file, text)
		if err == nil && len(tests) == 0 {
			err = fmt.Errorf("%s: it holds no test", file)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("policy.smoke: %w", err))
		}
		all = append(all, tests...)
	}
	return all, errors.Join(errs...)
}

// smokeTest puts the requests of policy.smoke to a policy that is not active yet, together with everything else as it is
// in force. What counts is the verdict: nothing is let through because of dry_run, and nothing is logged.
func (e *engine) smokeTest(ctx context.Context, s *policy.Snapshot) error {
	base := e.parts(false)
	if e.gate != nil {
		if v := e.gate.View(); v.Settings != nil && v.Settings.Verifier == e.settings.Verifier { // ours, perhaps with other descriptors
			base = func(next *gate.View) { next.Settings, next.Keys, next.Routes = v.Settings, v.Keys, v.Routes }
		}
	}
	g, err := gate.New(gate.Config{Registerer: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	t := trial.New(trial.Config{Gate: g, Issuers: verifierConfig(e.issuers, nil, nil).Issuers})
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = panics.LoopError(ctx, "trying a policy", g.Run) }) // it ends with ctx, without an error
	defer running.Wait()
	defer stop()
	if err := g.Publish(ctx, base, func(v *gate.View) {
		settings := *v.Settings
		settings.Log, settings.DryRun, settings.DryRunExtension = nil, false, false
		v.Settings, v.Policy = &settings, s
	}); err != nil {
		return err
	}
	var failures []string
	for _, test := range e.smoke {
		o := t.Run(ctx, test, &trial.Coverage{})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !o.Failed {
			continue
		}
		if len(failures) == maxSmokeFailures {
			failures = append(failures, "further requests do not come out as they should")
			break
		}
		failures = append(failures, fmt.Sprintf("%s: %s: %s", o.Place, o.Name, strings.Join(o.Details, "; ")))
	}
	if len(failures) > 0 {
		return fmt.Errorf("%s", strings.Join(failures, "\n"))
	}
	return nil
}
