package envoy_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// TestKillUnderLoad kills Gatehouse again and again while clients ask through Envoy. Each decision whose id a client got is in the log's
// file once, and at a receiver of OPA's decision log API that fails at random, once for who looks at the ids, and in the file's order.
func TestKillUnderLoad(t *testing.T) {
	r := startLogReceiver(t)
	dir := workDir(t)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "kill"))); err != nil {
		t.Fatal(err)
	}
	port, grpc, admin := freePort(t), freePort(t), freePort(t)
	amend(t, filepath.Join(dir, "gatehouse.yaml"), at(9191), at(grpc), at(9192), at(admin), at(8000), r.address)
	value := func(port int) string { return fmt.Sprintf("port_value: %d}", port) }
	amend(t, filepath.Join(dir, "envoy.yaml"), value(8080), value(port), value(9901), value(freePort(t)), value(9191), value(grpc))
	gatehouse := func() *sandbox.Process {
		p := program(t, "gatehouse", dir, []string{gatehouseBinary, "serve", "--config", filepath.Join(dir, "gatehouse.yaml")})
		if err := p.Ready(t.Context(), "http://"+at(admin)+"/readyz"); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := gatehouse()
	envoy := program(t, "envoy", dir, []string{envoyBinary, "--config-path", filepath.Join(dir, "envoy.yaml"), "--concurrency", "1",
		"--disable-hot-restart", "--log-level", "warning"})
	if err := envoy.Ready(t.Context(), "http://"+at(port)+"/"); err != nil {
		t.Fatal(err)
	}
	load := startAskers(t, "http://"+at(port))
	for range kills {
		load.await(1 + rand.IntN(200))
		time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_, _ = p.Stop() // waits for its end
		p = gatehouse()
	}
	load.await(10)
	told := load.stop(t)
	awaitEmptySpool(t, "http://"+at(admin)+"/status")
	if code, err := p.Stop(); code != 0 || err != nil {
		t.Errorf("gatehouse ends with %d, %v", code, err)
	}
	r.compare(t, told, filepath.Join(dir, "decisions.log"))
}

// logReceiver takes decisions, or fails.
type logReceiver struct {
	address string

	mu       sync.Mutex // guards what follows
	ids      []string   // in the order in which they came
	failures int
}

func startLogReceiver(t *testing.T) *logReceiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &logReceiver{address: l.Addr().String()}
	server := &http.Server{Handler: r}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return r
}

// ServeHTTP implements http.Handler. It cuts the network, before or after it has taken the events or in the middle of the body, answers with
// 500, or not at all.
func (r *logReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	cut := func() {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			c.Close()
		}
	}
	kind := rand.IntN(15)
	if kind < 5 {
		r.mu.Lock()
		r.failures++
		r.mu.Unlock()
	}
	switch kind {
	case 0:
		cut()
	case 1:
		_, _ = io.CopyN(io.Discard, req.Body, 100)
		cut()
	case 2:
		http.Error(w, "later", http.StatusInternalServerError)
	case 3:
		r.take(req.Body)
		cut()
	case 4:
		r.take(req.Body)
		<-req.Context().Done()
	default:
		r.take(req.Body)
	}
}

// take keeps the ids of the events, if all of them are there.
func (r *logReceiver) take(body io.Reader) {
	var events []struct {
		ID string `json:"decision_id"`
	}
	in, err := gzip.NewReader(body)
	if err == nil {
		err = json.NewDecoder(in).Decode(&events)
	}
	_, _ = io.Copy(io.Discard, body) // so that the end of the connection is noticed
	if err != nil {
		return // the process was killed while it sent this
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		r.ids = append(r.ids, e.ID)
	}
}

// compare checks file and receiver against what the clients were told.
func (r *logReceiver) compare(t *testing.T, told map[string]bool, file string) {
	t.Helper()
	var order []string
	inFile, atReceiver := map[string]int{}, map[string]bool{}
	for line := range strings.Lines(read(t, file)) {
		var e struct {
			ID string `json:"decision_id"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if e.ID == "" {
			continue // a hole that a kill left: nobody was told
		}
		if inFile[e.ID]++; inFile[e.ID] > 1 {
			t.Errorf("%s is in the file %d times", e.ID, inFile[e.ID])
		}
		order = append(order, e.ID)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next := 0
	for _, id := range r.ids {
		if atReceiver[id] || strings.HasPrefix(id, "gap-") {
			continue
		}
		if atReceiver[id] = true; next >= len(order) || order[next] != id {
			t.Fatalf("event %d at the receiver is %s: not what the file has there", next, id)
		}
		next++
	}
	for id := range told {
		if inFile[id] == 0 || !atReceiver[id] {
			t.Errorf("%s was told: it is in the file %d times, and at the receiver: %v", id, inFile[id], atReceiver[id])
		}
	}
	t.Logf("%d kills: clients were told %d decisions; the file has %d; the receiver got %d, %d different, and failed %d times",
		kills, len(told), len(order), len(r.ids), len(atReceiver), r.failures)
	if len(told) < kills {
		t.Error("hardly anything was decided")
	}
}

// askers are clients that ask without end.
type askers struct {
	done chan struct{}
	wait sync.WaitGroup

	mu     sync.Mutex // guards what follows
	cond   *sync.Cond
	told   map[string]bool // ids of decisions
	failed error
}

func startAskers(t *testing.T, url string) *askers {
	l := &askers{done: make(chan struct{}), told: map[string]bool{}}
	l.cond = sync.NewCond(&l.mu)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: hangGuard}
	for i := range 4 {
		l.wait.Go(func() { l.ask(client, url+[]string{"/allowed", "/denied"}[i%2]) })
	}
	t.Cleanup(client.CloseIdleConnections)
	return l
}

// ask notes the id of each decision, until the end. Without Gatehouse Envoy denies, and there is none.
func (l *askers) ask(client *http.Client, url string) {
	for {
		select {
		case <-l.done:
			return
		default:
		}
		resp, err := client.Get(url)
		l.mu.Lock()
		if err != nil {
			l.failed = err
		} else {
			resp.Body.Close()
			id := resp.Header.Get("x-decision-id")
			if resp.StatusCode == http.StatusOK {
				if id = resp.Header.Get("x-allowed-by"); !strings.HasSuffix(url, "/allowed") || id == "" {
					l.failed = fmt.Errorf("%s is allowed, by decision %q", url, id)
				}
			}
			if id != "" {
				l.told[id] = true
			}
		}
		l.cond.Broadcast()
		l.mu.Unlock()
	}
}

// await waits for n further decisions.
func (l *askers) await(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n += len(l.told); len(l.told) < n && l.failed == nil; {
		l.cond.Wait()
	}
}

func (l *askers) stop(t *testing.T) map[string]bool {
	t.Helper()
	close(l.done)
	l.wait.Wait()
	if l.failed != nil {
		t.Fatal(l.failed)
	}
	return l.told
}

// awaitEmptySpool waits until every sink has everything.
func awaitEmptySpool(t *testing.T, status string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(5 * hangGuard); ; {
		var page struct {
			Log struct {
				Spool struct {
					Unread uint64 `json:"unread_bytes"`
				}
			} `json:"decision_log"`
		}
		if resp, err := http.Get(status); err == nil {
			err = json.NewDecoder(resp.Body).Decode(&page)
			resp.Body.Close()
			if err == nil && page.Log.Spool.Unread == 0 {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the receiver does not have everything: %+v", page)
		}
	}
}
