package bundles_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

const (
	persistURL = "GATEHOUSE_TEST_PERSIST_URL"
	persistDir = "GATEHOUSE_TEST_PERSIST_DIR"
)

// persistUntilKilled activates and persists one bundle after the other and reports on standard output. It does not return.
func persistUntilKilled(url, dir string) {
	m, err := bundles.New(bundles.Config{Sources: from(url, func(c *bundles.Remote) { c.LongPoll = time.Minute }), Policy: policy.Config{Decision: "authz/allow"}, Dir: dir,
		Publish: func(_ context.Context, s *policy.Snapshot) error { _, err := fmt.Println(s.Revision()); return err }})
	if err == nil {
		err = m.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// generations serves another bundle for each request: number n, with data that is only consistent as a whole. Every other one is a delta for
// clients that accept it.
type generations struct {
	t    testing.TB
	n    atomic.Int64
	gone atomic.Bool
	rest string
}

func (g *generations) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.gone.Load() {
		http.Error(w, "", http.StatusServiceUnavailable)
		return
	}
	n := g.n.Add(1)
	manifest := fmt.Sprintf(`{"revision":"%d"}`, n)
	files := map[string]string{".manifest": manifest,
		"data.json": fmt.Sprintf(`{"first":%d,"rest":%q,"last":%d}`, n, g.rest, n),
		"a.rego": `package authz

allow := {"allowed": data.first == data.last, "headers": {"x": sprintf("%d of %d", [data.first, count(data.rest)])}}
`}
	if n%2 == 0 && r.Header.Get("If-None-Match") == fmt.Sprintf(`"%d"`, n-1) && strings.Contains(r.Header.Get("Prefer"), "delta") {
		files = map[string]string{".manifest": manifest, "patch.json": fmt.Sprintf(
			`{"data":[{"op":"replace","path":"/first","value":%d},{"op":"replace","path":"/last","value":%d}]}`, n, n)}
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n))
	w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
	_, _ = w.Write(packed(g.t, files))
}

// TestKilledWhileItPersists kills a process at random moments of activation and persistence. Afterwards the disk holds one complete bundle
// that was served, never an older one than before.
func TestKilledWhileItPersists(t *testing.T) {
	t.Parallel()
	random := make([]byte, killBytes) // random bytes do not compress, so that writing takes a while
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	g := &generations{t: t, rest: base64.StdEncoding.EncodeToString(random)}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	last, changes, empty, round := 0, 0, 0, 0
	// On a loaded machine a process gets little done in its time: run more rounds, until enough of them count.
	for ; round < killRounds || changes < killRounds/4 && round < 10*killRounds; round++ {
		g.gone.Store(false)
		// Every other round ends shortly after an activation, while the bundle is written.
		activations, after := 0, time.Duration(rand.IntN(1500))*time.Millisecond
		if round%2 == 0 {
			activations, after = 1+rand.IntN(2), time.Duration(rand.IntN(60))*time.Millisecond
		}
		said := killed(t, server.URL, dir, activations, after)
		g.gone.Store(true)
		m, err := bundles.New(bundles.Config{Sources: from(server.URL), Policy: policy.Config{Decision: "authz/allow"}, Dir: dir})
		must(t, err)
		s, err := m.Load(context.Background())
		if err != nil && last == 0 && strings.Contains(err.Error(), "503") && strings.Count(said, "\n") < 2 {
			empty++ // nothing was persisted
			continue
		}
		must(t, err)
		d, err := s.Decide(context.Background(), rego.Object(), time.Now())
		must(t, err)
		n, err := strconv.Atoi(s.Revision())
		must(t, err)
		if want := fmt.Sprintf("%d of %d", n, len(g.rest)); !d.Allowed || d.Headers[0].Value != want {
			t.Fatalf("round %d: half a bundle: %+v, want %s", round, d, want)
		}
		if n < last || n > int(g.n.Load()) {
			t.Fatalf("round %d: generation %d after %d, of %d", round, n, last, g.n.Load())
		}
		if n > last {
			changes++
		}
		last = n
	}
	if changes < killRounds/4 {
		t.Errorf("of %d rounds only %d changed what is on disk (%d left none): they killed too early to say anything", round, changes, empty)
	}
	t.Logf("%d rounds, %d generations, %d rounds changed what is on disk", round, g.n.Load(), changes)
}

// writing reports whether the bundle is being written to disk, or was since.
func writing(dir string, before time.Time) bool {
	_, err := os.Stat(filepath.Join(dir, "app.bundle.new"))
	return err == nil || !modified(dir).Equal(before)
}

// killed runs persistUntilKilled until a time after this many activations, and returns its output.
func killed(t *testing.T, url, dir string, activations int, after time.Duration) string {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), persistURL+"="+url, persistDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	must(t, err)
	before := modified(dir)
	must(t, child.Start())
	var said strings.Builder
	lines := bufio.NewReader(out)
	for range activations {
		line, err := lines.ReadString('\n')
		must(t, err)
		said.WriteString(line)
	}
	if activations > 0 { // the time counts from the start of writing, whatever the machine's load
		for deadline := time.Now().Add(hangGuard); time.Now().Before(deadline) && !writing(dir, before); time.Sleep(time.Millisecond) {
		}
	}
	kill := time.AfterFunc(after, func() { _ = child.Process.Kill() })
	defer kill.Stop()
	_, _ = io.Copy(&said, lines) // returns when the process ends
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
		t.Fatalf("the process ended by itself: %v", err)
	}
	return said.String()
}
