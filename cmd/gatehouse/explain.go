package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/replay"
	"gatehouse/trial"
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
		Short: "Say why a decision in the log came out as it did",
		Long: `Finds a decision in the decision log and evaluates it again: the recorded input, at the recorded time, with the policy of the
configuration or of --bundle. It says whether that is the policy that decided, which rule allowed, or of each rule why it
did not, and what would have been allowed. What the log does not keep, such as claims and secrets, is not there for the
policy either: where the policy reads it, that is said.

The exit code is 0 where the decision was explained, 1 where it is not in the log or does not come out again, 2 where the
command line or the configuration makes no sense.`,
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
	flags.StringVarP(&f.src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it is there)")
	flags.StringVarP(&f.src.Bundle, "bundle", "b", "", "policy to evaluate instead of the configuration's: a directory or a .tar.gz")
	flags.StringVar(&f.log, "log", "", "decision log: a file, a spool or a folder of rotated files; - is standard input (default: the configuration's)")
	flags.BoolVar(&f.json, "json", false, "print one JSON object")
	return c
}

// retold is what gatehouse explain prints.
type retold struct {
	DecisionID string         `json:"decision_id"`
	Timestamp  string         `json:"timestamp"`
	Request    string         `json:"request"` // method, host and path
	App        string         `json:"app,omitempty"`
	Route      string         `json:"route,omitempty"`
	Redirect   bool           `json:"redirect,omitempty"`        // the application only redirects, to the route's path
	May        []string       `json:"may_be_taken_by,omitempty"` // where the table has several: the rules of all of them must allow
	Recorded   retoldOutcome  `json:"recorded"`
	Bundles    []retoldBundle `json:"bundles,omitempty"`
	SamePolicy bool           `json:"same_policy"`    // the bundles are those that decided
	Kept       string         `json:"kept,omitempty"` // what became of looking for them among those that are kept by their digest
	Missing    []string       `json:"missing,omitempty"`
	Reproduced bool           `json:"reproduced"` // it comes out as recorded
	trial.Explanation
}

type retoldOutcome struct {
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	Status  int    `json:"status,omitempty"`
	DryRun  bool   `json:"dry_run,omitempty"`
	Error   string `json:"error,omitempty"`
}

