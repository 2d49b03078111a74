package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/trial"
)

// maxSmokeFailures bounds what is told of requests that did not come out as they should.
const maxSmokeFailures = 5

// ReadSmoke reads the tables of requests that every policy has to hold, and returns what puts them to a gate; nil where there are none.
func ReadSmoke(c *config.Config) (func(context.Context, *gate.Gate) error, error) {
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
			err = fmt.Errorf("%s: it has no test", file)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("policy.smoke: %w", err))
		}
		all = append(all, tests...)
	}
	if len(errs) > 0 || len(all) == 0 {
		return nil, errors.Join(errs...)
	}
	issuers := edge.VerifierConfig(c, nil, nil).Issuers
	return func(ctx context.Context, g *gate.Gate) error {
		return putSmoke(ctx, trial.New(trial.Config{Gate: g, Issuers: issuers}), all)
	}, nil
}

// putSmoke puts the requests of policy.smoke to a policy.
func putSmoke(ctx context.Context, t *trial.Trial, tests []*trial.Test) error {
	var failures []string
	for _, test := range tests {
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
