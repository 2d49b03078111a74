//go:build module

package inenvoy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var bodies = []variant{
	{name: "plain"},
	{name: "extensions", filter: `include_tls_session: true`},
	{name: "bytes", filter: `with_request_body: {max_request_bytes: 1000, allow_partial_message: true, pack_as_bytes: true}`},
	{name: "text", filter: `with_request_body: {max_request_bytes: 1000, allow_partial_message: true}`},
	{name: "whole", filter: `with_request_body: {max_request_bytes: 1000, pack_as_bytes: true}`},
}

// TestSameAnswers puts random requests to both sides of one Envoy, and compares all that comes of them.
func TestSameAnswers(t *testing.T) {
	rego, err := os.ReadFile(filepath.Join(root, "extauthz/testdata/conformance/policy.rego"))
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]string{
		"compat": "policy: {bundles: [{path: policy}], decision: envoy/authz/allow, timeout: 5s}\npaths: {compat: true}\n",
		"plain":  "policy: {bundles: [{path: policy}], decision: envoy/authz/allow, timeout: 5s}\nheaders: {subject: x-auth-subject, roles: x-auth-roles}\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, config, map[string]string{"policy.rego": string(rego)}, bodies)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			g := &generator{rand.New(rand.NewPCG(seed, 1))}
			var asked []string
			for i := range rounds() {
				v := bodies[g.IntN(len(bodies))]
				method, text := g.request(i)
				asked = append(asked, text)
				module, server := exchange(w.module.ports[v.name], method, text), exchange(w.server.ports[v.name], method, text)
				if diff := cmp.Diff(tidy(w, server), tidy(w, module)); diff != "" {
					t.Errorf("%s: %.3000q\nserver -, module +:\n%s", v.name, text, diff)
					if i > 20 && t.Failed() {
						break
					}
				}
			}
			w.compareLogs(t, asked)
		})
	}
}

func rounds() int {
	if testing.Short() {
		return 300
	}
	return 3000
}

var id = regexp.MustCompile(`\b[A-Z2-7]{26}\b`)

// tidy takes out what differs between any two requests.
func tidy(w *world, a answer) answer {
	text, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	out := w.tidy(string(text))
	var back answer
	if err := json.Unmarshal([]byte(out), &back); err != nil {
		panic(err)
	}
	return back
}

func (w *world) tidy(text string) string { return id.ReplaceAllString(text, "ID") }

type generator struct{ *rand.Rand }

func (g *generator) of(list ...string) string { return list[g.IntN(len(list))] }

// request is one in HTTP/1, as bytes.
func (g *generator) request(i int) (method, text string) {
	method = g.of("GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X-ODD")
	path := g.of("/", "/orders/1", "/a/b%20c", "/a//b", "/a/../b", "/%2f", "/ä", "/route/x", "/x;y=1", "/"+strings.Repeat("p", g.IntN(3000)), "*", "/a#b", "/%zz", "/\xff\xfe")
	if g.IntN(2) == 0 {
		path += g.of("?", "?a=1&a=2", "?b=2&a=1&&c", "?foo=x&bar=%20+y", "?=", "?x=ä", "?a?b=c", "?remove=1&keep=2&remove=3", "?q="+strings.Repeat("z", g.IntN(500)))
	}
	var h strings.Builder
	fmt.Fprintf(&h, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, g.of("orders.example.com", "a", "A.b:80"))
	line := func(name, value string) { fmt.Fprintf(&h, "%s: %s\r\n", name, value) }
	if g.IntN(4) > 0 {
		line("x-decision", g.decision())
	} else if g.IntN(3) == 0 {
		line("x-case", g.of("conflict", "undefined"))
	}
	for range g.IntN(6) {
		line(g.of("X-A", "x-a", "X-Dup", "x-dup", "X-Auth-Subject", "x_auth_subject", "X-Auth-Roles", "Cookie", "Accept", "User-Agent", "X-Forwarded-For", "x-envoy-auth-partial-body",
			"X-HTTP-Method-Override", "script-name", "foo", "x-envoy-downstream-service-cluster", "X-Odd.Name", "Authorization"),
			g.of("1", "a,b", "", "nobody", "ä\xc3", "\xff\xfe\xe2\x82", "text/html", "k=v; k2=v2", "Bearer x.y.z", "application/grpc", strings.Repeat("v", g.IntN(2000)), "10.0.0.1, 10.0.0.2"))
	}
	if g.IntN(12) == 0 {
		line("connection", "upgrade")
		line("upgrade", g.of("websocket", "WebSocket", "h2c"))
	}
	if g.IntN(10) == 0 {
		line("content-type", g.of("application/grpc", "application/grpc+proto"))
	}
	body := ""
	if g.IntN(3) == 0 {
		line("content-type", g.of("application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"))
		body = g.of(`{"a": [1, 2.5, "x", null]}`, "a=1&b=2&a=3", "\xff\x00\xfe", "--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nv\r\n--x--\r\n", strings.Repeat("b", g.IntN(4000)), strings.Repeat("c", 1000), "")
		if g.IntN(2) == 0 {
			line("transfer-encoding", "chunked")
			h.WriteString("\r\n")
			for rest := body; rest != ""; {
				n := 1 + g.IntN(len(rest))
				fmt.Fprintf(&h, "%x\r\n%s\r\n", n, rest[:n])
				rest = rest[n:]
			}
			h.WriteString("0\r\n")
			if g.IntN(3) == 0 {
				h.WriteString("x-trailer: 1\r\n")
			}
			h.WriteString("\r\n")
			return method, h.String()
		}
		line("content-length", fmt.Sprint(len(body)))
	}
	h.WriteString("\r\n")
	return method, h.String() + body
}

