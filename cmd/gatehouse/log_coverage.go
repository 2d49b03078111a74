package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/decisionlog/events"
	"gatehouse/replay"
	"gatehouse/replay/search"
	"gatehouse/server"
	"gatehouse/terminal"
)

// logCoverage is gatehouse log coverage.
type logCoverage struct {
	imageFlags
	source  logSource
	query   logQuery
	bundle  string
	partial bool
	output  outputFlags
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
	f.output.add(c, "one object, with every route and rule")
	f.addStore(c)
	f.addRegistry(c)
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
		return errReported
	}
	if f.output.json() {
		return terminal.JSON(c.OutOrStdout()).Encode(out)
	}
	o := newLogOutput(c.OutOrStdout(), false)
	_, err = io.WriteString(c.OutOrStdout(), coverageText(out, o.print))
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
	return (&replayFlags{imageFlags: f.imageFlags}).candidate(c, src, f.bundle, filepath.Join(temp, "bundle.tar.gz"))
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

func routeWords(r *replay.RouteCount) string {
	text := strings.TrimSpace(strings.Join(r.Methods, ",") + " " + terminal.Visible(r.Route))
	if r.Name != "" {
		text += "  " + terminal.Visible(r.Name)
	}
	if r.App != "" {
		text = terminal.Visible(r.App) + ": " + text
	}
	return text
}

// coverageText tells people what nobody used.
func coverageText(c *replay.CoverageReport, p terminal.Printer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s from %s to %s\n", terminal.Count(c.Decisions, "decision"), terminal.Visible(c.Since), terminal.Visible(c.Until))
	if c.Dropped > 0 {
		fmt.Fprintf(&b, "%s\n", p.Paint(terminal.Amber, terminal.Count(c.Dropped, "decision")+" of that time not recorded"))
	}
	routeText(c, &b, p)
	ruleText(c, &b, p)
	if len(c.Skipped) > 0 {
		fmt.Fprintf(&b, "\n%s\n", p.Paint(terminal.Bold, "not evaluated again"))
		for _, s := range c.Skipped {
			fmt.Fprintf(&b, "  %9d  %s\n", s.Count, terminal.Visible(s.Reason))
		}
	}
	return b.String()
}

func routeText(c *replay.CoverageReport, b *strings.Builder, p terminal.Printer) {
	if !c.Tables {
		fmt.Fprintf(b, "\n%s\n  there is no route table\n", p.Paint(terminal.Bold, "routes"))
		return
	}
	var never, denied []string
	for _, r := range c.Routes {
		switch {
		case r.Calls == 0:
			never = append(never, "             "+routeWords(r))
		case r.Allowed == 0:
			denied = append(denied, fmt.Sprintf("  %9d  %s", r.Calls, routeWords(r)))
		}
	}
	fmt.Fprintf(b, "\n%s  %d: %d never called, %d never allowed\n", p.Paint(terminal.Bold, "routes"), len(c.Routes), len(never), len(denied))
	section(b, "never called", never)
	section(b, "never allowed, and how often that was denied", denied)
	var foreign []string
	for _, r := range c.Foreign {
		foreign = append(foreign, fmt.Sprintf("  %9d  %s", r.Calls, routeWords(r)))
	}
	section(b, "called, and in no route table now", foreign)
	if c.NoRoute > 0 {
		fmt.Fprintf(b, "  %s\n", terminal.Count(c.NoRoute, "request")+" denied because no route takes "+map[bool]string{true: "it", false: "them"}[c.NoRoute == 1])
	}
}

func ruleText(c *replay.CoverageReport, b *strings.Builder, p terminal.Printer) {
	var never []string
	for _, r := range c.Rules {
		if r.Held == 0 {
			never = append(never, fmt.Sprintf("             %s (%s:%d)", terminal.Visible(r.Rule), terminal.Visible(r.File), r.Line))
		}
	}
	fmt.Fprintf(b, "\n%s  %d: %d never true in %s evaluated again\n", p.Paint(terminal.Bold, "rules"), len(c.Rules), len(never), terminal.Count(c.Evaluated, "decision"))
	section(b, "never true", never)
}

func section(b *strings.Builder, title string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(b, "  %s\n%s\n", title, strings.Join(lines, "\n"))
	}
}
