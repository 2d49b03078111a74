package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

func TestServeShowsItsState(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain).ready()
	conn := dial(t, p.grpc, nil)
	if code, headers, err := check(t.Context(), conn); err != nil || code != 200 || !slices.Contains(headers, "x-rule=one") {
		t.Errorf("check: %d %v %v", code, headers, err)
	}
	for _, service := range []string{"", authorization} {
		if got := healthOf(t, conn, service); got != "SERVING" {
			t.Errorf("health of %q: %s", service, got)
		}
	}
	if code, body := p.get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	if _, body := p.get("/metrics"); !strings.Contains(body, "gatehouse_decisions_total{") || !strings.Contains(body, "gatehouse_bundle_info{") ||
		!strings.Contains(body, "go_goroutines ") {
		t.Errorf("/metrics lacks some:\n%s", body)
	}
	if s := p.status(); !s.Ready || s.NotReady != "" || s.Draining || s.Revision == "" || len(s.Bundles) != 1 || s.Bundles[0].Name != "policy" {
		t.Errorf("/status: %+v", s)
	}
	resp, err := http.Post("http://"+p.admin+"/status", "text/plain", nil)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("the admin port takes more than GET: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if services := reflected(t, conn); !slices.Contains(services, authorization) || !slices.Contains(services, "grpc.health.v1.Health") {
		t.Errorf("reflection lists %v", services)
	}
}

// A decision that is asked for twice is remembered, and with --plain it is not; the answers are the same.
func TestServeRemembers(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{"": "gatehouse_memo_hits_total 1", "--plain": "gatehouse_memo_hits_total 0"} {
		p := newProcess(t, plain)
		if flag != "" {
			p.flags = []string{flag}
		}
		conn := dial(t, p.ready().grpc, nil)
		for range 2 {
			if code, headers, err := check(t.Context(), conn); err != nil || code != 200 || !slices.Contains(headers, "x-rule=one") {
				t.Errorf("%s: check: %d %v %v", flag, code, headers, err)
			}
		}
		if _, body := p.get("/metrics"); !strings.Contains(body, want) || !strings.Contains(body, "gatehouse_memo_alarm 0") {
			t.Errorf("%s: /metrics lacks %s:\n%s", flag, want, body)
		}
		if memo := p.status().Memo; memo.On != (flag == "") || memo.Why != "" != (flag != "") || memo.HitRatio > 0 != (flag == "") {
			t.Errorf("%s: /status: %+v", flag, memo)
		}
	}
}

// reflected asks the reflection service for what is there, as grpcurl's list does.
func reflected(t *testing.T, conn *grpc.ClientConn) (names []string) {
	t.Helper()
	stream, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	return names
}

func TestServeDrains(t *testing.T) {
	t.Parallel()
	p := newProcess(t, strings.Replace(plain, `admin: "$ADMIN"`, `admin: "$ADMIN", drain_delay: 500ms, drain_timeout: 5s`, 1)).ready()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn := dial(t, p.grpc, nil)
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: authorization})
	if err != nil {
		t.Fatal(err)
	}
	next := func() string {
		resp, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status.String()
	}
	if got := next(); got != "SERVING" {
		t.Fatalf("health before: %s", got)
	}
	p.signal(syscall.SIGTERM)
	if got := next(); got != "NOT_SERVING" {
		t.Fatalf("health while draining: %s", got)
	}
	if code, body := p.get("/readyz"); code != 503 || body != "not ready: draining\n" {
		t.Errorf("/readyz while draining: %d %q", code, body)
	}
	if code, _, err := check(ctx, conn); code != 200 || err != nil {
		t.Errorf("a request in the drain delay: %d %v", code, err)
	}
	cancel() // the watch is a request under way as well
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestServeReloadsInOneStep changes what decides and what the header is called, while requests are under way. Each of
// them must see both changes, or none.
func TestServeReloadsInOneStep(t *testing.T) {
	t.Parallel()
	config := plain + "headers: {subject: x-first}\n"
	p := newProcess(t, config).ready()
	conn := dial(t, p.grpc, nil)
	before, after := []string{"-x-auth-roles", "-x-first", "x-rule=one"}, []string{"-x-auth-roles", "-x-second", "x-rule=two"}
	seen := make(chan []string)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				code, headers, err := check(ctx, conn)
				if ctx.Err() != nil {
					return
				}
				if code != 200 || err != nil {
					headers = []string{fmt.Sprint(code, err)}
				}
				select {
				case seen <- headers:
				case <-ctx.Done():
				}
			}
		})
	}
	defer clients.Wait()
	defer cancel()
	if got := <-seen; !slices.Equal(got, before) {
		t.Fatalf("before the reload: %v", got)
	}
	p.configure(strings.NewReplacer("x-first", "x-second", "policy: {", "policy: {decision: envoy/authz/other, ").Replace(config))
	p.signal(syscall.SIGHUP)
	for deadline := time.After(hangGuard); ; {
		select {
		case got := <-seen:
			if slices.Equal(got, after) {
				return
			}
			if !slices.Equal(got, before) {
				t.Fatalf("neither the old nor the new configuration: %v", got)
			}
		case <-deadline:
			t.Fatal("the reload does not take effect")
		}
	}
}

