package gate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"gatehouse/decisionlog"
	"gatehouse/directory"
	"gatehouse/gate/body"
	"gatehouse/gate/facts"
	"gatehouse/identity"
	"gatehouse/panics"
	"gatehouse/policy"
	"gatehouse/routes"
)

// View is everything that a decision depends on at one moment. It is deeply immutable. A request uses one View from
// beginning to end.
type View struct {
	Settings *Settings
	Policy   *policy.Snapshot
	Keys     *identity.Keys
	Routes   map[string]*routes.Table // by the application's name
	// Directory has the users, groups and relations that policies query and callers are looked up in. nil: not
	// configured, not loaded yet, or too old.
	Directory *directory.Snapshot
	Facts     policy.Facts // what policies may query besides their input; empty without a directory
	Serial    uint64       // incremented by each publication
	Shadow    *Shadow      // decides beside Policy, and never answers; nil: none

	users    *users               // of Directory
	usersOf  *directory.Snapshot  // the directory of users
	failed   *facts.Failures      // of all Views; nil: not counted
	revision string               // of Policy, for the decision log
	bundles  []decisionlog.Bundle // likewise
	digests  decisionlog.Digests  // likewise, of Routes and Keys
	apps     []application        // assembled from Settings, Policy and Routes; reused from the previous View where these are unchanged
	asked    *askedRules          // of Policy: rules for questions; nil without a policy
	memo     *policy.Memo         // of Policy; nil: memo off
	shadow   *shadowView          // of Shadow; nil: none decides
	notices  []string             // routes without a rule, rules without a route
}

// Ready returns what a View still lacks to decide, nil where it is complete.
func (v *View) Ready() error {
	switch {
	case v == nil || v.Settings == nil || v.Policy == nil:
		return errors.New("no policy is active yet")
	case v.Settings.Users != nil && v.Directory == nil:
		return errNoDirectory
	case v.Settings.Verifier != nil:
		return v.Settings.Verifier.Ready(v.Keys)
	}
	return nil
}

// Degraded lists what does not work in a View that decides, one sentence each. Requests that need it are denied
// (unavailable).
func (v *View) Degraded() []string {
	if v == nil || v.Settings == nil || v.Settings.Verifier == nil {
		return nil
	}
	return v.Settings.Verifier.Degraded(v.Keys)
}

var noSettings = &Settings{Timeout: time.Second}

func (v *View) settings() *Settings {
	if v == nil || v.Settings == nil {
		return noSettings
	}
	return v.Settings
}

// Part changes one or several fields of the next View, which starts as a copy of the active one.
type Part func(*View)

type publication struct {
	parts []Part
	done  chan error
}

// Run owns the View until ctx ends: it applies publications one after the other.
func (g *Gate) Run(ctx context.Context) error {
	var helpers sync.WaitGroup
	defer helpers.Wait()
	helpers.Go(func() { panics.Loop(ctx, "keeping the memory of decisions in bounds", g.memos.run) })
	helpers.Go(func() { panics.Loop(ctx, "deciding by the shadow policy", g.shadows.run) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-g.parts:
			p.done <- g.publish(p.parts)
		}
	}
}

// publish makes the next View and stores it. On an error or a panic the active one stays.
func (g *Gate) publish(parts []Part) (err error) {
	defer panics.Into("publishing what decides", &err)
	before := g.view.Load()
	next := *before
	if err := next.change(parts); err != nil {
		return err
	}
	next.Serial++
	next.describe()
	next.memo = g.memos.next(before, &next)
	next.shadow = g.shadows.next(before, &next)
	g.logNotices(before, &next)
	g.view.Store(&next)
	if g.onPublish != nil {
		g.notifyPublish(&next)
	}
	return nil
}

// notifyPublish calls OnPublish. The View is already active, so a panic there changes nothing.
func (g *Gate) notifyPublish(v *View) {
	defer panics.Recover("telling what was published")
	g.onPublish(v)
}

// change applies parts.
func (v *View) change(parts []Part) error {
	for _, part := range parts {
		part(v)
	}
	return v.assemble()
}

