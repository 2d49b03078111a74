package envoy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

const (
	swaps = 50
	// hangGuard is how long a swap may take before the test gives up; a race build on a busy machine is slow.
	hangGuard = time.Minute
)

// writeRevision lays a revision out as Kubernetes does for a ConfigMap: files in a directory of their own, reached through
// the symbolic link ..data, which is replaced by one rename. The revision's number is in the Rego and, once more, in the
// data: an answer that mixed two revisions would show two numbers.
func writeRevision(dir string, revision int) error {
	version := fmt.Sprintf("..version-%d", revision)
	files := map[string]string{
		"rev.rego": fmt.Sprintf(`package envoy.authz

allow := {
	"allowed": true,
	"headers": {"x-rev-a": "%[1]d", "x-rev-b": data.rev},
	"response_headers_to_add": {"x-rev-a": "%[1]d", "x-rev-b": data.rev},
}
`, revision),
		"data.json": fmt.Sprintf(`{"rev": "%d"}`, revision),
		".manifest": fmt.Sprintf(`{"revision": "%d"}`, revision),
	}
	if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, version, name), []byte(text), 0o644); err != nil {
			return err
		}
		link := filepath.Join(dir, name)
		if err := os.Symlink(filepath.Join("..data", name), link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	draft := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(version, draft); err != nil {
		return err
	}
	if err := os.Rename(draft, filepath.Join(dir, "..data")); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..version-%d", revision-1)))
}

func TestFiftySwapsUnderLoad(t *testing.T) {
	s := start(t, sandbox.Config{
		App:    echoApp(t),
		Policy: func(dir string) error { return writeRevision(dir, 0) },
	})
	load := startLoad(t, s, 4)
	slowest := time.Duration(0)
	for revision := 1; revision <= swaps; revision++ {
		swapped := time.Now()
		if err := writeRevision(s.PolicyDir(), revision); err != nil {
			t.Fatal(err)
		}
		if !load.waitFor(revision) {
			t.Fatalf("revision %d does not decide %v after the swap", revision, hangGuard)
		}
		slowest = max(slowest, time.Since(swapped))
	}
	load.stop(t)
	t.Logf("%d requests during %d swaps; slowest activation %v", load.requests.Load(), swaps, slowest) // docs/performance.md has what it takes on an idle machine
}

// load is a number of clients that ask without pause and check every answer.
type load struct {
	cancel   context.CancelFunc
	clients  sync.WaitGroup
	requests atomic.Int64
	newest   atomic.Int64
	changed  chan struct{} // has a token when newest grew
	errs     chan error
}

func startLoad(t *testing.T, s *sandbox.Sandbox, clients int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, changed: make(chan struct{}, 1), errs: make(chan error, clients)}
	token := s.Token("vera", "viewer")
	for range clients {
		l.clients.Go(func() {
			for ctx.Err() == nil {
				if err := l.one(s, token); err != nil {
					l.errs <- err
					return
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); l.clients.Wait() })
	return l
}

// one makes a request. It must be answered 200 by one revision, to the client and to the application alike.
func (l *load) one(s *sandbox.Sandbox, token string) error {
	answer, err := s.Do(context.Background(), sandbox.Call{Path: "/", Token: token})
	if err != nil {
		return err
	}
	l.requests.Add(1)
	a, b := answer.Header.Get("X-Rev-A"), answer.Header.Get("X-Rev-B")
	app := fmt.Sprintf(`"X-Rev-A":%q,"X-Rev-B":%q`, a, a)
	if answer.Status != 200 || a == "" || a != b || !contains(answer.Body, app) {
		return fmt.Errorf("%d with revisions %q and %q: %s", answer.Status, a, b, answer.Body)
	}
	revision, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		return err
	}
	for newest := l.newest.Load(); revision > newest; newest = l.newest.Load() {
		if l.newest.CompareAndSwap(newest, revision) {
			select {
			case l.changed <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

func (l *load) waitFor(revision int) bool {
	deadline := time.After(hangGuard)
	for l.newest.Load() < int64(revision) {
		select {
		case <-l.changed:
		case err := <-l.errs:
			l.errs <- err // for stop
			return false
		case <-deadline:
			return false
		}
	}
	return true
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.clients.Wait()
	close(l.errs)
	for err := range l.errs {
		t.Error(err)
	}
}
