package main

import (
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// config is gatehouse.yaml. Every key is optional. The doc tags are what docs/config.md says of a key.
type config struct {
	StateDir    string            `yaml:"state_dir" doc:"A folder of our own for what must outlive a restart: the last good key sets and bundles of what is remote, the history of all bundles with rollbacks and serials, and the signing key of headers.jwt. It is made where it is missing. Changes need a restart. Default: none, and nothing is kept."`
	Listen      listenConfig      `yaml:"listen" doc:"Where Gatehouse listens. Changes need a restart."`
	Identity    identityConfig    `yaml:"identity" doc:"Which credentials are accepted. At most one end-user credential may be on a request; two different ones are bad_credential."`
	Services    []serviceConfig   `yaml:"services" doc:"Servers that bundles come from and that status and decisions go to: whom to trust, and the credential that they want."`
	Headers     headersConfig     `yaml:"headers" doc:"What the application sees of the caller on an allowed request. What the client sent under these names never reaches it."`
	Policy      policyConfig      `yaml:"policy" doc:"What decides."`
	Routes      routesConfig      `yaml:"routes" doc:"The application's own route table: what GET /orders/17 is to it. gatehouse routes import writes one."`
	Apps        []appConfig       `yaml:"apps" doc:"Several applications behind one Gatehouse, each with its own routes and decision. Without it routes, policy.decision and policy.root speak of the only one. Bundles are shared."`
	Paths       pathsConfig       `yaml:"paths" doc:"Which path forms get to the policy; see docs/security.md."`
	Denials     denialsConfig     `yaml:"denials" doc:"What a denial looks like to the client."`
	Bypass      []bypassConfig    `yaml:"bypass" doc:"Requests that are let through before any credential or policy is looked at. Each is logged. Default: none."`
	DryRun      dryRunConfig      `yaml:"dry_run" doc:"true lets every denial through, with the would-be verdict in dynamic metadata, log and metric. A mapping {allow_extension: true} leaves it to Envoy's routes: the context extension gatehouse.dry_run with the value true. Default: false."`
	Limits      limitsConfig      `yaml:"limits" doc:"Bounds on one request, and on how many are decided at once."`
	DecisionLog decisionLogConfig `yaml:"decision_log" doc:"Where each decision is recorded."`
	Status      statusConfig      `yaml:"status" doc:"Where the state of the bundles is reported to, in the format of OPA's status API. What cannot be sent is not queued: the newest state counts."`
	Traces      tracesConfig      `yaml:"traces" doc:"OpenTelemetry traces: one span for each decision, below the span that the request's W3C or B3 headers name."`
	Log         logConfig         `yaml:"log" doc:"Operators' events, on standard error."`

	Plain bool `yaml:"-"` // gatehouse serve --plain
}

type routesConfig struct {
	File      string          `yaml:"file" doc:"The route table, YAML. Watched; a broken one is reported and the old one stays. Default: none."`
	Unmatched unmatchedConfig `yaml:"unmatched" doc:"Requests that no route takes: deny, or policy to ask about them all the same; or a mapping. Default: deny."`
}

func (c *unmatchedConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		type plain unmatchedConfig
		return n.Decode((*plain)(c))
	}
	*c = unmatchedConfig{Other: n.Value}
	return nil
}

type appConfig struct {
	Name   string          `yaml:"name" doc:"The application's name: input.app, and in the decision log. Required."`
	Match  matchConfig     `yaml:"match" doc:"Which requests are its own. Envoy's routes can also name it by the context extension gatehouse.app."`
	Routes routesConfig    `yaml:"routes" doc:"Its route table."`
	Policy appPolicyConfig `yaml:"policy" doc:"What decides about it."`
}

type matchConfig struct {
	Hosts []string `yaml:"hosts" doc:"Host names, or *.example.com for every name below it; the port does not count, so Envoy must ignore it too (docs/security.md). Default: every host that no other application has."`
}

type pathsConfig struct {
	Compat bool     `yaml:"compat" doc:"true reads paths and sets headers exactly as opa-envoy-plugin does, and refuses no path form. Default: false."`
	Allow  []string `yaml:"allow" doc:"Path forms to let through: dot_segments, double_slash, encoded_slash, backslash, control_bytes, bad_escape, double_encoding, invalid_utf8, fragment, not_absolute, encoded_question, encoded_semicolon. Default: none."`
}

type denialsConfig struct {
	LoginURL  string                    `yaml:"login_url" doc:"Where a browser is sent instead of a 401. {return} stands for the path it came for; without it the parameter rd is added. Default: none."`
	Templates map[string]templateConfig `yaml:"templates" doc:"Bodies of your own, by HTTP status."`
}

