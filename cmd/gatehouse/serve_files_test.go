package main

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	pemfile "encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// askFor sends one request and returns the value of a header that the policy sets, or the denial's body.
func askFor(t *testing.T, conn *grpc.ClientConn, request *auth.AttributeContext_HttpRequest, name string) string {
	t.Helper()
	resp, err := auth.NewAuthorizationClient(conn).Check(t.Context(), &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Request: &auth.AttributeContext_Request{Http: request}}})
	if err != nil {
		t.Fatal(err)
	}
	if denied := resp.GetDeniedResponse(); denied != nil {
		return denied.GetBody()
	}
	for _, h := range resp.GetOkResponse().GetHeaders() {
		if h.GetHeader().GetKey() == name {
			return h.GetHeader().GetValue()
		}
	}
	return ""
}

func expectEventually(t *testing.T, what, want string, ask func() string) {
	t.Helper()
	eventually(t, what, func() error {
		if got := ask(); !strings.Contains(got, want) {
			return fmt.Errorf("%s, want %s", got, want)
		}
		return nil
	})
}

// TestServeFollowsDescriptors replaces the file of gRPC descriptors while it runs.
func TestServeFollowsDescriptors(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain)
	p.configure(strings.Replace(plain, "policy: {", "policy: {protos: orders.pb, ", 1))
	write(t, p.path("policy", "authz.rego"), "package envoy.authz\n\nallow := {\"allowed\": true, \"headers\": {\"x-body\": json.marshal(input.parsed_body)}}\n")
	write(t, p.path("orders.pb"), "")
	p.ready()
	conn := dial(t, p.grpc, nil)
	message, err := proto.Marshal(&grpc_health_v1.HealthCheckRequest{Service: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	ask := func() string {
		return askFor(t, conn, &auth.AttributeContext_HttpRequest{Method: "POST", Path: "/grpc.health.v1.Health/Check", RawBody: body,
			Headers: map[string]string{"content-type": "application/grpc"}}, "x-body")
	}
	if got := ask(); got != "null" {
		t.Fatalf("without descriptors the body is %s", got)
	}
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto)}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.path("orders.pb"), string(set))
	expectEventually(t, "with descriptors", `{"service":"orders"}`, ask)
	write(t, p.path("orders.pb"), "no descriptors")
	eventually(t, "waiting for the log", func() error {
		if !strings.Contains(p.stderr.String(), "gRPC descriptors changed and cannot be used") {
			return fmt.Errorf("it says %s", p.stderr.String())
		}
		return nil
	})
	if got := ask(); got != `{"service":"orders"}` {
		t.Errorf("after a broken file the body is %s", got)
	}
}

// TestServeFollowsItsRouteTable edits routes.yaml while it runs: a new route is in force, a broken table is not.
func TestServeFollowsItsRouteTable(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain+"routes: {file: routes.yaml}\n")
	write(t, p.path("policy", "authz.rego"), "package envoy.authz\n\nallow := {\"allowed\": true, \"headers\": {\"x-route\": json.marshal(input.route)}}\n")
	table := "framework: flask\nroutes:\n  - GET /orders\n"
	write(t, p.path("routes.yaml"), table)
	p.ready()
	conn := dial(t, p.grpc, nil)
	ask := func() string {
		return askFor(t, conn, &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/orders/17"}, "x-route")
	}
	if got := ask(); !strings.Contains(got, "no_route") {
		t.Fatalf("a path without a route: %s", got)
	}
	write(t, p.path("routes.yaml"), table+"  - GET /orders/<int:id>\n")
	expectEventually(t, "the new route", `"params":{"id":"17"}`, ask)
	write(t, p.path("routes.yaml"), table+"  - GET /orders/<integer:id>\n")
	eventually(t, "waiting for /status", func() error {
		if s := p.status(); len(s.Routes) != 1 || !strings.Contains(s.Routes[0].Error, "routes.yaml:4:") || s.Routes[0].Routes == 0 {
			return fmt.Errorf("%+v", s.Routes)
		}
		return nil
	})
	if got := ask(); !strings.Contains(got, `"params":{"id":"17"}`) {
		t.Errorf("after a broken table: %s", got)
	}
	if err := os.Remove(p.path("routes.yaml")); err != nil {
		t.Fatal(err)
	}
	expectEventually(t, "a table that is gone", "no such file", func() string { return p.status().Routes[0].Error })
	if got := ask(); !strings.Contains(got, `"params":{"id":"17"}`) {
		t.Errorf("without a table: %s", got)
	}
	write(t, p.path("routes.yaml"), table)
	expectEventually(t, "a table that is back", "no_route", ask)
}

