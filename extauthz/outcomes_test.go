package extauthz_test

import (
	"context"
	"encoding/json"

	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"gatehouse/gate"
)

// outcomesPolicy does what the header x-case says.
const outcomesPolicy = `package envoy.authz

h := object.get(input.attributes.request.http, "headers", {})

allow := true if h["x-case"] == "allow"
allow := true if h["x-case"] == "conflict"
allow := false if h["x-case"] == "conflict"
allow := false if h["x-case"] == "deny"
allow := "yes" if h["x-case"] == "wrong-type"
allow := to_number("x") == 1 if h["x-case"] == "builtin-error"
allow := {"allowed": false, "reason": h["x-reason"]} if h["x-case"] == "reason"
allow := {"allowed": false, "reason": "a\r\nb\u0000c<script>"} if h["x-case"] == "hostile-reason"
allow := {"allowed": false, "body": "own", "http_status": 418, "headers": {"content-type": "text/x"}} if h["x-case"] == "own"
allow := {"allowed": true, "headers": {"x-a": "a\r\nset-cookie: b"}} if h["x-case"] == "crlf"
allow := {"allowed": true, "response_headers_to_add": {"x-a": "a\nb"}} if h["x-case"] == "crlf-response"
allow := {"allowed": true, "headers": {":path": "/admin"}} if h["x-case"] == "pseudo"
allow := {"allowed": true, "headers": {"transfer-encoding": "chunked"}} if h["x-case"] == "framing"
allow := {"allowed": true, "headers": {"bad name": "x"}} if h["x-case"] == "bad-name"
allow := {"allowed": false, "http_status": 199} if h["x-case"] == "low-status"
allow := {"allowed": true, "n": count(loop)} if h["x-case"] == "runaway"
allow := {"allowed": true, "headers": {"x-body": json.marshal(input.parsed_body)}} if h["x-case"] == "body"

loop := [1 | some i in range; some j in range; some k in range; i + j + k == 0] # hours, and no memory

range := numbers.range(1, 3000)
`

// get is a CheckRequest with a path and pairs of header names and values.
func get(path string, headers ...string) *authv3.CheckRequest {
	h := map[string]string{":method": "GET", ":path": path, ":authority": "orders.example.com"}
	for i := 0; i < len(headers); i += 2 {
		h[headers[i]] = headers[i+1]
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: path, Host: "orders.example.com", Headers: h}}}}
}

func withBody(r *authv3.CheckRequest, body string) *authv3.CheckRequest {
	r.Attributes.Request.Http.Body = body
	return r
}

