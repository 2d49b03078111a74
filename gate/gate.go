// Package gate decides. Check takes one request in no transport's own types through a fixed row of stages (pin, parse,
// route, identify, decide, respond, record) and gives one Answer, whatever happens on the way: every failure is an explicit
// denial with a Reason out of a closed set.
//
// What a decision depends on (settings, policy, routes, keys) is one immutable View behind one pointer. Check loads it once and
// works with that to the end; Run owns it and is the only one that stores a new one.
//
// It owns the stages and their order (this file, and route.go for which route a request takes and why it is denied where that is unknown), the View
// and how the next one is assembled (view.go, app.go), the Reasons with their statuses and the verdict that a policy's answer comes to (reason.go),
// and which rule is asked about a route (app.go); tools that decide again ask a Replayer (tools.go). It may import identity, routes, policy,
// directory, decisionlog, its parts (body, facts) and the foundations; no transport, and nothing of a configuration file.
package gate

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"gatehouse/decisionlog"
	"gatehouse/identity"
	"gatehouse/input"
	"gatehouse/policy"
	"gatehouse/policy/rego"
	"gatehouse/routes"
)

// Config is what a Gate is made of and what no reload changes.
type Config struct {
	Logger     *zap.Logger // operators' events; nil: none
	Registerer prometheus.Registerer
	Clock      func() time.Time // nil: time.Now

	Traces *Traces // nil: no traces

	// Schema is the table of the input's fields; nil: input.Standard. What the decision log is given must be the same.
	Schema *input.Schema

	// OnPublish is called by Run with each new View, before Publish returns to its caller. It must not block.
	OnPublish func(*View)
}

// Gate answers requests. Its methods may be called by many goroutines at once.
type Gate struct {
	logger    *zap.Logger
	metrics   *metrics
	clock     func() time.Time
	traces    *Traces
	onPublish func(*View)
	fields    []part // of the input

	view      atomic.Pointer[View] // stored by Run alone
	parts     chan publication
	ids       decisionIDs
	calls     sync.Pool // of *call, empty
	memos     *memoManager
	deciding  atomic.Int64 // evaluations under way
	lastPanic atomic.Int64 // second in which a panic's stack was last logged
	textBody  atomic.Bool  // a proxy sends bodies as text
}

// New returns a Gate that denies everything as not ready until Run was given a policy.
func New(cfg Config) (*Gate, error) {
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	g := &Gate{logger: cfg.Logger, metrics: m, clock: cfg.Clock, traces: cfg.Traces, onPublish: cfg.OnPublish, parts: make(chan publication)}
	if g.logger == nil {
		g.logger = zap.NewNop()
	}
	if g.memos, err = newMemoManager(cfg.Registerer, g.logger, g.View); err != nil {
		return nil, err
	}
	if g.clock == nil {
		g.clock = time.Now
	}
	schema := cfg.Schema
	if schema == nil {
		schema = input.Standard()
	}
	g.fields = whole(schema.Root)
	g.view.Store(&View{})
	return g, g.ids.init()
}

// call is one request on its way through the stages.
type call struct {
	req        *Request
	fields     []part // of the input, all of them
	id         string // the decision's
	started    time.Time
	view       *View
	target     target
	app        *application
	method     string         // by which the table is asked: the request's, or WEBSOCKET
	match      routes.Match   // where the application's table has a route for the request
	may        []routes.Match // where several routes may take the request: the others than the first
	first      *routes.Route  // that first one
	redirect   bool           // match is the route of the path that the application redirects to
	identity   identity.Identity
	peer       identity.Peer
	user       *input.User // of the directory; nil: none, or not looked for
	userParts  userParts   // of him that were asked for
	userFound  bool        // he was looked for
	body       rego.Value  // of the request as the policy reads it; nil: the policy was not asked
	truncated  bool        // more of the body was sent than is here
	decision   policy.Decision
	rule       *rule // what is asked for the decision
	remembered bool  // the decision is an earlier one about an input that is the same to the policy
	bypassed   bool
	own        permissions // what the gate answers itself
	described  bool        // logged.Input is about this request and this match
	span       trace.SpanContext

	// Room for what every call makes, so that it costs nothing of its own.
	newID   id
	logged  decisionlog.Entry // its Input is what the policy's input is made of, once it is described
	values  [1]string
	trusted [identityHeaders]HeaderOption
}

// Check decides about one request. It always answers, and leaves exactly one entry in the decision log before it returns.
// The context's end cancels what is under way; the answer is then a denial.
func (g *Gate) Check(ctx context.Context, req *Request) (answer Answer) {
	c := g.begin(req)
	ctx, span := g.traces.begin(ctx, c)
	err := g.guard(c, func() (err error) {
		if err := g.prepare(ctx, c); err != nil || c.bypassed {
			return err
		}
		return g.decide(ctx, c)
	})
	if panicked := g.guard(c, func() error { answer, err = c.respond(err); return nil }); panicked != nil {
		answer, err = Answer{Reason: Internal, Status: Internal.Status(), DecisionID: c.id}, panicked
	}
	answer.Diagnostics = c.diagnostics(err)
	g.record(ctx, c, &answer, err)
	g.traces.end(span, c, &answer)
	g.done(c)
	return answer
}

