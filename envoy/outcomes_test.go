package envoy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"gatehouse/envoy/sandbox"
)

// failsOpen is what nobody should have and what proves the most: without an answer, Envoy lets a request through.
const (
	failsOpen = `failure_mode_allow: true, with_request_body: {max_request_bytes: 2097152, allow_partial_message: %t}`
	roomy     = `max_request_headers_kb: 4096, common_http_protocol_options: {max_headers_count: 5000}`
)

// outcome is a request, and the denial that it must come to; 0 is an allow.
type outcome struct {
	name   string
	path   string
	header string
	body   string
	want   int
	says   string // part of the body
}

func jsonBody(body string) string { return "Content-Type: application/json\r\n" + length(body) }

func length(body string) string { return fmt.Sprintf("Content-Length: %d", len(body)) }

func form(kind string) (header, body string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.SetBoundary("edge")
	_ = w.WriteField("ok", "true")
	_ = w.Close()
	return "Content-Type: " + kind + "; boundary=edge\r\n" + length(b.String()), b.String()
}

func outcomes(valid, forged string) []outcome {
	bearer := "Authorization: Bearer "
	cut, multi := `{"ok": tru`, `{"ok":true} {"ok":true}`
	formHeader, formBody := form("multipart/form-data")
	return []outcome{
		{"allowed", "/headers/allow", "", "", 0, ""},
		{"denied, anonymous", "/headers/deny", "", "", 401, "no_credential"},
		{"denied", "/headers/deny", bearer + valid, "", 403, "denied"},
		{"bad credential", "/headers/allow", bearer + forged, "", 401, "bad_credential"},
		{"no token at all", "/headers/allow", bearer + "x", "", 401, "bad_credential"},
		{"undefined decision", "/headers/undefined", "", "", 403, "no_decision"},
		{"conflicting rules", "/headers/conflict", "", "", 500, "policy_error"},
		{"decision is a string", "/headers/string", "", "", 500, "policy_error"},
		{"decision is an array", "/headers/array", "", "", 500, "policy_error"},
		{"decision is null", "/headers/null", "", "", 500, "policy_error"},
		{"decision without allowed", "/headers/no-allowed", "", "", 500, "policy_error"},
		{"allowed is a string", "/headers/allowed-string", "", "", 500, "policy_error"},
		{"built-in error", "/headers/builtin", "", "", 500, "policy_error"},
		{"division by zero", "/headers/division/1", "", "", 500, "policy_error"},
		{"policy that never ends", "/headers/endless", "", "", 504, "timeout"},
		{"malformed path", "/headers/allow/%zz", "", "", 400, "bad_request"},
		{"query with too many parameters", "/headers/allow?" + strings.Repeat("&", 10000), "", "", 400, "bad_request"},
		{"JSON that is none, read", "/headers/body", jsonBody(cut), cut, 400, "bad_request"},
		{"two JSON documents, read", "/headers/body", jsonBody(multi), multi, 400, "bad_request"},
		{"JSON that is none, read by another rule", "/headers/allow", jsonBody(cut), cut, 400, "bad_request"},
		{"form that is none, read", "/headers/body", "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4", "a=;b", 400, "bad_request"},
		{"multipart that is none, read", "/headers/body", "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9", "--x\r\nnope", 400, "bad_request"},
		{"multipart, read", "/headers/body", formHeader, formBody, 500, "policy_error"}, // an array is no boolean
		{"unknown type, read", "/headers/body", "Content-Type: text/plain\r\nContent-Length: 2", "{}", 403, "no_decision"},
		{"body in the limits", "/headers/allow", length(big(1<<20 - 4096)), big(1<<20 - 4096), 0, ""},
		{"body at limits.message", "/headers/allow", length(big(1 << 20)), big(1 << 20), 413, "bad_request"},
		{"body at Envoy's limit", "/headers/allow", length(big(2 << 20)), big(2 << 20), 413, "bad_request"},
		{"body above Envoy's limit", "/headers/allow", length(big(5 << 20)), big(5 << 20), 413, ""},
		{"chunked, above Envoy's limit", "/headers/allow", "Transfer-Encoding: chunked", chunked(big(5 << 20)), 413, ""},
		{"too many headers", "/headers/allow", strings.Repeat("x-a: b\r\n", 5) + lines(300), "", 431, "bad_request"},
		{"many headers", "/headers/allow", lines(90), "", 0, ""},
		{"headers above limits.message", "/headers/allow", "x-a: " + big(900<<10) + "\r\nx-b: " + big(600<<10), "", 413, "bad_request"},
		{"path above limits.message", "/headers/allow?" + big(600<<10), "", "", 413, "bad_request"}, // it is in the message twice
		{"body not UTF-8", "/headers/body-utf8", "", "", 500, "policy_error"},
		{"reason not UTF-8", "/headers/reason-utf8", "", "", 500, "policy_error"},
		{"reason of control characters", "/headers/reason-control", bearer + valid, "", 403, ""},
		{"body of control characters", "/headers/body-control", bearer + valid, "", 403, "a\x00b\r\n\x7f"},
		{"body from a header", "/headers/body-from-header", bearer + valid + "\r\nx-body: \"\\u0000\\ud800 \\udfff\"", "", 403, "\x00"},
		{"header not UTF-8", "/headers/header-utf8", "", "", 500, "policy_error"},
		{"header with a line end", "/headers/header-crlf", "", "", 500, "policy_error"},
		{"allow: header with a line end", "/headers/allow-header-crlf", "", "", 500, "policy_error"},
		{"allow: response header with NUL", "/headers/allow-response-nul", "", "", 500, "policy_error"},
		{"header :status", "/headers/header-status", "", "", 500, "policy_error"},
		{"header content-length", "/headers/header-length", "", "", 500, "policy_error"},
		{"header without a name", "/headers/header-nameless", "", "", 500, "policy_error"},
		{"header at the limit", "/headers/header-long/16384", bearer + valid, "", 403, ""},
		{"header above the limit", "/headers/header-long/16385", bearer + valid, "", 500, "policy_error"},
		{"300 headers", "/headers/headers-many/300", bearer + valid, "", 403, "denied"},
		{"long body", "/headers/body-long/300000", bearer + valid, "", 403, "000"},
		{"metadata not UTF-8", "/headers/metadata-utf8", "", "", 500, "policy_error"},
		{"metadata beyond a double", "/headers/metadata-number", "", "", 500, "policy_error"},
		{"metadata as deep as may be", "/headers/metadata-objects/24", bearer + valid, "", 403, "denied"},
		{"metadata too deep", "/headers/metadata-objects/25", bearer + valid, "", 500, "policy_error"},
		{"metadata far too deep", "/headers/metadata-objects/500", bearer + valid, "", 500, "policy_error"},
		{"arrays as deep as may be", "/headers/metadata-arrays/23", bearer + valid, "", 403, "denied"},
		{"arrays too deep", "/headers/metadata-arrays/200", bearer + valid, "", 500, "policy_error"},
		{"long metadata", "/headers/metadata-long/300000", bearer + valid, "", 403, "denied"},
		{"denial with 199", "/headers/status/199", "", "", 500, "policy_error"},
		{"denial with 600", "/headers/status/600", "", "", 500, "policy_error"},
		{"template", "/headers/plain-status/404", bearer + valid, "", 404, "404 denied"},
	}
}

