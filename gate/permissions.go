package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"gatehouse/input"
	"gatehouse/routes"
)

// Permissions is a path that the gate answers itself: it tells a caller which routes of the application it may call.
// The application never receives requests for it, not even in dry run.
type Permissions struct {
	Path   string        // exact, without query; "" is none
	MaxAge time.Duration // how long a client may keep the answer
}

const (
	maxPermissions     = 1000    // route and method pairs that are evaluated
	maxPermissionBytes = 1 << 20 // of the answer
	longestPermissions = 24 * time.Hour
)

func (p *Permissions) validate(bypass []Bypass) error {
	var errs []error
	if p.Path == "" {
		return nil
	}
	if !exactPath(p.Path) {
		errs = append(errs, fieldErrorf("Permissions.Path", "%q: give one exact path, without query, wildcards, escapes or dot segments", p.Path))
	}
	if slices.ContainsFunc(bypass, func(b Bypass) bool { return b.Path == p.Path && !b.Preflight }) {
		errs = append(errs, fieldErrorf("Permissions.Path", "%q is bypassed as well: requests for it would reach the application", p.Path))
	}
	if p.MaxAge < 0 || p.MaxAge > longestPermissions {
		errs = append(errs, fieldErrorf("Permissions.MaxAge", "%s: must be from 0s to %s", p.MaxAge, longestPermissions))
	}
	return errors.Join(errs...)
}

// exactPath reports whether a path can be compared byte for byte with a request's.
func exactPath(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "?*%") && routes.FormsOf(path) == 0
}

// routePermissions replaces the stage route for a permissions request.
func (c *call) routePermissions() error {
	switch {
	case c.req.OnlyVerdicts:
		return &failure{NoRoute, http.StatusNotFound, errors.New("the proxy asks over HTTP, which has no answers but allow and deny: permissions need Envoy's grpc_service")}
	case isUpgrade(c.req):
		return fail(BadRequest, errors.New("the request opens a WebSocket, and permissions are none"))
	case c.req.Method != http.MethodGet && c.req.Method != http.MethodHead:
		return &failure{BadRequest, http.StatusMethodNotAllowed, fmt.Errorf("permissions are asked for by GET or HEAD, not by %q", c.req.Method)}
	case c.req.Extensions["gatehouse.route"] != "":
		return fail(BadRequest, fmt.Errorf("gatehouse.route names %q, but the path is that of permissions", c.req.Extensions["gatehouse.route"]))
	case c.app.table == nil:
		return &failure{NoRoute, http.StatusNotFound, fmt.Errorf("%s has no route table: permissions need routes", c.app.label())}
	}
	return nil
}

// respondPermissions makes the Answer. It is never an allow.
func (c *call) respondPermissions(err error) (Answer, error) {
	if err != nil {
		f := asFailure(err)
		a := c.deny(f.reason, f.status)
		if f.status == http.StatusMethodNotAllowed {
			a.Set = append(a.Set, HeaderOption{Name: "allow", Value: "GET, HEAD"})
		}
		return a, err
	}
	p := &c.view.Settings.Permissions
	return Answer{Direct: true, Status: http.StatusOK, DecisionID: c.id, Body: c.permissions.text, Set: []HeaderOption{
		{Name: "content-type", Value: "application/json"},
		{Name: "cache-control", Value: fmt.Sprintf("private, max-age=%d", int64(p.MaxAge/time.Second))},
		{Name: "vary", Value: c.varies()},
		{Name: "x-decision-id", Value: c.id},
	}}, nil
}