func (g *Gate) begin(req *Request) *call {
	c, _ := g.calls.Get().(*call)
	if c == nil {
		c = &call{}
	}
	c.req, c.started, c.identity = req, g.clock(), identity.Anonymous()
	c.id = g.ids.next(&c.newID)
	return c
}

// done lets another request have a call's memory, two kilobytes, unless the decision log still has its entry there. Of what Check
// returns nothing is in it.
func (g *Gate) done(c *call) {
	if !c.view.settings().Log.Retains() {
		*c = call{}
		g.calls.Put(c)
	}
}

// prepare is the row of stages before the policy is asked, which it is not where a request is bypassed.
func (g *Gate) prepare(ctx context.Context, c *call) error {
	c.fields = g.fields
	if err := c.pin(&g.view); err != nil {
		return err
	}
	if err := c.parse(); err != nil || c.bypassed {
		return err
	}
	if err := c.route(); err != nil {
		return err
	}
	if err := c.identify(ctx); err != nil {
		return err
	}
	return c.admit()
}

// guard runs one part of a Check and turns a panic in it into an Internal failure, with the stack in the log.
func (g *Gate) guard(c *call, stage func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fail(Internal, fmt.Errorf("panic: %v", p))
			if now := g.clock().Unix(); g.lastPanic.Swap(now) != now { // one stack a second says it all
				g.logger.Error("a check panicked", zap.String("decision_id", c.id), zap.String("panic", c.shown().Text(fmt.Sprint(p))), zap.ByteString("stack", debug.Stack()))
			}
		}
	}()
	return stage()
}

// pin loads the View that this request is decided with. Nothing later loads it again.
func (c *call) pin(view *atomic.Pointer[View]) error {
	c.view = view.Load()
	if c.view.Settings == nil || c.view.Policy == nil {
		return fail(NotReady, errors.New("no policy is active yet"))
	}
	if c.view.Settings.Users != nil && c.view.Directory == nil {
		return fail(NotReady, errNoDirectory)
	}
	return nil
}

// parse is the door: what the transport could not read, what exceeds a limit and what is ambiguous goes no further.
func (c *call) parse() error {
	s, req := c.view.Settings, c.req
	switch {
	case req.Malformed != nil:
		return fail(BadRequest, req.Malformed)
	case req.Bytes > s.Limits.Message || len(req.Body) > s.Limits.Message:
		return &failure{BadRequest, 413, fmt.Errorf("the request has %d bytes, limits.message is %d", max(req.Bytes, len(req.Body)), s.Limits.Message)}
	case len(req.Headers) > s.Limits.Headers:
		return &failure{BadRequest, 431, fmt.Errorf("the request has %d headers, limits.headers is %d", len(req.Headers), s.Limits.Headers)}
	}
	var err error
	if c.target, err = parseTarget(req.Path, s.Paths); err != nil {
		return fail(BadRequest, err)
	}
	c.bypassed = s.bypasses(req, c.target.raw)
	c.own.wanted = !c.bypassed && s.Permissions.Path != "" && c.target.raw == s.Permissions.Path
	return nil
}

// identify verifies the end user's credential. No credential is an anonymous caller; a bad one never gets to the policy.
func (c *call) identify(ctx context.Context) error {
	s, who := c.view.Settings, c.credentials()
	c.peer = s.Verifier.Peer(who)
	if c.req.As != nil {
		c.identity = *c.req.As
		return nil
	}
	if s.Verifier == nil {
		return nil
	}
	id, err := s.Verifier.Identify(ctx, c.view.Keys, who)
	switch {
	case errors.Is(err, identity.ErrUnavailable):
		return fail(Unavailable, err)
	case err != nil:
		return fail(BadCredential, err)
	case !id.Authenticated && s.Required:
		return fail(NoCredential, errors.New("identity.required is set and the request carries no credential"))
	}
	c.identity = id
	return nil
}

// credentials is where the request may say who calls.
func (c *call) credentials() identity.Request {
	return identity.Request{Header: c.header, Query: c.target.rawQuery, Principal: c.req.Source.Principal,
		Certificate: c.req.Source.Certificate, Metadata: c.req.Metadata}
}

// header gives a header's values. They are good until the next call.
func (c *call) header(name string) []string {
	values := c.values[:0]
	for i := range c.req.Headers {
		if c.req.Headers[i].Name == name {
			values = append(values, c.req.Headers[i].Value)
		}
	}
	return values
}

// decide asks the policy, within the time and the number of evaluations that the settings grant.
func (g *Gate) decide(ctx context.Context, c *call) error {
	s := c.view.Settings
	if n := g.deciding.Add(1); s.Limits.Concurrent > 0 && n > int64(s.Limits.Concurrent) {
		g.deciding.Add(-1)
		return fail(Overloaded, fmt.Errorf("limits.concurrent: %d evaluations are under way", s.Limits.Concurrent))
	}
	defer g.deciding.Add(-1)
	switch {
	case c.own.wanted:
		return g.tellPermissions(ctx, c)
	case len(c.match.Also) > 0:
		return g.askAll(ctx, c)
	}
	return g.ask(ctx, c)
}

