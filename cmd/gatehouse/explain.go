package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/edge"
	"gatehouse/replay"
	"gatehouse/trial/logged"
)

// explainFlags are those of gatehouse explain.
type explainFlags struct {
	src  config.Source
	log  string
	json bool
}

func explainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain DECISION_ID",
		Short: "Explain a decision in the log",
		Long: `Finds a decision in the decision log and evaluates it again: the recorded input, at the recorded time, with the policy of the
configuration or of --bundle. It shows whether that is the policy that decided, which rule allowed, or why each rule
did not, and what would have been allowed. Values that are not logged, such as claims and secrets, are missing in the
evaluation; if the policy reads them, it is noted.

Exit code: 0 explained, 1 not in the log or decided differently now, 2 wrong command line or
configuration.`,
		Example: `  gatehouse explain 7J4TQXZB2M --log decisions.log
  zcat decisions-*.gz | gatehouse explain 7J4TQXZB2M --log - --bundle policy-1.4.tar.gz`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usageError{errors.New("give the id of one decision: a denial tells it in the header x-decision-id and in its body")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args[0]) },
	}
	flags := c.Flags()
	flags.StringVarP(&f.src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	flags.StringVarP(&f.src.Bundle, "bundle", "b", "", "policy to evaluate instead of the configuration's: a directory or a .tar.gz")
	flags.StringVar(&f.log, "log", "", "decision log: a file, a spool or a folder of rotated files; - is standard input (default: the configuration's)")
	flags.BoolVar(&f.json, "json", false, "print one JSON object")
	return c
}

func (f *explainFlags) run(c *cobra.Command, id string) error {
	src, err := f.src.OrDefault()
	if err != nil {
		return usageError{err}
	}
	log, name, err := f.openLog(c.Context(), src, c.InOrStdin())
	if err != nil {
		return err
	}
	record, err := logged.Find(log, name, id)
	log.Close()
	if err != nil {
		return err
	}
	out, err := retell(c, src, record)
	if err != nil {
		return usageError{err}
	}
	if f.json {
		err = jsonLines(c.OutOrStdout()).Encode(out)
	} else {
		err = printRetold(c.OutOrStdout(), out)
	}
	if err == nil && !out.Reproduced {
		return errSaid
	}
	return err
}

// openLog opens the log to look into.
func (f *explainFlags) openLog(ctx context.Context, src config.Source, stdin io.Reader) (log *decisionlog.Reader, name string, err error) {
	if f.log != "" {
		log, err = openLogAt(f.log, stdin)
		return log, f.log, err
	}
	log, err = openLogOf(src, ctx)
	return log, "the decision log of " + src.File, err
}