// retoldBundle is one bundle, by revision and digest: as recorded and as loaded now. Empty is none.
type retoldBundle struct {
	Name           string `json:"name"`
	Recorded       string `json:"recorded,omitempty"`
	RecordedDigest string `json:"recorded_digest,omitempty"`
	Loaded         string `json:"loaded,omitempty"`
	LoadedDigest   string `json:"loaded_digest,omitempty"`
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
	record, err := findRecord(log, name, id)
	log.Close()
	if err != nil {
		return err
	}
	out, err := record.retell(c, src)
	if err != nil {
		return usageError{err}
	}
	if f.json {
		err = jsonLines(c.OutOrStdout()).Encode(out)
	} else {
		err = out.print(c.OutOrStdout())
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
func (r *logged) retell(c *cobra.Command, src config.Source) (*retold, error) {
	out := &retold{DecisionID: r.DecisionID, Timestamp: r.Timestamp, Request: strings.TrimSpace(r.Request.Method + " " + r.Request.Host + r.Request.Path),
		App: r.App, Route: r.Route,
		Recorded: retoldOutcome{Outcome: r.Outcome, Reason: r.Reason, Status: r.Status, DryRun: r.DryRun}}
	if r.Error != nil {
		out.Recorded.Error = r.Error.Message
	}
	id := &r.Identity
	out.Caller = trial.CalledBy(id.Type, id.Subject, id.Issuer, id.Roles, id.Authenticated)
	if r.Input == nil {
		out.withoutInput(r)
		return out, nil
	}
	at, err := time.Parse(time.RFC3339Nano, r.Timestamp)
	if err != nil {
		return nil, fmt.Errorf("decision %q: timestamp %q is not one of RFC 3339", r.DecisionID, r.Timestamp)
	}
	t, err := newTrial(c.Context(), src, nil, func(cfg *config.Config) { r.adjust(cfg, src) }, c.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	defer t.close()
	if src.Bundle == "" {
		out.usePast(c.Context(), t, src, r)
	}
	entry, err := r.entry(t)
	if err != nil {
		return nil, err
	}
	out.compareBundles(r, t.engine.policy.Bundles())
	out.Missing = r.missing(entry)
	input, err := policy.FromJSON(r.Input)
	if err != nil {
		return nil, fmt.Errorf("decision %q: its input: %w", r.DecisionID, err)
	}
	out.Policy = entry.Explain(c.Context(), input, policy.Facts{}, at, trial.Hiding(decisionLog(t.config, nil, nil).Redact, r.Input))
	out.Reproduced = r.agrees(out.Policy)
	route, _ := r.Input["route"].(map[string]any)
	out.Redirect = route["redirect"] == true
	out.May = t.mayTake(r, route)
	if req, err := gate.RequestFromInput(r.Input); err == nil {
		out.Policy.Nearest = t.Confirm(c.Context(), out.Policy.Nearest, func(method string) *gate.Request {
			other := *req
			other.Method = method
			other.Headers = slices.Clone(req.Headers)
			for i := range other.Headers {
				if other.Headers[i].Name == ":method" {
					other.Headers[i].Value = method
				}
			}
			return &other
		})
	}
	return out, nil
}

// mayTake are the routes that may take a recorded request, by the table as it is now, where there are several.
func (t *trialNode) mayTake(r *logged, route map[string]any) (names []string) {
	method, _ := route["method"].(string)
	for _, known := range t.engine.routes {
		if known.table == nil || method == "" || known.app != r.App && r.App != "" {
			continue
		}
		path, _, _ := strings.Cut(r.Request.Path, "?")
		m := known.table.Match(method, r.Request.Host, path)
		if len(m.Also) == 0 {
			continue
		}
		names = append(names, strings.TrimSpace(m.Route.Template+" "+m.Route.Name))
		for i := range m.Also {
			names = append(names, strings.TrimSpace(m.Also[i].Route.Template+" "+m.Also[i].Route.Name))
		}
	}
	return names
}

// usePast takes the very policy that decided, where it is kept and is not the configuration's any more.
func (o *retold) usePast(ctx context.Context, t *trialNode, src config.Source, r *logged) {
	cfg, _, err := src.Read()
	if err != nil || cfg.StateDir == "" {
		return
	}
	now := t.engine.policy
	switch err := t.usePast(ctx, cfg, r.Bundles); {
	case err != nil:
		o.Kept = err.Error()
	case t.engine.policy != now:
		o.Kept = "taken from " + cfg.PastDir()
	}
}

// usePast puts the policy that decided in the place of the configuration's, where that is another one and the former is kept.
func (t *trialNode) usePast(ctx context.Context, cfg *config.Config, decided map[string]decisionlog.EventBundle) error {
	if replay.IsMadeOf(t.engine.policy, decided) {
		return nil
	}
	archive := archiveOf(cfg)
	s, err := archive.Snapshot(ctx, decided)
	if err != nil {
		return err
	}
	if err := t.gate.Publish(ctx, func(v *gate.View) { v.Policy = s }); err != nil {
		return fmt.Errorf("the kept policy does not fit the configuration: %w", err)
	}
	t.engine.policy = s
	return nil
}

// withoutInput is for a decision that the policy was not asked for, or whose input is gone.
func (o *retold) withoutInput(r *logged) {
	if slices.Contains(r.Erased, "/input") {
		o.Stopped = "its input is not in the log any more (erased), so that it cannot be evaluated again"
		return
	}
	o.Reproduced = true // there is nothing to evaluate
	if !r.Identity.Authenticated {
		o.Caller = trial.Unknown(r.Reason)
	}
	switch o.Stopped = o.Recorded.Error; {
	case r.Reason == "bypass":
		o.Stopped = "bypass: let through before any credential or policy is looked at"
	case o.Stopped == "":
		o.Stopped = cmp.Or(r.Reason, r.Outcome)
	}
}

// adjust makes a bundle by itself answer what the record asked.
func (r *logged) adjust(cfg *config.Config, src config.Source) {
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

// recorded is what the gate has to know of it.
func (r *logged) recorded() *gate.Recorded {
	route, _ := r.Input["route"].(map[string]any)
	template, _ := route["template"].(string)
	method, _ := route["method"].(string) // the request's, or WEBSOCKET
	return &gate.Recorded{App: r.App, Method: cmp.Or(method, r.Request.Method), Route: template, Path: r.Path, Authenticated: r.Identity.Authenticated}
}

// entry finds the rule that was asked.
func (r *logged) entry(t *trialNode) (*policy.Entry, error) {
	entry, err := gate.NewReplayer(t.gate.View()).RuleAskedThen(r.recorded())
	if err == nil && entry == nil {
		err = fmt.Errorf("this policy has no rule %s, which decision %q asked\n--bundle DIR names the policy that decided", r.Path, r.DecisionID)
	}
	return entry, err
}

// compareBundles holds the bundles that decided against those that are here.
func (o *retold) compareBundles(r *logged, loaded []policy.BundleInfo) {
	o.SamePolicy = len(r.Bundles) == len(loaded) && len(loaded) > 0
	one := len(r.Bundles) == 1 && len(loaded) == 1 // then the name does not count: --bundle gives it another
	for _, name := range slices.Sorted(maps.Keys(r.Bundles)) {
		was := r.Bundles[name]
		row := retoldBundle{Name: name, Recorded: was.Revision, RecordedDigest: was.Digest}
		for _, b := range loaded {
			if b.Name == name || one {
				row.Loaded, row.LoadedDigest = b.Revision, b.Digest
			}
		}
		o.SamePolicy = o.SamePolicy && was.Digest != "" && was.Digest == row.LoadedDigest
		o.Bundles = append(o.Bundles, row)
	}
	for _, b := range loaded {
		if _, known := r.Bundles[b.Name]; !known && !one {
			o.Bundles = append(o.Bundles, retoldBundle{Name: b.Name, Loaded: b.Revision, LoadedDigest: b.Digest})
		}
	}
}

// missing are the parts of the input that the log did not keep and the policy reads.
func (r *logged) missing(entry *policy.Entry) []string {
	var out []string
	for _, pointer := range slices.Concat(r.Erased, r.Masked) {
		if ref := replay.ReadRef(entry.Reads(), pointer); ref != "" && !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	return out
}

// agrees reports whether the policy says again what was recorded.
func (r *logged) agrees(again *policy.Explanation) bool {
	was, is := gate.ReasonNamed(r.Reason), gate.VerdictOf(&policy.Decision{Allowed: again.Allowed}, again.Err)
	switch {
	case r.Reason != "" && !was.OfPolicy():
		return false // overloaded, timeout and the like: nothing of the policy's
	case was == gate.PolicyError && r.Outcome == "deny" && is.Allow && r.Error != nil:
		return true // the answer to an allow could not be given
	case was == gate.PolicyError:
		return again.Err != nil
	case was == gate.NoDecision:
		return is.Reason == gate.NoDecision
	}
	return again.Err == nil && is.Allow == (r.Outcome == "allow")
}

// print writes it for people.
func (o *retold) print(w io.Writer) error {
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
		line("policy", "%s", bundle.words())
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
		line("again", "%s", o.otherwise())
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return printExplanation(w, &o.Explanation)
}

func (b retoldBundle) words() string {
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
func (o *retold) otherwise() string {
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
