package logged

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/gate/recorded"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/explain"
	"gatehouse/policy/rego"
	"gatehouse/replay"
	"gatehouse/routes"
	"gatehouse/trial"
)

// Explanation is a decision told again: what the log has of it, and why it comes out as it does.
type Explanation struct {
	DecisionID string   `json:"decision_id"`
	Timestamp  string   `json:"timestamp"`
	Request    string   `json:"request"` // method, host and path
	App        string   `json:"app,omitempty"`
	Route      string   `json:"route,omitempty"`
	Redirect   bool     `json:"redirect,omitempty"`        // the application only redirects, to the route's path
	May        []string `json:"may_be_taken_by,omitempty"` // where the table has several: the rules of all of them must allow
	Recorded   Outcome  `json:"recorded"`
	Bundles    []Bundle `json:"bundles,omitempty"`
	SamePolicy bool     `json:"same_policy"`    // the bundles are those that decided
	Kept       string   `json:"kept,omitempty"` // what became of looking for them among those that are kept by their digest
	Missing    []string `json:"missing,omitempty"`
	User       string   `json:"user,omitempty"`   // where input.user is not the recorded one: where it is from
	Unsure     string   `json:"unsure,omitempty"` // why it is not known how it comes out
	Reproduced bool     `json:"reproduced"`       // it comes out as recorded
	trial.Explanation
}

