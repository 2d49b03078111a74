package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/panics"
	"gatehouse/routes"
)

// trial decides as `gatehouse serve` would with the same configuration, and that is all: nothing listens, nothing is
// logged, no key is fetched that no token needs. close ends it.
type trial struct {
	config *config.Config
	engine *engine
	gate   *gate.Gate
	stop   context.CancelFunc
	wait   sync.WaitGroup
}

// nowhere is an address that no one can serve. Keys that are said to be there are never loaded, so that a token of
// their issuer is neither good nor bad: it cannot be verified here.
const nowhere = "http://127.0.0.1:0/"

// newTrial builds the engine of a configuration, after adjust changed what must be another way for this trial. Keys at a
// URL are fetched where one of these headers may hold a token that they verify.
func newTrial(ctx context.Context, src config.Source, headers gate.Headers, adjust func(*config.Config), stderr io.Writer) (*trial, error) {
	cfg, doc, err := src.Read()
	if err != nil {
		return nil, err
	}
	// Certificates, log files and what the service keeps need not exist where nothing listens and nothing is written. Tokens for the
	// application are signed with a key of the moment.
	cfg.Listen, cfg.DecisionLog.File, cfg.DecisionLog.Sinks, cfg.StateDir = config.Default().Listen, "", nil, ""
	cfg.Listen.JWKS, cfg.Headers.JWT.KeyFile = cfg.Listen.Admin, ""
	cfg.Policy.Tests.Off, cfg.Policy.Smoke = true, nil // what is tried is what a request gets; gatehouse test runs them
	adjust(cfg)
	for _, notice := range leaveKeys(cfg, headers) {
		fmt.Fprintln(stderr, "notice: "+notice)
	}
	e, policyErr, err := newEngine(ctx, cfg, doc.Problems(), zap.NewNop(), nil)
	if err != nil {
		return nil, err
	}
	e.sink.discard(nil)
	e.settings.Log = nil
	if policyErr != nil {
		return nil, policyErr
	}
	t := &trial{config: cfg, engine: e}
	if t.gate, err = gate.New(gate.Config{Registerer: prometheus.NewRegistry()}); err != nil {
		return nil, err
	}
	ctx, t.stop = context.WithCancel(ctx)
	t.wait.Go(func() { _ = panics.LoopError(ctx, "trying a policy", t.gate.Run) }) // it ends with ctx, without an error
	if err := t.gate.Publish(ctx, e.parts(true)); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *trial) close() {
	t.stop()
	t.wait.Wait()
}

// leaveKeys makes issuers unavailable whose key file is not there, and those with keys elsewhere of which no header can hold a token.
// It says which files are missing. What is wrong with the identity section stays as it is, to be reported by whoever reads
// it next.
func leaveKeys(c *config.Config, headers gate.Headers) (missing []string) {
	if _, err := identity.New(verifierConfig(c, nil, nil)); err != nil {
		return nil
	}
	for i := range c.Identity.JWT {
		j := &c.Identity.JWT[i]
		switch {
		case j.Keys.File == "" && !mayBeIn(j, headers):
			j.Keys = config.Keys{URL: nowhere}
		case j.Keys.File != "":
			if _, err := os.Stat(j.Keys.File); errors.Is(err, fs.ErrNotExist) {
				missing = append(missing, fmt.Sprintf("there is no key file %s: tokens of %q cannot be verified here", j.Keys.File, j.Issuer))
				j.Keys = config.Keys{URL: nowhere}
			}
		}
	}
	return missing
}

// mayBeIn reports whether one of the headers is a place for the issuer's tokens.
func mayBeIn(j *config.JWT, headers gate.Headers) bool {
	from := j.From
	if len(from) == 0 {
		from = []config.Token{{Header: "authorization"}}
	}
	return slices.ContainsFunc(from, func(f config.Token) bool {
		return f.Query != "" || f.Cookie != "" && headers.Get("cookie") != "" || headers.Get(strings.ToLower(f.Header)) != ""
	})
}

// caller is somebody whom no credential proves: a name, roles and claims, all of them optional.
type caller struct {
	as     string
	roles  []string
	claims map[string]any // as JSON with json.Number; changed by identity
}

func (c *caller) empty() bool { return c.as == "" && len(c.roles) == 0 && c.claims == nil }