func TestServeKeepsWhatWorks(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ config, want string }{
		"unknown key":    {plain + "headrs: {}\n", `gatehouse.yaml:4: unknown key "headrs": did you mean "headers"?`},
		"useless value":  {strings.Replace(plain, "policy: {", "policy: {timeout: 0s, ", 1), "gatehouse.yaml:3: policy.timeout: 0s: must be above zero"},
		"no such rule":   {strings.Replace(plain, "policy: {", "policy: {decision: envoy/authz/nothing, ", 1), `decision "envoy/authz/nothing" is not defined by any rule`},
		"missing bundle": {strings.Replace(plain, "path: policy", "path: elsewhere", 1), "gatehouse.yaml:3: "},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, plain).ready()
			p.configure(test.config)
			p.signal(syscall.SIGHUP)
			eventually(t, "waiting for reload_error", func() error {
				if got := p.status().ReloadError; !strings.Contains(got, test.want) {
					return fmt.Errorf("reload_error is %q", got)
				}
				return nil
			})
			if code, headers, err := check(t.Context(), dial(t, p.grpc, nil)); code != 200 || !slices.Contains(headers, "x-rule=one") {
				t.Errorf("the old configuration does not stay: %d %v %v", code, headers, err)
			}
			p.configure(plain)
			p.signal(syscall.SIGHUP)
			eventually(t, "waiting for a good reload", func() error {
				if got := p.status().ReloadError; got != "" {
					return errors.New(got)
				}
				return nil
			})
		})
	}
}

