package envoy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"gatehouse/children"
	"gatehouse/envoy/sandbox"
)

// door is one listener of an Envoy that has several: what it does to a request, which Gatehouses it asks, and the
// application behind it. Ports are on 127.0.0.1; 8080, 8000 and 9191 are replaced by the sandbox.
type door struct {
	Port    int
	App     int
	Authz   []int  // gRPC ports of the Gatehouses, one cluster
	Manager string // further fields of the connection manager, in YAML's flow style
	Filter  string // further fields of the ext_authz filter, likewise
	Routes  string // routes before the one to everything, likewise
	Cluster string // further fields of the Gatehouses' cluster, likewise
}

// envoyWith is an envoy.yaml with one listener for each door.
var envoyWith = template.Must(template.New("envoy.yaml").Parse(`admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}
static_resources:
  listeners:
{{- range $i, $d := .}}
    - address: {socket_address: {address: 127.0.0.1, port_value: {{$d.Port}}}}
      per_connection_buffer_limit_bytes: 33554432
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config: {
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
                stat_prefix: http, {{with $d.Manager}}{{.}},{{end}}
                route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{{with $d.Routes}}{{.}},{{end}}
                  {match: {prefix: /}, route: {cluster: app-{{$i}}}},
                  {match: {connect_matcher: {}}, route: {cluster: app-{{$i}}}}]}]},
                http_filters: [
                  {name: envoy.filters.http.ext_authz, typed_config: {
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz,
                    transport_api_version: V3, {{with $d.Filter}}{{.}},{{end}}
                    grpc_service: {envoy_grpc: {cluster_name: gatehouse-{{$i}}}, timeout: 60s}}},
                  {name: envoy.filters.http.router, typed_config: {
                    "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}
{{- end}}
  clusters:
{{- range $i, $d := .}}
    - name: app-{{$i}}
      type: STATIC
      typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
        explicit_http_config: {http_protocol_options: {}}, common_http_protocol_options: {idle_timeout: 3s}}}
      load_assignment: {cluster_name: app-{{$i}}, endpoints: [{lb_endpoints: [
        {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{$d.App}}}}}}]}]}
    - name: gatehouse-{{$i}}
      type: STATIC
      {{with $d.Cluster}}{{.}}{{end}}
      typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
        explicit_http_config: {http2_protocol_options: {}}}}
      load_assignment: {cluster_name: gatehouse-{{$i}}, endpoints: [{lb_endpoints: [
{{- range $j, $p := $d.Authz}}{{if $j}},{{end}}
        {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{$p}}}}}}{{end}}]}]}
{{- end}}
`))

// withDoors makes an application directory out of others, the later over the earlier, and an envoy.yaml for the doors.
func withDoors(t *testing.T, doors []door, from ...string) string {
	t.Helper()
	dir := workDir(t)
	for _, part := range from {
		overlay(t, dir, filepath.Join("testdata", part))
	}
	var text bytes.Buffer
	if err := envoyWith.Execute(&text, doors); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "envoy.yaml"), text.String())
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// amend replaces text in a file that must hold it.
func amend(t *testing.T, file string, changes ...string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(changes); i += 2 {
		if !contains(string(text), changes[i]) {
			t.Fatalf("%s does not hold %q", file, changes[i])
		}
		text = bytes.ReplaceAll(text, []byte(changes[i]), []byte(changes[i+1]))
	}
	write(t, file, string(text))
}

// freePort is a port that nobody used a moment ago: many doors stay closed for seconds until Envoy starts.
func freePort(t *testing.T) int {
	t.Helper()
	port, err := children.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func at(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// program runs a program for as long as the test does.
func program(t *testing.T, name, dir string, argv []string, env ...string) *sandbox.Process {
	t.Helper()
	p, err := sandbox.Run(workDir(t), name, dir, argv, env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := p.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, tail(p.Log()))
		}
		if contains(p.Log(), "DATA RACE") || contains(p.Log(), "panic:") {
			t.Errorf("%s:\n%s", name, p.Log())
		}
	})
	return p
}

// startFastAPI runs testdata/fastapi under uvicorn, with one of its two HTTP parsers, and returns its port.
func startFastAPI(t *testing.T, parser string) int {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("testdata", "fastapi"))
	if err != nil {
		t.Fatal(err)
	}
	python, err := sandbox.PrepareExtra(t.Context(), root, "fastapi", filepath.Join(dir, "requirements.txt"), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	p := program(t, "uvicorn-"+parser, dir, []string{python, "-m", "uvicorn", "--host", "127.0.0.1", "--port", fmt.Sprint(port),
		"--http", parser, "--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "10", "app:app"}, "PYTHONDONTWRITEBYTECODE=1")
	if err := p.Ready(t.Context(), "http://"+at(port)+"/healthz"); err != nil {
		t.Fatal(err)
	}
	return port
}

// another is a Gatehouse beside the sandbox's own, or in its place.
type another struct {
	*sandbox.Process
	name, dir   string
	port, admin int // of gRPC and of the admin pages
}

// startGatehouse runs one more Gatehouse with a configuration that may say {GRPC}, {ADMIN} and {DIR}, and returns when it
// listens, ready or not.
func startGatehouse(t *testing.T, name, config string, files map[string]string) *another {
	t.Helper()
	g := &another{name: name, dir: workDir(t), port: freePort(t), admin: freePort(t)}
	dir := g.dir
	config = strings.NewReplacer("{GRPC}", at(g.port), "{ADMIN}", at(g.admin), "{DIR}", dir).Replace(config)
	write(t, filepath.Join(dir, "gatehouse.yaml"), config)
	for file, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), text)
	}
	g.start(t)
	return g
}

// start runs it again, on the ports that it had.
func (g *another) start(t *testing.T) {
	t.Helper()
	g.Process = program(t, g.name, g.dir, serving(filepath.Join(g.dir, "gatehouse.yaml")))
	if err := g.Ready(t.Context(), "http://"+at(g.admin)+"/healthz"); err != nil {
		t.Fatal(err)
	}
}

// verdict is what came of a request that was sent byte for byte.
type verdict struct {
	Who    string // envoy, gatehouse or app; where nobody answered, "closed"
	Status int
	Header http.Header
	Body   string
}

func (v verdict) String() string {
	if v.Status == 0 {
		return v.Who
	}
	return fmt.Sprintf("%s %d", v.Who, v.Status)
}

// send writes a request to a connection of its own, so that no client library cleans it up, and reads one answer.
func send(t *testing.T, port int, request string) verdict {
	t.Helper()
	conn, err := net.Dial("tcp", at(port))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	defer func() { conn.Close(); <-written }()
	go func() { // who refuses a long request answers while it is being sent
		defer close(written)
		_, _ = io.WriteString(conn, request)
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return verdict{Who: "closed"}
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<20)) // a body that is cut short is judged by what came
	v := verdict{Who: "envoy", Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
	switch {
	case resp.Header.Get("X-Envoy-Upstream-Service-Time") != "" || resp.Header.Get("X-App") != "":
		v.Who = "app"
	case resp.Header.Get("X-Decision-Id") != "":
		v.Who = "gatehouse"
	}
	return v
}
