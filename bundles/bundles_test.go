package bundles_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(persistURL); url != "" {
		persistUntilKilled(url, os.Getenv(persistDir)) // the process that TestKilledWhileItPersists kills
	}
	goleak.VerifyTestMain(m)
}

// hangGuard bounds every wait; a passing test never waits that long.
const hangGuard = time.Minute

// answering returns a module whose decision carries a number.
func answering(n int) string {
	return fmt.Sprintf("package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x-revision\": \"%d\"}}\n", n)
}

const broken = "package authz\n\nallow if {\n\tinput.user ==\n}\n"

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// running is a manager on real directories, and everything that it emits.
type running struct {
	t         testing.TB
	manager   *bundles.Manager
	published chan *policy.Snapshot
	logs      *observer.ObservedLogs
	logged    chan zapcore.Entry
}

// option changes the configuration, or the manager made from it.
type option any

// fetching replaces a source's path by a fetcher.
func fetching(name string, f bundles.Fetcher) func(*bundles.Manager) {
	return func(m *bundles.Manager) { m.SetFetcher(name, f) }
}

// run starts a manager that ends with the test.
func run(t testing.TB, sources []bundles.Source, options ...option) *running {
	t.Helper()
	r := newRunning(t, sources, options...)
	r.start()
	return r
}

// start runs the manager until the test ends.
func (r *running) start() {
	t := r.t
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.manager.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// newRunning makes a manager without starting it.
func newRunning(t testing.TB, sources []bundles.Source, options ...option) *running {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	r := &running{t: t, published: make(chan *policy.Snapshot, 1000), logs: logs, logged: make(chan zapcore.Entry, 1000)}
	logger := zap.New(core, zap.Hooks(func(e zapcore.Entry) error { r.logged <- e; return nil }))
	cfg := bundles.Config{
		Sources: sources,
		Policy:  policy.Config{Decision: "authz/allow"},
		Publish: func(_ context.Context, s *policy.Snapshot) error { r.published <- s; return nil },
		Logger:  logger,
		Poll:    time.Hour, // only events trigger reads
	}
	for _, o := range options {
		if change, ok := o.(func(*bundles.Config)); ok {
			change(&cfg)
		}
	}
	var err error
	r.manager, err = bundles.New(cfg)
	must(t, err)
	for _, o := range options {
		if change, ok := o.(func(*bundles.Manager)); ok {
			change(r.manager)
		}
	}
	return r
}

func one(dir string) []bundles.Source { return []bundles.Source{{Name: "app", Path: dir}} }

// next waits for the next activation.
func (r *running) next() *policy.Snapshot {
	r.t.Helper()
	select {
	case s := <-r.published:
		return s
	case <-time.After(hangGuard):
		r.t.Fatalf("nothing was published; status %+v", r.manager.Status())
		return nil
	}
}

// until waits for a snapshot with this answer, and returns how many activations there were.
func (r *running) until(want string) int {
	r.t.Helper()
	for n := 1; ; n++ {
		if got := response(r.t, r.next()); got == want {
			return n
		}
	}
}

// says waits for a log line with this message.
func (r *running) says(message string) observer.LoggedEntry {
	r.t.Helper()
	timeout := time.After(hangGuard)
	for {
		select {
		case e := <-r.logged:
			if e.Message == message {
				all := r.logs.FilterMessage(message).All()
				return all[len(all)-1]
			}
		case <-timeout:
			r.t.Fatalf("%q was not logged", message)
		}
	}
}

// none fails if anything was published.
func (r *running) none() {
	r.t.Helper()
	select {
	case s := <-r.published:
		r.t.Fatalf("an activation too many, with the answer %s", response(r.t, s))
	default:
	}
}

const (
	stays = "policy bundle not activated: the previous one stays active"
	never = "policy bundle not activated: no policy of it is active"
)

func response(t testing.TB, s *policy.Snapshot) string {
	t.Helper()
	d, err := s.Decide(context.Background(), rego.Object(), time.Now())
	if err != nil || len(d.Headers) == 0 {
		t.Fatalf("decision %+v, error %v", d, err)
	}
	return d.Headers[0].Value
}