func TestServeWithoutAPolicyYet(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain)
	write(t, p.path("policy", "authz.rego"), "package envoy.authz\n\nallow if {\n")
	p.flags = []string{"--wait-for-policy"}
	p.start()
	eventually(t, "waiting for the admin port", func() error {
		if code, body := p.get("/readyz"); code != 503 || !strings.HasPrefix(body, "not ready: no policy is active yet (degraded: bundle \"policy\" is refused since ") {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	conn := dial(t, p.grpc, nil)
	if got := healthOf(t, conn, authorization); got != "NOT_SERVING" {
		t.Errorf("health: %s", got)
	}
	if code, _, err := check(t.Context(), conn); code != 503 || err != nil {
		t.Errorf("a request: %d %v", code, err)
	}
	if got := p.stderr.String(); strings.Count(got, "authz.rego:") != 1 {
		t.Errorf("the log does not name the file and line, once")
	}
	write(t, p.path("policy", "authz.rego"), allowAll)
	eventually(t, "waiting for the mended policy", func() error {
		if got := healthOf(t, conn, authorization); got != "SERVING" {
			return errors.New(got)
		}
		return nil
	})
	if code, _, err := check(t.Context(), conn); code != 200 || err != nil {
		t.Errorf("a request: %d %v", code, err)
	}
}

func TestServeReopensItsDecisionLog(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain+"decision_log: {file: decisions.log}\n").ready()
	conn := dial(t, p.grpc, nil)
	entries := func(file string) int {
		text, _ := os.ReadFile(p.path(file)) // it may not be there yet
		return bytes.Count(text, []byte("\n"))
	}
	logged := func(file string, want int) {
		t.Helper()
		if code, _, err := check(t.Context(), conn); code != 200 {
			t.Fatal(code, err)
		}
		eventually(t, "waiting for an entry in "+file, func() error {
			if got := entries(file); got != want {
				return fmt.Errorf("%d entries, want %d", got, want)
			}
			return nil
		})
	}
	logged("decisions.log", 1)
	if err := os.Rename(p.path("decisions.log"), p.path("decisions.log.1")); err != nil {
		t.Fatal(err)
	}
	logged("decisions.log.1", 2)
	p.signal(syscall.SIGHUP)
	sent := 2 // what is written before the writer has changed over goes to the moved file; nothing is lost
	eventually(t, "waiting for an entry in the new file", func() error {
		if code, _, err := check(t.Context(), conn); code != 200 {
			t.Fatal(code, err)
		}
		sent++
		if entries("decisions.log") == 0 {
			return errors.New("it has none")
		}
		return nil
	})
	eventually(t, "waiting for every entry", func() error {
		if got := entries("decisions.log") + entries("decisions.log.1"); got != sent {
			return fmt.Errorf("%d entries, %d were sent", got, sent)
		}
		return nil
	})
}

func TestServeOnUnixSockets(t *testing.T) {
	t.Parallel()
	config := `
listen: {grpc: ["unix:a.sock"], admin: "$ADMIN", socket: {mode: "0600"}}
policy: {bundles: [{path: policy}]}
`
	p := newProcess(t, config)
	stale, err := net.Listen("unix", p.path("a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close() // the file stays behind, as after a crash
	p.ready()
	info, err := os.Stat(p.path("a.sock"))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v %v", info.Mode(), err)
	}
	if code, _, err := check(t.Context(), unixDial(t, p.path("a.sock"))); code != 200 {
		t.Errorf("a request: %d %v", code, err)
	}
	second := newProcess(t, strings.Replace(config, "unix:a.sock", "unix:"+p.path("a.sock"), 1)).start()
	if code := second.exit(); code != 2 || !strings.Contains(second.stderr.String(), "listen.grpc[0]: another process is listening on "+p.path("a.sock")) {
		t.Errorf("a second one on the same socket: exit code %d\n%s", code, second.stderr.String())
	}
	if code, _, err := check(t.Context(), unixDial(t, p.path("a.sock"))); code != 200 {
		t.Errorf("a request after the second one was refused: %d %v", code, err)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	left, err := filepath.Glob(p.path("*.sock*"))
	hidden, err2 := filepath.Glob(p.path(".*sock*"))
	if left = append(left, hidden...); len(left) > 0 || errors.Join(err, err2) != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestServeRefusesToListen(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, test := range map[string]struct{ config, want string }{
		"grpc address in use": {strings.Replace(plain, "$GRPC", busy.Addr().String(), 1),
			"cannot listen, nothing was started:\ngatehouse.yaml:2: listen.grpc[0]: " + busy.Addr().String() + " is in use: another process listens there\n" +
				"change the address, or stop what listens there\n"},
		"admin address in use": {strings.Replace(plain, "$ADMIN", busy.Addr().String(), 1), "gatehouse.yaml:2: listen.admin: " + busy.Addr().String() + " is in use: another process listens there\n"},
		"a file in the way": {strings.Replace(plain, `"$GRPC"`, `"unix:gatehouse.yaml"`, 1),
			"gatehouse.yaml exists and is not a socket: remove it or choose another path"},
		"no such folder": {strings.Replace(plain, `"$GRPC"`, `"unix:nowhere/a.sock"`, 1), "gatehouse.yaml:2: listen.grpc[0]: listen unix nowhere/"},
		"a certificate without its key": {strings.Replace(plain, `admin: "$ADMIN"`, `admin: "$ADMIN", tls: {cert: gatehouse.yaml}`, 1),
			"gatehouse.yaml:2: listen.tls: cert and key are both needed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, test.config).start()
			if code := p.exit(); code != 2 || !strings.Contains(p.stderr.String(), test.want) {
				t.Errorf("exit code %d, want 1 and %q in:\n%s", code, test.want, p.stderr.String())
			}
		})
	}
}

// TestServeClosesAllIfOneFails holds that a second listener that cannot be had takes the first one's socket away as well.
func TestServeClosesAllIfOneFails(t *testing.T) {
	t.Parallel()
	p := newProcess(t, strings.Replace(plain, `"$GRPC"`, `"unix:a.sock", "unix:nowhere/b.sock"`, 1)).start()
	if code := p.exit(); code != 2 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Lstat(p.path("a.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a.sock stayed: %v", err)
	}
}

// TestServeKilled kills the process while requests come in: every decision that was answered is in the log, once, after it has run again.
func TestServeKilled(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain+"state_dir: state\ndecision_log: {file: decisions.log}\n")
	answered := map[string]bool{}
	for round := range 3 {
		p.ended = make(chan struct{})
		client := auth.NewAuthorizationClient(dial(t, p.ready().grpc, nil))
		ids := make(chan string)
		for range 4 {
			go func() {
				for {
					resp, err := client.Check(t.Context(), &auth.CheckRequest{Attributes: &auth.AttributeContext{
						Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "app"}}}})
					if err != nil {
						ids <- ""
						return
					}
					ids <- resp.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue()
				}
			}()
		}
		for n, clients := 0, 4; clients > 0; n++ {
			if id := <-ids; id != "" {
				answered[id] = true
			} else {
				clients--
			}
			if n == 300+77*round {
				p.signal(syscall.SIGKILL)
			}
		}
		<-p.ended
	}
	p.ended = make(chan struct{})
	p.ready().signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	text, err := os.ReadFile(p.path("decisions.log"))
	if err != nil {
		t.Fatal(err)
	}
	if len(answered) < 900 {
		t.Errorf("%d requests were answered", len(answered))
	}
	for id := range answered {
		if n := bytes.Count(text, []byte(`{"decision_id":"`+id+`"`)); n != 1 {
			t.Errorf("%s is there %d times", id, n)
		}
	}
}
