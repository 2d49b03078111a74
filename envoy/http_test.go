package envoy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// httpApp is the echo application with the configuration of HTTP mode, in which each pair of changes (what, by what) was
// made in the files that have it. A change that hits nothing ends the test.
func httpApp(t *testing.T, changes ...string) string {
	t.Helper()
	dir := workDir(t)
	for _, from := range []string{echoApp(t), filepath.Join("testdata", "http")} {
		overlay(t, dir, from)
	}
	if err := os.Remove(filepath.Join(dir, "policy", "echo.rego")); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(changes); i += 2 {
		hit := false
		for _, name := range []string{"envoy.yaml", "gatehouse.yaml"} {
			file := filepath.Join(dir, name)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !contains(string(text), changes[i]) {
				continue
			}
			hit = true
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), changes[i], changes[i+1])), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if !hit {
			t.Fatalf("no configuration holds %q", changes[i])
		}
	}
	return dir
}

// overlay copies a directory into another, over what is there.
func overlay(t *testing.T, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() == "__pycache__" {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// askRaw sends a request line and headers as they are written, and reads the answer.
func askRaw(t *testing.T, address, method, target string, headers ...string) sandbox.Answer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	head := method + " " + target + " HTTP/1.1\r\nConnection: close\r\nHost: orders.example.com\r\n"
	for _, h := range headers {
		head += h + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %q: %v", method, target, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %q: %v", method, target, err)
	}
	return sandbox.Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
}

// What Envoy reads in a request line, with path_prefix and without: what Gatehouse has not allowed is denied. To a path
// that it cannot parse Go's server says 400 itself.
func TestStrangeRequestsOverHTTP(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string][]string{
		"path_prefix":    nil,
		"no path_prefix": {", path_prefix: /authz", "", "path_prefix: /authz\n", "path_override: \"\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, sandbox.Config{App: httpApp(t, changes...)})
			vera := "Authorization: Bearer " + s.Token("vera")
			for _, c := range []struct {
				method, target string
				headers        []string
				want           []int
			}{
				{"GET", "/open", []string{vera}, []int{200}},
				{"GET", "http://orders.example.com/open", []string{vera}, []int{200}},
				{"GET", "http://orders.example.com/no", []string{vera}, []int{403}},
				{"OPTIONS", "*", []string{vera}, []int{400, 403, 404}},
				{"GET", "*", []string{vera}, []int{400, 403, 404}},
				{"CONNECT", "orders.example.com:443", []string{vera}, []int{400, 403, 404}},
				{"GET", "/open%zz", []string{vera}, []int{400, 403}},
				{"GET", "/open%00", []string{vera}, []int{400, 403}},
				{"GET", "/open#no", []string{vera}, []int{400, 403}},
				{"GET", "/no/../open", []string{vera}, []int{400, 403}},
				{"GET", "/open\\..\\no", []string{vera}, []int{400, 403}},
				{"GET", "/open\xff", []string{vera}, []int{400, 403}},
				{"GET", "/no", []string{vera, "X-Original-URI: /open", "X-Forwarded-Uri: /open", "X-Envoy-Original-Path: /open"}, []int{403}},
				{"GET", "/authz/open", []string{vera}, []int{403}},
				{"BREW", "/no", []string{vera}, []int{400, 403}},
				{"GET", "/no", []string{vera, "Upgrade: websocket"}, []int{403}},
			} {
				if got := askRaw(t, strings.TrimPrefix(s.URL, "http://"), c.method, c.target, c.headers...); !slices.Contains(c.want, got.Status) {
					t.Errorf("%s %q %q: %d %.100q, want %d", c.method, c.target, c.headers[1:], got.Status, got.Body, c.want)
				}
			}
		})
	}
}