// describe computes once what every decision-log entry says about the View.
func (v *View) describe() {
	if v.usersOf != v.Directory {
		v.users, v.usersOf = newUsers(), v.Directory
		v.Facts = facts.Of(v.Directory, v.Serial, v.failed) // Serial is unique to this directory
	}
	if v.Policy == nil {
		return
	}
	if v.asked == nil || v.asked.of != v.Policy {
		v.asked = &askedRules{of: v.Policy}
	}
	v.revision, v.bundles = v.Policy.Revision(), nil
	for _, b := range v.Policy.Bundles() {
		v.bundles = append(v.bundles, decisionlog.Bundle{Name: b.Name, Revision: b.Revision, Digest: b.Digest})
	}
	v.digests = decisionlog.Digests{Routes: routesDigest(v.Routes), Keys: v.Keys.Digest()}
	if v.Directory != nil {
		v.digests.Directory = v.Directory.Digest()
	}
}

// routesDigest identifies all tables: one by its own digest, several by a digest over names and digests.
func routesDigest(tables map[string]*routes.Table) string {
	if only := tables[""]; len(tables) == 1 && only != nil {
		return only.Digest()
	}
	if len(tables) == 0 {
		return ""
	}
	all := sha256.New()
	for _, app := range slices.Sorted(maps.Keys(tables)) {
		fmt.Fprintf(all, "%q %s\n", app, tables[app].Digest())
	}
	return hex.EncodeToString(all.Sum(nil))
}

// logNotices logs the notices that the previous View did not have.
func (g *Gate) logNotices(before, next *View) {
	if len(next.notices) == 0 || len(before.notices) > 0 && &before.notices[0] == &next.notices[0] {
		return // nothing was assembled
	}
	known := make(map[string]bool, len(before.notices))
	for _, notice := range before.notices {
		known[notice] = true
	}
	for _, notice := range next.notices {
		if !known[notice] {
			g.logger.Warn("routes and rules do not match", zap.String("notice", notice))
		}
	}
}

// Notices lists routes without a rule and rules without a route (App.Root).
func (v *View) Notices() []string { return v.notices }

// textBodies is the notice about a proxy that does not send bodies as bytes.
const textBodies = "a proxy sends bodies as text, in which every byte that is not UTF-8 is an exclamation mark, so that the policy may read another body than the " +
	"application; set pack_as_bytes: true in with_request_body of its ext_authz filter (gatehouse doctor finds the place)"

// sawTextBody logs it once.
func (g *Gate) sawTextBody() {
	if !g.textBody.Swap(true) {
		g.logger.Warn("a proxy sends bodies as text", zap.String("notice", textBodies))
	}
}

// Notices lists proxy misconfigurations that requests revealed.
func (g *Gate) Notices() []string {
	if g.textBody.Load() {
		return []string{textBodies}
	}
	return nil
}

