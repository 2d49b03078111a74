package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/input"
)

// TestLogTailFollows has decisions come while they are followed, and the file rotated.
func TestLogTailFollows(t *testing.T) {
	t.Chdir(t.TempDir())
	put := func(file, id string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintf(f, `{"decision_id":%q,"timestamp":"2026-03-01T10:00:00Z","outcome":"deny","identity":{"subject":"vera"}}`+"\n", id)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"A", "B"} {
		put("d.log", id)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	code := make(chan int)
	var stderr bytes.Buffer
	go func() {
		code <- run(ctx, []string{"log", "tail", "-f", "-n", "1", "--denied", "d.log"}, writer, &stderr)
	}()
	lines := bufio.NewScanner(reader)
	expect := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			if !lines.Scan() || !strings.HasSuffix(lines.Text(), " "+id) {
				t.Fatalf("%q, want %s", lines.Text(), id)
			}
		}
	}
	expect("B")
	put("d.log", "C")
	expect("C")
	if err := os.Rename("d.log", "d.log.1"); err != nil {
		t.Fatal(err)
	}
	put("d.log.1", "D")
	put("d.log", "E")
	expect("D", "E")
	cancel()
	if got := <-code; got != 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d\n%s", got, &stderr)
	}
}

// TestLogOfConfiguration reads what the configuration has written: its file, and what only its spool has yet.
func TestLogOfConfiguration(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "gatehouse.yaml", "policy: {decision: shop/allow, bundles: [{name: p, path: p}]}\n"+
		"decision_log: {file: d.log, dir: spool, max_size: 2MiB, labels: {id: here}}\n")
	write(t, "p/shop.rego", "package shop\n\ndefault allow := false\n")
	decisions := func(cfg decisionlog.Config, from, n int) {
		t.Helper()
		cfg.Dir, cfg.DrainTimeout = "spool", 10*time.Millisecond
		l, err := decisionlog.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		for i := range n {
			e := &decisionlog.Entry{DecisionID: fmt.Sprintf("D%d", from+i), Time: time.Now(), Outcome: "deny", Reason: "no_route",
				Asked: true,
				Input: decisionlog.Input{Request: input.Request{Headers: []decisionlog.Header{{Name: "x-color", Value: "green"}}}}}
			if err := l.Append(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	decisions(decisionlog.Config{File: "d.log"}, 0, 5)
	write(t, "p/log.rego", "package system.log\n\nmask contains \"/input/attributes/request/http/headers/x-color\"\n")
	write(t, "spool/rules", "") // as the policy leaves it that has such rules
	decisions(decisionlog.Config{File: "/dev/full"}, 5, 3)
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"log", "tail", "-n", "100", "-o", "json"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit code %d\n%s", code, &stderr)
	}
	var ids []string
	for line := range strings.Lines(stdout.String()) {
		id, _, _ := strings.Cut(strings.TrimPrefix(line, `{"decision_id":"`), `"`)
		ids = append(ids, id)
	}
	if got := strings.Join(ids, " "); got != "D0 D1 D2 D3 D4 D5 D6 D7" {
		t.Errorf("%s\n%s", got, &stdout)
	}
	if n := strings.Count(stdout.String(), `"labels":{"id":"here"}`); n != 3 {
		t.Errorf("%d decisions of the spool have the configuration's label", n)
	}
	if n := strings.Count(stdout.String(), `"x-color":"green"`); n != 5 {
		t.Errorf("%d decisions show what the policy masks, of five that were written without", n)
	}
	for _, line := range [][]string{{"explain", "D6"}, {"log", "grep", "D6"}, {"log", "grep", "D6", "spool"}, {"explain", "D6", "--log", "spool"}} {
		stdout.Reset()
		if code := run(t.Context(), line, &stdout, &stderr); code != 0 && line[0] == "log" || !strings.Contains(stdout.String(), "D6") {
			t.Errorf("%q: exit code %d\n%s%s", line, code, &stdout, &stderr)
		}
	}
	stdout.Reset() // by its path alone nobody knows what is to be masked
	if code := run(t.Context(), []string{"log", "grep", "-o", "json", "D6", "spool"}, &stdout, &stderr); code != 0 ||
		strings.Contains(stdout.String(), "green") || !strings.Contains(stdout.String(), `"erased":["/input"`) {
		t.Errorf("exit code %d\n%s", code, &stdout)
	}
}

// logServer takes what OPA sends, as it comes.
type logServer struct {
	mu     sync.Mutex
	bodies bytes.Buffer
	came   chan struct{}
}

func (l *logServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := io.Copy(&l.bodies, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.came <- struct{}{}
}

// TestLogReadsOPA has a real server of OPA's decide, print its decision log and send it. Both say the same.
func TestLogReadsOPA(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	policies := newControlPlane(t)
	sent := &logServer{came: make(chan struct{}, 100)}
	receiver := httptest.NewServer(sent)
	t.Cleanup(receiver.Close)
	write(t, at("opa.yaml"), fmt.Sprintf(`
services:
  policies: {url: %s, credentials: {bearer: {token: t}}}
  logs: {url: %s}
bundles: {app: {service: policies, resource: /bundles/app}}
decision_logs: {service: logs, console: true, reporting: {min_delay_seconds: 1, max_delay_seconds: 1}}
`, policies.URL, receiver.URL))
	console, err := os.Create(at("console.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	ask := serveOPA(t, at("opa.yaml"), at("opa.sock"), console)
	for _, path := range []string{"/a", "/b"} {
		ask("envoy/authz/allow", map[string]any{"attributes": map[string]any{"request": map[string]any{"http": map[string]any{"method": "GET", "path": path}}}})
	}
	stats := func(file string) string {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"log", "grep", "", file}, &stdout, &stderr); code > 1 || code == 0 && stderr.Len() > 0 {
			t.Fatalf("exit code %d\n%s", code, &stderr)
		}
		return stdout.String()
	}
	deadline := time.After(time.Minute)
	for got := ""; strings.Count(got, "\n") < 2; {
		select {
		case <-sent.came:
		case <-deadline:
			t.Fatal("OPA sent nothing:", got)
		}
		sent.mu.Lock()
		write(t, at("sent"), sent.bodies.String())
		sent.mu.Unlock()
		got = stats(at("sent"))
	}
	printed, received := stats(at("console.log")), stats(at("sent"))
	if printed != received || strings.Count(printed, "  allow    -  GET    /") != 2 {
		t.Errorf("printed\n%s\nsent\n%s", printed, received)
	}
}