// What Gatehouse relies on in Envoy's reading of an HTTP answer, under failure_mode_allow: 200 allows, whatever is below
// 500 denies and goes to the client as it is, 5xx lets the request through.
func TestEnvoyReadsHTTPStatuses(t *testing.T) {
	t.Parallel()
	authz := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/authz/"))
		if err != nil {
			status = http.StatusTeapot
		}
		w.WriteHeader(status)
	}))
	defer authz.Close()
	s := start(t, sandbox.Config{App: httpApp(t), Authz: strings.TrimPrefix(authz.URL, "http://")})
	for _, status := range []int{200, 201, 204, 206, 299, 300, 301, 302, 303, 304, 307, 400, 401, 403, 404, 405, 407, 408, 413, 429, 431, 499,
		500, 501, 502, 503, 504, 599} {
		want, app := status, status == 200
		if status >= 500 {
			want, app = 200, true
		}
		got := ask(t, s, sandbox.Call{Path: "/" + strconv.Itoa(status)})
		if got.Status != want || contains(got.Body, "User-Agent") != app {
			t.Errorf("authorization answers %d: the client gets %d %q, want %d, from the app: %t", status, got.Status, got.Body, want, app)
		}
	}
}

// Nothing fails open over HTTP: every denial and every failure stays one under failure_mode_allow.
func TestHTTPModeFailsClosed(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{App: httpApp(t)})
	long := `{"open": true, "filler": "` + strings.Repeat("x", 100<<10) + `"}`
	partial := `{"open": true, "filler": "` + strings.Repeat("x", 300<<10) + `"}`
	vera := s.Token("vera", "viewer")
	for _, c := range []struct {
		method, path, token, body string
		want                      int
		reason                    string
	}{
		{"GET", "/open", "", "", 200, ""},
		{"HEAD", "/open", "", "", 200, ""},
		{"GET", "/open?a=%20&b", vera, "", 200, ""},
		{"GET", "/no", "", "", 401, "no_credential"},
		{"HEAD", "/no", vera, "", 403, ""},
		{"GET", "/no", vera, "", 403, "denied"},
		{"POST", "/body", vera, "{\"open\": true, \"\xff\": 1}", 403, "bad_request"}, // in this mode Envoy sends bytes as they are
		{"GET", "/open", s.ForgedToken("vera"), "", 401, "bad_credential"},
		{"GET", "/nothing", vera, "", 403, "no_decision"},
		{"GET", "/wrong", vera, "", 403, "policy_error"},
		{"GET", "/query", vera, "", 403, "policy_error"},
		{"GET", "/deny/500", vera, "", 403, "no"},
		{"GET", "/deny/503", vera, "", 403, "no"},
		{"GET", "/deny/599", vera, "", 403, "no"},
		{"GET", "/deny/200", vera, "", 403, "no"},
		{"GET", "/deny/204", vera, "", 403, "no"},
		{"GET", "/deny/404", vera, "", 404, "no"},
		{"GET", "/deny/429", vera, "", 429, "no"},
		{"GET", "/deny/304", vera, "", 304, ""},
		{"GET", "/redirect", vera, "", 302, ""},
		{"GET", "//open", vera, "", 403, "bad_request"},
		{"GET", "/open%2f", vera, "", 403, "bad_request"},
		{"GET", "/open/%252e%252e/", vera, "", 403, "bad_request"},
		{"GET", "/open%ff", vera, "", 403, "bad_request"},
		{"POST", "/body", vera, `{"open": true}`, 405, "Method Not Allowed"}, // by the app
		{"POST", "/body", vera, `{"open": false}`, 403, "denied"},
		{"POST", "/body", vera, `{"open": `, 403, "bad_request"},
		{"POST", "/body", vera, long, 403, "bad_request"},
		{"POST", "/open", vera, long, 403, "bad_request"},
		{"POST", "/body", vera, partial, 403, "bad_request"},
		{"POST", "/no", vera, partial, 403, "bad_request"},
	} {
		got := ask(t, s, sandbox.Call{Method: c.method, Path: c.path, Token: c.token, Body: c.body})
		if got.Status != c.want || !contains(got.Body, c.reason) {
			t.Errorf("%s %s %.20s: %d %q, want %d %q", c.method, c.path, c.body, got.Status, got.Body, c.want, c.reason)
		}
		if c.want >= 400 && c.want != 405 && got.Header.Get("X-Decision-Id") == "" {
			t.Errorf("%s %s: a denial without x-decision-id: %v", c.method, c.path, got.Header)
		}
	}
}

const (
	upstream = "allowed_upstream_headers: {patterns: [{prefix: x-auth-}, {exact: x-tenant}]}"
	early    = "                        - remove: x-auth-subject\n                        - remove: x-auth-roles\n"
	nothing  = "                        - remove: x-nothing\n"
	drop     = "headers_with_underscores_action: DROP_HEADER"
	keep     = "headers_with_underscores_action: ALLOW"
	accept   = "- {exact: accept}"
	show     = `- {safe_regex: {regex: "x[-_]auth[-_].*"}}`
)