// TestOutcomes is contract.md's table of outcomes, and what a policy may put out.
func TestOutcomes(t *testing.T) {
	s := settings()
	s.Timeout = time.Minute
	hurried := *s
	hurried.Timeout = 50 * time.Millisecond
	c, short := client(t, s, compile(t, outcomesPolicy)), client(t, &hurried, compile(t, outcomesPolicy))
	many := func() *authv3.CheckRequest {
		r := get("/", "x-case", "allow")
		for i := range 300 {
			r.Attributes.Request.Http.Headers["x-"+strings.Repeat("n", i)] = ""
		}
		return r
	}
	for name, tt := range map[string]struct {
		request *authv3.CheckRequest
		status  int // 0: allowed
		reason  string
	}{
		"allow":                             {get("/", "x-case", "allow"), 0, ""},
		"deny":                              {get("/", "x-case", "deny"), 403, "denied"},
		"undefined decision":                {get("/"), 403, "no_decision"},
		"conflicting rules":                 {get("/", "x-case", "conflict"), 500, "policy_error"},
		"decision of a wrong type":          {get("/", "x-case", "wrong-type"), 500, "policy_error"},
		"built-in error":                    {get("/", "x-case", "builtin-error"), 500, "policy_error"},
		"malformed path":                    {get("/%zz", "x-case", "allow"), 400, "bad_request"},
		"percent and semicolon in a query":  {get("/?a=%zz;b&%", "x-case", "allow"), 0, ""},
		"query with too many parameters":    {get("/?"+strings.Repeat("&", 10000), "x-case", "allow"), 400, "bad_request"},
		"malformed body that is read":       {withBody(get("/", "x-case", "body", "content-type", "application/json"), "{"), 400, "bad_request"},
		"multipart without a boundary line": {withBody(get("/", "x-case", "body", "content-type", "multipart/form-data; boundary=X"), "nothing"), 400, "bad_request"},
		"body of an unknown type":           {withBody(get("/", "x-case", "body", "content-type", "text/plain"), "{"), 0, ""},
		"request over the size limit":       {withBody(get("/", "x-case", "allow"), strings.Repeat("x", 2<<20)), 413, "bad_request"},
		"body just below the limit":         {withBody(get("/", "x-case", "allow"), strings.Repeat("x", 1<<20-1000)), 0, ""},
		"far over the size limit":           {withBody(get("/", "x-case", "allow"), strings.Repeat("x", 40<<20)), 413, "bad_request"},
		"too many headers":                  {many(), 431, "bad_request"},
		"policy that never ends":            {get("/", "x-case", "runaway"), 504, "timeout"},
		"no attributes at all":              {&authv3.CheckRequest{}, 403, "no_decision"},
		"reason of the policy":              {get("/", "x-case", "reason", "x-reason", "orders over 500 need a manager"), 403, "orders over 500 need a manager"},
		"reason that is not one line":       {get("/", "x-case", "hostile-reason"), 403, "a  b c<script>"},
		"CRLF in a request header":          {get("/", "x-case", "crlf"), 500, "policy_error"},
		"LF in a response header":           {get("/", "x-case", "crlf-response"), 500, "policy_error"},
		"pseudo-header":                     {get("/", "x-case", "pseudo"), 500, "policy_error"},
		"framing header":                    {get("/", "x-case", "framing"), 500, "policy_error"},
		"header name that is no token":      {get("/", "x-case", "bad-name"), 500, "policy_error"},
		"status below 200":                  {get("/", "x-case", "low-status"), 500, "policy_error"},
		"protected path by dot segment":     {get("/a/../b", "x-case", "allow"), 400, "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			c := c
			if tt.status == http.StatusGatewayTimeout {
				c = short
			}
			got, err := c.Check(t.Context(), tt.request)
			if err != nil {
				t.Fatalf("gRPC error: %v", err)
			}
			expect(t, got, tt.status, tt.reason)
		})
	}
}

// expect holds an answer against an HTTP status and the reason in its problem details; status 0 is an allow.
func expect(t *testing.T, got *authv3.CheckResponse, status int, reason string) {
	t.Helper()
	if status == 0 {
		if got.GetStatus().GetCode() != 0 || got.GetDeniedResponse() != nil {
			t.Fatalf("denied: %v", got)
		}
		return
	}
	d := got.GetDeniedResponse()
	if got.GetStatus().GetCode() == 0 || d == nil || int(d.GetStatus().GetCode()) != status {
		t.Fatalf("got %v, want status %d", got, status)
	}
	var problem struct {
		Reason     string `json:"reason"`
		DecisionID string `json:"decision_id"`
		Status     int    `json:"status"`
		Title      string `json:"title"`
	}
	if err := json.Unmarshal([]byte(d.GetBody()), &problem); err != nil {
		t.Fatalf("body %q: %v", d.GetBody(), err)
	}
	if problem.Reason != reason || problem.Status != status || problem.Title != http.StatusText(status) {
		t.Errorf("body %q, want reason %q and status %d", d.GetBody(), reason, status)
	}
	if id := header(d.GetHeaders(), "x-decision-id"); id == "" || id != problem.DecisionID {
		t.Errorf("x-decision-id %q, decision_id %q", id, problem.DecisionID)
	}
	if got := header(d.GetHeaders(), "content-type"); got != "application/problem+json" {
		t.Errorf("content-type %q", got)
	}
	if got := header(d.GetHeaders(), "cache-control"); got != "no-store" {
		t.Errorf("cache-control %q", got)
	}
}

