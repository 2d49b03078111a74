package extauthz_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"

	"gatehouse/decisionlog"
	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
)

// poison is a pool that overwrites returned buffers, so that references into one are detected: by the race detector,
// and as text that nobody sent.
type poison struct {
	mem.BufferPool
	freed atomic.Int64 // bytes
}

const poisoned = "\x15\x15\x15\x15"

func (p *poison) Put(b *[]byte) {
	for i := range *b {
		(*b)[i] = poisoned[0]
	}
	p.freed.Add(int64(len(*b)))
	p.BufferPool.Put(b)
}

// TestNothingOutlivesTheTransportsBuffers decides about many requests at once, again and again, so that caches of tokens and decisions
// answer too, and then reads all that is left of them: answers, the decision log, the operators' log.
func TestNothingOutlivesTheTransportsBuffers(t *testing.T) {
	verifier, keys, token := signer(t)
	file := filepath.Join(t.TempDir(), "decisions.log")
	log, err := decisionlog.New(decisionlog.Config{File: file, Dir: filepath.Join(t.TempDir(), "spool"), MaxWait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	logging, stop := context.WithCancel(context.Background())
	written := make(chan error, 1)
	go func() { written <- log.Run(logging) }()

	s := settings()
	s.Verifier, s.Log = verifier, log
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	p := compile(t, `package envoy.authz

default allow := {"allowed": false}

allow := {"allowed": true, "headers": {"x-echo": input.attributes.request.http.headers["x-echo"]}} if input.identity.subject != ""`)
	core, events := observer.New(zapcore.DebugLevel)
	pool := &poison{BufferPool: mem.DefaultBufferPool()}
	envoy := authv3.NewAuthorizationClient(poisonedConnection(t, pool, zap.New(core), func(v *gate.View) { v.Settings, v.Policy, v.Keys = s, p, keys }))

	const callers, rounds = 8, 20
	var wait sync.WaitGroup
	for caller := range callers {
		_, bearer, _ := strings.Cut(token(fmt.Sprintf("user-%d", caller)), ": ")
		wait.Go(func() {
			for round := range rounds {
				echo := strings.Repeat(fmt.Sprintf("caller-%d-%d.", caller, round%10), 60)
				answer, err := envoy.Check(t.Context(), long(bearer, echo))
				if err != nil {
					t.Error(err)
					return
				}
				if got := heard(answer, "x-echo"); got != echo || heard(answer, "x-auth-subject") != fmt.Sprintf("user-%d", caller) {
					t.Errorf("the application would hear %q", answer)
				}
			}
			if answer, err := envoy.Check(t.Context(), long(bearer+"x", "forged")); err != nil || answer.GetDeniedResponse() == nil {
				t.Error(answer, err)
			}
		})
	}
	wait.Wait()
	stop()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if pool.freed.Load() < callers*rounds*1000 {
		t.Fatalf("only %d bytes of buffers were given back: nothing was tried", pool.freed.Load())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(text), "\n"); lines != callers*(rounds+1) {
		t.Errorf("the decision log has %d lines, want %d", lines, callers*(rounds+1))
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `\u0015`) || strings.Contains(line, poisoned) || !strings.Contains(line, `"path":"/orders/17"`) {
			t.Errorf("a line of the decision log is not what was asked: %s", line)
		}
	}
	if said := fmt.Sprint(events.All()); strings.Contains(said, poisoned) {
		t.Errorf("the operators' log shows a buffer that was given back: %q", said)
	}
}

// long is a request that is larger than the buffers that are not pooled.
func long(bearer, echo string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
		Id: "1", Method: "GET", Path: "/orders/17", Host: "orders.example.com", Headers: map[string]string{
			":path": "/orders/17", ":method": "GET", "authorization": bearer, "x-echo": echo, "x-long": strings.Repeat("long ", 200)}}}}}
}

func heard(answer *authv3.CheckResponse, name string) string {
	for _, h := range answer.GetOkResponse().GetHeaders() {
		if h.GetHeader().GetKey() == name {
			return h.GetHeader().GetValue() + string(h.GetHeader().GetRawValue())
		}
	}
	return ""
}

// poisonedConnection is connection with its own buffer pool.
func poisonedConnection(t *testing.T, pool mem.BufferPool, logger *zap.Logger, part gate.Part) *grpc.ClientConn {
	t.Helper()
	g := gatetest.Start(t, gate.Config{Logger: logger}, part)
	server := grpc.NewServer(append(extauthz.ServerOptions(), experimental.BufferPool(pool))...)
	extauthz.New(g, nil).Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-ended
	})
	return conn
}
