package envoy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
	"gatehouse/query"
)

// arrived is what a server behind Envoy received, as it stood on the wire.
type arrived struct {
	Target string
	Header http.Header
}

// startWire runs a server that answers with what it received.
func startWire(t *testing.T) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		body, _ := json.Marshal(arrived{r.RequestURI, r.Header}) // strings always encode
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

// edgeDoors are an Envoy as it comes, and one that checks what an authorization server wants to change. Both rewrite some paths.
func edgeDoors(t *testing.T) (s *sandbox.Sandbox, usual, strict int) {
	t.Helper()
	wire := startWire(t)
	const rewrites = `{match: {safe_regex: {regex: "/set/[0-9]+"}}, route: {cluster: app-%[1]d, regex_rewrite: {pattern: {regex: "^/set/([0-9]+)"}, substitution: "/old/\\1"}}},
		{match: {prefix: /set/api/}, route: {cluster: app-%[1]d, prefix_rewrite: /v1/}}`
	doors := []door{{Port: 8080, App: wire, Authz: []int{9191}, Routes: fmt.Sprintf(rewrites, 0)},
		{Port: freePort(t), App: wire, Authz: []int{9191}, Filter: "validate_mutations: true, clear_route_cache: true", Routes: fmt.Sprintf(rewrites, 1)},
		{Port: freePort(t), App: 8000, Authz: []int{9191}}}
	dir := withDoors(t, doors, "flask", "secret")
	overlay(t, dir, filepath.Join("testdata", "edges"))
	s = start(t, sandbox.Config{App: dir})
	return s, portOf(t, s.URL), doors[1].Port
}

func received(t *testing.T, v verdict) arrived {
	t.Helper()
	var got arrived
	if v.Status != 200 || json.Unmarshal([]byte(v.Body), &got) != nil {
		t.Fatalf("%d %s", v.Status, v.Body)
	}
	return got
}

// Through a real Envoy: however a client spells them, parameters that the policy sets or removes are the policy's, and headers that it removes
// are gone.
func TestEdgesOfMutations(t *testing.T) {
	t.Parallel()
	_, usual, strict := edgeDoors(t)
	set := url.Values{"tenant": {"Acme&debug=1"}, "last name": {"Jürgen"}, "tag": {"a+b", "Acme Ltd"}}
	plain := url.Values{"tenant": {"acme"}}
	for sent, rest := range map[string]url.Values{
		"":                             {},
		"?tenant=evil&debug=2":         {},
		"?%74enant=evil&d%65bug=2&q=1": {"q": {"1"}},
		"?tenan%74=e&tenant=f&%64%65%62%75%67=1&debug&q=%C3%BC&q=2": {"q": {"ü", "2"}},
		"?q=100%&b;tenant=evil&c":                                   {"q": {"100%"}, "b;tenant": {"evil"}, "c": {""}},
		"?last+name=e&last%20name=f&t%61g":                          {"last name": nil, "tag": nil},
		"?%2574enant=x&tenant[]=y":                                  {"%74enant": {"x"}, "tenant[]": {"y"}},
	} {
		for path, ours := range map[string]url.Values{"/set": set, "/plain": plain} {
			for _, port := range []int{usual, strict} {
				want := url.Values{}
				if path == "/plain" {
					if values, ok := rest["last name"]; ok && values == nil {
						continue // the policy has nothing to say about those
					}
				}
				maps.Copy(want, rest)
				maps.Copy(want, ours)
				got := received(t, send(t, port, spelling{Target: path + sent}.request("")))
				_, raw, _ := strings.Cut(got.Target, "?")
				values, err := query.Parse(raw)
				if err != nil || !maps.EqualFunc(values.Values, want, slices.Equal) {
					t.Errorf("%s%s: the application gets %q, want %q", path, sent, got.Target, want)
				}
			}
		}
	}
	two := &http.Transport{Protocols: &http.Protocols{}}
	two.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(two.CloseIdleConnections)
	const written = "?last%20name=J%C3%BCrgen&tag=a%2Bb&tag=Acme%20Ltd&tenant=Acme%26debug%3D1"
	for target, want := range map[string]string{
		"/set/api/a?b=2&a=%22&%74enant=1&debug=1&b": "/v1/a" + written + "&b=2&a=%22&b", // what stays keeps its bytes and its order
		"/set/17?%61=1&a=2":                         "/old/17" + written + "&%61=1&a=2",
		"/set/a%20b":                                "/set/a%20b" + written,
		"/odd/~/":                                   "/odd/~/?list=a&list=b&none=&tilde=~",
	} {
		for _, port := range []int{usual, strict} {
			for name, transport := range map[string]http.RoundTripper{"HTTP/1.1": http.DefaultTransport, "HTTP/2": two} {
				answer, err := (&http.Client{Transport: transport}).Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, target))
				if err != nil {
					t.Fatal(err)
				}
				var got arrived
				err = json.NewDecoder(answer.Body).Decode(&got)
				_ = answer.Body.Close()
				if err != nil || got.Target != want {
					t.Errorf("%s over %s, door %d: the application gets %q, want %q (%d, %v)", target, name, port, got.Target, want, answer.StatusCode, err)
				}
			}
		}
	}
	got := received(t, send(t, usual, spelling{Target: "/headers", Header: "x-debug: 1\r\nX_Debug: 2\r\nx.debug: 3\r\nX-Debugger: 4\r\nx_token: forged"}.request("")))
	for name, want := range map[string]bool{"X-Debug": false, "X_debug": false, "X.debug": false, "X_token": false, "X-Debugger": true} {
		if _, there := got.Header[name]; there != want {
			t.Errorf("%s arrives: %v, want %v: %v", name, there, want, got.Header)
		}
	}
}