// retell evaluates a record again.
func retell(c *cobra.Command, src config.Source, r *logged.Decision) (*logged.Retold, error) {
	out := r.Retell()
	if r.Input == nil {
		return out, nil
	}
	at, err := r.Time()
	if err != nil {
		return nil, err
	}
	t, err := newTrial(c.Context(), src, nil, func(cfg *config.Config) { askAsRecorded(cfg, src, r) }, c.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	defer t.close()
	if src.Bundle == "" {
		out.Kept = t.useKept(c.Context(), src, r)
	}
	with := logged.With{Trial: t.Trial, View: t.gate.View(), Redact: edge.LogConfig(t.config, nil, nil).Redact}
	for _, known := range t.node.Tables {
		with.Tables = append(with.Tables, logged.RouteTable{App: known.App, Table: known.Table})
	}
	return out, r.Explain(c.Context(), at, with, out)
}

// useKept takes the very policy that decided, where it is kept and is not the configuration's any more, and says what came of that.
func (t *trialNode) useKept(ctx context.Context, src config.Source, r *logged.Decision) string {
	cfg, _, err := src.Read()
	if err != nil || cfg.StateDir == "" {
		return ""
	}
	now := t.node.Policy
	switch err := t.usePast(ctx, cfg, r.Bundles); {
	case err != nil:
		return err.Error()
	case t.node.Policy != now:
		return "taken from " + cfg.PastDir()
	}
	return ""
}

// usePast puts the policy that decided in the place of the configuration's, where that is another one and the former is kept.
func (t *trialNode) usePast(ctx context.Context, cfg *config.Config, decided map[string]decisionlog.EventBundle) error {
	if replay.IsMadeOf(t.node.Policy, decided) {
		return nil
	}
	archive := archiveOf(cfg)
	s, err := archive.Snapshot(ctx, decided)
	if err != nil {
		return err
	}
	if err := t.node.Use(ctx, s); err != nil {
		return fmt.Errorf("the kept policy does not fit the configuration: %w", err)
	}
	return nil
}

// askAsRecorded makes a bundle by itself answer what the record asked.
func askAsRecorded(cfg *config.Config, src config.Source, r *logged.Decision) {
	if src.File != "" && src.Bundle != "" {
		cfg.Policy.Bundles = cfg.Policy.Bundles[len(cfg.Policy.Bundles)-1:] // the one that was named
	}
	if src.File != "" {
		return
	}
	cfg.Policy.Decision = r.Path
	if !strings.Contains(r.Path, "/") && strings.Contains(r.Path, ".") {
		cfg.Policy.Decision = strings.ReplaceAll(r.Path, ".", "/") + "/allowed"
	}
}

// printRetold writes it for people.
func printRetold(w io.Writer, o *logged.Retold) error {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		if text := fmt.Sprintf(format, visibleArgs(args)...); text != "" {
			fmt.Fprintf(&b, "  %-9s %s\n", key, text)
		}
	}
	p := printer{w: w, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	verdict := o.Recorded.Outcome
	if verdict == "deny" {
		verdict = strings.TrimSpace(fmt.Sprintf("deny %d %s", o.Recorded.Status, o.Recorded.Reason))
	}
	if o.Recorded.DryRun {
		verdict += ", let through by dry run"
	}
	style := red
	if o.Recorded.Outcome == "allow" {
		style = green
	}
	fmt.Fprintln(&b, p.paint(style, visible(verdict)))
	line("decision", "%s at %s", o.DecisionID, o.Timestamp)
	line("request", "%s", o.Request)
	line("app", "%s", o.App)
	line("route", "%s", o.Route)
	if o.Redirect {
		line("", "the application redirects to this route's path, with or without a closing slash: its rule decided")
	}
	if len(o.May) > 0 {
		line("", "by the table as it is now any of %s may take it: the rules of all of them must allow", strings.Join(o.May, ", "))
	}
	line("cause", "%s", o.Recorded.Error)
	for _, bundle := range o.Bundles {
		line("policy", "%s", bundleWords(bundle))
	}
	line("kept", "%s", o.Kept)
	for _, part := range o.Missing {
		line("missing", "%s: the policy reads it and the log does not keep it", part)
	}
	switch {
	case o.Policy == nil:
	case o.Reproduced && o.SamePolicy:
		line("again", "it comes out the same, with the policy that decided")
	case o.Reproduced:
		line("again", "it comes out the same, with another policy than the one that decided")
	default:
		line("again", "%s", otherwise(o))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return printExplanation(w, &o.Explanation)
}

func bundleWords(b logged.Bundle) string {
	switch {
	case b.LoadedDigest == "":
		return fmt.Sprintf("%s %s decided; it is not here", b.Name, b.Recorded)
	case b.Recorded == "" && b.RecordedDigest == "":
		return fmt.Sprintf("%s %s is here; it was not there when this was decided", b.Name, b.Loaded)
	case b.RecordedDigest == b.LoadedDigest:
		return fmt.Sprintf("%s %s, the very one that decided", b.Name, b.Loaded)
	case b.RecordedDigest == "":
		return fmt.Sprintf("%s %s decided, %s is here; the record has no digest to compare", b.Name, b.Recorded, b.Loaded)
	}
	return fmt.Sprintf("%s %s decided, %s is here: they differ", b.Name, b.Recorded, b.Loaded)
}

// otherwise says why it does not come out as recorded.
func otherwise(o *logged.Retold) string {
	text := "it comes out differently now"
	switch {
	case slices.Contains([]string{"timeout", "overloaded", "unavailable", "internal", "not_ready"}, o.Recorded.Reason):
		return fmt.Sprintf("the answer was not the policy's (%s): below is what the policy says", o.Recorded.Reason)
	case !o.SamePolicy:
		text += ": this is not the policy that decided"
	case len(o.Missing) > 0:
		text += ": the policy reads what the log does not keep"
	case len(o.Policy.Notes) > 0:
		text += ": see the notes below"
	}
	return text
}
