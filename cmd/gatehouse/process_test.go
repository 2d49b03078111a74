package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"gatehouse/children"
	"gatehouse/server"
)

// hangGuard is how long anything that must happen may take.
const hangGuard = time.Minute

// eventually asks until there is no error, and fails with the last one.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for end := time.Now().Add(hangGuard); time.Now().Before(end); <-tick.C {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// process is a running `gatehouse serve` with a folder of its own.
type process struct {
	t           *testing.T
	dir         string
	grpc, admin string // addresses
	cmd         *exec.Cmd
	stderr      output
	flags       []string // of serve, besides --config
	ended       chan struct{}
	err         error // valid once ended is closed
}

// output is a buffer that may be read while it is written.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// allowAll says which of the two rules decided, and under which name the caller goes.
const allowAll = `package envoy.authz

allow := {"allowed": true, "headers": {"x-rule": "one"}}

other := {"allowed": true, "headers": {"x-rule": "two"}}
`

// newProcess makes a folder with a policy. In the configuration $GRPC and $ADMIN stand for free addresses on loopback.
func newProcess(t *testing.T, config string) *process {
	t.Helper()
	p := &process{t: t, dir: t.TempDir(), grpc: freeAddress(t), admin: freeAddress(t), ended: make(chan struct{})}
	write(t, p.path("policy", "authz.rego"), allowAll)
	p.configure(config)
	return p
}

func (p *process) path(elements ...string) string {
	return filepath.Join(append([]string{p.dir}, elements...)...)
}

func (p *process) configure(config string) {
	p.t.Helper()
	write(p.t, p.path("gatehouse.yaml"), strings.NewReplacer("$GRPC", p.grpc, "$ADMIN", p.admin).Replace(config))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := children.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// start starts it and makes sure that it ends with the test.
func (p *process) start() *process {
	p.t.Helper()
	p.cmd = exec.Command("gatehouse", append([]string{"serve", "--config", "gatehouse.yaml"}, p.flags...)...)
	p.cmd.Dir, p.cmd.Stderr = p.dir, &p.stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		if p.t.Failed() {
			p.t.Logf("its standard error:\n%s", p.stderr.String())
		}
	})
	return p
}

// ready starts it and waits until it can decide.
func (p *process) ready() *process {
	p.t.Helper()
	p.start()
	eventually(p.t, "waiting for /readyz", func() error {
		select {
		case <-p.ended:
			return fmt.Errorf("it has ended: %v", p.err)
		default:
		}
		if code, body := p.get("/readyz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(hangGuard):
		p.t.Fatal("it does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// get asks the admin port; a code of 0 is no answer.
func (p *process) get(path string) (int, string) {
	resp, err := http.Get("http://" + p.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func (p *process) status() server.Status {
	p.t.Helper()
	var s server.Status
	_, body := p.get("/status")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		p.t.Fatalf("%v: %s", err, body)
	}
	return s
}

// dial connects to an address; what is wrong with it shows with the first call.
func dial(t *testing.T, address string, secure credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	if secure == nil {
		secure = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(secure))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func unixDial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// check asks about GET / and returns the headers that are set and removed, as "name=value" and "-name".
func check(ctx context.Context, conn *grpc.ClientConn) (code int32, headers []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, hangGuard)
	defer cancel()
	resp, err := auth.NewAuthorizationClient(conn).Check(ctx, &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "app", Scheme: "http"}}}})
	if err != nil {
		return 0, nil, err
	}
	for _, h := range resp.GetOkResponse().GetHeaders() {
		headers = append(headers, h.Header.Key+"="+h.Header.Value+string(h.Header.RawValue))
	}
	for _, name := range resp.GetOkResponse().GetHeadersToRemove() {
		headers = append(headers, "-"+name)
	}
	slices.Sort(headers)
	if denied := resp.GetDeniedResponse(); denied != nil {
		return int32(denied.GetStatus().GetCode()), nil, nil
	}
	return 200, headers, nil
}

func healthOf(t *testing.T, conn *grpc.ClientConn, service string) string {
	t.Helper()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status.String()
}

const authorization = "envoy.service.auth.v3.Authorization"

const plain = `
listen: {grpc: ["$GRPC"], admin: "$ADMIN"}
policy: {bundles: [{path: policy}]}
`
