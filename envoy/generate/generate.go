// Package generate makes Envoy's side of Gatehouse: the listener, the ext_authz filter and the clusters for one application, from
// gatehouse.yaml, routes.yaml and what only the operator knows. What it makes is meant to be read and changed. It imports packages config and
// routes.
package generate

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"gatehouse/config"
	"gatehouse/routes"
)

//go:embed envoy.yaml.tmpl
var text string

// Config says what is in front of what. The zero value is Envoy on port 8080 for an application on port 8000 that Gatehouse at its default
// address decides about.
type Config struct {
	Name string // of the application. Default: app
	// Listen, App and Gatehouse are addresses as host:port; Gatehouse may be unix:/path. Defaults: 127.0.0.1:8080, 127.0.0.1:8000 and
	// 127.0.0.1:9191.
	Listen, App, Gatehouse string
	// Cert, Key and ClientCA are PEM files for clients' TLS; with ClientCA clients must show certificates.
	Cert, Key, ClientCA string
	AppHTTP2            bool   // the application speaks HTTP/2, as gRPC servers do
	AppCA               string // the application speaks TLS, and this PEM file says whom to trust
	// GatehouseCA is the same for Gatehouse; GatehouseCert and GatehouseKey are what Envoy shows it. TLS and MTLS say that Gatehouse wants them.
	GatehouseCA, GatehouseCert, GatehouseKey string
	TLS, MTLS                                bool
	// HTTP asks over HTTP instead of gRPC.
	HTTP *HTTP
	// IdentityHeaders are those that only Gatehouse may set. Default: x-auth-subject, x-auth-roles.
	IdentityHeaders []string
	// CredentialHeaders are further headers of requests that Gatehouse changes, as it takes credentials away: over HTTP they have to be named.
	CredentialHeaders []string
	Websockets        bool
	// Streams are the paths whose requests are not held back for their body.
	Streams []Stream
	// MaxBody is how many bytes of a body the policy may see. 0: none. Default of FromConfig: 65536.
	MaxBody int
	Timeout time.Duration // of a question. Default: 250ms
	// ContextApp is the one of several applications that this is.
	ContextApp string
	// HealthChecks asks each of several Gatehouses whether it leaves.
	HealthChecks bool
}

// HTTP says how Gatehouse is asked over HTTP.
type HTTP struct{ PathPrefix string }

// Stream is a path, or everything that begins with one.
type Stream struct {
	Match string // path or prefix
	Path  string
}

// Default is what a new application begins with.
func Default(name string) Config { return Config{Name: name, MaxBody: 65536} }

// ErrNoConfig is the error of a configuration that says nowhere how Envoy is to ask.
var ErrNoConfig = errors.New("listen has no address of grpc, and no http with proxy: envoy: Envoy could ask nowhere")

// FromConfig takes from gatehouse.yaml, and from the route table that it names, what Envoy has to agree with. app is one of several
// applications, "" for the only one.
func FromConfig(c *config.Config, app string) (Config, error) {
	out := Default("app")
	for _, address := range c.Listen.GRPC {
		out.Gatehouse = local(address)
		if path, ok := config.CutUnix(address); ok {
			out.Gatehouse = "unix:" + path
			break // less CPU than TCP
		}
	}
	if h := c.Listen.HTTP; len(c.Listen.GRPC) == 0 {
		if h == nil || h.Proxy != "envoy" {
			return out, ErrNoConfig
		}
		out.Gatehouse, out.HTTP = local(h.Address), &HTTP{PathPrefix: h.PathPrefix}
	}
	if t := c.Listen.TLS; t != nil && !strings.HasPrefix(out.Gatehouse, "unix:") {
		out.TLS, out.MTLS = true, t.ClientCA != ""
	}
	out.IdentityHeaders = headers(c)
	out.CredentialHeaders = credentials(c)
	out.Timeout = max(250*time.Millisecond, time.Duration(c.Policy.Timeout)+150*time.Millisecond)
	apps := c.Applications()
	at := slices.IndexFunc(apps, func(a config.App) bool { return a.Name == app })
	switch {
	case len(c.Apps) > 0 && at < 0:
		var names []string
		for _, a := range c.Apps {
			names = append(names, a.Name)
		}
		return out, fmt.Errorf("app %q is none of %s", app, strings.Join(names, ", "))
	case len(c.Apps) > 0:
		out.Name, out.ContextApp = app, app
	default:
		at = 0
		if root := c.Policy.Root; root != "" {
			out.Name = root
		} else if name, _, ok := strings.Cut(c.Policy.Decision, "/"); ok && c.Policy.Decision != config.DefaultDecision {
			out.Name = name
		}
	}
	if file := apps[at].Routes.File; file != "" {
		body, err := config.ReadBounded(file)
		if err != nil {
			return out, fmt.Errorf("reading the route table: %w", err)
		}
		table, _, err := routes.Parse(file, body)
		if err != nil {
			return out, err
		}
		out.fromRoutes(table)
	}
	return out, nil
}

