//go:build full

package test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"sigs.k8s.io/yaml"
)

// names answers as a cluster's DNS does for a headless Service: with the pods that are ready.
type names struct {
	conn net.PacketConn

	mu  sync.Mutex // guards ips
	ips map[string][4]byte
}

func newNames(t *testing.T) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn, ips: map[string][4]byte{}}
	var ended sync.WaitGroup
	ended.Go(func() {
		for buffer := make([]byte, 1500); ; {
			size, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer, err := n.answer(buffer[:size]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); ended.Wait() })
	return n
}

func (n *names) answer(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, q := range m.Questions {
		for _, ip := range n.ips {
			if q.Type == dnsmessage.TypeA {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5}, Body: &dnsmessage.AResource{A: ip}})
			}
		}
	}
	return m.Pack()
}

func (n *names) set(pod string, ip [4]byte) { n.mu.Lock(); n.ips[pod] = ip; n.mu.Unlock() }
func (n *names) drop(pod string)            { n.mu.Lock(); delete(n.ips, pod); n.mu.Unlock() }

// replica is a pod of the Deployment: its process, at an address of its own.
type replica struct {
	name   string
	ip     string
	admin  string
	cmd    *exec.Cmd
	ended  chan struct{}
	killed atomic.Bool
}

// deployment is what a rolling update needs of the objects that the chart makes.
type deployment struct {
	files                           map[string]string
	grace                           time.Duration
	period, failures                int // of the readiness probe
	startupPeriod, startupThreshold int
	path                            string
}

func deploymentOf(t *testing.T, all []object) deployment {
	t.Helper()
	d := deployment{files: mounted(t, all)}
	for _, o := range only(all, "Deployment") {
		raw, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var spec struct {
			Spec struct {
				Strategy struct {
					RollingUpdate struct{ MaxUnavailable, MaxSurge int }
				}
				Template struct {
					Spec struct {
						TerminationGracePeriodSeconds int
						Containers                    []struct{ ReadinessProbe, StartupProbe probe }
					}
				}
			}
		}
		if err := yaml.Unmarshal(raw, &spec); err != nil {
			t.Fatal(err)
		}
		if r := spec.Spec.Strategy.RollingUpdate; r.MaxUnavailable != 0 || r.MaxSurge != 1 {
			t.Fatalf("the strategy is %+v, and this test rolls by one more", r)
		}
		pod := spec.Spec.Template.Spec
		ready, startup := pod.Containers[0].ReadinessProbe, pod.Containers[0].StartupProbe
		d.grace, d.period, d.failures, d.path = time.Duration(pod.TerminationGracePeriodSeconds)*time.Second, ready.PeriodSeconds, ready.FailureThreshold, ready.HTTPGet.Path
		d.startupPeriod, d.startupThreshold = startup.PeriodSeconds, startup.FailureThreshold
	}
	if d.grace == 0 || d.period == 0 || d.path == "" {
		t.Fatalf("no Deployment with probes: %+v", d)
	}
	return d
}

type probe struct {
	HTTPGet                         struct{ Path string }
	PeriodSeconds, FailureThreshold int
}

