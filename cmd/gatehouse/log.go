package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/decisionlog/read"
	"gatehouse/replay/search"
	"gatehouse/report"
	"gatehouse/terminal"
	"gatehouse/trial/node"
)

const maxTail = 100_000

func logCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "log",
		Short: "Query the decision log: tail, grep, stats, coverage",
		Long: `Reads decisions from the configuration's log (its file, and entries that are only in its spool yet), or from the given
files: JSON lines, Open Policy Agent's decision log (its console log, or the arrays that it sends), both optionally
compressed by gzip, a segment of a spool, a spool, or a folder of rotated files. The log may be in use: nothing is changed.

Damaged parts are skipped with a warning.`,
	}
	return grammar.Family(c, logTailCommand(), logGrepCommand(), logStatsCommand(), logCoverageCommand())
}

// logSource is a decision log to read, and what was found in it.
type logSource struct {
	src    config.Source
	log    string   // --log
	paths  []string // arguments
	stderr io.Writer
	search.Source
}

func (l *logSource) flags(c *cobra.Command) {
	c.Flags().StringVarP(&l.src.File, "config", "c", "", "configuration whose decision log is read (default: gatehouse.yaml, if it exists)")
	c.Flags().StringVar(&l.log, "log", "", "decision log to read instead: a file, a folder or a spool; - is standard input")
}

// open opens what is to be read, paths being the command's arguments.
func (l *logSource) open(c *cobra.Command, paths []string) error {
	l.stderr, l.paths = c.ErrOrStderr(), paths
	l.Warn = func(err error) { fmt.Fprintln(l.stderr, "warning: "+terminal.Visible(err.Error())) }
	if l.log != "" {
		l.paths = append([]string{l.log}, paths...)
	}
	if len(l.paths) > 0 {
		return l.Open(l.paths, func(path string) (*read.Reader, error) { return node.OpenLogAt(path, c.InOrStdin()) })
	}
	src, err := l.src.OrDefault()
	if err != nil {
		return fmt.Errorf("which decision log? name a file, or a configuration: %w", err)
	}
	log, err := openLogOf(c.Context(), src)
	if err == nil {
		l.Use(log)
	}
	return err
}

// openLogOf opens the decision log of a configuration.
func openLogOf(ctx context.Context, src config.Source) (*read.Reader, error) {
	log, err := node.OpenLog(ctx, src)
	if which, ok := errors.AsType[node.WhichLogError](err); ok {
		err = which
	}
	return log, err
}

// name says where was looked, for people.
func (l *logSource) name() string {
	if len(l.paths) == 0 {
		return "the decision log"
	}
	return strings.Join(l.paths, " ")
}

// stopWarnings ends the warnings.
func (l *logSource) stopWarnings() {
	if l.Damaged > search.MostWarnings {
		fmt.Fprintf(l.stderr, "warning: ... and %d more places that could not be read\n", l.Damaged-search.MostWarnings)
	}
}

// logOutput prints events as they are, or for people.
type logOutput struct {
	w     io.Writer
	json  bool
	print terminal.Printer
}

func newLogOutput(w io.Writer, json bool) logOutput {
	return logOutput{w: w, json: json, print: terminal.To(w)}
}

func (o *logOutput) line(event []byte, e *search.Event) string {
	if o.json {
		return string(terminal.VisibleJSON(event)) + "\n"
	}
	return report.Event(e, o.print) + "\n"
}

// logTail is gatehouse log tail.
type logTail struct {
	source logSource
	query  logQuery
	n      int
	follow bool
	output grammar.Output
}

func logTailCommand() *cobra.Command {
	var f logTail
	c := &cobra.Command{
		Use:   "tail [FILE...]",
		Short: "Show the last decisions; -f follows the log",
		Example: `  gatehouse log tail -f --denied
  gatehouse log tail -n 50 --subject alice decisions.log`,
		RunE: f.run,
	}
	f.source.flags(c)
	f.query.flags(c)
	c.Flags().IntVarP(&f.n, "lines", "n", 10, "number of decisions")
	c.Flags().BoolVarP(&f.follow, "follow", "f", false, "follow the log, also across rotations of the file, until interrupted")
	f.output.Add(c, "the events as they are, one object a line")
	return c
}

