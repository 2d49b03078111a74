package control_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/control/follow"
	"gatehouse/directory"
)

const prod = control.DefaultEnvironment

// served is a control that serves until the test or stop ends it.
type served struct {
	*control.Server
	t     testing.TB
	dir   string
	admin string
	log   *observer.ObservedLogs
	stop  func()
}

// serve starts control on a folder. listen "" takes any port.
func serve(t testing.TB, dir, listen string) *served { t.Helper(); return serveAt(t, dir, listen, nil) }

// serveAt is serve with a clock.
func serveAt(t testing.TB, dir, listen string, clock func() time.Time) *served {
	t.Helper()
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	core, log := observer.New(zap.InfoLevel)
	s, err := control.New(t.Context(), control.Config{Dir: dir, Listen: listen, Clock: clock, Logger: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	out := &served{Server: s, t: t, dir: dir, admin: s.AdminToken(), log: log}
	out.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("control ended with %v", err)
		}
	})
	t.Cleanup(out.stop)
	return out
}

func (s *served) url() string { return "https://" + s.Addr().String() }

// said waits until control has logged a message.
func (s *served) said(message string) {
	s.t.Helper()
	await(s.t, "the log to say "+message, func() bool { return s.log.FilterMessageSnippet(message).Len() > 0 })
}

// clients are the services of control, with a token.
type clients struct {
	api.DirectoryServiceClient
	api.AdminServiceClient
	api.PolicyServiceClient
}

func (s *served) with(token string, options ...connect.ClientOption) clients {
	s.t.Helper()
	return clientsOf(s.t, s.url(), s.AuthorityFile(), token, options...)
}

func clientsOf(t testing.TB, url, ca, token string, options ...connect.ClientOption) clients {
	t.Helper()
	h := &http.Client{Transport: transport(t, ca, nil, nil)}
	options = append(options, connect.WithInterceptors(cli.Bearer(token)))
	return clients{api.NewDirectoryServiceClient(h, url, options...), api.NewAdminServiceClient(h, url, options...), api.NewPolicyServiceClient(h, url, options...)}
}

// ask makes a call that must succeed.
func ask[Q, A any](t testing.TB, call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) *A {
	t.Helper()
	out, err := call(t.Context(), connect.NewRequest(q))
	if err != nil {
		t.Fatal(err)
	}
	return out.Msg
}

// refused makes a call that must fail with a code, and a text in it.
func refused[Q, A any](t testing.TB, call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q, code connect.Code, text string) {
	t.Helper()
	_, err := call(t.Context(), connect.NewRequest(q))
	if connect.CodeOf(err) != code || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("got %v; want %v: ... %s ...", err, code, text)
	}
}

func (s *served) enrollment(environment, name string) string {
	s.t.Helper()
	return ask(s.t, s.with(s.admin).CreateEnrollment, &api.CreateEnrollmentRequest{Environment: environment, Name: name}).GetToken()
}

// edge is an edge's end of control, without a gate.
type edge struct {
	*follow.Follower
	t    testing.TB
	dir  string
	stop func()

	mu  sync.Mutex
	now *directory.Snapshot
	all []uint64 // revisions that were put in force
}

// follows starts an edge. token "" is none.
func follows(t testing.TB, url, pin, dir, token string) *edge {
	t.Helper()
	with := follow.Config{URL: url, Pin: pin, Dir: dir, Name: "edge", Version: "test"}
	if token != "" {
		with.TokenFile = filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(with.TokenFile, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := follow.Open(with)
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{Follower: f, t: t, dir: dir, now: f.Snapshot()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.Run(ctx, directory.Limits{}, func(next *directory.Snapshot) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.now, e.all = next, append(e.all, next.Revision())
			return nil
		}, func() follow.State { return follow.State{Degraded: []string{"bundles: none"}} })
	}()
	e.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(e.stop)
	return e
}

func (e *edge) snapshot() *directory.Snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// await waits for a condition that something else brings about.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (e *edge) has(revision uint64) {
	e.t.Helper()
	await(e.t, fmt.Sprintf("revision %d at the edge", revision), func() bool { s := e.snapshot(); return s != nil && s.Revision() == revision })
}

func contains(text, part string) bool { return strings.Contains(text, part) }

func user(id string) *api.Object { return &api.Object{Type: "user", Id: id} }

func member(group, id string) *api.Relation {
	return &api.Relation{ObjectType: "group", ObjectId: group, Relation: "member", SubjectType: "user", SubjectId: id}
}