// Over HTTP it takes Envoy's configuration to keep forged identities out: what Gatehouse is not shown it cannot remove.
func TestIdentityOverHTTP(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		changes []string
		ours    bool // our headers reach the app
	}{
		"as the example":           {nil, true},
		"nothing of ours taken":    {[]string{upstream, ""}, false},
		"shown, overwritten by us": {[]string{early, nothing, drop, keep, accept, show}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, sandbox.Config{App: httpApp(t, c.changes...)})
			vera, dave := s.Token("vera", "viewer"), s.Token("dave")
			for spelling, sent := range forgeries {
				for token, want := range map[string][2]string{"": {}, vera: {"vera", "viewer"}, dave: {"dave", ""}} {
					if !c.ours {
						want = [2]string{}
					}
					got := seen(t, s, sandbox.Call{Path: "/open", Token: token, Header: sent.Clone()})
					if got["X-Auth-Subject"] != want[0] || got["X-Auth-Roles"] != want[1] {
						t.Errorf("%s: the app sees subject %q and roles %q, want %q", spelling, got["X-Auth-Subject"], got["X-Auth-Roles"], want)
					}
				}
			}
		})
	}
}

// Why the example removes identity headers before it asks: without that, and without allowed_upstream_headers, the
// client's own go through, and no answer of Gatehouse's could change it.
func TestEnvoyOverHTTPNeedsEarlyRemoval(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{App: httpApp(t, early, nothing, upstream, "")})
	got := seen(t, s, sandbox.Call{Path: "/open", Token: s.Token("vera"), Header: http.Header{"X-Auth-Subject": {"root"}}})
	if got["X-Auth-Subject"] != "root" {
		t.Errorf("the app sees %q: Envoy has changed, and the early removal may not be needed any more", got["X-Auth-Subject"])
	}
}

// Requests above every limit that Gatehouse has are denied, however large Envoy lets them get.
func TestLargeRequestsOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{App: httpApp(t, "max_request_bytes: 131072", "max_request_bytes: 33554432",
		"stat_prefix: http\n", "stat_prefix: http\n                max_request_headers_kb: 8192\n")})
	vera := s.Token("vera")
	for name, c := range map[string]struct {
		call sandbox.Call
		want int
	}{
		"body":        {sandbox.Call{Method: "POST", Path: "/open", Body: strings.Repeat("x", 20<<20)}, 413}, // by Envoy itself
		"body within": {sandbox.Call{Method: "POST", Path: "/body", Body: `{"open": true, "filler": "` + strings.Repeat("x", 63<<10) + `"}`}, 405},
		"header":      {sandbox.Call{Path: "/open", Header: http.Header{"Cookie": {strings.Repeat("x", 2<<20)}}}, 403},
		"path":        {sandbox.Call{Path: "/open?" + strings.Repeat("x", 2<<20)}, 403},
	} {
		c.call.Token = vera
		if got := ask(t, s, c.call); got.Status != c.want {
			t.Errorf("%s: %d %.200q, want %d", name, got.Status, got.Body, c.want)
		}
	}
}

// What a policy sets, removes and adds gets to where it belongs.
func TestHeadersOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{App: httpApp(t)})
	call := sandbox.Call{Path: "/headers", Token: s.Token("vera"), Header: http.Header{
		"X-Tenant": {"red"}, "X-Remove-Me": {"now"}, "X-Http-Method-Override": {"DELETE"}, "X-Other": {"stays"}}}
	got := seen(t, s, call)
	for name, want := range map[string]string{"X-Tenant": "blue", "X-Remove-Me": "", "X-Http-Method-Override": "", "X-Other": "stays",
		"X-Auth-Subject": "vera", "X-Auth-Roles": "", "X-Served-By": "", "X-Decision-Id": ""} {
		if got[name] != want {
			t.Errorf("the app sees %s %q, want %q", name, got[name], want)
		}
	}
	answer := ask(t, s, call)
	if answer.Header.Get("X-Served-By") != "gatehouse" || answer.Header.Get("X-Decision-Id") == "" || answer.Header.Get("X-Auth-Subject") != "" {
		t.Errorf("the client sees %v", answer.Header)
	}
}
