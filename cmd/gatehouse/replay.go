package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse/bundler"
	"gatehouse/cmd/bundlecmd"
	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/decisionlog/read"
	"gatehouse/replay"
	"gatehouse/replay/search"
	"gatehouse/report"
	"gatehouse/server"
	"gatehouse/terminal"
	"gatehouse/trial/node"
)

// replayFlags are those of gatehouse replay.
type replayFlags struct {
	bundlecmd.ImageFlags
	filter      search.Filter
	log         string
	config      string
	name        string
	bundle      string
	old         string
	expect      string
	writeExpect string
	output      grammar.Output
	partial     bool
	answers     bool
}

func replayCommand() *cobra.Command {
	var f replayFlags
	c := &cobra.Command{
		Use:   "replay",
		Short: "Decide logged requests with another policy, and show what would change",
		Long: `Reads a decision log and decides every request in it again: the recorded input, at the recorded time, with the policy of --bundle.
Decisions that differ from the record, or from the policy of --old, are shown by route and change, with examples.
No network calls are made. Decisions that cannot be replayed are counted with the reason.

A BUNDLE is a directory, a tarball or an image. It replaces the configuration's bundle; the rest of the configuration
applies. Without a configuration (neither --config nor gatehouse.yaml), the rule named in the log is evaluated.
Without --bundle, the configuration's policy is used.

Exit code: 0 no changes except those in --expect, 1 other changes, 2 the replay failed.`,
		Example: `  gatehouse replay --log decisions.log --bundle ./policy
  gatehouse replay --log decisions.log --bundle ./policy --old registry.example.com/policies/app:prod -o markdown
  zcat decisions-*.gz | gatehouse replay --log - --config gatehouse.yaml --since 7d --expect expect.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("gatehouse replay takes no argument %q: --log FILE names the log, --bundle BUNDLE the policy", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := c.Flags()
	flags.StringVar(&f.log, "log", "", "decision log: a file, compressed or not, a folder of them, a spool, or - for standard input (default: the configuration's decision_log.file)")
	flags.StringVarP(&f.bundle, "bundle", "b", "", "the policy to evaluate (default: the configuration's)")
	flags.StringVar(&f.old, "old", "", "compare with this policy instead of the record: a BUNDLE, or auto for the bundles that decided, if they are kept")
	flags.StringVarP(&f.config, "config", "c", "", "configuration (default: gatehouse.yaml, if it exists)")
	flags.StringVar(&f.name, "name", "", "the configuration's bundle that --bundle and --old replace, if it has several")
	flags.StringVar(&f.expect, "expect", "", "YAML file with the expected changes")
	flags.StringVar(&f.writeExpect, "write-expect", "", "write unexpected changes to this file, for --expect")
	f.output.Formats(c, "markdown is for a pull request", nil, []string{"text", "json", "markdown"})
	grammar.Old(c, "format", "--format table is now -o text, and others are -o markdown and -o json", func(text string) error {
		f.output.Format = strings.Replace(text, "table", "text", 1)
		return nil
	})
	flags.BoolVar(&f.partial, "partial", false, "also replay decisions for which the policy reads values that are not logged, as if these were absent")
	flags.BoolVar(&f.answers, "answers", false, "compare the whole answer, including headers and texts, not only the verdict")
	addFilter(flags, &f.filter)
	f.AddStore(c)
	f.AddRegistry(c)
	return c
}

// addFilter adds the flags that pick decisions of a log.
func addFilter(flags *pflag.FlagSet, f *search.Filter) {
	flags.StringVar(&f.Since, "since", "", "only decisions from this time on: RFC 3339, a date, or how long ago (90m, 36h, 7d)")
	flags.StringVar(&f.Until, "until", "", "only decisions before this time, in the same formats")
	flags.StringVar(&f.Route, "route", "", "only decisions of this route: its name, its template, or method and template")
	flags.Int64Var(&f.Limit, "limit", 0, "replay only the first N decisions of the log (default: all)")
}

func (f *replayFlags) run(c *cobra.Command) error {
	server.PaceGC()
	if !slices.Contains([]string{"text", "markdown", "json"}, f.output.Format) {
		return fmt.Errorf("--format: %q is neither table, markdown nor json", f.output.Format)
	}
	if err := f.filter.Check(time.Now()); err != nil {
		return err
	}
	src, err := f.source()
	if err != nil {
		return err
	}
	expect, err := replay.ReadExpected(f.expect)
	if err != nil {
		return err
	}
	log, name, err := (&explainFlags{log: f.log}).openLog(c.Context(), src, c.InOrStdin())
	if err != nil {
		return err
	}
	defer log.Close()
	cfg := replay.Config{Wants: f.filter.Wants, Enough: f.filter.Enough, Expect: expect, Partial: f.partial, Answers: f.answers}
	temp, err := os.MkdirTemp("", "gatehouse-replay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if cfg.Candidate, err = f.candidate(c, src, f.bundle, filepath.Join(temp, "new.tar.gz")); err != nil {
		return err
	}
	if cfg.Old, err = f.before(c, src, cfg.Candidate, filepath.Join(temp, "old.tar.gz")); err != nil {
		return err
	}
	t, err := f.replay(c, replay.New(cfg), log, name)
	if err != nil {
		return err
	}
	return f.report(c.OutOrStdout(), expect, t)
}

// source is where settings come from: a configuration, or nowhere.
func (f *replayFlags) source() (config.Source, error) {
	src, err := config.Source{File: f.config}.OrDefault()
	if err != nil && f.bundle != "" && f.old != formerAuto {
		return config.Source{}, nil // the bundle by itself
	}
	return src, err
}

// formerAuto stands for the very policies that decided.
const formerAuto = "auto"

// before finds the policy that a decision is compared with; nil where what was recorded counts.
func (f *replayFlags) before(c *cobra.Command, src config.Source, next *replay.Candidate, temp string) (func(*replay.Record) (*replay.Candidate, error), error) {
	switch f.old {
	case "":
		return nil, nil
	case formerAuto:
		cfg, _, err := src.Read() // it was read without a problem for the candidate
		if err != nil {
			return nil, err
		}
		if cfg.StateDir == "" {
			return nil, fmt.Errorf("--old auto: %s has no state_dir, which is where bundles are kept by their digest", src.File)
		}
		return node.Archive(cfg).Candidates(c.Context(), next), nil
	}
	old, err := f.candidate(c, src, f.old, temp)
	if err != nil {
		return nil, err
	}
	return func(*replay.Record) (*replay.Candidate, error) { return old, nil }, nil
}

// replay runs with a progress bar.
func (f *replayFlags) replay(c *cobra.Command, p *replay.Replay, log *read.Reader, file string) (*replay.Report, error) {
	total := report.SizeOf(file)
	done := terminal.Progress(c.ErrOrStderr(), func(took time.Duration) string {
		events, bytes := p.Progress()
		return report.Progress(events, bytes, total, took)
	})
	t, err := p.Run(c.Context(), log)
	done()
	switch {
	case c.Context().Err() != nil:
		return nil, errors.New("interrupted before the end")
	case err != nil:
		return nil, err
	case t.Events-t.Filtered == 0:
		return nil, fmt.Errorf("there are no such decisions in %s (%d events)", file, t.Events)
	}
	return t, nil
}

// report prints what came of it, and says how to exit.
func (f *replayFlags) report(w io.Writer, expect []replay.Expected, t *replay.Report) error {
	if f.writeExpect != "" {
		if err := replay.WriteExpected(f.writeExpect, t.Groups); err != nil {
			return fmt.Errorf("writing expected changes: %w", err)
		}
	}
	if err := report.Replay(w, f.output.Format, expect, t); err != nil {
		return err
	}
	switch {
	case t.Unexpected() > 0:
		return grammar.ErrReported
	case t.Replayed == 0:
		return errors.New("none of the decisions could be replayed: above is why")
	}
	return nil
}

// candidate makes a policy ready: the configuration's with the bundle in it, or the bundle by itself.
func (f *replayFlags) candidate(c *cobra.Command, src config.Source, arg, temp string) (*replay.Candidate, error) {
	if src.File == "" {
		o, err := f.OpenBundle(c.Context(), arg, bundler.Pulled)
		if err != nil {
			return nil, err
		}
		return node.BareCandidate(c.Context(), o.Name, o.Files)
	}
	replace := func(*config.Config) error { return nil }
	if arg != "" {
		file, err := f.OnDisk(c.Context(), arg, temp)
		if err != nil {
			return nil, err
		}
		replace = func(cfg *config.Config) error { return node.ReplaceBundle(cfg, f.name, file) }
	}
	return node.Candidate(c.Context(), src, replace)
}