// varies lists the headers that may carry a credential.
func (c *call) varies() string {
	names := []string{"Authorization", "Cookie"}
	for _, header := range headersOf(c.view.Settings.Verifier.Places()) {
		if name := http.CanonicalHeaderKey(header); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// permissions is the state of a permissions request.
type permissions struct {
	wanted bool   // the request is one
	text   string // the answer, JSON
}

// permission is the result for a caller and a route. The zero value means that it depends on the request.
type permission uint8

const (
	unknown permission = iota
	mayNot
	may
)

// answerPermissions evaluates every route of the application, all within the time limit of one evaluation.
func (g *Gate) answerPermissions(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, c.view.Settings.Timeout)
	defer cancel()
	p := newProber(g, c)
	var keys []string
	found := map[string]permission{}
	for _, route := range c.app.table.Routes() {
		for _, method := range route.RuleMethods() {
			if len(keys) >= maxPermissions {
				return fail(Unavailable, fmt.Errorf("the route table has more than %d routes, which is too many for permissions", maxPermissions))
			}
			if ctx.Err() != nil {
				return timeoutError(ctx)
			}
			is, err := p.ask(ctx, method, route)
			if err != nil {
				return err
			}
			key := method + " " + route.Template
			if before, twice := found[key]; !twice {
				keys = append(keys, key)
			} else if before != is {
				is = unknown
			}
			found[key] = is
		}
	}
	return c.writePermissions(keys, found)
}

func timeoutError(ctx context.Context) error {
	return &failure{Timeout, http.StatusServiceUnavailable, fmt.Errorf("policy.timeout is over before every route was asked about: %w", context.Cause(ctx))}
}

// writePermissions writes the answer, in the order of the table.
func (c *call) writePermissions(keys []string, found map[string]permission) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	separator := byte('{')
	for _, key := range keys {
		b.WriteByte(separator)
		if err := encoder.Encode(key); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1) // the trailing newline
		b.WriteString([...]string{unknown: ":null", mayNot: ":false", may: ":true"}[found[key]])
		if separator = ','; b.Len() > maxPermissionBytes {
			return fail(Unavailable, fmt.Errorf("the answer has more than %d bytes, which is too many for permissions", maxPermissionBytes))
		}
	}
	if len(keys) == 0 {
		b.WriteByte('{')
	}
	b.WriteString("}\n")
	c.permissions.text = b.String()
	return nil
}

// prober evaluates one route after the other for one caller.
type prober struct {
	gate   *Gate
	of     *call
	call   call // reused for each route
	req    Request
	sent   []string // headers that are the same on every request of this caller: those of credentials
	unsure bool     // see routes.Table.Unsure

	allowed bool  // some rule allowed
	refused error // what prevented that allow
}

func newProber(g *Gate, c *call) *prober {
	p := &prober{gate: g, of: c, req: *c.req, sent: headersOf(c.view.Settings.Verifier.Places()), unsure: c.app.table.Unsure()}
	p.req.Headers = nil
	for _, h := range c.req.Headers {
		if slices.Contains(p.sent, h.Name) {
			p.req.Headers = append(p.req.Headers, h)
		}
	}
	p.req.Query, p.req.Fragment, p.req.Size = "", "", 0
	p.req.Body, p.req.RawBody, p.req.LossyBody = "", false, false
	return p
}

// ask returns the result for a route. An error means that no route has a result.
func (p *prober) ask(ctx context.Context, method string, route *routes.Route) (permission, error) {
	c := p.of
	if c.dryRun() {
		return may, nil // bypassed: the policy does not matter
	}
	p.call = call{req: &p.req, fields: c.fields, id: c.id, started: c.started, view: c.view, app: c.app, method: method,
		identity: c.identity, peer: c.peer, user: c.user, userParts: c.userParts, userFound: c.userFound, userDisabled: c.userDisabled}
	defer func() {
		c.user, c.userParts, c.userFound, c.userDisabled = p.call.user, p.call.userParts, p.call.userFound, p.call.userDisabled
	}()
	p.req.Method = method
	path, fixed := c.app.table.FixedPath(route)
	if fixed {
		return p.askPath(ctx, method, path)
	}
	if route.Unsupported != "" {
		return mayNot, nil // every path that reaches it is rejected
	}
	p.req.Path = "/"
	p.call.target = target{raw: "/", decoded: "/"}
	p.call.match = routes.Match{Outcome: routes.Matched, Route: route}
	is, err := p.decide(ctx, false)
	switch {
	case is == may && (p.unsure || route.Host != ""): // another route may match too, or the host belongs to another application
		is = unknown
	case is == mayNot && p.someBypassed(method, route):
		is = unknown
	}
	return is, err
}

