package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
	"gatehouse/config"
	"gatehouse/control/follow"
	"gatehouse/decisionlog"
	"gatehouse/decisionlog/remote"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/identity/mint"
	"gatehouse/policy"
	"gatehouse/routes"
	"gatehouse/upstream"
)

// verification converts signing settings for package bundles, nil for nil.
func verification(c *config.Signing) *signature.Verification {
	if c == nil {
		return nil
	}
	v := &signature.Verification{Serial: c.Serial, AllowHS256: c.AllowHS256}
	for _, k := range c.Keys {
		v.Keys = append(v.Keys, signature.Key{ID: k.ID, File: k.File, Algorithm: k.Algorithm, Scope: k.Scope})
	}
	return v
}

// Apps converts the applications for the gate.
func Apps(c *config.Config) []gate.App {
	var out []gate.App
	for _, a := range c.Applications() {
		app := gate.App{Name: a.Name, Hosts: a.Match.Hosts, AllowUnmatched: a.Routes.Unmatched.Other == "policy",
			Redirects: a.Routes.Unmatched.Redirect == "policy", StrictRoutes: a.Policy.StrictRoutes}
		if a.Policy.Decision != "" {
			app.Decision = strings.Split(a.Policy.Decision, "/")
		}
		if a.Policy.Root != "" {
			app.Root = strings.FieldsFunc(a.Policy.Root, func(r rune) bool { return r == '/' || r == '.' })
		}
		out = append(out, app)
	}
	return out
}

// asked are the rules that the applications' requests are decided by.
func asked(c *config.Config) (out []policy.Asked) {
	for _, a := range Apps(c) {
		if n := len(a.Decision) - 1; n >= 0 {
			out = append(out, policy.Asked{Package: a.Decision[:n], Name: a.Decision[n]})
		}
		if len(a.Root) > 0 {
			out = append(out, policy.Asked{Package: a.Root, Name: gate.RouteRule, Below: true})
		}
	}
	return out
}

// VerifierConfig converts the identity section for package identity.
func VerifierConfig(c *config.Config, logger *zap.Logger, r prometheus.Registerer) identity.Config {
	id := c.Identity
	out := identity.Config{Logger: logger, Registerer: r, Metadata: id.Metadata.Name, Peer: id.Peer.From,
		APIKeys: identity.APIKeys{File: id.APIKeys.File, Header: id.APIKeys.Header, Scheme: id.APIKeys.Scheme}}
	if c.StateDir != "" {
		out.Dir = filepath.Join(c.StateDir, "keys")
	}
	for _, j := range id.JWT {
		out.Issuers = append(out.Issuers, identity.Issuer{Preset: j.Preset, Domain: j.Domain, Tenant: j.Tenant,
			Issuer: j.Issuer, Audiences: j.Audiences, ClientIDs: j.ClientIDs, Parties: j.Parties, Algorithms: j.Algorithms,
			Type: j.Type, TokenUse: j.TokenUse, MaxAge: time.Duration(j.MaxAge), Require: j.Require,
			Keys: identity.KeySource{File: j.Keys.File, URL: j.Keys.URL, Discovery: j.Keys.Discovery,
				Refresh: time.Duration(j.Keys.Refresh), MaxStale: time.Duration(j.Keys.MaxStale)},
			From: tokenSources(j.From), Claims: identity.ClaimPaths(j.Claims), ClockSkew: time.Duration(j.ClockSkew)})
	}
	for _, i := range id.Introspection {
		out.Introspection = append(out.Introspection, identity.Introspection{URL: i.URL, Issuer: i.Issuer, ClientID: i.ClientID,
			SecretFile: i.ClientSecretFile, KeyFile: i.PrivateKeyFile, KeyID: i.KeyID, AssertionAudience: i.Audience, Audiences: i.Audiences, From: tokenSources(i.From),
			Claims: identity.ClaimPaths(i.Claims), Timeout: time.Duration(i.Timeout), CacheFor: time.Duration(i.CacheFor)})
	}
	return out
}

func tokenSources(from []config.Token) []identity.TokenSource {
	var out []identity.TokenSource
	for _, f := range from {
		out = append(out, identity.TokenSource(f))
	}
	return out
}