// TestNotReady denies while there is no policy.
func TestNotReady(t *testing.T) {
	c := authv3.NewAuthorizationClient(connection(t, gate.Config{}, func(v *gate.View) { v.Settings = settings() }))
	got, err := c.Check(t.Context(), get("/"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, got, 503, "not_ready")
}

// TestOverloaded uses up the only evaluation slot with an evaluation that does not end by itself.
func TestOverloaded(t *testing.T) {
	s := settings()
	s.Limits.Concurrent = 1
	s.Timeout = 5 * time.Minute
	c := client(t, s, compile(t, outcomesPolicy))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // it may find the place taken by the loop below, and be refused itself
			_, _ = c.Check(ctx, get("/", "x-case", "runaway")) // cancelled below
		}
	}()
	defer func() { cancel(); <-ended }()
	deadline, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for {
		got, err := c.Check(deadline, get("/", "x-case", "allow"))
		if err != nil {
			t.Fatal(err)
		}
		if got.GetDeniedResponse() != nil {
			expect(t, got, 503, "overloaded")
			return
		}
	}
}

// raw sends bytes that need not be a CheckRequest.
type raw []byte

type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*raw), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*raw) = append(raw(nil), data...)
	return nil
}

// TestMessagesThatDoNotParse are denials, not gRPC errors: those would be allows under failure_mode_allow.
func TestMessagesThatDoNotParse(t *testing.T) {
	conn := connection(t, gate.Config{}, func(v *gate.View) {
		v.Settings, v.Policy = settings(), compile(t, "package envoy.authz\nallow := true")
	})
	valid, err := proto.Marshal(get("/"))
	if err != nil {
		t.Fatal(err)
	}
	invalidUTF8, err := proto.Marshal(get("/", "x-ascii", "0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	for name, message := range map[string][]byte{
		"garbage":                []byte("\xff\xff\xff\xff"),
		"cut short":              valid[:len(valid)-3],
		"invalid UTF-8 in a map": []byte(strings.Replace(string(invalidUTF8), "0123456789", "\xff123456789", 1)),
		"wrong wire type":        {0x08, 0x01, 0x0a},
	} {
		t.Run(name, func(t *testing.T) {
			in, out := raw(message), raw(nil)
			if err := conn.Invoke(t.Context(), "/envoy.service.auth.v3.Authorization/Check", &in, &out, grpc.ForceCodec(rawCodec{})); err != nil {
				t.Fatalf("gRPC error: %v", err)
			}
			var got authv3.CheckResponse
			if err := proto.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			expect(t, &got, 400, "bad_request")
		})
	}
}

// TestDenialsForWhoReadsThem: problem details for an API client, HTML for a browser, one line for gRPC.
func TestDenialsForWhoReadsThem(t *testing.T) {
	s := settings()
	var err error
	s.Denials, err = gate.NewDenials("https://login.example.com/start?next={return}", map[int]gate.Template{
		504: {ContentType: "text/plain", Body: "too slow: {{.Reason}} {{.DecisionID}}\n"}})
	if err != nil {
		t.Fatal(err)
	}
	s.Timeout = time.Minute
	hurried := *s
	hurried.Timeout = 50 * time.Millisecond
	policy := compile(t, outcomesPolicy+`
allow := {"allowed": false, "http_status": 401, "reason": "who are you"} if h["x-case"] == "login"
`)
	c, short := client(t, s, policy), client(t, &hurried, policy)
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for name, tt := range map[string]struct {
		request           *authv3.CheckRequest
		status            int
		contentType, body string
		location          string
	}{
		"browser": {request: get("/", "x-case", "hostile-reason", "accept", browser), status: 403,
			contentType: "text/html; charset=utf-8", body: "a  b c&lt;script&gt;"},
		"API client":            {request: get("/", "x-case", "deny", "accept", "application/json"), status: 403, contentType: "application/problem+json", body: `"denied"`},
		"JSON before HTML":      {request: get("/", "x-case", "deny", "accept", "application/json, text/html;q=0.5"), status: 403, contentType: "application/problem+json", body: `"denied"`},
		"anything":              {request: get("/", "x-case", "deny", "accept", "*/*"), status: 403, contentType: "application/problem+json", body: `"denied"`},
		"gRPC":                  {request: get("/", "x-case", "deny", "content-type", "application/grpc"), status: 403, contentType: "text/plain; charset=utf-8", body: "Forbidden: denied"},
		"the policy's own":      {request: get("/", "x-case", "own"), status: 418, contentType: "text/x", body: "own"},
		"template":              {request: get("/", "x-case", "runaway"), status: 504, contentType: "text/plain", body: "too slow: timeout "},
		"login, browser":        {request: get("/orders?page=2", "x-case", "login", "accept", browser), status: 302, contentType: "text/html; charset=utf-8", body: "who are you", location: "https://login.example.com/start?next=%2Forders%3Fpage%3D2"},
		"login, API client":     {request: get("/orders", "x-case", "login"), status: 401, contentType: "application/problem+json", body: "who are you"},
		"login, fetch() call":   {request: get("/orders", "x-case", "login", "accept", browser, "x-requested-with", "XMLHttpRequest"), status: 401, contentType: "application/problem+json", body: "who are you"},
		"login, a plain denial": {request: get("/orders", "x-case", "deny", "accept", browser), status: 403, contentType: "text/html; charset=utf-8", body: "denied"},
	} {
		t.Run(name, func(t *testing.T) {
			c := c
			if tt.status == http.StatusGatewayTimeout {
				c = short
			}
			got, err := c.Check(t.Context(), tt.request)
			if err != nil {
				t.Fatal(err)
			}
			d := got.GetDeniedResponse()
			if int(d.GetStatus().GetCode()) != tt.status || !strings.Contains(d.GetBody(), tt.body) {
				t.Errorf("%d %q, want %d with %q", d.GetStatus().GetCode(), d.GetBody(), tt.status, tt.body)
			}
			if got := header(d.GetHeaders(), "content-type"); got != tt.contentType {
				t.Errorf("content-type %q, want %q", got, tt.contentType)
			}
			if got := header(d.GetHeaders(), "location"); got != tt.location {
				t.Errorf("location %q, want %q", got, tt.location)
			}
			if header(d.GetHeaders(), "x-decision-id") == "" {
				t.Error("no x-decision-id")
			}
		})
	}
}

// TestLoginKeepsToThisHost: the login page never redirects a browser to another host.
func TestLoginKeepsToThisHost(t *testing.T) {
	s := settings()
	s.Paths = gate.PathRules{Compat: true}
	var err error
	if s.Denials, err = gate.NewDenials("/login", nil); err != nil {
		t.Fatal(err)
	}
	c := client(t, s, compile(t, `package envoy.authz
allow := {"allowed": false, "http_status": 401}`))
	for path, back := range map[string]string{
		"/orders": "%2Forders", "//evil.example.com/": "%2F", "/\\evil.example.com": "%2F", "https://evil.example.com": "%2F"} {
		got, err := c.Check(t.Context(), get(path, "accept", "text/html"))
		if err != nil {
			t.Fatal(err)
		}
		if location := header(got.GetDeniedResponse().GetHeaders(), "location"); location != "/login?rd="+back {
			t.Errorf("%s: location %q", path, location)
		}
	}
}

// TestHeaderMap reads headers from encode_raw_headers' form too, credentials and look-alikes among them.
func TestHeaderMap(t *testing.T) {
	c := client(t, settings(), compile(t, `package envoy.authz
allow := {"allowed": true, "headers": {"x-got": json.marshal(input.attributes.request.http.headers), "x-body": json.marshal(input.parsed_body)}}`))
	req := withBody(get("/"), `{"a":1}`)
	http := req.Attributes.Request.Http
	http.Headers = nil
	http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: "content-type", RawValue: []byte("application/json")},
		{Key: "x-twice", RawValue: []byte("1")}, {Key: "x-twice", RawValue: []byte("2")},
		{Key: "x-bytes", RawValue: []byte("\xff")},
		{Key: "x_auth_subject", RawValue: []byte("admin")},
	}}
	got, err := c.Check(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, got, 0, "")
	ok := got.GetOkResponse()
	var headers map[string]string
	if err := json.Unmarshal([]byte(header(ok.GetHeaders(), "x-got")), &headers); err != nil {
		t.Fatal(err)
	}
	if headers["x-twice"] != "1,2" || headers["content-type"] != "application/json" || !utf8.ValidString(headers["x-bytes"]) {
		t.Errorf("headers %v", headers)
	}
	if body := header(ok.GetHeaders(), "x-body"); body != `{"a":1}` {
		t.Errorf("body %s", body)
	}
	if len(ok.GetHeadersToRemove()) != 1 || ok.GetHeadersToRemove()[0] != "x_auth_subject" {
		t.Errorf("headers to remove %v", ok.GetHeadersToRemove())
	}
}