// TestServeWaitsForKeys is not ready, and says why, while it has no keys at all; then it is.
func TestServeWaitsForKeys(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, _ := ca.issue(t, "localhost")
	keys := freeAddress(t)
	p := newProcess(t, plain+"identity: {jwt: [{issuer: \"https://login.example.com\", audiences: [a], keys: {url: \"http://"+keys+"/jwks\", refresh: 1s}}]}\n").start()
	eventually(t, "waiting for /readyz", func() error {
		if code, body := p.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "keys") {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if got := healthOf(t, dial(t, p.grpc, nil), authorization); got != "NOT_SERVING" {
		t.Errorf("gRPC health is %s", got)
	}
	block, _ := pemfile.Decode([]byte(cert))
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	public := parsed.PublicKey.(*ecdsa.PublicKey)
	point, err := public.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	l, err := net.Listen("tcp", keys)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":%q,"y":%q}]}`, encode(point[1:33]), encode(point[33:]))
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	eventually(t, "waiting for keys", func() error {
		if code, body := p.get("/readyz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}

// TestServeDegraded is ready with one issuer of two, says which one is missing, and keeps the other's keys over a reload
// while nobody can fetch them.
func TestServeDegraded(t *testing.T) {
	t.Parallel()
	const set = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}` // RFC 8037 appendix A.2
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, set) }))
	defer provider.Close()
	p := newProcess(t, plain+"identity: {jwt: [{issuer: \"https://a.example\", audiences: [a], keys: {url: \""+provider.URL+"\"}}, "+
		"{issuer: \"https://b.example\", audiences: [a], keys: {url: \"http://"+freeAddress(t)+"/jwks\"}}]}\n").ready()
	const missing = `no keys of issuer "https://b.example" yet: fetching http://127.0.0.1:`
	eventually(t, "waiting for /readyz", func() error {
		if code, body := p.get("/readyz"); code != http.StatusOK || !strings.HasPrefix(body, "ready (degraded: "+missing) {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if s := p.status(); !s.Ready || len(s.Degraded) != 1 || !strings.HasPrefix(s.Degraded[0], missing) || !s.Keys[0].Loaded || s.Keys[1].Loaded {
		t.Errorf("status %+v", s)
	}
	if _, text := p.get("/metrics"); !strings.Contains(text, `gatehouse_identity_keys{issuer="https://b.example"} 0`) {
		t.Errorf("metrics: %s", text)
	}
	if got := healthOf(t, dial(t, p.grpc, nil), authorization); got != "SERVING" {
		t.Errorf("gRPC health is %s", got)
	}
	provider.Close()
	before := p.status().View
	p.signal(syscall.SIGHUP)
	eventually(t, "waiting for the reload", func() error {
		if s := p.status(); s.View == before || !s.Keys[0].Stale || !s.Keys[0].Loaded || s.Keys[0].Error == "" || !s.Ready || len(s.Degraded) != 1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// TestServeLimitsConnections takes the only place from a connection that has asked nothing, and from none that had an answer.
func TestServeLimitsConnections(t *testing.T) {
	t.Parallel()
	p := newProcess(t, strings.Replace(plain, "listen: {", "listen: {max_connections: 1, ", 1)).ready()
	first, err := net.Dial("tcp", p.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	greeted(t, first, true)
	second := dial(t, p.grpc, nil)
	mustAllow(t, second)
	third, err := net.Dial("tcp", p.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	greeted(t, third, false)
	mustAllow(t, second)
}

// greeted sees whether the server speaks on a connection: HTTP/2 servers send their SETTINGS first.
func greeted(t *testing.T, conn net.Conn, want bool) {
	t.Helper()
	wait := hangGuard
	if !want {
		wait = 300 * time.Millisecond // long enough to be seen, and nothing to be waited for
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if want {
		if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
	}
	_, err := conn.Read(make([]byte, 9))
	if (err == nil) != want {
		t.Fatalf("greeted: %v, want %v (%v)", err == nil, want, err)
	}
}

// TestServeLogsDigests holds what an entry says of routes and keys against the files; other files are other digests.
func TestServeLogsDigests(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain+`routes: {file: routes.yaml}
identity: {jwt: [{issuer: "https://issuer.example.com", audiences: [a], keys: {file: jwks.json}}]}
decision_log: {file: decisions.log}
`)
	const keys = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"%s","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	table := "framework: flask\nroutes:\n  - GET /orders\n"
	write(t, p.path("routes.yaml"), table)
	write(t, p.path("jwks.json"), fmt.Sprintf(keys, "one"))
	p.ready()
	conn := dial(t, p.grpc, nil)
	digests := func() (d struct{ Routes, Keys string }) {
		log, err := os.ReadFile(p.path("decisions.log"))
		if err != nil {
			t.Fatal(err)
		}
		seen := strings.Count(string(log), "\n")
		askFor(t, conn, &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/orders"}, "x")
		eventually(t, "waiting for the entry", func() error {
			if log, err = os.ReadFile(p.path("decisions.log")); strings.Count(string(log), "\n") == seen {
				return fmt.Errorf("%d lines", seen)
			}
			return err
		})
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		var entry struct {
			Digests *struct{ Routes, Keys string }
		}
		entry.Digests = &d
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &entry); err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := digests()
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(table))); first.Routes != want || len(first.Keys) != len(want) {
		t.Fatalf("%+v, want routes %s", first, want)
	}
	write(t, p.path("routes.yaml"), table+"  - GET /more\n")
	write(t, p.path("jwks.json"), fmt.Sprintf(keys, "two"))
	eventually(t, "waiting for other digests", func() error {
		if now := digests(); now.Routes == first.Routes || now.Keys == first.Keys {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
}
