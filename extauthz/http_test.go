package extauthz_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/identity"
)

// proxy is an HTTP listener as its proxy sees it.
type proxy struct {
	kind    extauthz.Proxy
	address string
}

// serveHTTP serves a gate on loopback for one kind of proxy.
func serveHTTP(t *testing.T, cfg extauthz.HTTPConfig, parts ...gate.Part) proxy {
	t.Helper()
	g, err := gate.New(gate.Config{Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	h, err := extauthz.NewHTTP(g, cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { _ = g.Run(ctx); ended <- struct{}{} }()
	if err := g.Publish(ctx, parts...); err != nil {
		t.Fatal(err)
	}
	server := h.Server()
	var open sync.WaitGroup // connections: the server lingers on some after its end
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		}
	}
	go func() { _ = server.Serve(l); ended <- struct{}{} }()
	t.Cleanup(func() {
		server.Close()
		open.Wait()
		cancel()
		<-ended
		<-ended
	})
	return proxy{kind: cfg.Proxy, address: l.Addr().String()}
}

// with makes the part of a View that has these settings and this policy.
func with(t *testing.T, s *gate.Settings, rego string) gate.Part {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	p := compile(t, rego)
	return func(v *gate.View) { v.Settings, v.Policy = s, p }
}

// answer is what came over the wire.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) reason() string {
	var problem struct{ Reason string }
	_ = json.Unmarshal([]byte(a.body), &problem) // another kind of body has no reason
	return problem.Reason
}

// raw sends lines as they are and reads one answer to method.
func (p proxy) raw(t *testing.T, method, request string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.WriteString(conn, request) // the answer may come before the end
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.200q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%.200q: %v", request, err)
	}
	conn.Close()
	<-wrote
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
}

// ask puts a client's request the way this proxy does.
func (p proxy) ask(t *testing.T, method, path string, headers ...string) answer {
	t.Helper()
	lines := strings.Join(append(headers, ""), "\r\n")
	switch p.kind {
	case extauthz.ProxyNginx:
		return p.raw(t, "GET", "GET /_gatehouse HTTP/1.1\r\nHost: gatehouse\r\nX-Original-URI: "+path+"\r\nX-Original-Method: "+method+
			"\r\nX-Original-Host: orders.example.com\r\nX-Original-Proto: https\r\n"+lines+"\r\n")
	case extauthz.ProxyTraefik:
		return p.raw(t, "GET", "GET / HTTP/1.1\r\nHost: 127.0.0.1:9193\r\nX-Forwarded-Uri: "+path+"\r\nX-Forwarded-Method: "+method+
			"\r\nX-Forwarded-Host: orders.example.com\r\nX-Forwarded-Proto: https\r\n"+lines+"\r\n")
	}
	return p.raw(t, method, method+" "+path+" HTTP/1.1\r\nHost: orders.example.com\r\n"+lines+"\r\n")
}

var proxies = []extauthz.Proxy{extauthz.ProxyEnvoy, extauthz.ProxyNginx, extauthz.ProxyTraefik}

// The input is the same for every proxy, except for what the proxy cannot report.
func TestHTTPInput(t *testing.T) {
	const rego = `package envoy.authz
		http := input.attributes.request.http
		allow := {"allowed": false, "body": json.marshal({"method": http.method, "path": http.path, "host": http.host, "scheme": object.get(http, "scheme", ""),
			"a": object.get(http.headers, "a", ""), "names": [n | some n; http.headers[n]], "parsed": input.parsed_path, "query": input.parsed_query})}`
	for _, kind := range proxies {
		p := serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, settings(), rego))
		got := p.ask(t, "PUT", "/a%20b/c?x=1&x=2", "A: one", "A: two", "Connection: keep-alive")
		want := `{"a":"one,two","host":"orders.example.com","method":"PUT","names":["a"],"parsed":["a b","c"],"path":"/a%20b/c?x=1\u0026x=2","query":{"x":["1","2"]},"scheme":"https"}`
		if kind == extauthz.ProxyEnvoy { // it has no field for that
			want = strings.Replace(want, `"scheme":"https"`, `"scheme":""`, 1)
		}
		if got.body != want {
			t.Errorf("%s: the policy sees\n%s\nwant\n%s", kind, got.body, want)
		}
	}
}