// BundlesConfig converts the bundles section.
func BundlesConfig(c *config.Config, logger *zap.Logger, r prometheus.Registerer, publish func(context.Context, *policy.Snapshot) error) bundles.Config {
	keep := c.Policy.Keep
	if keep == 0 {
		keep = -1
	}
	out := bundles.Config{Logger: logger, Registerer: r, Publish: publish, TestTimeout: time.Duration(c.Policy.Tests.Timeout), SkipTests: c.Policy.Tests.Off,
		Keep: keep, KeepBytes: int64(c.Policy.KeepSize),
		Policy: policy.Config{Decision: c.Policy.Decision, Asked: asked(c), AllowHeaders: c.Policy.AllowHeaders, Directory: c.Directory.Configured(),
			Capabilities: policy.Capabilities{HTTPSend: c.Policy.Capabilities.HTTPSend.Hosts, HTTPSendPrivate: c.Policy.Capabilities.HTTPSend.Private,
				HTTPSendCache: int64(c.Policy.Capabilities.HTTPSend.Cache),
				NetLookup:     c.Policy.Capabilities.NetLookup, Runtime: c.Policy.Capabilities.Runtime}}}
	addRemote(c, &out)
	out.Sources = sources(c, c.Policy.Bundles)
	return out
}

// sources are bundles of the configuration.
func sources(c *config.Config, list []config.Bundle) (out []bundles.Source) {
	services := services(c)
	for _, b := range list {
		out = append(out, bundles.Source{Name: b.Name, Path: b.Path, Remote: bundleRemote(b, services), Verification: verification(b.Signing),
			Optional: b.Required != nil && !*b.Required})
	}
	return out
}

// LogConfig converts the decision log section.
func LogConfig(c *config.Config, logger *zap.Logger, r prometheus.Registerer) decisionlog.Config {
	d := c.DecisionLog
	redact := decisionlog.Redact{Headers: slices.Clone(d.Redact.Headers), Only: d.Headers}
	redact.Headers, redact.Params = append(redact.Headers, c.Identity.APIKeys.Header, c.Headers.JWT.Name), slices.Clone(d.Redact.Params)
	for _, f := range c.Identity.Places() {
		redact.Headers, redact.Params = append(redact.Headers, f.Header), append(redact.Params, f.Query)
		if f.WebsocketProtocol != "" {
			redact.Headers = append(redact.Headers, "sec-websocket-protocol")
		}
		place := identity.TokenSource{Cookie: f.Cookie, Chunked: f.Chunked}
		redact.Cookies = append(redact.Cookies, place.CookieNames()...)
	}
	unnamed := func(s string) bool { return s == "" }
	redact.Headers, redact.Params = slices.DeleteFunc(redact.Headers, unnamed), slices.DeleteFunc(redact.Params, unnamed)
	if d.Dir == "" && c.StateDir != "" {
		d.Dir = filepath.Join(c.StateDir, "decisions")
	}
	return decisionlog.Config{File: d.File, Sinks: logSinks(d), OnFull: d.OnFull, MaxEntry: int(d.MaxEntry), Labels: d.Labels, Logger: logger, Registerer: r,
		Redact: redact, Masks: logMasks(d), Claims: d.Claims, Dir: d.Dir, Sync: time.Duration(d.Sync), MaxSize: int64(d.MaxSize), Plain: c.Plain}
}

// Settings converts the gate's part of the configuration.
func Settings(c *config.Config, v *identity.Verifier, m *mint.Minter) (*gate.Settings, error) {
	s := &gate.Settings{
		Verifier:    v,
		Required:    c.Identity.Required,
		Users:       Users(c.Directory),
		Headers:     identityHeaders(c.Headers, m),
		Paths:       gate.PathRules{Compat: c.Paths.Compat},
		Apps:        Apps(c),
		Timeout:     time.Duration(c.Policy.Timeout),
		Memo:        gate.Memo{Off: c.Policy.Memo.Off, Bytes: int64(c.Policy.Memo.Size), Sample: c.Policy.Memo.Recheck},
		Plain:       c.Plain,
		Limits:      gate.Limits{Message: int(c.Limits.Message), Headers: c.Limits.Headers, Concurrent: c.Limits.Concurrent},
		Permissions: gate.Permissions{Path: c.Permissions.Path, MaxAge: c.Permissions.Age()},
		DryRun:      c.DryRun.Always, DryRunExtension: c.DryRun.AllowExtension,
	}
	forms, unknown := routes.ParseForms(c.Paths.Allow)
	if unknown != nil {
		unknown = config.Wrong("paths.allow", "%w: one of %s", unknown, routes.AllForms())
	}
	s.Paths.Allow = forms
	for _, b := range c.Bypass {
		s.Bypass = append(s.Bypass, gate.Bypass{Method: b.Method, Path: b.Path, Preflight: b.Preflight})
	}
	var denials error
	s.Denials, denials = compileDenials(c.Denials)
	return s, errors.Join(denials, unknown, c.ValidateApps(), c.ValidateDirectory(), c.ValidatePermissions(), c.Policy.Memo.Validate(), WithKeys(s.Validate()))
}