func big(n int) string { return strings.Repeat("x", n) }

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "x-%d: y\r\n", i)
	}
	return strings.TrimSuffix(b.String(), "\r\n")
}

func chunked(body string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }

func (o outcome) request() string {
	method := "GET"
	if o.body != "" {
		method = "POST"
	}
	return spelling{Target: o.path, Method: method, Header: o.header}.request("") + o.body
}

// Nothing fails open: with an Envoy that lets requests through where it gets no answer, each row of the table of outcomes
// ends in the denial that it names. One that takes too long ends in the application.
func TestNothingFailsOpen(t *testing.T) {
	doors := []door{
		{Port: 8080, App: 8000, Authz: []int{9191}, Manager: roomy, Filter: fmt.Sprintf(failsOpen, true)},
		{Port: freePort(t), App: 8000, Authz: []int{9191}, Manager: roomy, Filter: fmt.Sprintf(failsOpen, false)},
		{Port: freePort(t), App: 8000, Authz: []int{9191}, Manager: roomy, Filter: fmt.Sprintf(failsOpen, true) + ", encode_raw_headers: true, validate_mutations: true"},
	}
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "outcomes")})
	doors[0].Port = portOf(t, s.URL)
	for _, o := range outcomes(s.Token("vera", "viewer"), s.ForgedToken("vera", "viewer")) {
		for i, d := range doors {
			got := send(t, d.Port, o.request())
			text := fmt.Sprintf("%s, door %d: %s %.300q", o.name, i, got, got.Body)
			switch {
			case o.want == 0 && (got.Who != "app" || got.Status != 200):
				t.Errorf("%s, want the app's answer", text)
			case o.want != 0 && (got.Who == "app" || got.Status != o.want || !contains(got.Body, o.says)):
				t.Errorf("%s, want a denial with %d %q", text, o.want, o.says)
			case !utf8.ValidString(got.Body):
				t.Errorf("%s: not UTF-8", text)
			case contains(got.Body, "rego") || contains(got.Body, "data.envoy") || got.Header.Get("Set-Cookie") != "":
				t.Errorf("%s: tells too much", text)
			}
		}
	}

	// The proof that this setup fails open indeed.
	if _, err := s.StopGatehouse(); err != nil {
		t.Fatal(err)
	}
	for i, d := range doors {
		if got := send(t, d.Port, spelling{Target: "/headers/deny"}.request("")); got.Who != "app" {
			t.Errorf("door %d without Gatehouse: %s, want the app: this setup proves nothing", i, got)
		}
	}
}

