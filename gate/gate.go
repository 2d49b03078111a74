// Package gate decides. Check takes one request, in types of no particular transport, through fixed stages (pin,
// parse, route, identify, decide, respond, record) and returns one Answer: every failure is an explicit denial with a
// Reason from a closed set.
//
// Everything a decision depends on (settings, policy, routes, keys) is one immutable View behind one pointer. Check
// loads it once and uses it to the end; only Run stores a new one.
//
// The package owns the stages and their order (this file, and route.go for route matching and its denials), the View
// and how the next one is assembled (view.go, app.go), the Reasons with their statuses and how a policy result
// becomes a verdict (reason.go), and which rule decides about a route (app.go); tools that decide again use a
// Replayer (tools.go). It may import identity, routes, policy, directory, decisionlog, its parts (body, facts) and
// the foundations; no transport and no configuration file.
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

// Config holds what a Gate is made of and no reload changes.
type Config struct {
	Logger     *zap.Logger // operators' events; nil: none
	Registerer prometheus.Registerer
	Clock      func() time.Time // nil: time.Now

	Traces *Traces // nil: no traces

	// Schema is the table of input fields; nil: input.Standard. The decision log must use the same one.
	Schema *input.Schema

	// OnPublish is called by Run with each new View, before Publish returns to its caller. It must not block.
	OnPublish func(*View)
}

// Gate answers requests. Its methods are safe for concurrent use.
type Gate struct {
	logger    *zap.Logger
	metrics   *metrics
	clock     func() time.Time
	traces    *Traces
	onPublish func(*View)
	fields    []part // of the input

	view      atomic.Pointer[View] // stored by Run only
	parts     chan publication
	ids       decisionIDs
	calls     sync.Pool // of *call, cleared
	memos     *memoManager
	shadows   *shadower
	deciding  atomic.Int64 // evaluations in progress
	queries   policy.AdHocSlots
	lastPanic atomic.Int64 // second in which a panic's stack was last logged
	textBody  atomic.Bool  // a proxy sent a body as text
}

// New returns a Gate that denies everything as not_ready until a policy is published.
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
	if g.shadows, err = newShadower(g, cfg.Registerer); err != nil {
		return nil, err
	}
	if g.clock == nil {
		g.clock = time.Now
	}
	schema := cfg.Schema
	if schema == nil {
		schema = input.Standard()
	}
	g.fields = allParts(schema.Root)
	g.view.Store(&View{failed: &m.failed})
	return g, g.ids.init()
}

// call is the state of one request in the stages.
type call struct {
	req       *Request
	fields    []part // of the input, all of them
	id        string // the decision's
	started   time.Time
	view      *View
	target    target
	app       *application
	method    string         // used for the route table: the request's, or WEBSOCKET
	match     routes.Match   // the matched route
	may       []routes.Match // where several routes may match: all but the first
	first     *routes.Route  // the first of several
	redirect  bool           // match is the target of the application's redirect
	identity  identity.Identity
	peer      identity.Peer
	user      *input.User // from the directory; nil: none, or not looked up
	userParts userParts   // the parts of user that were loaded
	userFound bool        // the user was looked up

	userDisabled bool       // the user is disabled in the directory
	body         rego.Value // the request body as the policy reads it; nil: the policy was not evaluated
	truncated    bool       // the body is incomplete
	decision     policy.Decision
	rule         *rule // the rule that decides
	remembered   bool  // the decision is from the memo
	bypassed     bool
	permissions  permissions // an answer of the gate's own
	described    bool        // logged.Input describes this request and match
	span         trace.SpanContext

	// Buffers that every call needs, kept here to avoid allocations.
	newID   id
	logged  decisionlog.Entry // its Input is the source of the policy's input, once described
	values  [1]string
	trusted [identityHeaders]HeaderOption
}

// Check decides about one request. It always answers, and writes exactly one decision-log entry before it returns.
// When the context ends, work in progress is cancelled and the answer is a denial.
func (g *Gate) Check(ctx context.Context, req *Request) (answer Answer) {
	answer, _ = g.check(ctx, req)
	return answer
}

// Try is Check for a thread that must not wait, such as a proxy's own. Where a key or an introspection server would have to be waited for it
// returns false, and has left neither an entry in the log nor a metric: the request is then Check's, on another thread. ctx is one of Trying.
func (g *Gate) Try(ctx context.Context, req *Request) (answer Answer, decided bool) {
	return g.check(ctx, req)
}

// Trying is a context for Try.
func Trying(ctx context.Context) context.Context { return identity.WithoutWaiting(ctx) }