// TestBypass lets exactly the configured requests through, and strips what the client claims to be.
func TestBypass(t *testing.T) {
	s := settings()
	s.Bypass = []gate.Bypass{{Method: "GET", Path: "/healthz"}, {Preflight: true}}
	c := client(t, s, compile(t, "package envoy.authz\nallow := false"))
	options := func(headers ...string) *authv3.CheckRequest {
		r := get("/orders/1", headers...)
		r.Attributes.Request.Http.Method = "OPTIONS"
		return r
	}
	post := get("/healthz")
	post.Attributes.Request.Http.Method = "POST"
	for name, tt := range map[string]struct {
		request *authv3.CheckRequest
		status  int
		reason  string
	}{
		"health":               {get("/healthz"), 0, ""},
		"health with a query":  {get("/healthz?a=b"), 0, ""},
		"below it":             {get("/healthz/x"), 403, "denied"},
		"slash behind it":      {get("/healthz/"), 403, "denied"},
		"other case":           {get("/Healthz"), 403, "denied"},
		"escaped":              {get("/%68ealthz"), 403, "denied"},
		"dots":                 {get("/orders/../healthz"), 400, "bad_request"},
		"other method":         {post, 403, "denied"},
		"preflight":            {options("origin", "https://a.example", "access-control-request-method", "PUT"), 0, ""},
		"options, no origin":   {options("access-control-request-method", "PUT"), 403, "denied"},
		"options, no method":   {options("origin", "https://a.example"), 403, "denied"},
		"get with its headers": {get("/orders/1", "origin", "https://a.example", "access-control-request-method", "PUT"), 403, "denied"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.request.Attributes.Request.Http.Headers["x_auth_subject"] = "admin"
			tt.request.Attributes.Request.Http.Headers["x-auth-roles"] = "admin"
			got, err := c.Check(t.Context(), tt.request)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, got, tt.status, tt.reason)
			if tt.status == 0 && len(got.GetOkResponse().GetHeadersToRemove()) != 2 {
				t.Errorf("headers to remove %v", got.GetOkResponse().GetHeadersToRemove())
			}
		})
	}
}

