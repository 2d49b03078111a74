package trial

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"gatehouse/bundles"
	"gatehouse/bundles/tarball"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// RegoTests runs the bundles' own tests, which are in their *_test.rego.
func RegoTests(ctx context.Context, settings policy.Config, sources []bundles.Source, match *regexp.Regexp) ([]Outcome, error) {
	var all []*bundle.Bundle
	var tests []*bundle.Tests
	for _, s := range sources {
		read, err := bundles.ReadFiles(ctx, s, bundle.Limits{})
		if err != nil {
			return nil, err
		}
		files := tarball.Tree(read)
		b, err := bundle.Read(s.Name, files, bundle.Limits{})
		if err != nil {
			return nil, err
		}
		own, err := bundle.ReadTests(s.Name, files, bundle.Limits{})
		if err != nil {
			return nil, err
		}
		all, tests = append(all, b), append(tests, own)
	}
	results, err := policy.RunTests(ctx, settings, all, tests, match)
	if err != nil {
		return nil, err
	}
	return RegoOutcomes(results, func(file string) string {
		name, rest, _ := strings.Cut(file, "/")
		for _, s := range sources {
			if s.Name == name {
				return filepath.Join(s.Path, filepath.FromSlash(rest))
			}
		}
		return file
	}), nil
}

// RegoOutcomes are the results of Rego tests; pathOf says where a bundle's file is.
func RegoOutcomes(results []policy.TestResult, pathOf func(file string) string) []Outcome {
	var out []Outcome
	for _, r := range results {
		o := Outcome{Suite: "rego", Place: fmt.Sprintf("%s:%d", pathOf(r.File), r.Line), Name: r.Name, Failed: r.Failed, Skipped: r.Skipped,
			Output: r.Output, Duration: r.Duration}
		if r.Problem != "" {
			o.Details = []string{r.Problem}
		}
		out = append(out, o)
	}
	return out
}
