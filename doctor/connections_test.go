package doctor_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/children"
	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

// keepalive sees that Envoy keeps asking on a connection whose other end is dead, and that keepalive ends that.
func (h *house) keepalive(t *testing.T, bad, good doors) {
	for name, d := range map[string]doors{"with the hole": bad, "mended": good} {
		if got := d.ask("main", "GET /public"); got != "app /public" {
			t.Fatalf("%s, before: %s", name, got)
		}
	}
	h.stalls.stall()
	for deadline := time.Now().Add(time.Minute); good.ask("main", "GET /public") != "app /public"; {
		if time.Now().After(deadline) {
			t.Fatal("mended: no new connection is made")
		}
	}
	if got := bad.ask("main", "GET /public"); got != "503" {
		t.Errorf("with the hole: %s after the other end died, want 503", got)
	}
}

// breakers sees that Envoy refuses requests by itself while more than 1024 wait for a decision.
func (h *house) breakers(t *testing.T, bad, good doors) {
	const many = 1060
	refused := func(d doors) int {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: &protocols}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		at := "http://" + d.doors[d.prefix+"main"] + "/public"
		if resp, err := client.Get(at); err == nil { // so that all others have a connection
			resp.Body.Close()
		}
		release := h.holds.hold()
		var answered, refusals atomic.Int32
		var all sync.WaitGroup
		for range many {
			all.Go(func() {
				resp, err := client.Get(at)
				if answered.Add(1); err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusServiceUnavailable {
					refusals.Add(1)
				}
			})
		}
		waiting := func() int {
			n := 0
			_, value, _ := strings.Cut(h.page("/stats?filter=^cluster."+strings.ReplaceAll(d.prefix, " ", ".")+"gatehouse.upstream_rq_active$"), ": ")
			_, _ = fmt.Sscan(value, &n)
			return n
		}
		for deadline := time.Now().Add(time.Minute); int(answered.Load())+waiting() < many; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%d answered, %d wait", answered.Load(), waiting())
				break
			}
		}
		release()
		all.Wait()
		return int(refusals.Load())
	}
	if got := refused(bad); got < many-1024 {
		t.Errorf("with the hole: %d of %d were refused", got, many)
	}
	if got := refused(good); got != 0 {
		t.Errorf("mended: %d were refused", got)
	}
}

// plainText sees a credential go by on the way to Gatehouse, and not where the way is encrypted.
func (h *house) plainText(t *testing.T, bad, good doors) {
	for _, way := range []struct {
		doors
		*relay
		seen bool
	}{{bad, h.taps, true}, {good, h.encrypted, false}} {
		if got := asAlice("/me")(way.doors); got != "app /me as alice" {
			t.Fatalf("%s: %s", way.prefix, got)
		}
		if got := way.saw(h.token); got != way.seen {
			t.Errorf("%sthe token is on the wire: %t", way.prefix, got)
		}
	}
}

