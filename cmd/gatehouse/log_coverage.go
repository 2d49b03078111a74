package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gatehouse/cmd/bundlecmd"
	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/decisionlog/events"
	"gatehouse/replay"
	"gatehouse/replay/search"
	"gatehouse/report"
	"gatehouse/server"
	"gatehouse/terminal"
)

// logCoverage is gatehouse log coverage.
type logCoverage struct {
	bundlecmd.ImageFlags
	source  logSource
	query   logQuery
	bundle  string
	partial bool
	output  grammar.Output
}

func logCoverageCommand() *cobra.Command {
	var f logCoverage
	c := &cobra.Command{
		Use:   "coverage [FILE...]",
		Short: "Show which routes were never called or never allowed, and which rules were never true",
		Long: `Compares the decisions of a log with the route tables of the configuration, and evaluates each again with its policy, or
with that of --bundle, to find rules that are never true. No network calls are made. Decisions that cannot be evaluated, because their
input or values in it are not logged, are counted with the reason and do not contribute to the coverage of rules.`,
		Example: `  gatehouse log coverage --since 30d
  gatehouse log coverage --bundle ./policy decisions.log`,
		RunE: f.run,
	}
	f.source.flags(c)
	f.query.flags(c)
	c.Flags().StringVarP(&f.bundle, "bundle", "b", "", "policy instead of the configuration's: a directory, a tarball or an image")
	c.Flags().BoolVar(&f.partial, "partial", false, "also evaluate decisions for which the policy reads values that are not logged, as if these were absent")
	f.output.Add(c, "one object, with every route and rule")
	f.AddStore(c)
	f.AddRegistry(c)
	return c
}

func (f *logCoverage) run(c *cobra.Command, args []string) error {
	server.PaceGC()
	if err := f.query.Compile(); err != nil {
		return err
	}
	s, err := f.candidate(c)
	if err != nil {
		return err
	}
	if err := f.source.open(c, args); err != nil {
		return err
	}
	defer f.source.Close()
	v, err := replay.NewCoverage(s, f.partial)
	if err != nil {
		return err
	}
	if err := f.read(c.Context(), v); err != nil {
		return err
	}
	f.source.stopWarnings()
	out := v.Report()
	if out.Decisions == 0 {
		f.query.nothing(&f.source)
		return grammar.ErrReported
	}
	if f.output.JSON() {
		return terminal.JSON(c.OutOrStdout()).Encode(out)
	}
	o := newLogOutput(c.OutOrStdout(), false)
	_, err = io.WriteString(c.OutOrStdout(), report.CoverageText(out, o.print))
	return err
}

// candidate is what is held against the log: a configuration, or a bundle by itself.
func (f *logCoverage) candidate(c *cobra.Command) (*replay.Candidate, error) {
	src, err := config.Source{File: f.source.src.File}.OrDefault()
	if err != nil && f.bundle == "" {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "gatehouse-coverage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	return (&replayFlags{ImageFlags: f.ImageFlags}).candidate(c, src, f.bundle, filepath.Join(temp, "bundle.tar.gz"))
}

// read takes the whole log.
func (f *logCoverage) read(ctx context.Context, v *replay.Coverage) error {
	var r search.Event
	for number := int64(1); ; number++ {
		line, err := f.source.Next(ctx, nil, f.query.May)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case r.Parse(line, number) != nil:
			f.source.Warning(f.source.Reader().Damaged(events.ErrNoEvent))
			continue
		case r.Gap.Recorded && !f.query.During(&r), !r.Gap.Recorded && !f.query.Wants(&r):
			continue
		}
		if err := v.Add(ctx, &r.Record); err != nil {
			return fmt.Errorf("decision %s: %w", r.DecisionID, err)
		}
	}
}
