// Package config is gatehouse.yaml: its keys, where each stands in the file, defaults, what can be checked without anything that runs, and
// the page of docs that lists it all. It knows no engine: what a section becomes is for whoever runs it. It imports nothing of ours.
package config

import (
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is gatehouse.yaml. Every key is optional. The doc tags are what docs/config.md says of a key.
type Config struct {
	StateDir    string      `yaml:"state_dir" doc:"A folder of our own for what must outlive a restart: the last good key sets and bundles of what is remote, the history of all bundles with rollbacks and serials, and the signing key of headers.jwt. It is made where it is missing. Changes need a restart. Default: none, and nothing is kept."`
	Listen      Listen      `yaml:"listen" doc:"Where Gatehouse listens. Changes need a restart."`
	Identity    Identity    `yaml:"identity" doc:"Which credentials are accepted. At most one end-user credential may be on a request; two different ones are bad_credential."`
	Services    []Service   `yaml:"services" doc:"Servers that bundles come from and that status and decisions go to: whom to trust, and the credential that they want."`
	Headers     Headers     `yaml:"headers" doc:"What the application sees of the caller on an allowed request. What the client sent under these names never reaches it."`
	Policy      Policy      `yaml:"policy" doc:"What decides."`
	Directory   Directory   `yaml:"directory" doc:"Users, groups, roles and resources, and the relations between them: input.user, and what policies ask with ds.check and the like. Default: none."`
	Control     Control     `yaml:"control" doc:"The control plane that this edge follows: gatehouse control serve, docs/control.md. It is not asked for decisions: while it is down this edge decides as before. Changes of the running edge's URL, trust or name take a reload. Default: none."`
	Routes      Routes      `yaml:"routes" doc:"The application's own route table: what GET /orders/17 is to it. gatehouse routes import writes one."`
	Apps        []App       `yaml:"apps" doc:"Several applications behind one Gatehouse, each with its own routes and decision. Without it routes, policy.decision and policy.root speak of the only one. Bundles are shared."`
	Paths       Paths       `yaml:"paths" doc:"Which path forms get to the policy; see docs/security.md."`
	Denials     Denials     `yaml:"denials" doc:"What a denial looks like to the client."`
	Bypass      []Bypass    `yaml:"bypass" doc:"Requests that are let through before any credential or policy is looked at. Each is logged. Default: none."`
	Permissions Permissions `yaml:"permissions" doc:"A path that Gatehouse answers itself: which routes the caller may call, for pages that hide what he may not; see docs/permissions.md. Needs routes, and Envoy's grpc_service. Default: none."`
	DryRun      DryRun      `yaml:"dry_run" doc:"true lets every denial through, with the would-be verdict in dynamic metadata, log and metric. A mapping {allow_extension: true} leaves it to Envoy's routes: the context extension gatehouse.dry_run with the value true. Default: false."`
	Limits      Limits      `yaml:"limits" doc:"Bounds on one request, and on how many are decided at once."`
	DecisionLog DecisionLog `yaml:"decision_log" doc:"Where each decision is recorded."`
	Status      Status      `yaml:"status" doc:"Where the state of the bundles is reported to, in the format of OPA's status API. What cannot be sent is not queued: the newest state counts."`
	Traces      Traces      `yaml:"traces" doc:"OpenTelemetry traces: one span for each decision, below the span that the request's W3C or B3 headers name."`
	Log         Log         `yaml:"log" doc:"Operators' events, on standard error."`

	Plain bool `yaml:"-"` // gatehouse serve --plain
}

// Routes names the route table of the only application, and says what becomes of requests that it does not take.
type Routes struct {
	File      string    `yaml:"file" doc:"The route table, YAML. Watched; a broken one is reported and the old one stays. Default: none."`
	Unmatched Unmatched `yaml:"unmatched" doc:"Requests that no route takes: deny, or policy to ask about them all the same; or a mapping. Default: deny."`
}

// UnmarshalYAML implements yaml.Unmarshaler: a word or a mapping.
func (c *Unmatched) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		type plain Unmatched
		return n.Decode((*plain)(c))
	}
	*c = Unmatched{Other: n.Value}
	return nil
}

// App is one of several applications behind one Gatehouse: its requests, its routes and its decision.
type App struct {
	Name   string    `yaml:"name" doc:"The application's name: input.app, and in the decision log. Required."`
	Match  Match     `yaml:"match" doc:"Which requests are its own. Envoy's routes can also name it by the context extension gatehouse.app."`
	Routes Routes    `yaml:"routes" doc:"Its route table."`
	Policy AppPolicy `yaml:"policy" doc:"What decides about it."`
}

// Match says which requests are those of an application.
type Match struct {
	Hosts []string `yaml:"hosts" doc:"Host names, or *.example.com for every name below it; the port does not count, so Envoy must ignore it too (docs/security.md). Default: every host that no other application has."`
}

// Paths says which path forms get to the policy.
type Paths struct {
	Compat bool     `yaml:"compat" doc:"true reads paths and sets headers exactly as opa-envoy-plugin does, and refuses no path form. Default: false."`
	Allow  []string `yaml:"allow" doc:"Path forms to let through: dot_segments, double_slash, encoded_slash, backslash, control_bytes, bad_escape, double_encoding, invalid_utf8, fragment, not_absolute, encoded_question, encoded_semicolon. Default: none."`
}