// outcomes is contract's table for HTTP: the gate's answer, and the response to each proxy.
func TestHTTPOutcomes(t *testing.T) {
	const rego = `package envoy.authz
		first := input.parsed_path[0]
		allow if first == "open"
		allow := false if first == "no"
		allow := {"allowed": false, "reason": "because"} if first == "why"
		allow := {"allowed": false, "http_status": to_number(input.parsed_path[1])} if first == "deny"
		allow := "yes" if first == "wrong"
		allow if { first == "both"; input.attributes.request.http.method == "GET" }
		allow := false if first == "both"
		allow := {"allowed": true, "headers": {"x": "a\nb"}} if first == "control"
		allow := {"allowed": true, "query_parameters_to_set": {"a": "b"}} if first == "query"
		allow := {"allowed": input.parsed_body.open} if first == "body"
		allow if { first == "slow"; count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a == b + 5000]) == 0 }`
	s := settings()
	s.Timeout = time.Minute
	hurried := *s
	hurried.Timeout = 200 * time.Millisecond
	s.Bypass = []gate.Bypass{{Method: "GET", Path: "/healthz"}}
	served, slow := map[extauthz.Proxy]proxy{}, map[extauthz.Proxy]proxy{}
	for _, kind := range proxies {
		served[kind] = serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, s, rego))
		slow[kind] = serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, &hurried, rego))
	}
	for _, c := range []struct {
		path, headers       string
		reason              string
		envoy, nginx, other int
	}{
		{"/open", "", "", 200, 200, 200},
		{"/healthz", "", "", 200, 200, 200},
		{"/no", "", "denied", 403, 403, 403},
		{"/why", "", "because", 403, 403, 403},
		{"/nothing", "", "no_decision", 403, 403, 403},
		{"/wrong", "", "policy_error", 403, 403, 403},
		{"/both", "", "policy_error", 403, 403, 403},
		{"/control", "", "policy_error", 403, 403, 403},
		{"/query", "", "policy_error", 403, 403, 403},
		{"/slow", "", "timeout", 403, 403, 403},
		{"/deny/200", "", "denied", 403, 403, 403},
		{"/deny/204", "", "denied", 403, 403, 403},
		{"/deny/299", "", "denied", 403, 403, 403},
		{"/deny/302", "", "denied", 302, 403, 302},
		{"/deny/304", "", "", 304, 403, 304},
		{"/deny/401", "", "denied", 401, 401, 401},
		{"/deny/404", "", "denied", 404, 403, 404},
		{"/deny/429", "", "denied", 429, 403, 429},
		{"/deny/499", "", "denied", 499, 403, 499},
		{"/deny/500", "", "denied", 403, 403, 403},
		{"/deny/503", "", "denied", 403, 403, 403},
		{"/deny/599", "", "denied", 403, 403, 403},
		{"//open", "", "bad_request", 403, 403, 403},
		{"/open/..", "", "bad_request", 403, 403, 403},
		{"/open%2f", "", "bad_request", 403, 403, 403},
		{"/open\xff", "", "bad_request", 403, 403, 403},
		{"/open?a=%zz;b", "", "", 200, 200, 200},
		{"http://orders.example.com/open", "", "bad_request", 403, 403, 403},
		{"*", "", "no_decision", 403, 403, 403},
		{"/open", strings.Repeat("a: b\r\n", 300), "bad_request", 403, 403, 403},
		{"/open", "a: " + strings.Repeat("b", 1<<20), "bad_request", 403, 403, 403},
		{"/open?" + strings.Repeat("a", 1<<20), "", "bad_request", 403, 403, 403},
	} {
		for kind, want := range map[extauthz.Proxy]int{extauthz.ProxyEnvoy: c.envoy, extauthz.ProxyNginx: c.nginx, extauthz.ProxyTraefik: c.other} {
			headers := strings.Split(strings.TrimSuffix(c.headers, "\r\n"), "\r\n")
			if c.headers == "" {
				headers = nil
			}
			method := "GET"
			if c.path == "*" {
				method = "OPTIONS"
			}
			p := served[kind]
			if c.path == "/slow" {
				p = slow[kind]
			}
			got := p.ask(t, method, c.path, headers...)
			reason := c.reason
			if want == http.StatusNotModified {
				reason = ""
			} else if reason == "" && want != 200 {
				reason = "denied"
			}
			if got.status != want || got.reason() != reason {
				t.Errorf("%s, %.40q: %d %q, want %d %q", kind, c.path, got.status, got.reason(), want, reason)
			}
			if got.header.Get("x-decision-id") == "" || want >= 400 && got.header.Get("cache-control") != "no-store" {
				t.Errorf("%s, %.40q: headers %v", kind, c.path, got.header)
			}
		}
	}
}