// TestAdminProof sees that the admin port answers at an address of the machine that is not the one which it has once it is mended.
func TestAdminProof(t *testing.T) {
	s := withEnvoy(t)
	port, err := children.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	bad := fmt.Sprintf("admin: {address: {socket_address: {address: 0.0.0.0, port_value: %d}}}\n", port) + base(t)
	if found := ids(examine(t, []byte(bad), rules.Default())); !slices.Contains(found, "admin-reachable") {
		t.Fatalf("found %v", found)
	}
	mended, err := doctor.Mend([]doctor.Input{{Name: "envoy.yaml", Text: []byte(bad)}}, rules.Default(), "admin-reachable")
	if err != nil {
		t.Fatal(err)
	}
	good := string(mended[0].Text)
	if found := ids(examine(t, []byte(good), rules.Default())); len(found) > 0 {
		t.Fatalf("still found %v", found)
	}
	for want, text := range map[string]string{"200": bad, "nobody": good} {
		got := s.alone(t, text, func(port int) string {
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.2:%d/ready", port))
			if err != nil {
				return "nobody"
			}
			defer resp.Body.Close()
			return fmt.Sprint(resp.StatusCode)
		})
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// overHTTP3 asks a listener by way of another Envoy, which speaks HTTP/3 to it.
func (d doors) overHTTP3(listener, request string) (said string) {
	d.t.Helper()
	to, ok := d.doors[d.prefix+listener]
	if !ok {
		return "nobody listens"
	}
	_, port, _ := strings.Cut(to, ":")
	door, err := children.FreePort()
	if err != nil {
		d.t.Fatal(err)
	}
	text := fmt.Sprintf(`admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
    - address: {socket_address: {address: 127.0.0.1, port_value: %d}}
      filter_chains:
        - filters:
            - name: m
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: client
                route_config: {virtual_hosts: [{name: a, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: h3}}]}]}
                http_filters: [%s]
  clusters:
    - name: h3
      connect_timeout: 5s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http3_protocol_options: {}}
      transport_socket:
        name: envoy.transport_sockets.quic
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport
          upstream_tls_context: {sni: gatehouse, common_tls_context: {validation_context: {trusted_ca: {filename: %s}}}}
      load_assignment:
        cluster_name: h3
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]
`, door, router, filepath.Join(d.dir, "ca.pem"), port)
	return d.alone(d.t, text, func(int) string {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", door))
		if err != nil {
			d.t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		return d.askOn(conn, request, "")
	})
}

// alone runs Envoy on a configuration as it is, but for the listener's port, and asks it.
func (s *stage) alone(t *testing.T, text string, see func(admin int) string) string {
	t.Helper()
	dir := t.TempDir()
	file, addresses := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	text = strings.ReplaceAll(text, "port_value: 8080}", "port_value: 0}")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	process := exec.CommandContext(ctx, s.envoy, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--admin-address-path", addresses)
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = process.Wait() }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		at, err := os.ReadFile(addresses)
		port := 0
		if err == nil && len(at) > 0 {
			_, _ = fmt.Sscan(string(at[strings.LastIndexByte(string(at), ':')+1:]), &port)
		}
		if port != 0 {
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", port))
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return see(port)
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("envoy is not ready")
		}
	}
}

// TestRefusedByEnvoy holds that Envoy itself does not take what the doctor says that it does not, and takes it mended.
func TestRefusedByEnvoy(t *testing.T) {
	s := withEnvoy(t)
	bad := edit(t, base(t), []string{"max_request_bytes: 65536, ", ""})
	if found := ids(examine(t, []byte(bad), rules.Default())); !slices.Equal(found, []string{"body-without-limit"}) {
		t.Fatalf("found %v", found)
	}
	if out, ok := s.validate(t, bad); ok {
		t.Errorf("envoy takes it: %s", out)
	}
	mended, err := doctor.Mend([]doctor.Input{{Name: "envoy.yaml", Text: []byte(bad)}}, rules.Default())
	if err != nil {
		t.Fatal(err)
	}
	if out, ok := s.validate(t, string(mended[0].Text)); !ok {
		t.Errorf("envoy does not take it mended: %s", out)
	}
}

func (s *stage) validate(t *testing.T, text string) (string, bool) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), s.envoy, "--mode", "validate", "--config-path", file, "--log-level", "error").CombinedOutput()
	return string(out), err == nil
}

// TestNoServerEndsEnvoy sees that Envoy 1.40 takes a filter that asks no server, and ends with the first request.
func TestNoServerEndsEnvoy(t *testing.T) {
	s := withEnvoy(t)
	s.ports[8000], s.ports[9191] = 9, 9
	p := proof{id: "grpc-service-missing", edits: []string{grpcLines, ""},
		by: []string{"                      transport_api_version: V3\n", "                      transport_api_version: V3\n" + grpcLines}}
	bad, good := p.prepare(t)
	for want, text := range map[string][]byte{"no answer": bad, "503": good} {
		h := s.newHouse()
		h.add(t, "", text)
		h.open(t)
		if got := (doors{h, t, ""}).ask("main", "GET /public"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