type templateConfig struct {
	ContentType string `yaml:"content_type" doc:"The body's media type. text/html escapes the values. Required."`
	Body        string `yaml:"body" doc:"A Go template over .Status, .Title, .Reason, .DecisionID, .Method and .Path."`
	File        string `yaml:"file" doc:"A file that holds the body, instead of body."`
}

type bypassConfig struct {
	Method    string `yaml:"method" doc:"The exact method."`
	Path      string `yaml:"path" doc:"The exact path, without query."`
	Preflight bool   `yaml:"preflight" doc:"true matches CORS preflights only (OPTIONS with Origin and Access-Control-Request-Method); path may then be left out."`
}

type dryRunConfig struct {
	Always         bool `yaml:"-"`
	AllowExtension bool `yaml:"allow_extension" doc:"true lets Envoy's configuration turn dry run on for a route."`
}

type limitsConfig struct {
	Message    size `yaml:"message" doc:"Most bytes of one request as Envoy sends it, body included; above it 413. Default: 1MiB."`
	Headers    int  `yaml:"headers" doc:"Most header lines of a request; above it 431. Default: 256."`
	Concurrent int  `yaml:"concurrent" doc:"Most evaluations at once; above it 503 overloaded. 0 is no limit. Default: 0."`
}

// UnmarshalYAML takes true, false or a mapping.
func (c *dryRunConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Decode(&c.Always) != nil {
			return &valueError{fmt.Sprintf("%q is neither true, false nor a mapping", n.Value)}
		}
		return nil
	}
	type plain dryRunConfig
	return n.Decode((*plain)(c))
}

func defaults() *config {
	return &config{
		Listen: listenConfig{GRPC: []string{"127.0.0.1:9191"}, Admin: "127.0.0.1:9192", Socket: socketConfig{Mode: "0660"}, MaxConnections: 1024, MaxStreams: 1000,
			MaxRequests: 8192, MaxPending: 256 << 20, Handshake: duration(5 * time.Second), FirstRequest: duration(30 * time.Second),
			RequestTimeout: duration(10 * time.Second), Idle: duration(90 * time.Minute), MaxAge: duration(24 * time.Hour),
			DrainTimeout: duration(10 * time.Second)},
		Headers: headersConfig{Subject: "x-auth-subject", Roles: "x-auth-roles"},
		Policy: policyConfig{Timeout: duration(100 * time.Millisecond), Tests: ownTestsConfig{Timeout: duration(10 * time.Second)},
			Keep: 5, KeepSize: 16 << 20},
		Limits:      limitsConfig{Message: 1 << 20, Headers: 256},
		DecisionLog: decisionLogConfig{Keep: duration(30 * 24 * time.Hour), KeepSize: 256 << 20},
		Log:         logConfig{Level: "info", Format: "json"},
	}
}

const defaultDecision = "envoy/authz/allow"

// complete makes the only application of the short form, and fills in defaults that depend on other keys.
func (c *config) complete(doc *document) {
	if len(c.Apps) > 0 {
		for i := range c.Apps {
			if p := &c.Apps[i].Policy; p.Decision == "" && p.Root == "" {
				p.Decision = defaultDecision
			}
		}
		for _, key := range []string{"routes", "policy.decision", "policy.root", "policy.strict_routes"} {
			if line, set := doc.lines[key]; set {
				doc.fail(line, "%s: speaks of the only application, and there are apps: set it in each of them", key)
			}
		}
		c.Policy.Decision = ""
		return
	}
	if c.Policy.Root == "" && c.Policy.Decision == "" {
		c.Policy.Decision = defaultDecision
	}
}

// applications are the apps, or the one of the short form.
func (c *config) applications() []appConfig {
	if len(c.Apps) > 0 {
		return c.Apps
	}
	return []appConfig{{Routes: c.Routes, Policy: appPolicyConfig{Decision: c.Policy.Decision, Root: c.Policy.Root, StrictRoutes: c.Policy.StrictRoutes}}}
}

func (c *config) validateApps() error {
	var errs []error
	for i, a := range c.applications() {
		where := ""
		if len(c.Apps) > 0 {
			where = fmt.Sprintf("apps[%d].", i)
		}
		for key, u := range map[string]string{"": a.Routes.Unmatched.Other, ".redirect": a.Routes.Unmatched.Redirect} {
			if u != "" && u != "deny" && u != "policy" {
				errs = append(errs, fmt.Errorf("%sroutes.unmatched%s: %q is neither deny nor policy", where, key, u))
			}
		}
		if a.Policy.Root != "" && a.Routes.File == "" {
			errs = append(errs, fmt.Errorf("%spolicy.root: one rule for each route needs a route table: set routes.file", where))
		}
	}
	return errors.Join(errs...)
}