// Publish activates the parts in one step and returns when they are active. Where they do not fit together, or ctx
// ends first, it returns an error and nothing has changed.
func (g *Gate) Publish(ctx context.Context, parts ...Part) error {
	p := publication{parts: parts, done: make(chan error, 1)}
	select {
	case g.parts <- p:
		return <-p.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Validate reports whether Publish would accept the parts now, without publishing them.
func (g *Gate) Validate(parts ...Part) (err error) {
	defer panics.Into("checking what is to decide", &err)
	next := *g.view.Load()
	return next.change(parts)
}

// View returns the active View.
func (g *Gate) View() *View { return g.view.Load() }

// Settings are the parts of the configuration that a decision depends on. Validate, then publish; immutable from then
// on.
type Settings struct {
	Verifier *identity.Verifier // nil: no credential is verified
	Required bool               // requests without a credential are denied before the policy is evaluated
	Users    *Users             // how callers are looked up in the directory; nil: no directory
	Headers  IdentityHeaders
	Paths    PathRules
	Apps     []App         // at least one
	Timeout  time.Duration // of one evaluation
	Memo     Memo
	Limits   Limits
	Denials  Denials
	Bypass   []Bypass
	// Permissions is the path where callers query which routes they may call.
	Permissions Permissions
	DryRun      bool
	// DryRunExtension lets Envoy's configuration enable dry run for a route by the context extension
	// gatehouse.dry_run.
	DryRunExtension bool
	// ManageHeaders always removes the canonical identity headers: with Envoy's allowed_headers the client's copies
	// may be invisible here.
	ManageHeaders bool
	Log           *decisionlog.Log // nil: decisions are not logged
	// Plain turns all optimizations off: the input is always complete, and the memo is off. It is the reference that
	// tests compare with.
	Plain bool
	// Protos describe gRPC messages; nil: none.
	Protos *body.Descriptors
}

// Limits bound a request.
type Limits struct {
	Message    int // bytes of one request in its transport encoding, body included
	Headers    int // header lines
	Concurrent int // evaluations at once, 0 for no limit
}

// Bypass lets one method and path through without credential or policy. The path must equal the request's byte for
// byte, query excluded.
type Bypass struct {
	Method, Path string
	// Preflight matches CORS preflights only: OPTIONS with Origin and Access-Control-Request-Method (Fetch standard,
	// "CORS-preflight request"). Path may then be empty: any.
	Preflight bool
}

// Validate reports everything that is wrong with the settings.
func (s *Settings) Validate() error {
	errs := []error{s.Headers.validate(s.Verifier), validateApps(s.Apps)}
	if s.Timeout <= 0 {
		errs = append(errs, fieldErrorf("Timeout", "%s: must be above zero", s.Timeout))
	}
	if s.Users == nil && s.Headers.parts() != 0 {
		errs = append(errs, fieldErrorf("Headers", "headers tell of the caller's user, and there is no directory"))
	}
	if s.Limits.Message < 1 {
		errs = append(errs, fieldErrorf("Limits.Message", "must be above zero"))
	}
	if s.Limits.Headers < 1 {
		errs = append(errs, fieldErrorf("Limits.Headers", "must be above zero"))
	}
	if s.Limits.Concurrent < 0 {
		errs = append(errs, fieldErrorf("Limits.Concurrent", "must not be below zero"))
	}
	for i, b := range s.Bypass {
		switch {
		case b.Preflight && b.Method != "" && b.Method != http.MethodOptions:
			errs = append(errs, fieldErrorf(element("Bypass", i), "a preflight's method is OPTIONS, not %q", b.Method))
		case !b.Preflight && b.Method == "":
			errs = append(errs, fieldErrorf(element("Bypass", i), "method is missing"))
		case b.Path == "" && b.Preflight:
		case !exactPath(b.Path):
			errs = append(errs, fieldErrorf(element("Bypass", i), "path %q: give one exact path, without query, wildcards, escapes or dot segments", b.Path))
		}
	}
	errs = append(errs, s.Permissions.validate(s.Bypass))
	return errors.Join(errs...)
}

// manages reports whether identity headers are removed without being seen.
func (s *Settings) manages() bool {
	return s.ManageHeaders || s.Verifier != nil && s.Verifier.Configured()
}

// anonymous reports whether the caller presented no credential although credentials are configured.
func (s *Settings) anonymous(id *identity.Identity) bool {
	return !id.Authenticated && s.Verifier != nil && s.Verifier.Configured()
}

func (s *Settings) bypasses(req *Request, path string) bool {
	if len(s.Bypass) == 0 || isUpgrade(req) {
		return false // a WebSocket is not the page at the same path
	}
	for _, b := range s.Bypass {
		switch {
		case b.Path != "" && b.Path != path:
		case b.Preflight:
			if req.Method == http.MethodOptions && req.Headers.Get("origin") != "" && req.Headers.Get("access-control-request-method") != "" {
				return true
			}
		case b.Method == req.Method:
			return true
		}
	}
	return false
}

// FieldError is an error in one field of the Settings. Path names it in this package's terms, such as Limits.Message
// or Apps[1].Hosts; the reader of the configuration maps it to a key.
type FieldError struct {
	Path string
	Err  error
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// ErrDecisionOrRoot means that an application has neither Decision nor Root, or both.
var ErrDecisionOrRoot = errors.New("set one of Decision and Root")

func fieldErrorf(path, format string, args ...any) error {
	return &FieldError{Path: path, Err: fmt.Errorf(format, args...)}
}

func element(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// SameHeaderError means that two identity headers, given by their fields, have the same name.
type SameHeaderError struct{ First, Second, Name string }

func (e *SameHeaderError) Error() string {
	return fmt.Sprintf("%s and %s are both %q", e.First, e.Second, e.Name)
}