// decision is what the policy answers, as JSON on one line.
func (g *generator) decision() string {
	d := map[string]any{"allowed": g.IntN(3) > 0}
	if g.IntN(2) == 0 {
		d["headers"] = g.headers()
	}
	if g.IntN(3) == 0 {
		d["response_headers_to_add"] = g.headers()
	}
	if g.IntN(3) == 0 {
		d["request_headers_to_remove"] = []string{g.of("foo", "x-a", "X-Dup", "host", ":path", "x-none", "accept", "cookie"), g.of("foo", "x-b")}
	}
	if g.IntN(4) == 0 {
		d["query_parameters_to_set"] = map[string]any{g.of("foo", "a", "new"): g.of("v1", "", "ü &="), "bar": []string{"v2", "v3"}}
	}
	if g.IntN(4) == 0 {
		d["query_parameters_to_remove"] = []string{g.of("a", "remove", "none"), "c"}
	}
	if g.IntN(4) == 0 {
		d["http_status"] = []int{401, 403, 404, 302, 204, 429, 503, 200, 599}[g.IntN(9)]
	}
	if g.IntN(4) == 0 {
		d["body"] = g.of("no", "", "{}", strings.Repeat("d", g.IntN(9000)))
	}
	if g.IntN(4) == 0 {
		d["dynamic_metadata"] = map[string]any{"k": g.of("v", ""), "n": g.IntN(10), "deep": map[string]any{"list": []any{1, "a", nil, true, map[string]any{"z": 1.5}}}}
	}
	text, _ := json.Marshal(d)
	return string(text)
}

func (g *generator) headers() any {
	if g.IntN(2) == 0 {
		return map[string]any{g.of("x-set", "X-Set", "x-a", "x-dup", "content-type", "set-cookie", "x-app", "x-twice", "cache-control"): g.of("1", "two words"),
			g.of("x-more", "foo", "x-list"): []string{"1", "2"}}
	}
	var list []any
	for range g.IntN(3) {
		list = append(list, map[string]any{g.of("x-a", "x-app", "x-twice", "x-new", "set-cookie", "location"): g.of("l1", "l2")})
	}
	return list
}

// compareLogs holds the decision logs and Envoy's dynamic metadata of both sides against each other.
func (w *world) compareLogs(t *testing.T, asked []string) {
	t.Helper()
	for _, v := range w.variants {
		module, server := w.both(t, "access-"+v.name+"-module.log", "access-"+v.name+"-server.log", nil)
		for i := range min(len(module), len(server)) {
			if diff := cmp.Diff(server[i], module[i]); diff != "" {
				t.Fatalf("%s: access log line %d: server -, module +\n%s", v.name, i, diff)
			}
		}
	}
	module, server := w.both(t, "module/decisions.jsonl", "server/decisions.jsonl", entry)
	for i := range min(len(module), len(server)) {
		if diff := cmp.Diff(server[i], module[i]); diff != "" {
			t.Fatalf("decision %d: server -, module +\n%s", i, diff)
		}
	}
}

// both reads two logs, once they have as many lines.
func (w *world) both(t *testing.T, module, server string, change func(map[string]any)) (m, s []any) {
	t.Helper()
	eventually(t, module, func() error {
		if m, s = w.lines(t, module, change), w.lines(t, server, change); len(m) != len(s) {
			return fmt.Errorf("%d lines and %d", len(m), len(s))
		}
		return nil
	})
	return m, s
}

// lines reads a log of JSON, up to its last whole line.
func (w *world) lines(t *testing.T, file string, change func(map[string]any)) (all []any) {
	t.Helper()
	f, err := os.Open(filepath.Join(w.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := bufio.NewScanner(f)
	r.Buffer(nil, 8<<20)
	for r.Scan() {
		var line map[string]any
		if json.Unmarshal([]byte(w.tidy(r.Text())), &line) != nil {
			return all
		}
		if m, ok := line["metadata"].(map[string]any); ok {
			delete(m, "ext_authz_duration") // milliseconds
		}
		if change != nil {
			change(line)
		}
		all = append(all, line)
	}
	return all
}

// entry takes out of a decision's entry what cannot be the same: times, ports, and the id of Envoy's stream, which the ABI does not have.
func entry(e map[string]any) {
	for _, key := range []string{"timestamp", "metrics", "memo"} {
		delete(e, key)
	}
	at := func(path ...string) map[string]any {
		m := e
		for _, p := range path {
			m, _ = m[p].(map[string]any)
		}
		return m
	}
	delete(at("input", "attributes", "request"), "time")
	delete(at("input", "attributes", "request", "http"), "id")
	if masked, ok := e["masked"].([]any); ok { // in the order of the headers, which is none over gRPC
		slices.SortFunc(masked, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	}
	for _, end := range []string{"source", "destination"} {
		delete(at("input", "attributes", end, "address", "socketAddress"), "portValue")
	}
}