// origins are the values of headers.roles_from.
var origins = map[string]gate.Origin{"directory": gate.FromDirectory, "both": gate.FromBoth}

func identityHeaders(c config.Headers, m *mint.Minter) gate.IdentityHeaders {
	out := gate.IdentityHeaders{Subject: c.Subject, Roles: c.Roles, Groups: c.Groups, Scopes: c.Scopes, Email: c.Email, JSON: c.JSON,
		RemoveCredential: c.RemoveCredential, RolesFrom: origins[c.RolesFrom], GroupsFrom: origins[c.GroupsFrom]}
	for _, name := range slices.Sorted(maps.Keys(c.Properties)) {
		out.Properties = append(out.Properties, gate.PropertyHeader{Name: name, Property: c.Properties[name]})
	}
	if m != nil { // otherwise not configured, or its error is already reported
		out.Token, out.Minter, out.Audience = c.JWT.Name, m, c.JWT.Audience
	}
	return out
}

func compileDenials(c config.Denials) (gate.Denials, error) {
	var errs []error
	templates := map[int]gate.Template{}
	for _, name := range slices.Sorted(maps.Keys(c.Templates)) {
		t := c.Templates[name]
		var status int
		if _, err := fmt.Sscanf(name, "%d", &status); err != nil || fmt.Sprint(status) != name {
			errs = append(errs, config.Wrong("denials.templates."+name, "the key is an HTTP status such as 403"))
			continue
		}
		body := t.Body
		if t.File != "" {
			text, err := config.ReadBounded(t.File)
			if err != nil {
				errs = append(errs, config.Wrong("denials.templates."+name+".file", "%w", err))
				continue
			}
			body = string(text)
		}
		templates[status] = gate.Template{ContentType: t.ContentType, Body: body}
	}
	denials, err := gate.NewDenials(c.LoginURL, templates)
	return denials, errors.Join(append(errs, WithKeys(err))...)
}

// What a sink of control has that the configuration does not say.
const (
	controlLogs    = "control" // its URL, until it is connected
	controlRequest = 512 << 10 // bytes
)

// logSinks are the configured sinks, without connections to their servers.
func logSinks(c config.DecisionLog) []decisionlog.Sink {
	var out []decisionlog.Sink
	for _, s := range c.Sinks {
		one := decisionlog.Sink{Name: s.Name, File: s.File, OPA: sinkRemote(s.OPA), OTLP: sinkRemote(s.OTLP)}
		if k := s.Control; k != nil { // it has the same API
			one.Name = cmp.Or(one.Name, "control")
			one.OPA = &remote.Server{URL: controlLogs, MaxRequest: cmp.Or(int(k.MaxRequest), controlRequest), Delay: time.Duration(k.Delay), Timeout: time.Duration(k.Timeout)}
		}
		out = append(out, one)
	}
	return out
}

func sinkRemote(c *config.SinkServer) *remote.Server {
	if c == nil {
		return nil
	}
	return &remote.Server{URL: c.URL, MaxRequest: int(c.MaxRequest), Delay: time.Duration(c.Delay), Timeout: time.Duration(c.Timeout)}
}

// sinkServer is who a sink sends to, and who we are there.
type sinkServer struct {
	service upstream.Service
	control controlConfig // zero: it is not control
}

// sinkServers are those of the sinks, in the same order.
func sinkServers(c *config.Config) []sinkServer {
	services := services(c)
	var out []sinkServer
	for _, s := range c.DecisionLog.Sinks {
		var one sinkServer
		for _, server := range s.Servers() {
			one.service = services[server.Service]
		}
		if s.Control != nil {
			one.control = controlOf(c)
		}
		out = append(out, one)
	}
	return out
}