// ask asks the rule of the route.
func (g *Gate) ask(ctx context.Context, c *call) error {
	s := c.view.Settings
	c.rule, c.described = c.app.ask(c.method, c.match.Route), false
	entry := c.rule.entry
	if entry == nil {
		return fail(NoDecision, errors.New("the route has no rule"))
	}
	var err error
	if c.req.LossyBody && !g.textBody.Load() {
		g.sawTextBody()
	}
	if err = c.parseInput(entry); err != nil {
		return fail(BadRequest, err)
	}
	if err = c.readUser(c.rule); err != nil {
		return err
	}
	key := c.key(entry)
	defer key.Done()
	if c.remembered, err = g.lookup(c, key); !c.remembered {
		document, wrong := c.asRead(entry)
		if wrong != nil {
			return fail(BadRequest, wrong)
		}
		c.decision, err = c.evaluate(ctx, key, document)
	}
	v := VerdictOf(&c.decision, err)
	if s.anonymous(&c.identity) {
		v = v.Anonymous()
	}
	switch v.Reason {
	case None:
		return nil
	case NoCredential:
		err = errors.New("the policy denies a caller without a credential")
	case Denied:
		err = errors.New("the policy denies")
	case Timeout:
		err = fmt.Errorf("after %s: %w", g.clock().Sub(c.started).Round(time.Microsecond), err)
	}
	return &failure{reason: v.Reason, status: v.Own, cause: err}
}

// askAll asks the rule of each route that may take the request: the application passes a route by where its own code refuses a
// parameter. All of them must allow, and alike, for nobody knows which of them serves it. The first that does not is the answer.
func (g *Gate) askAll(ctx context.Context, c *call) error {
	c.first, c.may = c.match.Route, c.match.Also
	var decision policy.Decision
	var rule *rule
	var remembered bool
	err := c.eachRoute(func() error {
		if err := g.ask(ctx, c); err != nil {
			return err
		}
		if rule == nil {
			decision, rule, remembered = c.decision, c.rule, c.remembered
		} else if !alike(&decision, &c.decision) {
			return fail(PolicyError, fmt.Errorf("routes %q and %q may both take the request, and their rules allow it with different headers or "+
				"query parameters", c.first.Template, c.match.Route.Template))
		}
		return nil
	})
	if err == nil {
		c.decision, c.rule, c.remembered, c.described = decision, rule, remembered, false // the entry is about the first
	}
	return err
}

// eachRoute asks about every route that may take the request, the matched one first, until an error ends it.
func (c *call) eachRoute(ask func() error) error {
	first := c.match
	if err := ask(); err != nil {
		return err
	}
	for _, c.match = range first.Also {
		if err := ask(); err != nil {
			return err
		}
	}
	c.match = first
	return nil
}

// alike reports whether two decisions that allow do the same to a request. What they asked, and how they say it, may differ.
func alike(a, b *policy.Decision) bool {
	return slices.Equal(a.Headers, b.Headers) && slices.Equal(a.ResponseHeaders, b.ResponseHeaders) && slices.Equal(a.RemoveHeaders, b.RemoveHeaders) &&
		slices.Equal(a.SetQuery, b.SetQuery) && slices.Equal(a.RemoveQuery, b.RemoveQuery) && reflect.DeepEqual(a.Metadata, b.Metadata)
}

func (c *call) diagnostics(err error) Diagnostics {
	t := Diagnostics{Match: c.match, Asked: c.asked(), Cause: err, Redirect: c.redirect, User: c.user,
		UserMissing: c.userFound && c.user == nil && c.identity.Authenticated && c.view.Settings.Users != nil}
	if len(c.may) > 0 {
		t.May = append(t.May, c.first)
		for i := range c.may {
			t.May = append(t.May, c.may[i].Route)
		}
	}
	if c.rule != nil {
		t.Entry = c.rule.entry
	}
	if c.app != nil {
		t.App = c.app.Name
	}
	if c.view != nil {
		t.Revision, t.Remembers = c.view.revision, c.view.memo != nil
	}
	return t
}

// respond makes the one Answer of whatever happened, and says what stopped an allow that could not be given.
func (c *call) respond(err error) (Answer, error) {
	if c.own.wanted {
		return c.respondPermissions(err)
	}
	why, status := None, 0
	if err != nil {
		f := asFailure(err)
		why, status = f.reason, f.status
	}
	if why == None || c.dryRun() {
		a, refused := c.allow(why)
		if refused == nil {
			return a, err
		}
		f := asFailure(refused)
		why, status, err = f.reason, f.status, refused
	}
	return c.deny(why, status), err
}

// dryRun reports whether denials are let through for this request: by configuration, or, where configuration allows it,
// by Envoy's own route configuration. A client has no say in it.
func (c *call) dryRun() bool {
	s := c.view.settings()
	return s.DryRun || s.DryRunExtension && c.req.Extensions["gatehouse.dry_run"] == "true"
}