// Outcome is what came of a decision.
type Outcome struct {
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	Status  int    `json:"status,omitempty"`
	DryRun  bool   `json:"dry_run,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Bundle is one bundle, by revision and digest: as recorded and as loaded now. Empty is none.
type Bundle struct {
	Name           string `json:"name"`
	Recorded       string `json:"recorded,omitempty"`
	RecordedDigest string `json:"recorded_digest,omitempty"`
	Loaded         string `json:"loaded,omitempty"`
	LoadedDigest   string `json:"loaded_digest,omitempty"`
}

// With is what a decision is explained with.
type With struct {
	Trial  *trial.Trial
	View   *gate.View // of the trial's gate
	Redact decisionlog.Redact
	Tables []RouteTable
}

// RouteTable is the table of an application.
type RouteTable struct {
	App   string
	Table *routes.Table
}

// Recorded is what the log says of a decision. That is all there is to say where its input is not in the log; else Explain is next.
func (r *Decision) Recorded() *Explanation {
	out := &Explanation{DecisionID: r.DecisionID, Timestamp: r.Timestamp, Request: strings.TrimSpace(r.Request.Method + " " + r.Request.Host + r.Request.Path),
		App: r.App, Route: r.Route,
		Recorded: Outcome{Outcome: r.Outcome, Reason: r.Reason, Status: r.Status, DryRun: r.DryRun}}
	if r.Error != nil {
		out.Recorded.Error = r.Error.Message
	}
	id := &r.Identity
	out.Caller = trial.CalledBy(id.Type, id.Subject, id.Issuer, id.Roles, id.Authenticated)
	if r.Input == nil {
		out.withoutInput(r)
	}
	return out
}

// Time is when it was decided.
func (r *Decision) Time() (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, r.Timestamp)
	if err != nil {
		err = fmt.Errorf("decision %q: timestamp %q is not one of RFC 3339", r.DecisionID, r.Timestamp)
	}
	return at, err
}

// facts are the answers that are on record, or the View's where nothing is. Without either the policy has no directory.
func (r *Decision) facts(v *gate.View) policy.Facts {
	if len(r.asked) == 0 {
		return v.Facts
	}
	return policy.OnRecord(r.asked, v.Facts)
}

// Explain evaluates a decision again, as of the time at, and adds to out why it comes out as it does.
func (r *Decision) Explain(ctx context.Context, at time.Time, with With, out *Explanation) error {
	if r.question {
		return errors.New("an application asked for this decision: there is no request to explain, and the log has all that is known")
	}
	entry, err := r.entry(with.View)
	if err != nil {
		return err
	}
	out.compareBundles(r, with.View.Policy.Bundles())
	out.Missing = r.missing(entry)
	document, asked, err := r.recall(entry, at, with.View, out)
	if err != nil || !asked {
		return err
	}
	input, err := rego.FromJSON(document)
	if err != nil {
		return fmt.Errorf("decision %q: its input: %w", r.DecisionID, err)
	}
	out.Policy = explain.Of(ctx, entry, input, r.facts(with.View), at, trial.RedactOptions(with.Redact, document))
	out.Reproduced = r.agrees(out.Policy)
	route, _ := r.Input["route"].(map[string]any)
	out.Redirect = route["redirect"] == true
	out.May = r.candidateRoutes(with.Tables, route)
	if req, err := recorded.Request(document); err == nil {
		out.Policy.Nearest = with.Trial.Confirm(ctx, out.Policy.Nearest, func(method string) *gate.Request {
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
	return nil
}

// recall is the recorded input, with the user of the directory of now where the policy reads one and the record has none. asked is whether
// the policy is asked with it.
func (r *Decision) recall(entry *policy.Entry, at time.Time, v *gate.View, out *Explanation) (document map[string]any, asked bool, err error) {
	id, user, err := recorded.Caller(r.Input)
	if err != nil {
		return nil, false, fmt.Errorf("decision %q: its input: %w", r.DecisionID, err)
	}
	if r.claims != nil {
		id.Claims = r.claims
	}
	replayer := gate.NewReplayer(v)
	caller := &gate.RecordedCaller{Identity: id, User: user, Directory: r.directory, Same: out.SamePolicy, Withheld: slices.Concat(r.Erased, r.Masked)}
	if in := replayer.DirectoryRoles(caller, at); in != "" {
		out.Caller += "; " + in + " of now"
	}
	now := replayer.User(caller, entry.Reads(), at)
	switch {
	case now.Unsure != "":
		out.Unsure = "the policy reads " + now.Unsure
		out.Stopped = "unsure: " + out.Unsure
		return nil, false, nil
	case !now.Current:
		return r.Input, true, nil
	}
	out.User = replay.DirectoryOfNow
	if now.Denied {
		out.Stopped = "unknown_user: the caller is not in the directory of now, and directory.unknown_user is deny"
		return nil, false, nil
	}
	document = maps.Clone(r.Input)
	now.Into(document)
	return document, true, nil
}

// candidateRoutes are the routes that may take a recorded request, by the table as it is now, where there are several.
func (r *Decision) candidateRoutes(tables []RouteTable, route map[string]any) (names []string) {
	method, _ := route["method"].(string)
	for _, known := range tables {
		if known.Table == nil || method == "" || known.App != r.App && r.App != "" {
			continue
		}
		path, _, _ := strings.Cut(r.Request.Path, "?")
		m := known.Table.Match(method, r.Request.Host, path)
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

// withoutInput is for a decision that the policy was not asked for, or whose input is gone.
func (o *Explanation) withoutInput(r *Decision) {
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
	case r.Reason == "permissions":
		o.Stopped = "permissions: Gatehouse answered itself which routes the caller may call"
	case o.Stopped == "":
		o.Stopped = cmp.Or(r.Reason, r.Outcome)
	}
}

// recorded is what the gate has to know of it.
func (r *Decision) recorded() *gate.Recorded {
	route, _ := r.Input["route"].(map[string]any)
	template, _ := route["template"].(string)
	method, _ := route["method"].(string) // the request's, or WEBSOCKET
	return &gate.Recorded{App: r.App, Method: cmp.Or(method, r.Request.Method), Route: template, Path: r.Path}
}

// entry finds the rule that was asked.
func (r *Decision) entry(view *gate.View) (*policy.Entry, error) {
	entry, err := gate.NewReplayer(view).RuleAskedThen(r.recorded())
	if err == nil && entry == nil {
		path, _ := gate.RulePathNamed(r.Path)
		err = fmt.Errorf("this policy has no rule data.%s, which decision %q asked\n--bundle DIR names the policy that decided", routes.RuleName(path), r.DecisionID)
	}
	return entry, err
}

// compareBundles holds the bundles that decided against those that are here.
func (o *Explanation) compareBundles(r *Decision, loaded []bundle.Info) {
	o.SamePolicy = len(r.Bundles) == len(loaded) && len(loaded) > 0
	one := len(r.Bundles) == 1 && len(loaded) == 1 // then the name does not count: --bundle gives it another
	for _, name := range slices.Sorted(maps.Keys(r.Bundles)) {
		was := r.Bundles[name]
		row := Bundle{Name: name, Recorded: was.Revision, RecordedDigest: was.Digest}
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
			o.Bundles = append(o.Bundles, Bundle{Name: b.Name, Loaded: b.Revision, LoadedDigest: b.Digest})
		}
	}
}

// missing are the parts of the input that the log did not keep and the policy reads.
func (r *Decision) missing(entry *policy.Entry) []string {
	var out []string
	for _, pointer := range slices.Concat(r.Erased, r.Masked) {
		if ref := replay.ReadRef(entry.Reads(), pointer); ref != "" && !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	return out
}

// agrees reports whether the policy says again what was recorded.
func (r *Decision) agrees(again *explain.Explanation) bool {
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