// connect adds clients to sinks. It opens no connection yet.
func connect(sinks []decisionlog.Sink, servers []sinkServer) ([]decisionlog.Sink, error) {
	sinks = slices.Clone(sinks)
	for i := range sinks {
		if k := servers[i].control; k != (controlConfig{}) && sinks[i].OPA != nil && sinks[i].OPA.URL == controlLogs {
			p := follow.NewPoster(follow.Config{URL: k.URL, CA: k.CA, Pin: k.Pin, Dir: k.Dir}, "/logs")
			r := *sinks[i].OPA
			r.URL, r.Post, r.Close = p.String(), p.Post, p.Close
			sinks[i].OPA = &r
			continue
		}
		for kind, at := range map[string]**remote.Server{"opa": &sinks[i].OPA, "otlp": &sinks[i].OTLP} {
			if *at == nil {
				continue
			}
			where := fmt.Sprintf("decision_log.sinks[%d].%s", i, kind)
			if (*at).URL == "" {
				return nil, config.Wrong(where, "url: is missing")
			}
			poster, err := upstream.NewPoster(servers[i].service, (*at).URL)
			if err != nil {
				return nil, config.Wrong(where, "%w", err)
			}
			r := **at
			r.URL, r.Post, r.Close = poster.String(), poster.Post, poster.Close
			*at = &r
		}
	}
	return sinks, nil
}

func logMasks(c config.DecisionLog) []decisionlog.Mask {
	var out []decisionlog.Mask
	for _, m := range c.Mask {
		out = append(out, decisionlog.Mask(m))
	}
	return out
}

// services are the configured services by name. An invalid one is reported wherever it is used.
func services(c *config.Config) map[string]upstream.Service {
	out := map[string]upstream.Service{}
	for _, s := range c.Services {
		service := upstream.Service{CA: s.CA, Cert: s.Cert, Key: s.Key, Headers: maps.Clone(s.Headers), PlainHTTP: s.PlainHTTP, BearerFile: s.BearerFile}
		if o := s.OAuth2; o != nil {
			service.OAuth2 = &upstream.OAuth2{TokenURL: o.TokenURL, ClientID: o.ClientID, SecretFile: o.ClientSecretFile, Scopes: o.Scopes}
		}
		if a := s.AWS; a != nil {
			service.AWS = &upstream.AWS{From: a.From, Region: a.Region, Service: a.Service, Profile: a.Profile}
		}
		if g := s.GCP; g != nil {
			service.GCP = &upstream.GCP{Audience: g.Audience, Scopes: g.Scopes, Endpoint: g.Endpoint}
		}
		if a := s.Azure; a != nil {
			service.Azure = &upstream.Azure{Resource: a.Resource, ClientID: a.ClientID, Endpoint: a.Endpoint}
		}
		out[s.Name] = service
	}
	return out
}

// bundleRemote is the remote source of a bundle, nil for a path.
func bundleRemote(b config.Bundle, services map[string]upstream.Service) *bundles.Remote {
	if b.Control {
		return &bundles.Remote{MaxAge: time.Duration(b.MaxAge), Withdraw: b.AfterMaxAge == "deny", LongPoll: longPoll(b)} // where it is fetched from is added by who follows control
	}
	if b.URL == "" && b.Image == "" {
		return nil
	}
	r := &bundles.Remote{URL: b.URL, Image: b.Image, Service: services[b.Service], CredentialFile: b.CredentialFile,
		Interval: time.Duration(b.Interval), MaxAge: time.Duration(b.MaxAge), Withdraw: b.AfterMaxAge == "deny"}
	r.LongPoll = longPoll(b)
	return r
}

// longPoll is how long a request may be held; 0: the default, below zero: not at all.
func longPoll(b config.Bundle) time.Duration {
	if b.LongPoll == nil {
		return 0
	}
	if d := time.Duration(*b.LongPoll); d != 0 {
		return d
	}
	return -1
}

// bundlesDir is where an edge keeps its bundles.
func bundlesDir(state string) string { return filepath.Join(state, "bundles") }

// addRemote adds the settings of remote bundles.
func addRemote(c *config.Config, out *bundles.Config) {
	if c.StateDir != "" {
		out.Dir = bundlesDir(c.StateDir)
		out.Archive = bundles.Archive{Dir: c.ArchiveDir(), For: time.Duration(c.DecisionLog.Keep), Bytes: int64(c.DecisionLog.KeepSize)}
	}
	if c.Status.URL != "" {
		out.Report = &bundles.Report{URL: c.Status.URL, Service: services(c)[c.Status.Service], Labels: c.Status.Labels, Interval: time.Duration(c.Status.Interval)}
	}
}