// TestDryRun lets denials through and reports the verdict.
func TestDryRun(t *testing.T) {
	s := settings()
	s.DryRunExtension = true
	c := client(t, s, compile(t, outcomesPolicy))
	for name, tt := range map[string]struct {
		request *authv3.CheckRequest
		reason  string
	}{
		"denial":        {get("/", "x-case", "deny", "x_auth_subject", "admin"), "denied"},
		"parse error":   {get("/a//b", "x-case", "allow", "x_auth_subject", "admin"), "bad_request"},
		"policy error":  {get("/", "x-case", "conflict", "x_auth_subject", "admin"), "policy_error"},
		"no decision":   {get("/", "x_auth_subject", "admin"), "no_decision"},
		"client's wish": {get("/", "x-case", "deny", "gatehouse.dry_run", "true"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.reason != "" {
				tt.request.Attributes.ContextExtensions = map[string]string{"gatehouse.dry_run": "true"}
			}
			got, err := c.Check(t.Context(), tt.request)
			if err != nil {
				t.Fatal(err)
			}
			if tt.reason == "" {
				expect(t, got, 403, "denied")
				return
			}
			expect(t, got, 0, "")
			dry, _ := got.GetDynamicMetadata().AsMap()["dry_run"].(map[string]any)
			if dry["reason"] != tt.reason || dry["allowed"] != false {
				t.Errorf("dynamic metadata %v", got.GetDynamicMetadata())
			}
			if remove := got.GetOkResponse().GetHeadersToRemove(); len(remove) != 1 || remove[0] != "x_auth_subject" {
				t.Errorf("headers to remove %v", remove)
			}
		})
	}
}

// TestMethodOverrides removes headers that make a framework act on another method than the one decided about.
func TestMethodOverrides(t *testing.T) {
	c := client(t, settings(), compile(t, "package envoy.authz\nallow := true"))
	got, err := c.Check(t.Context(), get("/", "x-http-method-override", "DELETE", "x_http_method", "DELETE", "x-method-override", "DELETE", "x-other", ""))
	if err != nil {
		t.Fatal(err)
	}
	if remove := got.GetOkResponse().GetHeadersToRemove(); len(remove) != 3 {
		t.Errorf("headers to remove %v", remove)
	}
}