// Denials says what a denial looks like to the client.
type Denials struct {
	LoginURL  string              `yaml:"login_url" doc:"Where a browser is sent instead of a 401. {return} stands for the path it came for; without it the parameter rd is added. Default: none."`
	Templates map[string]Template `yaml:"templates" doc:"Bodies of your own, by HTTP status."`
}

// Template is the body of denials with one HTTP status.
type Template struct {
	ContentType string `yaml:"content_type" doc:"The body's media type. text/html escapes the values. Required."`
	Body        string `yaml:"body" doc:"A Go template over .Status, .Title, .Reason, .DecisionID, .Method and .Path."`
	File        string `yaml:"file" doc:"A file that holds the body, instead of body."`
}

// Bypass is a kind of request that is let through before any credential or policy is looked at.
type Bypass struct {
	Method    string `yaml:"method" doc:"The exact method."`
	Path      string `yaml:"path" doc:"The exact path, without query."`
	Preflight bool   `yaml:"preflight" doc:"true matches CORS preflights only (OPTIONS with Origin and Access-Control-Request-Method); path may then be left out."`
}

// DryRun says where denials are recorded and let through.
type DryRun struct {
	Always         bool `yaml:"-"`
	AllowExtension bool `yaml:"allow_extension" doc:"true lets Envoy's configuration turn dry run on for a route."`
}

// Limits bounds one request, and how many are decided at once.
type Limits struct {
	Message    Size `yaml:"message" doc:"Most bytes of one request as Envoy sends it, body included; above it 413. Default: 1MiB."`
	Headers    int  `yaml:"headers" doc:"Most header lines of a request; above it 431. Default: 256."`
	Concurrent int  `yaml:"concurrent" doc:"Most evaluations at once; above it 503 overloaded. 0 is no limit. Default: 0."`
}

// UnmarshalYAML takes true, false or a mapping.
func (c *DryRun) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Decode(&c.Always) != nil {
			return &valueError{fmt.Sprintf("%q is neither true, false nor a mapping", n.Value)}
		}
		return nil
	}
	type plain DryRun
	return n.Decode((*plain)(c))
}

// Default is the configuration without a file.
func Default() *Config {
	return &Config{
		Listen: Listen{GRPC: []string{"127.0.0.1:9191"}, Admin: "127.0.0.1:9192", Socket: Socket{Mode: "0660"}, MaxConnections: 1024, MaxStreams: 1000,
			MaxRequests: 8192, MaxPending: 256 << 20, Handshake: Duration(5 * time.Second), FirstRequest: Duration(30 * time.Second),
			RequestTimeout: Duration(10 * time.Second), Idle: Duration(90 * time.Minute), MaxAge: Duration(24 * time.Hour),
			DrainTimeout: Duration(10 * time.Second)},
		Headers: Headers{Subject: "x-auth-subject", Roles: "x-auth-roles"},
		Policy: Policy{Timeout: Duration(100 * time.Millisecond), Tests: OwnTests{Timeout: Duration(10 * time.Second)},
			Keep: 5, KeepSize: 16 << 20},
		Limits:      Limits{Message: 1 << 20, Headers: 256},
		DecisionLog: DecisionLog{Keep: Duration(30 * 24 * time.Hour), KeepSize: 256 << 20},
		Log:         Log{Level: "info", Format: "json"},
	}
}

// DefaultDecision is policy.decision where neither it nor policy.root is set.
const DefaultDecision = "envoy/authz/allow"

// complete makes the only application of the short form, and fills in defaults that depend on other keys.
func (c *Config) complete(doc *Document) {
	if len(c.Apps) > 0 {
		for i := range c.Apps {
			if p := &c.Apps[i].Policy; p.Decision == "" && p.Root == "" {
				p.Decision = DefaultDecision
			}
		}
		for _, key := range []string{"routes", "policy.decision", "policy.root", "policy.strict_routes"} {
			if line, set := doc.Lines[key]; set {
				doc.fail(line, "%s: speaks of the only application, and there are apps: set it in each of them", key)
			}
		}
		c.Policy.Decision = ""
		return
	}
	if c.Policy.Root == "" && c.Policy.Decision == "" {
		c.Policy.Decision = DefaultDecision
	}
}

// Applications are the apps, or the one of the short form.
func (c *Config) Applications() []App {
	if len(c.Apps) > 0 {
		return c.Apps
	}
	return []App{{Routes: c.Routes, Policy: AppPolicy{Decision: c.Policy.Decision, Root: c.Policy.Root, StrictRoutes: c.Policy.StrictRoutes}}}
}

// ValidateApps checks what applications say about routes and their rules.
func (c *Config) ValidateApps() error {
	var errs []error
	for i, a := range c.Applications() {
		where := ""
		if len(c.Apps) > 0 {
			where = fmt.Sprintf("apps[%d].", i)
		}
		for key, u := range map[string]string{"": a.Routes.Unmatched.Other, ".redirect": a.Routes.Unmatched.Redirect} {
			if u != "" && u != "deny" && u != "policy" {
				errs = append(errs, Wrong(where+"routes.unmatched"+key, "%q is neither deny nor policy", u))
			}
		}
		if a.Policy.Root != "" && a.Routes.File == "" {
			errs = append(errs, Wrong(where+"policy.root", "one rule for each route needs a route table: set routes.file"))
		}
	}
	return errors.Join(errs...)
}
