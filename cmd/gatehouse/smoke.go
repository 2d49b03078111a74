package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gatehouse/config"
	"gatehouse/gate"
)

// maxSmokeFailures bounds what is told of requests that did not come out as they should.
const maxSmokeFailures = 5

// readSmoke reads the tables of requests that every policy has to hold, and returns what puts them to a gate; nil where there are none.
func readSmoke(c *config.Config) (func(context.Context, *gate.Gate) error, error) {
	var all []*requestTest
	var errs []error
	for _, file := range c.Policy.Smoke {
		text, err := config.ReadUpTo(file, maxTestFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("policy.smoke: %w", err))
			continue
		}
		tests, err := readTests(file, text)
		if err == nil && len(tests) == 0 {
			err = fmt.Errorf("%s: it holds no test", file)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("policy.smoke: %w", err))
		}
		all = append(all, tests...)
	}
	if len(errs) > 0 || len(all) == 0 {
		return nil, errors.Join(errs...)
	}
	return func(ctx context.Context, g *gate.Gate) error { return putSmoke(ctx, c, g, all) }, nil
}

// putSmoke puts the requests of policy.smoke to a gate.
func putSmoke(ctx context.Context, c *config.Config, g *gate.Gate, tests []*requestTest) error {
	t := &trial{config: c, gate: g}
	var failures []string
	for _, test := range tests {
		o := t.requestTest(ctx, test, &coverage{})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !o.failed {
			continue
		}
		if len(failures) == maxSmokeFailures {
			failures = append(failures, "further requests do not come out as they should")
			break
		}
		failures = append(failures, fmt.Sprintf("%s: %s: %s", o.place, o.name, strings.Join(o.details, "; ")))
	}
	if len(failures) > 0 {
		return fmt.Errorf("%s", strings.Join(failures, "\n"))
	}
	return nil
}