func (g *Gate) check(ctx context.Context, req *Request) (answer Answer, decided bool) {
	c := g.begin(req)
	ctx, span := g.traces.begin(ctx, c)
	err := g.guard(c, func() (err error) {
		if err := g.prepare(ctx, c); err != nil || c.bypassed {
			return err
		}
		return g.decide(ctx, c)
	})
	if errors.Is(err, identity.ErrWouldWait) {
		g.done(c)
		return Answer{}, false
	}
	if panicked := g.guard(c, func() error { answer, err = c.respond(err); return nil }); panicked != nil {
		answer, err = Answer{Reason: Internal, Status: Internal.Status(), DecisionID: c.id}, panicked
	}
	answer.Diagnostics = c.diagnostics(err)
	g.record(ctx, c, &answer, err)
	g.traces.end(span, c, &answer)
	if v := c.view; v != nil && v.shadow != nil {
		g.shadows.offer(v.shadow, c, err)
	}
	g.done(c)
	return answer, true
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

// done returns a call (two kilobytes) to the pool, unless the decision log still holds its entry. The Answer that
// Check returns shares no memory with it.
func (g *Gate) done(c *call) {
	if !c.view.settings().Log.Retains() {
		*c = call{}
		g.calls.Put(c)
	}
}

// prepare runs the stages before policy evaluation. A bypassed request is not evaluated.
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

// guard runs one part of a Check and turns a panic into an Internal failure, with the stack in the log.
func (g *Gate) guard(c *call, stage func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fail(Internal, fmt.Errorf("panic: %v", p))
			if now := g.clock().Unix(); g.lastPanic.Swap(now) != now { // at most one stack a second
				g.logger.Error("a check panicked", zap.String("decision_id", c.id), zap.String("panic", c.shown().Text(fmt.Sprint(p))), zap.ByteString("stack", debug.Stack()))
			}
		}
	}()
	return stage()
}

// pin loads the View of this request. No later stage loads it again.
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

// parse rejects what the transport could not read, what exceeds a limit and what is ambiguous.
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
	c.permissions.wanted = !c.bypassed && s.Permissions.Path != "" && c.target.raw == s.Permissions.Path
	return nil
}

// identify verifies the end user's credential. No credential means an anonymous caller; an invalid one is denied
// before the policy is evaluated.
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

// credentials are the places where the request may carry a credential.
func (c *call) credentials() identity.Request {
	return identity.Request{Header: c.header, Query: c.target.rawQuery, Principal: c.req.Source.Principal,
		Certificate: c.req.Source.Certificate, Metadata: c.req.Metadata}
}

// header returns a header's values. They are valid until the next call.
func (c *call) header(name string) []string {
	values := c.values[:0]
	for i := range c.req.Headers {
		if c.req.Headers[i].Name == name {
			values = append(values, c.req.Headers[i].Value)
		}
	}
	return values
}

// decide evaluates the policy, within the time and concurrency limits of the settings.
func (g *Gate) decide(ctx context.Context, c *call) error {
	s := c.view.Settings
	if n := g.deciding.Add(1); s.Limits.Concurrent > 0 && n > int64(s.Limits.Concurrent) {
		g.deciding.Add(-1)
		return fail(Overloaded, fmt.Errorf("limits.concurrent: %d evaluations are under way", s.Limits.Concurrent))
	}
	defer g.deciding.Add(-1)
	switch {
	case c.permissions.wanted:
		return g.answerPermissions(ctx, c)
	case len(c.match.Also) > 0:
		return g.askAll(ctx, c)
	}
	return g.evaluate(ctx, c)
}

// evaluate evaluates the rule of the route.
func (g *Gate) evaluate(ctx context.Context, c *call) error {
	s := c.view.Settings
	c.rule, c.described = c.app.findRule(c.method, c.match.Route), false
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
		document, wrong := c.inputFor(entry)
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
	return &failure{reason: v.Reason, status: v.PolicyStatus, cause: err}
}

// askAll evaluates the rule of each route that may match: the application skips a route whose own code rejects a
// parameter. All must allow with the same effect, because it is unknown which of them serves the request. The first
// that does not is the answer.
func (g *Gate) askAll(ctx context.Context, c *call) error {
	c.first, c.may = c.match.Route, c.match.Also
	var decision policy.Decision
	var rule *rule
	var remembered bool
	err := c.eachRoute(func() error {
		if err := g.evaluate(ctx, c); err != nil {
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
		c.decision, c.rule, c.remembered, c.described = decision, rule, remembered, false // the entry describes the first route
	}
	return err
}

// eachRoute evaluates every route that may match, the matched one first, until an error.
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

// alike reports whether two allowing decisions change a request in the same way. Their facts and texts may differ.
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

// respond makes the Answer, and returns what prevented an allow.
func (c *call) respond(err error) (Answer, error) {
	if c.permissions.wanted {
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

// dryRun reports whether denials are let through for this request: by configuration, or, where configuration permits
// it, by Envoy's route configuration. A client cannot influence it.
func (c *call) dryRun() bool {
	s := c.view.settings()
	return s.DryRun || s.DryRunExtension && c.req.Extensions["gatehouse.dry_run"] == "true"
}