func (f *logTail) run(c *cobra.Command, args []string) error {
	if f.n < 0 || f.n > maxTail {
		return fmt.Errorf("-n %d: from 0 to %d decisions can be shown; gatehouse log grep '' shows all", f.n, maxTail)
	}
	if err := f.query.Compile(); err != nil {
		return err
	}
	if f.follow && len(args) > 1 {
		return errors.New("one log can be followed at a time")
	}
	if err := f.source.open(c, args); err != nil {
		return err
	}
	defer f.source.Close()
	if f.follow {
		if err := f.source.Reader().Follow(); err != nil {
			return fmt.Errorf("--follow %s: %w", f.source.name(), err)
		}
	}
	err := f.show(c.Context(), newLogOutput(c.OutOrStdout(), f.output.JSON()))
	if f.follow && errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// show prints the last of what there is, and what comes.
func (f *logTail) show(ctx context.Context, out logOutput) error {
	last, err := f.last(ctx)
	if err != nil {
		return err
	}
	f.source.stopWarnings()
	for _, event := range last {
		var e search.Event
		if err := e.Parse(event, 0); err != nil {
			f.source.Warning(fmt.Errorf("%s: %w", f.source.name(), err))
		} else if _, err := io.WriteString(out.w, out.line(event, &e)); err != nil {
			return err
		}
	}
	if len(last) == 0 && f.n > 0 {
		f.query.nothing(&f.source)
	}
	for f.follow {
		if err := f.source.Reader().Wait(ctx); err != nil {
			return err
		}
		err := f.query.Each(ctx, &f.source.Source, &search.Event{}, nil, func(event []byte, e *search.Event) error {
			_, err := io.WriteString(out.w, out.line(event, e))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// last are the last events that are asked for. None is parsed before it is known to be one of them, where that can be helped.
func (f *logTail) last(ctx context.Context) ([][]byte, error) {
	ring, n := make([][]byte, 0, min(f.n, 1024)), 0
	keep := func(event []byte, _ *search.Event) error {
		if n++; f.n == 0 {
			return nil
		}
		if len(ring) < f.n {
			ring = append(ring, nil)
		}
		at := &ring[(n-1)%f.n]
		*at = append((*at)[:0], event...)
		return nil
	}
	var e *search.Event
	if !f.query.All() {
		e = &search.Event{}
	}
	err := f.query.Each(ctx, &f.source.Source, e, nil, keep)
	if n <= len(ring) {
		return ring, err
	}
	return slices.Concat(ring[n%f.n:], ring[:n%f.n]), err
}

// logGrep is gatehouse log grep.
type logGrep struct {
	source     logSource
	query      logQuery
	ignoreCase bool
	count      bool
	output     grammar.Output
}

func logGrepCommand() *cobra.Command {
	var f logGrep
	c := &cobra.Command{
		Use:   "grep PATTERN [FILE...]",
		Short: "Show the decisions whose event matches a pattern",
		Long: `Shows the decisions whose event (the line of JSON) matches a regular expression (RE2) and the flags. An empty
pattern matches every event.

Exit code: 0 matches found, 1 no match, 2 wrong command line.`,
		Example: `  gatehouse log grep '"orders.drop"' --denied --since 24h
  gatehouse log grep '' --route orders.show --reason policy_error decisions.log`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give a pattern; '' matches every decision")
			}
			return nil
		},
		RunE: f.run,
	}
	f.source.flags(c)
	f.query.flags(c)
	c.Flags().BoolVarP(&f.ignoreCase, "ignore-case", "i", false, "ignore upper and lower case")
	c.Flags().BoolVar(&f.count, "count", false, "print only the number of matches")
	f.output.Add(c, "the events as they are, one object a line")
	return c
}

func (f *logGrep) run(c *cobra.Command, args []string) error {
	text := args[0]
	if f.ignoreCase {
		text = "(?i)" + text
	}
	pattern, err := regexp.Compile(text)
	if err != nil {
		return fmt.Errorf("the pattern %q: %w", args[0], err)
	}
	if err := f.query.Compile(); err != nil {
		return err
	}
	if err := f.source.open(c, args[1:]); err != nil {
		return err
	}
	defer f.source.Close()
	out := newLogOutput(c.OutOrStdout(), f.output.JSON())
	found := 0
	err = f.query.Each(c.Context(), &f.source.Source, &search.Event{}, pattern, func(event []byte, e *search.Event) error {
		found++
		if f.count {
			return nil
		}
		_, err := io.WriteString(out.w, out.line(event, e))
		return err
	})
	if err != nil {
		return err
	}
	f.source.stopWarnings()
	if f.count {
		fmt.Fprintln(out.w, found)
	}
	if found == 0 {
		f.query.nothing(&f.source)
		return grammar.ErrReported
	}
	return nil
}

// logQuery says which events of a log are asked for.
type logQuery struct{ search.Query }

func (q *logQuery) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&q.Denied, "denied", false, "only denials, including those of a dry run")
	f.BoolVar(&q.Allowed, "allowed", false, "only allowed requests")
	f.StringArrayVar(&q.Subjects, "subject", nil, "only this caller; may be repeated")
	f.StringArrayVar(&q.Routes, "route", nil, "only this route: its name, its template, or method and template; may be repeated")
	f.StringArrayVar(&q.Apps, "app", nil, "only this application; may be repeated")
	f.StringArrayVar(&q.Reasons, "reason", nil, "only this reason, such as denied or no_route; may be repeated")
	f.StringArrayVar(&q.Methods, "method", nil, "only this method; may be repeated")
	f.StringVar(&q.Path, "path", "", "only paths that begin like this")
	f.StringVar(&q.Since, "since", "", "only from this time on: RFC 3339, a date, or how long ago (90m, 36h, 7d)")
	f.StringVar(&q.Until, "until", "", "only before this time, in the same formats")
}

// nothing says that nothing was found, and in how much.
func (q *logQuery) nothing(l *logSource) {
	text := fmt.Sprintf("nothing found: %s in %s", terminal.Count(l.Events+l.Gaps, "event"), l.name())
	if l.Events > 0 {
		text += "; none of them is asked for"
	}
	fmt.Fprintln(l.stderr, terminal.Visible(text))
}