const openToAll = "package envoy.authz\nallow := true"

// A missing or repeated field is denied; so are the fields of other proxies.
func TestHTTPFields(t *testing.T) {
	own := map[extauthz.Proxy][]string{
		extauthz.ProxyNginx:   {"X-Original-URI: /open", "X-Original-Method: GET", "X-Original-Host: h", "X-Original-Proto: http"},
		extauthz.ProxyTraefik: {"X-Forwarded-Uri: /open", "X-Forwarded-Method: GET", "X-Forwarded-Host: h", "X-Forwarded-Proto: http"},
	}
	other := map[extauthz.Proxy]extauthz.Proxy{extauthz.ProxyNginx: extauthz.ProxyTraefik, extauthz.ProxyTraefik: extauthz.ProxyNginx}
	for kind, lines := range own {
		p := serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, settings(), openToAll))
		check := func(what string, want int, lines ...string) {
			t.Helper()
			got := p.raw(t, "GET", "GET /open HTTP/1.1\r\nHost: h\r\n"+strings.Join(append(lines, "", ""), "\r\n"))
			if got.status != want || want != 200 && got.reason() != "bad_request" {
				t.Errorf("%s, %s: %d %q, want %d", kind, what, got.status, got.reason(), want)
			}
		}
		const denied = 403
		check("as it should be", 200, lines...)
		check("nothing", denied)
		check("what the other proxy sets", denied, own[other[kind]]...)
		check("both", 200, append(slices.Clone(lines), own[other[kind]]...)...)
		for i, line := range lines {
			name, _, _ := strings.Cut(line, ":")
			check("without "+name, denied, slices.Delete(slices.Clone(lines), i, i+1)...)
			check("twice "+line, denied, append(slices.Clone(lines), line)...)
			check("another "+name, denied, append(slices.Clone(lines), strings.ToLower(name)+": /other")...)
			empty := slices.Clone(lines)
			empty[i] = name + ":"
			check("empty "+name, denied, empty...)
		}
	}
	p := serveHTTP(t, extauthz.HTTPConfig{Proxy: extauthz.ProxyEnvoy}, with(t, settings(), `package envoy.authz
		allow if input.parsed_path == ["open"]`))
	for _, lines := range own {
		if got := p.ask(t, "GET", "/no", lines...); got.status != 403 {
			t.Errorf("envoy believes %q: %d", lines, got.status)
		}
	}
}

func TestHTTPPathPrefix(t *testing.T) {
	p := serveHTTP(t, extauthz.HTTPConfig{Proxy: extauthz.ProxyEnvoy, PathPrefix: "/authz"}, with(t, settings(), `package envoy.authz
		allow if input.parsed_path == ["open"]`))
	for path, want := range map[string]int{"/authz/open": 200, "/authz/open?a": 200, "/open": 403, "/authzopen": 403, "/authz": 403, "/authz?a": 403,
		"/authz//open": 403, "/authz/authz/open": 403, "/%61uthz/open": 403, "/AUTHZ/open": 403, "/": 403} {
		if got := p.ask(t, "GET", path); got.status != want {
			t.Errorf("%s: %d, want %d", path, got.status, want)
		}
	}
}