// identity is what a verified token with these claims would give, for the issuer that the claims name or else the first
// that is configured. nil is no caller at all: the request then goes the way of any without a credential.
func (t *trial) identity(c caller) (*identity.Identity, error) {
	if c.empty() {
		return nil, nil
	}
	if c.claims == nil {
		c.claims = map[string]any{}
	}
	if c.as != "" {
		c.claims["sub"] = c.as
	}
	subject, _ := c.claims["sub"].(string)
	if subject == "" || strings.ContainsFunc(subject, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, errors.New("the caller has no name: --as (as: in a table) or the claim sub gives one")
	}
	issuer := t.issuer(c.claims)
	if _, given := c.claims["iss"]; !given && issuer.Issuer != "" {
		c.claims["iss"] = issuer.Issuer
	}
	if len(c.roles) > 0 {
		first, _, _ := strings.Cut(issuer.Claims.Roles, " ")
		setClaim(c.claims, cmp.Or(first, "roles"), c.roles)
	}
	id, err := issuer.Claims.Identity(c.claims)
	if err != nil {
		return nil, fmt.Errorf("the caller's claims: %w", err)
	}
	id.Type, id.Issuer = identity.TypeJWT, issuer.Issuer
	return &id, nil
}

// issuer is the configured one that the claims name, or the first. For none it is the bare name.
func (t *trial) issuer(claims map[string]any) identity.Issuer {
	name, _ := claims["iss"].(string)
	for _, i := range verifierConfig(t.config, nil, nil).Issuers {
		// Its problems were reported when the service was built from it.
		if i, _ = i.WithPreset(); i.Issuer == name || name == "" {
			return i
		}
	}
	return identity.Issuer{Issuer: name}
}

// setClaim puts a list of strings where package identity will look for it: under a claim of this very name, or within
// objects.
func setClaim(claims map[string]any, path string, values []string) {
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	first, rest, nested := strings.Cut(path, ".")
	inner, isObject := claims[first].(map[string]any)
	_, exact := claims[path]
	switch {
	case exact || !nested || strings.Contains(path, "/"): // https://example.com/roles is one name
		claims[path] = list
	case isObject:
		setClaim(inner, rest, values)
	default:
		inner = map[string]any{}
		claims[first] = inner
		setClaim(inner, rest, values)
	}
}

// attempt is a request to try. Header names are in lower case.
type attempt struct {
	method, path, host string
	headers            gate.Headers
	body               string
	as                 *identity.Identity
}

// typed reports whether the body says what it is. One that does not is taken for JSON.
func (a *attempt) typed() bool { return a.body == "" || a.headers.Get("content-type") != "" }

// request is what Envoy would hand over for the attempt.
func (a *attempt) request() *gate.Request {
	host := a.host
	if host == "" {
		host = "localhost"
	}
	method := a.method
	if method == routes.WebSocket { // as a route table has it
		method = http.MethodGet
	}
	headers := gate.Headers{{Name: ":authority", Value: host}, {Name: ":method", Value: method}, {Name: ":path", Value: a.path}, {Name: ":scheme", Value: "http"}}
	if method != a.method {
		headers = append(headers, gate.Header{Name: "connection", Value: "Upgrade"}, gate.Header{Name: "upgrade", Value: "websocket"})
	}
	headers = append(headers, a.headers...)
	if !a.typed() {
		headers = append(headers, gate.Header{Name: "content-type", Value: "application/json"})
	}
	if a.body != "" && headers.Get("content-length") == "" {
		headers = append(headers, gate.Header{Name: "content-length", Value: strconv.Itoa(len(a.body))})
	}
	return &gate.Request{Method: method, Path: a.path, Host: host, Scheme: "http", Protocol: "HTTP/1.1", Size: int64(len(a.body)),
		Headers: headers, Body: a.body, Time: time.Now(), As: a.as, Bytes: len(a.body)}
}

// told is the reason that a denial's client reads, "" where the body is not one of ours.
func told(a *gate.Answer) string {
	var problem struct{ Reason string }
	if a.Allow || json.Unmarshal([]byte(a.Body), &problem) != nil {
		return ""
	}
	return problem.Reason
}

// methods are the usual ones: RFC 9110, RFC 5789, WebDAV and the like.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "PROPFIND", "PROPPATCH", "MKCOL", "COPY",
	"MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "PURGE", "LINK", "UNLINK"}

var methodName = regexp.MustCompile(`^[A-Z][A-Z-]{0,63}$`)

// isMethod reports whether a word can stand for a method: a usual one, or one of an application's own. What is almost a
// usual one, which meant says, is a slip: a test that DELTE is denied would always pass.
func isMethod(word string) (meant string, ok bool) {
	if slices.Contains(methods, word) {
		return "", true
	}
	upper := strings.ToUpper(word[:min(len(word), 64)])
	distance := func(method string) int { return levenshtein.ComputeDistance(upper, method) }
	if near := slices.MinFunc(methods, func(a, b string) int { return distance(a) - distance(b) }); distance(near) < 3 {
		return near, false
	}
	return "", methodName.MatchString(word)
}