// local is the address that reaches a listener from its own machine.
func local(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (c *Config) fromRoutes(table *routes.Table) {
	for _, r := range table.Routes() {
		c.Websockets = c.Websockets || slices.Contains(r.Methods, routes.WebSocket)
		if path, fixed := table.FixedPath(r); r.IgnoreBody && fixed && plain.MatchString(path) {
			if s := (Stream{"path", path}); !slices.Contains(c.Streams, s) {
				c.Streams = append(c.Streams, s)
			}
		}
	}
}

func headers(c *config.Config) []string {
	h := c.Headers
	var names []string
	for _, name := range []string{h.Subject, h.Roles, h.Groups, h.Scopes, h.Email, h.JSON, h.JWT.Name} {
		if name != "" {
			names = append(names, strings.ToLower(name))
		}
	}
	more := len(names)
	for name := range h.Properties {
		names = append(names, strings.ToLower(name))
	}
	slices.Sort(names[more:])
	return names
}

// credentials are the headers that headers.remove_credential changes on their way to the application.
func credentials(c *config.Config) []string {
	if !c.Headers.RemoveCredential {
		return nil
	}
	names := []string{"authorization", "cookie", "sec-websocket-protocol"}
	add := func(from []config.Token) {
		for _, f := range from {
			if name := strings.ToLower(f.Header); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, i := range c.Identity.JWT {
		add(i.From)
	}
	for _, i := range c.Identity.Introspection {
		add(i.From)
	}
	if name := strings.ToLower(c.Identity.APIKeys.Header); c.Identity.APIKeys.File != "" && name != "" && !slices.Contains(names, name) {
		names = append(names, name)
	}
	return names
}

// plain is what may stand in YAML without quotes, whatever it is there for.
var plain = regexp.MustCompile(`^[A-Za-z0-9/._~@:-]*[A-Za-z0-9/._~@-]$`)

// YAML is the configuration.
func (c Config) YAML() ([]byte, error) {
	if c.Name == "" {
		c.Name = "app"
	}
	if c.IdentityHeaders == nil {
		c.IdentityHeaders = []string{"x-auth-subject", "x-auth-roles"}
	}
	v := view{Config: c, Timeout: "0.25s", Hint: c.Gatehouse == ""}
	if c.Timeout > 0 {
		v.Timeout = strconv.FormatFloat(c.Timeout.Seconds(), 'f', -1, 64) + "s"
	}
	var err error
	for _, a := range []struct {
		into               *address
		name, given, other string
	}{{&v.Listen, "listen", c.Listen, "127.0.0.1:8080"}, {&v.App, "the application", c.App, "127.0.0.1:8000"}, {&v.Gatehouse, "Gatehouse", c.Gatehouse, "127.0.0.1:9191"}} {
		if *a.into, err = parseAddress(a.name, a.given, a.other); err != nil {
			return nil, err
		}
	}
	if err := c.check(&v); err != nil {
		return nil, err
	}
	v.Keepalive = v.Gatehouse.Pipe == "" && !local127(v.Gatehouse.Host)
	v.UpstreamHeaders = slices.Concat(c.IdentityHeaders, c.CredentialHeaders)
	t, err := template.New("envoy.yaml").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("making envoy.yaml: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return nil, fmt.Errorf("making envoy.yaml: %w", err)
	}
	return []byte(b.String()), nil
}

// check refuses what would make another configuration than is meant.
func (c Config) check(v *view) error {
	values := map[string]string{"name": c.Name, "cert": c.Cert, "key": c.Key, "client ca": c.ClientCA, "app ca": c.AppCA, "gatehouse ca": c.GatehouseCA,
		"gatehouse cert": c.GatehouseCert, "gatehouse key": c.GatehouseKey, "app": c.ContextApp, "path": v.Gatehouse.Pipe}
	if c.HTTP != nil {
		values["path prefix"] = c.HTTP.PathPrefix
	}
	for _, h := range slices.Concat(c.IdentityHeaders, c.CredentialHeaders) {
		values["header "+h] = h
	}
	for _, s := range c.Streams {
		if !strings.HasPrefix(s.Path, "/") {
			return fmt.Errorf("stream %q: a path begins with a slash", s.Path)
		}
		values["stream "+s.Path] = s.Path
	}
	for name, value := range values {
		if value != "" && !plain.MatchString(value) && value != "{{.Name}}" {
			return fmt.Errorf("%s: %q has characters that do not go into envoy.yaml", name, value)
		}
	}
	switch {
	case (c.Cert == "") != (c.Key == ""), (c.GatehouseCert == "") != (c.GatehouseKey == ""):
		return errors.New("a certificate and its key go together: give both")
	case c.ClientCA != "" && c.Cert == "":
		return errors.New("clients show certificates where TLS is spoken: give Envoy a certificate and its key")
	case c.TLS && c.GatehouseCA == "":
		return errors.New("listen.tls: Gatehouse speaks TLS: say by which authority Envoy knows it, a PEM file (--gatehouse-ca)")
	case c.MTLS && c.GatehouseCert == "":
		return errors.New("listen.tls.client_ca: Gatehouse wants Envoy's certificate: say where it is (--gatehouse-cert, --gatehouse-key)")
	case v.Gatehouse.Pipe != "" && c.GatehouseCA != "":
		return errors.New("there is no TLS on a unix socket")
	case c.HTTP != nil && c.HealthChecks:
		return errors.New("health checks are for gRPC: Gatehouse has no other on its own port")
	case c.MaxBody < 0:
		return fmt.Errorf("%d bytes of a body are less than none", c.MaxBody)
	}
	return nil
}

// view is what the template sees.
type view struct {
	Config
	Listen, App, Gatehouse address
	Timeout                string
	Hint, Keepalive        bool
	UpstreamHeaders        []string
}

type address struct {
	Host, Pipe string
	Port       int
}

// Type is how Envoy finds the host.
func (a address) Type() string {
	if _, err := netip.ParseAddr(strings.Trim(a.Host, `"`)); err == nil || a.Pipe != "" {
		return "STATIC"
	}
	return "STRICT_DNS"
}

// SAN is how the host stands in a certificate.
func (a address) SAN() string {
	if a.Type() == "STATIC" {
		return "IP_ADDRESS"
	}
	return "DNS"
}

func local127(host string) bool {
	ip, err := netip.ParseAddr(strings.Trim(host, `"`))
	return err == nil && ip.IsLoopback()
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

func parseAddress(name, given, other string) (address, error) {
	if given == "" {
		given = other
	}
	if p, ok := config.CutUnix(given); ok {
		if name != "Gatehouse" {
			return address{}, fmt.Errorf("%s: %q: host:port is wanted", name, given)
		}
		return address{Pipe: filepath.ToSlash(p)}, nil
	}
	host, port, err := net.SplitHostPort(given)
	n, badPort := strconv.ParseUint(port, 10, 16)
	if err != nil || badPort != nil || n == 0 {
		return address{}, fmt.Errorf("%s: %q is not host:port", name, given)
	}
	ip, notIP := netip.ParseAddr(host)
	switch {
	case host == "" && name == "listen":
		host = "0.0.0.0"
	case notIP == nil && ip.Is6():
		host = strconv.Quote(host)
	case notIP != nil && (name == "listen" || !hostName.MatchString(host)):
		return address{}, fmt.Errorf("%s: %q is no address", name, host)
	}
	return address{Host: host, Port: int(n)}, nil
}

// Overlay puts what the operator says over what follows from a configuration: every field that is set, but MaxBody.
func (c *Config) Overlay(o Config) {
	for _, f := range []struct {
		into *string
		from string
	}{{&c.Listen, o.Listen}, {&c.App, o.App}, {&c.Gatehouse, o.Gatehouse}, {&c.Cert, o.Cert}, {&c.Key, o.Key}, {&c.ClientCA, o.ClientCA}, {&c.AppCA, o.AppCA},
		{&c.GatehouseCA, o.GatehouseCA}, {&c.GatehouseCert, o.GatehouseCert}, {&c.GatehouseKey, o.GatehouseKey}} {
		if f.from != "" {
			*f.into = f.from
		}
	}
	c.AppHTTP2, c.Websockets, c.HealthChecks = c.AppHTTP2 || o.AppHTTP2, c.Websockets || o.Websockets, c.HealthChecks || o.HealthChecks
}
