package envoy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// TestConnectionLimits has limits on connections that are far below their defaults, and peers that take every place: Envoy's own connections are busy,
// then idle, then old, and not one request fails, though Envoy denies what nobody answers.
func TestConnectionLimits(t *testing.T) {
	policy, err := os.ReadFile("testdata/secret/policy/secret.rego")
	if err != nil {
		t.Fatal(err)
	}
	const config = `listen: {grpc: ["{GRPC}"], admin: "{ADMIN}", max_connections: 20, max_connections_per_peer: 20, handshake_timeout: 1s,
  first_request_timeout: 1s, request_timeout: 1s, idle_timeout: 700ms, max_age: 1500ms}
policy: {timeout: 1s, bundles: [{path: "{DIR}/policy"}]}
log: {level: warn}
`
	g := startGatehouse(t, "gatehouse-limits", config, map[string]string{"policy/secret.rego": string(policy)})
	s := start(t, sandbox.Config{App: withDoors(t, []door{{Port: 8080, App: 8000, Authz: []int{g.port}}, {Port: freePort(t), App: 8000, Authz: []int{9191}}}, "flask", "secret")})
	crowd := func() (all []net.Conn) {
		for range 60 {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.port))
			if err != nil {
				t.Error(err)
				continue
			}
			all = append(all, c)
		}
		return all
	}
	ask := func() { // what the policy allows
		t.Helper()
		resp, err := http.Get(s.URL + "/headers/allowed")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
	ask()
	l := startRolling(s, 4)
	for range 5 {
		all := crowd()
		time.Sleep(time.Second) // so that connections become old
		for _, c := range all {
			c.Close()
		}
	}
	failures := l.stop()
	t.Logf("%d requests answered, %d failed", l.answered.Load(), len(failures))
	for i, f := range failures {
		if i < 10 {
			t.Error(f)
		}
	}
	for range 4 {
		time.Sleep(time.Second) // idle for longer than it may be
		ask()
	}
	stats, err := http.Get(s.EnvoyAdminURL + "/stats?filter=upstream_cx_total")
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Body.Close()
	text, _ := io.ReadAll(stats.Body)
	if !strings.Contains(string(text), "upstream_cx_total") {
		t.Errorf("%s", text)
	}
	t.Logf("%s", text)
}
