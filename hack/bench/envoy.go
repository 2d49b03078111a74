package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"gatehouse/envoy/sandbox"
)

// backend is an ext_authz server that Envoy asks; its listener is the one at port.
type backend struct {
	Name string
	At   string // host:port or unix:/path
	Port string
}

// envoyConfig has one listener for each server that is asked; nothing else differs between them, and one worker serves all. Requests
// that are let through are answered by Envoy itself, so that no application's time is measured.
var envoyConfig = template.Must(template.New("envoy.yaml").Funcs(template.FuncMap{"address": envoyAddress}).Parse(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Admin}}}}}
static_resources:
  listeners:
{{- range .Backends}}
    - name: {{.Name}}
      address: {socket_address: {address: 127.0.0.1, port_value: {{.Port}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: {{.Name}}
                use_remote_address: true
                route_config:
                  virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: ok}}}]}]
                http_filters:
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      grpc_service: {envoy_grpc: {cluster_name: {{.Name}}}, timeout: 10s}
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
{{- end}}
  clusters:
{{- range .Backends}}
    - name: {{.Name}}
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: {{.Name}}
        endpoints: [{lb_endpoints: [{endpoint: {address: {{address .At}}}}]}]
{{- end}}
`))

func envoyAddress(at string) (string, error) {
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		return "{pipe: {path: " + path + "}}", nil
	}
	host, port, err := net.SplitHostPort(at)
	return "{socket_address: {address: " + host + ", port_value: " + port + "}}", err
}

// proxy is a running Envoy with one worker.
type proxy struct {
	server
	version string
}

// startEnvoy fills in the backends' ports. The Envoy is that of the demo, which is installed where it is missing.
func startEnvoy(ctx context.Context, root, dir string, backends []backend) (*proxy, error) {
	binary, err := sandbox.Prepare(ctx, root, func(text string) { fmt.Fprintln(os.Stderr, "bench: "+text) })
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	for i := range backends {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		_, backends[i].Port, _ = net.SplitHostPort(address)
	}
	var text bytes.Buffer
	_, port, _ := net.SplitHostPort(admin)
	if err := envoyConfig.Execute(&text, map[string]any{"Admin": port, "Backends": backends}); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		return nil, err
	}
	p := &proxy{server: server{name: "envoy", tcp: "127.0.0.1:" + backends[len(backends)-1].Port}}
	if out, err := exec.CommandContext(ctx, binary, "--version").Output(); err == nil {
		p.version = envoyVersion(string(out))
	}
	return p, p.start(ctx, binary, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
}

// envoyVersion takes the version out of "envoy  version: <commit>/<version>/Clean/RELEASE/BoringSSL".
func envoyVersion(text string) string {
	_, text, _ = strings.Cut(text, "version: ")
	if fields := strings.Split(text, "/"); len(fields) > 1 {
		return fields[1]
	}
	return "unknown"
}

// overHTTP asks Envoy in front of an ext_authz server. Each caller has a connection of its own.
func overHTTP(ctx context.Context, s *server, b backend, count int, length time.Duration, next func() []byte) (sample, error) {
	callers := make([]caller, count)
	for i := range callers {
		callers[i] = func(ctx context.Context, until time.Time) ([]time.Duration, error) {
			return browse(ctx, b, until, next)
		}
	}
	return measure(ctx, s, length, callers)
}

// browse makes one request after the other on one connection.
func browse(ctx context.Context, b backend, until time.Time, next func() []byte) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+b.Port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	var latencies []time.Duration
	for ctx.Err() == nil && time.Now().Before(until) {
		request, at := next(), time.Now()
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if err := expectOK(in); err != nil {
			return nil, fmt.Errorf("through Envoy with %s: %w", b.Name, err)
		}
		latencies = append(latencies, time.Since(at))
	}
	return latencies, nil
}

// expectOK reads one answer that must be 200 with the body "ok". It costs less than net/http, and leaves more of the machine to those
// who are measured.
func expectOK(in *bufio.Reader) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answered %q", line)
	}
	for len(line) > 2 {
		if line, err = in.ReadSlice('\n'); err != nil {
			return err
		}
	}
	_, err = in.Discard(len("ok"))
	return err
}

// httpRequests are the repeated decisions as a browser asks for them: 20 headers by the time that Envoy asks.
func (f *fixture) httpRequests() (func() []byte, error) {
	tokens, err := f.mint(0, users)
	if err != nil {
		return nil, err
	}
	var requests [][]byte
	for _, token := range tokens {
		for path := range paths {
			requests = append(requests, httpRequest(token, fmt.Sprintf("/orders/%d", path)))
		}
	}
	return func() []byte { return requests[f.last.Add(7)%int64(len(requests))] }, nil
}

func httpRequest(token, path string) []byte {
	const addedByEnvoy = 5 // x-request-id, x-forwarded-for, x-forwarded-proto, x-envoy-internal or the like, :scheme
	headers := http.Header{"Authorization": {"Bearer " + token}}
	for name, value := range browserHeaders() {
		if name[0] != ':' && !strings.HasPrefix(name, "x-") {
			headers.Set(name, value)
		}
	}
	for i := len(headers); i < 20-3-addedByEnvoy; i++ {
		headers.Set(fmt.Sprintf("x-custom-%d", i), "some value")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: orders.example.com\r\n", path)
	_ = headers.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}