// A denial stays a denial whatever status the policy gives it.
func TestDenialStatuses(t *testing.T) {
	t.Parallel()
	doors := []door{{Port: 8080, App: 8000, Authz: []int{9191}, Filter: fmt.Sprintf(failsOpen, true)}}
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "outcomes")})
	token := s.Token("vera", "viewer")
	for _, kind := range []string{"status", "plain-status"} {
		for status := 200; status <= 599; status++ {
			if !long && status%100 > 31 && status != 599 { // beyond what HTTP has names for
				continue
			}
			got := send(t, portOf(t, s.URL), spelling{Target: fmt.Sprintf("/headers/%s/%d", kind, status), Header: "Authorization: Bearer " + token}.request(""))
			if got.Who != "gatehouse" || got.Header.Get("X-App") != "" {
				t.Errorf("a denial with %d: %s %q", status, got, got.Body)
			} else if got.Status != status {
				t.Errorf("a denial with %d goes out as %d", status, got.Status)
			}
		}
	}
}

// Each kind of client is told in its own way, and nobody is let through for it.
func TestDenialsByClient(t *testing.T) {
	t.Parallel()
	doors := []door{{Port: 8080, App: 8000, Authz: []int{9191}, Filter: fmt.Sprintf(failsOpen, true)}}
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "outcomes")})
	bearer := "Authorization: Bearer " + s.Token("vera", "viewer")
	html := "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for _, c := range []struct {
		name, target, header string
		status               int
		names                map[string]string // headers of the answer
		says                 string
	}{
		{"API", "/headers/deny", "", 401, map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store",
			"Www-Authenticate": `Bearer realm="gatehouse"`, "Location": ""}, `"reason":"no_credential"`},
		{"API with a bad token", "/headers/deny", "Authorization: Bearer x", 401,
			map[string]string{"Www-Authenticate": `Bearer realm="gatehouse", error="invalid_token"`}, `"reason":"bad_credential"`},
		{"browser", "/headers/deny?a=b", html, 302, map[string]string{"Location": "https://login.example.com/?back=%2Fheaders%2Fdeny%3Fa%3Db"}, ""},
		{"browser that knows a token", "/headers/deny", html + "\r\n" + bearer, 403, map[string]string{"Content-Type": "text/html; charset=utf-8", "Location": ""}, "<h1>Forbidden</h1>"},
		{"browser, script in the reason", "/headers/reason-control", html + "\r\n" + bearer, 403, map[string]string{"Content-Type": "text/html; charset=utf-8"}, "&lt;script&gt;"},
		{"script in a browser", "/headers/deny", html + "\r\nX-Requested-With: XMLHttpRequest", 401, map[string]string{"Location": ""}, "no_credential"},
		{"anything", "/headers/deny", "Accept: */*", 401, map[string]string{"Location": ""}, "no_credential"},
		{"template", "/headers/plain-status/404", bearer, 404, map[string]string{"Content-Type": "text/x-ours"}, "404 denied"},
		{"gRPC, denied", "/headers/deny", bearer + "\r\nContent-Type: application/grpc", 200, map[string]string{"Grpc-Status": "7", "Grpc-Message": "Forbidden: denied"}, ""},
		{"gRPC, anonymous", "/headers/deny", "Content-Type: application/grpc+proto", 200, map[string]string{"Grpc-Status": "16"}, ""},
		{"gRPC, policy error", "/headers/null", "Content-Type: application/grpc", 200, map[string]string{"Grpc-Status": "2"}, ""},
		{"gRPC, timeout", "/headers/endless", "Content-Type: application/grpc", 200, map[string]string{"Grpc-Status": "14"}, ""},
		{"gRPC, bad request", "/headers/allow/%zz", "Content-Type: application/grpc", 200, map[string]string{"Grpc-Status": "13"}, ""},
	} {
		got := send(t, portOf(t, s.URL), spelling{Target: c.target, Header: c.header}.request(""))
		if got.Who != "gatehouse" || got.Status != c.status || !contains(got.Body, c.says) {
			t.Errorf("%s: %s %q, want %d %q", c.name, got, got.Body, c.status, c.says)
		}
		for name, want := range c.names {
			if got.Header.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", c.name, name, got.Header.Get(name), want)
			}
		}
	}
}