func TestNewHTTPRefuses(t *testing.T) {
	for want, cfg := range map[string]extauthz.HTTPConfig{
		"proxy: say which":       {},
		`proxy: "caddy"`:         {Proxy: "caddy"},
		"only Envoy has one":     {Proxy: extauthz.ProxyNginx, PathPrefix: "/a"},
		`path_prefix: "authz"`:   {Proxy: extauthz.ProxyEnvoy, PathPrefix: "authz"},
		`path_prefix: "/a?path"`: {Proxy: extauthz.ProxyEnvoy, PathPrefix: "/a?path"},
	} {
		if _, err := extauthz.NewHTTP(nil, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
}

// signer makes a verifier for one issuer, its keys, and tokens.
func signer(t *testing.T) (v *identity.Verifier, keys *identity.Keys, token func(subject string, roles ...string) string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"1","x":%q}]}`, encode(public)), 0o644); err != nil {
		t.Fatal(err)
	}
	v, err = identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: "https://login.example.com", Audiences: []string{"orders"},
		Keys: identity.KeySource{File: file}}}})
	if err != nil {
		t.Fatal(err)
	}
	if keys, err = v.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v, keys, func(subject string, roles ...string) string {
		claims, err := json.Marshal(map[string]any{"iss": "https://login.example.com", "aud": "orders", "sub": subject, "roles": roles,
			"exp": time.Now().Add(time.Hour).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		signed := encode([]byte(`{"alg":"EdDSA","kid":"1"}`)) + "." + encode(claims)
		return "Authorization: Bearer " + signed + "." + encode(ed25519.Sign(private, []byte(signed)))
	}
}

// How each proxy is instructed to change the request's headers on an allow.
func TestHTTPHeaders(t *testing.T) {
	const rego = `package envoy.authz
		first := input.parsed_path[0]
		allow if first == "open"
		allow := {"allowed": true, "headers": {"x-tenant": "blue", "x-list": ["a", "b"]}, "request_headers_to_remove": ["x-gone", "x-unsent"],
			"response_headers_to_add": {"x-for-client": ["1", "2"], "x-auth-subject": "forged", "x-tenant": "red", "x-gone": "back"}} if first == "headers"
		allow := {"allowed": true, "headers": {"x-both": "set"}, "request_headers_to_remove": ["x-both"]} if first == "both"
		allow := {"allowed": false, "headers": {"set-cookie": ["a=1", "b=2"], "x-why": "not you"}} if first == "no"`
	verifier, keys, token := signer(t)
	s := settings()
	s.Verifier = verifier
	for _, kind := range proxies {
		p := serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, settings(), rego))
		if got := p.ask(t, "GET", "/headers").header.Get("x-auth-subject"); got != "" {
			t.Errorf("%s, without credentials configured: x-auth-subject is %q", kind, got)
		}
		p = serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, s, rego), func(v *gate.View) { v.Keys = keys })
		// The answer's headers; "-" is one that is not there.
		for _, c := range []struct {
			what, path           string
			sent                 []string
			name                 string
			envoy, nginx, traefk string
		}{
			{"subject", "/open", []string{token("vera", "viewer")}, "x-auth-subject", "vera", "vera", "vera"},
			{"roles", "/open", []string{token("vera", "viewer", "clerk")}, "x-auth-roles", "viewer,clerk", "viewer,clerk", "viewer,clerk"},
			{"nothing to take off but roles", "/open", []string{token("vera", "viewer")}, "x-envoy-auth-headers-to-remove", "-", "-", "-"},
			{"no roles", "/open", []string{token("vera")}, "x-auth-roles", "-", "", "-"},
			{"no roles", "/open", []string{token("vera")}, "x-envoy-auth-headers-to-remove", "x-auth-roles", "-", "-"},
			{"anonymous", "/open", nil, "x-auth-subject", "-", "", "-"},
			{"anonymous", "/open", nil, "x-envoy-auth-headers-to-remove", "x-auth-subject,x-auth-roles", "-", "-"},
			{"forged", "/open", []string{"X-Auth-Subject: root"}, "x-auth-subject", "-", "", "-"},
			{"forged, with a token", "/open", []string{"X-Auth-Subject: root", token("vera")}, "x-auth-subject", "vera", "vera", "vera"},
			{"set by the policy", "/headers", nil, "x-tenant", "blue", "blue", "blue"},
			{"set over the client's", "/headers", []string{"X-Tenant: red"}, "x-tenant", "blue", "blue", "blue"},
			{"a list is one line", "/headers", nil, "x-list", "a,b", "a,b", "a,b"},
			{"taken off by the policy", "/headers", []string{"X-Gone: now"}, "x-gone", "-", "", "-"},
			{"set and taken off", "/both", nil, "x-both", "-", "", "-"},
			{"for the client", "/headers", nil, "x-for-client", "1|2", "1|2", "1|2"},
			{"for the client, in an identity's name", "/headers", []string{token("vera")}, "x-auth-subject", "vera", "vera", "vera"},
			{"the same, anonymous", "/headers", nil, "x-auth-subject", "-", "", "-"},
			{"on a denial", "/no", []string{token("vera")}, "set-cookie", "a=1|b=2", "a=1|b=2", "a=1|b=2"},
			{"on a denial", "/no", []string{token("vera")}, "x-auth-subject", "-", "-", "-"},
			{"challenge", "/no", []string{"Authorization: Bearer rubbish"}, "www-authenticate", `Bearer realm="gatehouse", error="invalid_token"`,
				`Bearer realm="gatehouse", error="invalid_token"`, `Bearer realm="gatehouse", error="invalid_token"`},
		} {
			want := map[extauthz.Proxy]string{extauthz.ProxyEnvoy: c.envoy, extauthz.ProxyNginx: c.nginx, extauthz.ProxyTraefik: c.traefk}[kind]
			got := "-"
			if values := p.ask(t, "GET", c.path, c.sent...).header.Values(c.name); values != nil {
				got = strings.Join(values, "|")
			}
			if got != want {
				t.Errorf("%s, %s: %s is %q, want %q", kind, c.what, c.name, got, want)
			}
		}
	}
}

// A header that an app could take for another: Envoy is told to take it off. The others cannot be told, so it denies: as a
// bad request, and in a dry run in the last moment.
func TestHTTPLookalikes(t *testing.T) {
	for _, dryRun := range []bool{false, true} {
		s := settings()
		s.DryRun = dryRun
		for _, kind := range proxies {
			p := serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, s, `package envoy.authz
				allow := {"allowed": true, "headers": {"x-tenant": "blue"}}`))
			for _, name := range []string{"X_Auth_Subject", "x-auth_subject", "X_AUTH_ROLES", "x.auth.roles", "X-HTTP-Method-Override", "X_HTTP_Method", "X-Method-Override", "X_Tenant"} {
				want := 403
				got := p.ask(t, "GET", "/", name+": root")
				if kind == extauthz.ProxyEnvoy {
					want = 200
					if removed := got.header.Get("x-envoy-auth-headers-to-remove"); removed != strings.ToLower(name) {
						t.Errorf("%s: %q is taken off", name, removed)
					}
				}
				if got.status != want {
					t.Errorf("%s, %s, dry run %t: %d, want %d", kind, name, dryRun, got.status, want)
				}
			}
		}
	}
}

// Envoy and Traefik redirect a browser to the login page; nginx gets a 401 with its location.
func TestHTTPLogin(t *testing.T) {
	verifier, keys, token := signer(t)
	s := settings()
	s.Verifier = verifier
	var err error
	if s.Denials, err = gate.NewDenials("https://login.example.com/", nil); err != nil {
		t.Fatal(err)
	}
	for _, kind := range proxies {
		p := serveHTTP(t, extauthz.HTTPConfig{Proxy: kind}, with(t, s, "package envoy.authz\nallow := false"), func(v *gate.View) { v.Keys = keys })
		want := map[extauthz.Proxy]int{extauthz.ProxyEnvoy: 302, extauthz.ProxyNginx: 401, extauthz.ProxyTraefik: 302}[kind]
		got := p.ask(t, "GET", "/a?b", "Accept: text/html")
		if got.status != want || got.header.Get("location") != "https://login.example.com/?rd=%2Fa%3Fb" {
			t.Errorf("%s: %d %v", kind, got.status, got.header)
		}
		if got := p.ask(t, "GET", "/a?b"); got.status != 401 || got.header.Get("location") != "" {
			t.Errorf("%s, no browser: %d %v", kind, got.status, got.header)
		}
		if got := p.ask(t, "GET", "/a?b", "Accept: text/html", token("vera")); got.status != 403 || got.header.Get("location") != "" {
			t.Errorf("%s, somebody known: %d %v", kind, got.status, got.header)
		}
	}
}

// Malformed requests as raw bytes: the answer is never a 200 or 5xx.
func TestHTTPStrangeRequests(t *testing.T) {
	s := settings()
	s.Limits.Message = 1 << 10
	p := serveHTTP(t, extauthz.HTTPConfig{Proxy: extauthz.ProxyEnvoy}, with(t, s, `package envoy.authz
		allow if { input.parsed_path == ["open"]; input.attributes.request.http.method != "CONNECT" }
		allow := {"allowed": input.parsed_body.open} if input.parsed_path == ["body"]`))
	const host = "Host: h\r\n"
	for _, c := range []struct {
		what, request string
		want          int
	}{
		{"plain", "GET /open HTTP/1.1\r\n" + host + "\r\n", 200},
		{"HEAD", "HEAD /open HTTP/1.1\r\n" + host + "\r\n", 200},
		{"a method of its own", "BREW /open HTTP/1.1\r\n" + host + "\r\n", 200},
		{"HTTP/1.0", "GET /open HTTP/1.0\r\n\r\n", 200},
		{"no host", "GET /open HTTP/1.1\r\n\r\n", 400},
		{"two hosts", "GET /open HTTP/1.1\r\n" + host + host + "\r\n", 400},
		{"absolute form", "GET http://h/open HTTP/1.1\r\n" + host + "\r\n", 403},
		{"CONNECT", "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 403},
		{"CONNECT with a path", "CONNECT /open HTTP/1.1\r\n" + host + "\r\n", 403},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", 403},
		{"asterisk form of GET", "GET * HTTP/1.1\r\n" + host + "\r\n", 403},
		{"no path", "GET open HTTP/1.1\r\n" + host + "\r\n", 400},
		{"bad escape", "GET /open%zz HTTP/1.1\r\n" + host + "\r\n", 400},
		{"fragment", "GET /open#a HTTP/1.1\r\n" + host + "\r\n", 403},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403},
		{"no HTTP", "\x16\x03\x01\x00\x00\r\n\r\n", 400},
		{"bad header", "GET /open HTTP/1.1\r\n" + host + "a b: c\r\n\r\n", 400},
		{"body", "POST /body HTTP/1.1\r\n" + host + "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"open\":true}", 200},
		{"chunked body", "POST /body HTTP/1.1\r\n" + host + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"5\r\n{\"ope\r\n8\r\nn\":true}\r\n0\r\n\r\n", 200},
		{"partial body", "POST /body HTTP/1.1\r\n" + host + "X-Envoy-Auth-Partial-Body: true\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n" +
			"{\"open\":true}", 403},
		{"broken chunk", "POST /body HTTP/1.1\r\n" + host + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 403},
		{"binary body", "POST /open HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\n\xff\xfe", 200},
		{"body at the limit", "POST /open HTTP/1.1\r\n" + host + "Content-Length: 900\r\n\r\n" + strings.Repeat("x", 900), 200},
		{"body above it", "POST /open HTTP/1.1\r\n" + host + "Content-Length: 1100\r\n\r\n" + strings.Repeat("x", 1100), 403},
		{"body far above it", "POST /open HTTP/1.1\r\n" + host + "Content-Length: 33554432\r\n\r\n" + strings.Repeat("x", 32<<20), 403},
		{"header far above it", "GET /open HTTP/1.1\r\n" + host + "A: " + strings.Repeat("x", 8<<20) + "\r\n\r\n", 403},
		{"header above all", "GET /open HTTP/1.1\r\n" + host + "A: " + strings.Repeat("x", 10<<20) + "\r\n\r\n", 431},
	} {
		method, _, _ := strings.Cut(c.request, " ")
		if got := p.raw(t, method, c.request); got.status != c.want {
			t.Errorf("%s: %d %.100q, want %d", c.what, got.status, got.body, c.want)
		}
	}
}

// Before a policy is published, and when the handler itself fails, the answer is a denial too.
func TestHTTPNotReadyAndBroken(t *testing.T) {
	for _, kind := range proxies {
		p := serveHTTP(t, extauthz.HTTPConfig{Proxy: kind})
		if got := p.ask(t, "GET", "/open", "Content-Length: 3", "", "abc"); got.status != 403 || got.reason() != "not_ready" {
			t.Errorf("%s: %d %q", kind, got.status, got.body)
		}
		broken, err := extauthz.NewHTTP(nil, extauthz.HTTPConfig{Proxy: kind})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		broken.ServeHTTP(w, httptest.NewRequest("GET", "/open", nil))
		if w.Code != 403 || !strings.Contains(w.Body.String(), `"internal"`) {
			t.Errorf("%s, broken: %d %q", kind, w.Code, w.Body)
		}
	}
}

// While the process drains, each answer ends its connection.
func TestHTTPDrain(t *testing.T) {
	h, err := extauthz.NewHTTP(nil, extauthz.HTTPConfig{Proxy: extauthz.ProxyEnvoy})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Header().Get("connection")
	}
	if before := ask(); before != "" {
		t.Errorf("before: connection %q", before)
	}
	h.Drain()
	if after := ask(); after != "close" {
		t.Errorf("after: connection %q", after)
	}
}

// Envoy announces its timeout. A late answer may count as a failure, so the denial must come earlier.
func TestHTTPDeadline(t *testing.T) {
	s := settings()
	s.Timeout = time.Minute
	p := serveHTTP(t, extauthz.HTTPConfig{Proxy: extauthz.ProxyEnvoy}, with(t, s, `package envoy.authz
		allow if count([1 | some a in numbers.range(1, 10000); some b in numbers.range(1, 10000); a == b + 50000]) == 0`))
	began := time.Now()
	a := p.ask(t, "GET", "/slow", "X-Envoy-Expected-Rq-Timeout-Ms: 100")
	if a.status != http.StatusForbidden || a.reason() != "timeout" || time.Since(began) > 30*time.Second {
		t.Errorf("%d %q after %s", a.status, a.reason(), time.Since(began))
	}
}