// askPath returns the result for a path, as Check would.
func (p *prober) askPath(ctx context.Context, method, path string) (permission, error) {
	s := p.of.view.Settings
	p.req.Path = path
	if method == routes.WebSocket {
		p.req.Method = http.MethodGet
		sent := p.req.Headers
		defer func() { p.req.Headers = sent }()
		p.req.Headers = append(slices.Clone(sent), Header{Name: "connection", Value: "Upgrade"}, Header{Name: "upgrade", Value: "websocket"},
			Header{Name: "sec-websocket-key", Value: "AAAAAAAAAAAAAAAAAAAAAA=="})
	}
	var err error
	if p.call.target, err = parseTarget(path, s.Paths); err != nil {
		return mayNot, nil
	}
	if s.bypasses(&p.req, p.call.target.raw) {
		return may, nil
	}
	is := mayNot
	if p.call.route() == nil {
		is, err = p.decide(ctx, true)
	}
	if is == mayNot && s.preflights(method, path) {
		is = unknown
	}
	return is, err
}

// decide evaluates the rule of each route that may match, unless a rule reads something unknown. fixed says that the
// path is known.
func (p *prober) decide(ctx context.Context, fixed bool) (permission, error) {
	c := &p.call
	for i := -1; i < len(c.match.Also); i++ {
		route := c.match.Route
		if i >= 0 {
			route = c.match.Also[i].Route
		}
		if c.rule = c.app.findRule(c.method, route); c.rule.entry == nil {
			return mayNot, nil
		}
		if parts, _ := c.partsRead(c.rule.entry); p.open(parts, fixed) {
			return unknown, nil
		}
	}
	var err error
	if len(c.match.Also) > 0 {
		err = p.gate.askAll(ctx, c)
	} else {
		err = p.gate.evaluate(ctx, c)
	}
	if err == nil {
		if err = p.passes(); err == nil {
			return may, nil
		}
	}
	switch f := asFailure(err); {
	case ctx.Err() != nil:
		return unknown, timeoutError(ctx)
	case f.reason.OfPolicy(), f.reason == BadRequest:
		return mayNot, nil
	case f.reason == Timeout:
		return unknown, &failure{Timeout, http.StatusServiceUnavailable, f.cause}
	}
	return unknown, err
}

// passes returns what would prevent an allow. With a proxy that can change headers and the query this depends on the
// caller alone (a name that is not a valid header value), so the first allow tells for all.
func (p *prober) passes() error {
	if !p.allowed {
		_, p.refused = p.call.allow(None)
		p.allowed = true
	}
	return p.refused
}

// open reports whether a rule that reads these parts reads one that is unknown without the request.
func (p *prober) open(parts []part, fixed bool) bool {
	for i := range parts {
		n := &parts[i]
		switch {
		case n.Kind == input.KindGroup:
			if p.open(n.below, fixed) {
				return true
			}
		case n.Kind == input.KindHeaders:
			other := func(name, _ string) bool { return !slices.Contains(p.sent, name) }
			if n.reads.AnyFunc(other, "") {
				return true
			}
		case n.Kind == input.KindParsedPath, n.Kind == input.KindParams:
			if !fixed {
				return true
			}
		case !sameForCaller(n.Path):
			return true
		}
	}
	return false
}

// sameForCaller reports whether a field of the input is the same on each of a caller's requests to a route. Unlisted
// fields are not.
func sameForCaller(path string) bool {
	switch path {
	case "app", "policy.path", "source_principal", "attributes.request.time", "attributes.request.http.method", "attributes.request.http.host",
		"attributes.request.http.scheme", "attributes.request.http.protocol", "attributes.tlsSession.sni",
		"route.name", "route.template", "route.method", "route.redirect":
		return true
	}
	return slices.ContainsFunc([]string{"identity.", "user.", "peer.", "version.", "attributes.source.", "attributes.destination."},
		func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

// someBypassed reports whether some paths of a route bypass the policy.
func (p *prober) someBypassed(method string, route *routes.Route) bool {
	table, host := p.of.app.table, p.req.Host
	return slices.ContainsFunc(p.of.view.Settings.Bypass, func(b Bypass) bool {
		switch {
		case b.Preflight && method != http.MethodOptions, !b.Preflight && b.Method != method:
			return false
		case b.Path == "":
			return true
		}
		m := table.Match(method, host, b.Path)
		return m.Route == route || slices.ContainsFunc(m.Also, func(m routes.Match) bool { return m.Route == route })
	})
}

// preflights reports whether CORS preflights for a path bypass the policy.
func (s *Settings) preflights(method, path string) bool {
	return method == http.MethodOptions && slices.ContainsFunc(s.Bypass, func(b Bypass) bool { return b.Preflight && (b.Path == "" || b.Path == path) })
}