// A Gatehouse that cannot decide says so and denies: without a policy, with more to do than it may, without the keys.
func TestUnableIsNotOpen(t *testing.T) {
	t.Parallel()
	policy, err := os.ReadFile("testdata/outcomes/policy/outcomes.rego")
	if err != nil {
		t.Fatal(err)
	}
	const head = "listen: {grpc: [\"{GRPC}\"], admin: \"{ADMIN}\"}\npolicy: {timeout: 2s, bundles: [{path: \"{DIR}/policy\"}]}\n"
	files := map[string]string{"policy/outcomes.rego": string(policy)}
	broken := startGatehouse(t, "gatehouse-broken", head, map[string]string{"policy/outcomes.rego": "package envoy.authz\nallow if )\n"})
	busy := startGatehouse(t, "gatehouse-busy", head+"limits: {concurrent: 1}\n", files)
	keyless := startGatehouse(t, "gatehouse-keyless", head+"identity: {jwt: [{issuer: \""+sandbox.Issuer+"\", audiences: [orders], keys: {url: \"http://"+
		at(freePort(t))+"/jwks\"}}]}\n", files)
	open := fmt.Sprintf(failsOpen, true)
	doors := []door{{Port: 8080, App: 8000, Authz: []int{9191}}}
	for _, g := range []*another{broken, busy, keyless} {
		doors = append(doors, door{Port: freePort(t), App: 8000, Authz: []int{g.port}, Filter: open})
	}
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "outcomes")})
	check := func(name string, door int, sp spelling, status int, reason string) {
		t.Helper()
		got := send(t, doors[door].Port, sp.request(""))
		var problem struct{ Reason string }
		_ = json.Unmarshal([]byte(got.Body), &problem)
		if got.Who != "gatehouse" || got.Status != status || problem.Reason != reason {
			t.Errorf("%s: %s %q, want %d %s", name, got, got.Body, status, reason)
		}
	}
	token := "Authorization: Bearer " + s.Token("vera", "viewer")
	check("no policy", 1, spelling{Target: "/headers/allow"}, 503, "not_ready")
	check("no policy, with a token", 1, spelling{Target: "/headers/allow", Header: token}, 503, "not_ready")
	check("no policy, bad path", 1, spelling{Target: "//x"}, 503, "not_ready")
	check("no keys, with a token", 3, spelling{Target: "/headers/allow", Header: token}, 503, "unavailable")
	check("no keys, denied", 3, spelling{Target: "/headers/deny"}, 401, "no_credential")

	const together = 6
	slow := make(chan verdict, together)
	for range together {
		go func() { slow <- send(t, doors[2].Port, spelling{Target: "/headers/endless"}.request("")) }()
	}
	seen := map[string]int{}
	for range together {
		got := <-slow
		var problem struct{ Reason string }
		_ = json.Unmarshal([]byte(got.Body), &problem)
		seen[got.String()+" "+problem.Reason]++
	}
	if seen["gatehouse 504 timeout"] != 1 || seen["gatehouse 503 overloaded"] != together-1 {
		t.Errorf("%d evaluations that never end, at once: %v, want one 504 and the others 503", together, seen)
	}
	if got := send(t, doors[2].Port, spelling{Target: "/headers/allow"}.request("")); got.Who != "app" {
		t.Errorf("when it is over: %s, want the app", got)
	}
}
