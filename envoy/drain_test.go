package envoy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// What an operator writes for two Gatehouses behind one Envoy. listen.drain_delay has to be longer than Envoy takes to stop
// asking: the health check's interval and, within a second of another change in the cluster, update_merge_window (1 s by
// default). Without either setting a second restart right after the first loses requests.
const healthChecked = `connect_timeout: 0.25s
      common_lb_config: {update_merge_window: 0s}
      health_checks: [{timeout: 1s, interval: 0.2s, no_traffic_interval: 0.2s, unhealthy_threshold: 1, healthy_threshold: 1,
        grpc_health_check: {service_name: envoy.service.auth.v3.Authorization}}]`

// A rolling restart of two Gatehouses under load: not one request fails, though Envoy denies what nobody answers.
func TestRollingRestart(t *testing.T) {
	policy, err := os.ReadFile("testdata/secret/policy/secret.rego")
	if err != nil {
		t.Fatal(err)
	}
	const config = `listen: {grpc: ["{GRPC}"], admin: "{ADMIN}", drain_delay: 1s}
policy: {timeout: 1s, bundles: [{path: "{DIR}/policy"}]}
log: {level: warn}
`
	var pair []*another
	for _, name := range []string{"gatehouse-a", "gatehouse-b"} {
		pair = append(pair, startGatehouse(t, name, config, map[string]string{"policy/secret.rego": string(policy)}))
	}
	doors := []door{
		{Port: 8080, App: 8000, Authz: []int{pair[0].port, pair[1].port}, Cluster: healthChecked},
		{Port: freePort(t), App: 8000, Authz: []int{9191}},
	}
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "secret")})
	for _, g := range pair {
		awaitHealth(t, s, g.port, true)
	}
	l := startRolling(s, 6)
	for round := range 2 {
		for _, g := range pair {
			before := l.answered.Load()
			if code, err := g.Stop(); err != nil || code != 0 {
				t.Errorf("round %d: %s exits with %d (%v)", round, g.name, code, err)
			}
			awaitHealth(t, s, g.port, false)
			g.start(t)
			awaitHealth(t, s, g.port, true)
			if l.answered.Load() == before {
				t.Errorf("round %d: nothing was answered while %s restarted", round, g.name)
			}
		}
	}
	failures := l.stop()
	t.Logf("%d requests answered, %d failed", l.answered.Load(), len(failures))
	for i, f := range failures {
		if i == 10 {
			break
		}
		t.Error(f)
	}
}

// rolling is a number of clients that ask without pause for what the policy allows and note every other answer.
type rolling struct {
	cancel   context.CancelFunc
	clients  sync.WaitGroup
	answered atomic.Int64
	mu       sync.Mutex
	failures []string // guarded by mu
}

func startRolling(s *sandbox.Sandbox, clients int) *rolling {
	ctx, cancel := context.WithCancel(context.Background())
	l := &rolling{cancel: cancel}
	for range clients {
		l.clients.Go(func() {
			for ctx.Err() == nil {
				got, err := s.Do(context.Background(), sandbox.Call{Path: "/headers/allowed"})
				if err == nil && got.Status == http.StatusOK {
					l.answered.Add(1)
					continue
				}
				l.mu.Lock()
				l.failures = append(l.failures, fmt.Sprintf("%s: %d %s %v", time.Now().Format(time.StampMilli), got.Status, got.Body, err))
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *rolling) stop() []string {
	l.cancel()
	l.clients.Wait()
	return l.failures
}

// awaitHealth waits until Envoy thinks so of an endpoint. Its admin page is asked, as there is no event to wait for.
func awaitHealth(t *testing.T, s *sandbox.Sandbox, port int, healthy bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-tick.C {
		resp, err := http.Get(s.EnvoyAdminURL + "/clusters")
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(page), fmt.Sprintf("%s::health_flags::healthy\n", at(port))) == healthy {
			return
		}
	}
	t.Fatalf("Envoy never thinks healthy %t of %s", healthy, at(port))
}