// Through a real Envoy: the credential goes from wherever it stood, and what is beside it stays byte for byte.
func TestEdgesOfCredentials(t *testing.T) {
	t.Parallel()
	s, usual, _ := edgeDoors(t)
	token := s.Token("vera", "viewer")
	half := len(token) / 2
	for _, tt := range []struct{ target, header, name, want string }{
		{"/a", `Cookie: a="1 2";  b=ü;token=T; c==;d`, "Cookie", `a="1 2";  b=ü; c==;d`},
		{"/a", `Cookie: token =T`, "Cookie", ""},
		{"/a", `Cookie: token_1=T1; a=!; token_0=T0;`, "Cookie", `a=!;`},
		{"/a", `Sec-WebSocket-Protocol: graphql-ws, bearer, T`, "Sec-Websocket-Protocol", `graphql-ws, bearer`},
		{"/a?b=1&access%5Ftoken=T", "", "", "/a?b=1"},
	} {
		fill := strings.NewReplacer("T0", token[:half], "T1", token[half:], "T", token)
		header := tt.header
		if name, value, ok := strings.Cut(header, ": "); ok {
			header = name + ": " + fill.Replace(value)
		}
		target := strings.Replace(tt.target, "=T", "="+token, 1)
		got := received(t, send(t, usual, spelling{Target: target, Header: header}.request("")))
		have := got.Target
		if tt.name != "" {
			have = strings.Join(got.Header[tt.name], "|")
		}
		if have != tt.want || got.Header.Get("X-Auth-Subject") != "vera" {
			t.Errorf("%s: the application gets %q, want %q, from %q", tt.header, have, tt.want, got.Header.Get("X-Auth-Subject"))
		}
	}
	other := s.Token("forged", "admin")
	for _, header := range []string{"Cookie: token =" + other + "; token=" + token, "Cookie: token=" + token + "; token\t=" + other,
		"Cookie: token=" + token + "\r\nCookie: token=" + other, "Cookie: token\xa0=" + other + "; token=" + token, "Cookie: token\xc2\xa0=" + other,
		"Cookie: a=\"; token=" + other + "; b\"; token=" + token, "Cookie: token_0=" + token + "; token_2=x", "Cookie: token=" + token + "; a=1\r\nCookie: token =" + other} {
		if got := send(t, usual, spelling{Target: "/a", Header: header}.request("")); got.Status != 401 {
			t.Errorf("%.60q: %s", header, got)
		}
	}
}

// Through a real Envoy, to clients of either protocol: what has no content says nothing of one.
func TestEdgesOfDenials(t *testing.T) {
	t.Parallel()
	s, usual, _ := edgeDoors(t)
	var two http.Protocols
	two.SetUnencryptedHTTP2(true)
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2.0": {Protocols: &two}} {
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport}
		for path, want := range map[string]struct {
			status  int
			content bool
		}{
			"/deny/204": {204, false}, "/deny/205": {205, false}, "/deny/304": {304, false}, "/empty": {403, false}, "/deny/403": {403, true}, "/deny/200": {200, true},
		} {
			for _, method := range []string{"GET", "OPTIONS", "HEAD"} {
				r, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", usual, path), nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("x-token", s.Token("vera", "viewer"))
				answer, err := client.Do(r)
				if err != nil {
					t.Errorf("%s %s over %s: %v", method, path, name, err)
					continue
				}
				body, err := io.ReadAll(answer.Body)
				_ = answer.Body.Close()
				if err != nil || answer.Proto != name || answer.StatusCode != want.status || answer.Header.Get("X-Decision-Id") == "" {
					t.Errorf("%s %s over %s: %s %d %v %v", method, path, name, answer.Proto, answer.StatusCode, answer.Header, err)
				}
				length := answer.Header.Get("Content-Length")
				if !want.content && (len(body) > 0 || answer.Header.Get("Content-Type") != "" || length != "" && (length != "0" || want.status == 204 || want.status == 304)) {
					t.Errorf("%s %s over %s: %q %v", method, path, name, body, answer.Header)
				}
				if want.content && method != "HEAD" && len(body) == 0 {
					t.Errorf("%s %s over %s: no body", method, path, name)
				}
			}
		}
	}
}