// TestRollingUpdate: a few hundred requests a second through an Envoy that asks the service, which is rolled twice as the Deployment says it: one more pod, then
// one less, with the chart's probes, drain and grace. No request fails.
func TestRollingUpdate(t *testing.T) {
	dir := example(t)
	d := deploymentOf(t, objects(t, command(t, dir, "k8s", "generate", "--mode", "service", "--for", "envoy", "--app", "orders", "--namespace", "gatehouse", "--app-namespace", "shop")))
	certificate, key := selfSigned(t, "gatehouse.gatehouse.svc")
	write(t, filepath.Join(dir, "ca.crt"), certificate)
	dns, grpc, admin, door := newNames(t), free(t), free(t), free(t)

	started := 0
	start := func() *replica {
		started++
		p := &replica{name: fmt.Sprint("pod-", started), ip: fmt.Sprintf("127.0.1.%d", started), ended: make(chan struct{})}
		p.admin = fmt.Sprintf("http://%s:%d", p.ip, admin)
		folder := t.TempDir()
		files := local(t, maps.Clone(d.files), map[string]any{"grpc": []string{fmt.Sprintf("%s:%d", p.ip, grpc)}, "admin": fmt.Sprintf("%s:%d", p.ip, admin),
			"tls": map[string]any{"cert": filepath.Join(folder, "tls/tls.crt"), "key": filepath.Join(folder, "tls/tls.key")}})
		files["tls/tls.crt"], files["tls/tls.key"] = certificate, key
		pod(t, folder, files)
		log, err := os.CreateTemp(t.TempDir(), "log")
		if err != nil {
			t.Fatal(err)
		}
		p.cmd = exec.Command(gatehouse, "serve", "--config", filepath.Join(folder, "gatehouse.yaml"))
		p.cmd.Stdout, p.cmd.Stderr = io.Discard, log
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { defer close(p.ended); _ = p.cmd.Wait() }()
		t.Cleanup(func() {
			_ = p.cmd.Process.Kill()
			<-p.ended
			if text, _ := os.ReadFile(log.Name()); t.Failed() {
				t.Logf("%s: %s", p.name, text[max(0, len(text)-3000):])
			}
		})
		// The kubelet's probes: startup, then readiness, one after the other.
		for tries := 0; !p.answers(t, "/healthz"); tries++ {
			if tries > d.startupThreshold {
				t.Fatalf("%s does not start", p.name)
			}
			time.Sleep(time.Duration(d.startupPeriod) * time.Second)
		}
		for tries := 0; !p.answers(t, d.path); tries++ {
			if tries > 60 {
				t.Fatalf("%s is not ready", p.name)
			}
			time.Sleep(time.Duration(d.period) * time.Second)
		}
		dns.set(p.name, [4]byte{127, 0, 1, byte(started)})
		return p
	}
	// A pod that ends is taken off the endpoints and told to end at the same time; DNS says so for some seconds more.
	var ending sync.WaitGroup
	var all []*replica // that were told to end
	end := func(p *replica) {
		all = append(all, p)
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		time.AfterFunc(5*time.Second, func() { dns.drop(p.name) })
		kill := time.AfterFunc(d.grace, func() { p.killed.Store(true); _ = p.cmd.Process.Kill() })
		ending.Go(func() { <-p.ended; kill.Stop() })
	}

	pods := []*replica{start(), start()}
	config := string(command(t, dir, "envoy", "generate", "--listen", fmt.Sprint("127.0.0.1:", door), "--upstream", fmt.Sprint("127.0.0.1:", echo(t, "app")),
		"--gatehouse", fmt.Sprint("gatehouse.gatehouse.svc:", grpc), "--gatehouse-ca", filepath.Join(dir, "ca.crt"), "--health-checks"))
	resolver := fmt.Sprintf(`      typed_dns_resolver_config:
        name: envoy.network.dns_resolver.cares
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
          resolvers: [{socket_address: {address: 127.0.0.1, port_value: %d, protocol: UDP}}]
          dns_resolver_options: {no_default_search_domain: true}
`, dns.conn.LocalAddr().(*net.UDPAddr).Port)
	config = edit(t, config, []string{"      dns_refresh_rate: 2s\n", resolver + "      dns_refresh_rate: 2s\n"})
	if !strings.Contains(config, "type: STRICT_DNS") {
		t.Fatal("Envoy does not find Gatehouse by name")
	}
	write(t, filepath.Join(dir, "envoy-rolling.yaml"), config)
	process(t, dir, filepath.Join(venv, "bin/envoy"), "-c", filepath.Join(dir, "envoy-rolling.yaml"), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning")
	header := map[string]string{"authorization": "Bearer " + token(t, dir, "vera", "viewer")}
	url := fmt.Sprintf("http://127.0.0.1:%d/orders", door)
	until(t, url, header, 200)

	l := newLoad(url, header)
	for range 2 {
		for i, old := range pods {
			pods[i] = start()
			end(old)
		}
	}
	ending.Wait()
	time.Sleep(2 * time.Second) // with the new pods alone
	sent, failed := l.stop()
	t.Logf("%d requests in %v, %.0f a second; %d failed", sent, l.lasted.Round(time.Second), float64(sent)/l.lasted.Seconds(), len(failed))
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %.1000q", len(failed), sent, failed)
	}
	if rate := float64(sent) / l.lasted.Seconds(); rate < 100 {
		t.Errorf("only %.0f requests a second", rate)
	}
	for _, p := range all {
		if p.killed.Load() {
			t.Errorf("%s did not end within its grace of %v", p.name, d.grace)
		}
	}
	if started != 6 {
		t.Errorf("%d pods were started", started)
	}
}

func (p *replica) answers(t *testing.T, path string) bool {
	got, err := call(t.Context(), "GET", p.admin+path, nil)
	return err == nil && got.status == 200
}

// load sends 300 requests a second, each twentieth of them on a new connection.
type load struct {
	begin    time.Time
	lasted   time.Duration
	ending   chan struct{}
	ended    sync.WaitGroup
	sent     atomic.Int64
	mu       sync.Mutex // guards failures
	failures []string
}

func newLoad(url string, header map[string]string) *load {
	l := &load{begin: time.Now(), ending: make(chan struct{})}
	const workers = 15
	for range workers {
		l.ended.Go(func() {
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			tick := time.NewTicker(workers * time.Second / 300)
			defer tick.Stop()
			for n := 1; ; n++ {
				select {
				case <-l.ending:
					return
				case <-tick.C:
				}
				if n%20 == 0 {
					client.CloseIdleConnections()
				}
				l.one(client, url, header)
			}
		})
	}
	return l
}

func (l *load) one(client *http.Client, url string, header map[string]string) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	l.sent.Add(1)
	res, err := client.Do(r)
	what := ""
	if err != nil {
		what = err.Error()
	} else {
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			what = fmt.Sprintf("%d %.100s", res.StatusCode, text)
		}
	}
	if what != "" {
		l.mu.Lock()
		l.failures = append(l.failures, fmt.Sprintf("after %v: %s", time.Since(l.begin).Round(time.Millisecond), what))
		l.mu.Unlock()
	}
}

func (l *load) stop() (int64, []string) {
	close(l.ending)
	l.ended.Wait()
	l.lasted = time.Since(l.begin)
	return l.sent.Load(), l.failures
}
