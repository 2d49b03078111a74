package decisionlog_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"gatehouse/decisionlog"
	"gatehouse/input"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killed); dir != "" {
		beKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// doc is a document given as JSON text.
type doc string

func (d doc) JSON() (any, error) {
	dec := json.NewDecoder(strings.NewReader(string(d)))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	return v, err
}

// made is a document that a func makes.
type made func() (any, error)

func (f made) JSON() (any, error) { return f() }

// sink collects what is written to standard output and can be waited for.
type sink struct {
	mu   sync.Mutex
	cond *sync.Cond
	text []byte
}

func newSink() *sink { s := &sink{}; s.cond = sync.NewCond(&s.mu); return s }

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p...)
	s.cond.Broadcast()
	return len(p), nil
}

// await returns what was written once it contains text.
func (s *sink) await(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !bytes.Contains(s.text, []byte(text)) {
		s.cond.Wait()
	}
	return string(s.text)
}

// open is New, or the end of the test.
func open(t testing.TB, cfg decisionlog.Config) *decisionlog.Log {
	t.Helper()
	l, err := decisionlog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs the log; what it returns ends it and gives Run's error.
func run(l *decisionlog.Log) (end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

func finish(t testing.TB, end func() error) {
	t.Helper()
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, l *decisionlog.Log, e *decisionlog.Entry) {
	t.Helper()
	if err := l.Append(context.Background(), e); err != nil {
		t.Fatal(err)
	}
}

// write returns the one line that the entry becomes.
func write(t testing.TB, cfg decisionlog.Config, e *decisionlog.Entry) string {
	t.Helper()
	out := newSink()
	cfg.File, cfg.Stdout = "-", out
	l := open(t, cfg)
	add(t, l, e)
	finish(t, run(l))
	return out.await("\n")
}

func parse(t testing.TB, line string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Fatalf("%v in line %q", err, line)
	}
	return v
}

func entry(id int) *decisionlog.Entry {
	return &decisionlog.Entry{DecisionID: fmt.Sprint(id), Outcome: "allow"}
}

func TestLine(t *testing.T) {
	e := &decisionlog.Entry{DecisionID: "d-1", Time: time.Date(2026, 3, 1, 11, 0, 0, 5, time.FixedZone("", 3600)), Duration: 1500,
		App: "orders", Route: "/orders/{id}", Outcome: "deny", Reason: "denied", Status: 403, DryRun: true,
		Peer: "spiffe://example/envoy", RequestedBy: "127.0.0.1:4711", TraceID: "4bf9", SpanID: "00f0", Revision: "r9",
		Bundles: []decisionlog.Bundle{{Name: "app", Revision: "v2", Digest: "sha256:aa"}, {Name: "data", Revision: "v1"}},
		Asked:   true, Result: doc(`{"allowed":false}`), Error: "no rule",
		Input: decisionlog.Input{Request: input.Request{Method: "GET", Host: "orders.example.com", Path: "/orders/7?x=<1>", Scheme: "https", Size: 7,
			Headers: []decisionlog.Header{{Name: "x", Value: "1"}, {Name: "x", Value: "2"}}, Time: time.Unix(17, 5),
			Source: decisionlog.Endpoint{Address: input.Address{Host: "10.0.0.1", Port: 1}, Labels: map[string]string{"a": "b"}},
			TLS:    &input.TLSSession{}}, DecisionPath: "envoy/authz/allow",
			Identity:  decisionlog.Identity{Type: "jwt", Subject: "ann", Issuer: "https://issuer", Roles: []string{"viewer"}, Groups: []string{"g"}, Scopes: []string{"s"}, Authenticated: true},
			Truncated: true, ParsedBody: doc(`{"n":12345678901234567890.10}`), Matched: true}}
	e.AddParam("id", "7")
	got := write(t, decisionlog.Config{Labels: map[string]string{"id": "gh-1"}}, e)
	want := `{"decision_id":"d-1","timestamp":"2026-03-01T10:00:00.000000005Z","format":1,"labels":{"id":"gh-1"},` +
		`"trace_id":"4bf9","span_id":"00f0","revision":"r9",` +
		`"bundles":{"app":{"revision":"v2","digest":"sha256:aa"},"data":{"revision":"v1"}},` +
		`"path":"envoy/authz/allow","requested_by":"127.0.0.1:4711","app":"orders","route":"/orders/{id}",` +
		`"parameters":{"id":"7"},"identity":{"type":"jwt","subject":"ann","issuer":"https://issuer","roles":["viewer"],"groups":["g"],"scopes":["s"],"authenticated":true},` +
		`"peer":"spiffe://example/envoy","request":{"method":"GET","host":"orders.example.com","path":"/orders/7?x=<1>"},` +
		`"outcome":"deny","reason":"denied","status":403,"dry_run":true,"error":{"code":"denied","message":"no rule"},` +
		`"metrics":{"timer_server_handler_ns":1500},"result":{"allowed":false},` +
		`"input":{"attributes":{"request":{"http":{"headers":{"x":"1,2"},"host":"orders.example.com","method":"GET","path":"/orders/7?x=<1>","scheme":"https","size":7},` +
		`"time":{"nanos":5,"seconds":17}},"source":{"address":{"socketAddress":{"address":"10.0.0.1","portValue":1}},"labels":{"a":"b"}},"tlsSession":{}},` +
		`"identity":{"authenticated":true,"groups":["g"],"issuer":"https://issuer","roles":["viewer"],"scopes":["s"],"subject":"ann","type":"jwt"},` +
		`"parsed_body":{"n":12345678901234567890.10},"parsed_path":["orders","7"],"parsed_query":{"x":["<1>"]},"policy":{"path":"envoy/authz/allow"},` +
		`"resource":{"id":"7"},"route":{"method":"GET","params":{"id":"7"}},"truncated_body":true,"version":{"encoding":"protojson","ext_authz":"v3"}}}` + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNoLog(t *testing.T) {
	var none *decisionlog.Log
	for name, l := range map[string]*decisionlog.Log{"nil": none, "no file": open(t, decisionlog.Config{})} {
		t.Run(name, func(t *testing.T) {
			end := run(l)
			add(t, l, entry(1))
			if err := l.Reopen(); err != nil {
				t.Error(err)
			}
			if got := l.Status(); !cmp.Equal(got, decisionlog.Status{}) {
				t.Errorf("status %+v", got)
			}
			finish(t, end)
		})
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := prometheus.NewRegistry()
	finish(t, run(open(t, decisionlog.Config{File: "-", Registerer: taken})))
	for _, tt := range []struct {
		name string
		cfg  decisionlog.Config
		want string
	}{
		{"missing directory", decisionlog.Config{File: filepath.Join(dir, "no", "d.log")}, `directory "` + filepath.Join(dir, "no") + `" does not exist`},
		{"directory", decisionlog.Config{File: dir}, "is a directory"},
		{"pipe without reader", decisionlog.Config{File: fifo}, "no such device"},
		{"on_full", decisionlog.Config{OnFull: "block"}, `on_full is "block": must be wait, drop or deny`},
		{"queue", decisionlog.Config{Queue: -1}, "must not be negative"},
		{"max entry", decisionlog.Config{MaxEntry: 100}, "100 bytes is too small"},
		{"metrics", decisionlog.Config{File: "-", Registerer: taken}, "registering metrics"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decisionlog.New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestFileMode(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d.log")
	finish(t, run(open(t, decisionlog.Config{File: name})))
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestWaitFindsRoom(t *testing.T) {
	out := newSink()
	l := open(t, decisionlog.Config{File: "-", Queue: 1, MaxWait: time.Hour, Stdout: out})
	add(t, l, entry(1))
	second := make(chan error)
	go func() { second <- l.Append(context.Background(), entry(2)) }()
	end := run(l)
	if err := <-second; err != nil {
		t.Error(err)
	}
	finish(t, end)
	if got := l.Status(); got.Written != 2 || got.Dropped != 0 {
		t.Errorf("%+v", got)
	}
}

func TestTooLarge(t *testing.T) {
	big := strings.Repeat("x", 9<<10)
	bigDoc := doc(`{"a":"` + big + `"}`)
	in := func(d decisionlog.Document) decisionlog.Input { return decisionlog.Input{ParsedBody: d} }
	fails := made(func() (any, error) { return nil, errors.New("no") })
	panics := made(func() (any, error) { panic("no") })
	roles := make([]string, 3000)
	for i := range roles {
		roles[i] = "role"
	}
	for _, tt := range []struct {
		name           string
		entry          decisionlog.Entry
		erased, masked string
	}{
		{"input", decisionlog.Entry{Asked: true, Input: in(bigDoc), Result: doc(`1`)}, "[/input]", "<nil>"},
		{"result", decisionlog.Entry{Result: bigDoc}, "[/result]", "<nil>"},
		{"both", decisionlog.Entry{Asked: true, Input: in(bigDoc), Result: bigDoc}, "[/input /result]", "<nil>"},
		{"fails", decisionlog.Entry{Asked: true, Input: in(fails), Result: doc(`1`)}, "[/input]", "<nil>"},
		{"result fails", decisionlog.Entry{Result: fails}, "[/result]", "<nil>"},
		{"panics", decisionlog.Entry{Asked: true, Input: in(panics)}, "[/input]", "<nil>"},
		{"as JSON alone", decisionlog.Entry{Asked: true, Result: doc(`1`),
			Input: decisionlog.Input{Request: input.Request{Headers: []decisionlog.Header{{Name: "a", Value: strings.Repeat("\x01", 2<<10)}}}}}, "[/input]", "<nil>"},
		{"not JSON", decisionlog.Entry{Asked: true, Input: in(made(func() (any, error) { return map[string]any{"a": func() {}}, nil }))}, "[/input]", "<nil>"},
		{"result not JSON", decisionlog.Entry{Result: made(func() (any, error) { return []any{func() {}}, nil })}, "[/result]", "<nil>"},
		{"no number", decisionlog.Entry{Result: made(func() (any, error) { return json.Number("x"), nil })}, "[/result]", "<nil>"},
		{"no memory", decisionlog.Entry{Asked: true, Input: in(doc(`1`)), InputSize: 1 << 20}, "[/input]", "<nil>"},
		{"roles", decisionlog.Entry{Input: decisionlog.Input{Identity: decisionlog.Identity{Roles: roles}}}, "[/identity/roles]", "<nil>"},
		{"metadata not JSON", decisionlog.Entry{Asked: true, Input: decisionlog.Input{Request: input.Request{Metadata: map[string]any{"a": func() {}}}}}, "[/input]", "<nil>"},
		{"everything", decisionlog.Entry{Error: big, Reason: big,
			Input: decisionlog.Input{Request: input.Request{Path: strings.Repeat("\x01", 60<<10), Host: strings.Repeat("ä", 9<<10)}}}, "<nil>",
			"[/reason /request/host /request/path /error/code /error/message]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.entry.DecisionID = "01234567-0123-0123-0123-0123456789ab"
			line := write(t, decisionlog.Config{MaxEntry: 8 << 10, QueueBytes: 1 << 10}, &tt.entry)
			got := parse(t, line)
			if len(line) > 8<<10 || got["decision_id"] != tt.entry.DecisionID || got["input"] != nil {
				t.Errorf("%d bytes: %s", len(line), line)
			}
			if e, m := fmt.Sprint(got["erased"]), fmt.Sprint(got["masked"]); e != tt.erased || m != tt.masked {
				t.Errorf("erased %s, masked %s; want %s, %s", e, m, tt.erased, tt.masked)
			}
		})
	}
}

func TestInvalidUTF8(t *testing.T) {
	body := made(func() (any, error) { return map[string]any{"k\xff": "v\xc3("}, nil })
	line := write(t, decisionlog.Config{}, &decisionlog.Entry{Asked: true, Input: decisionlog.Input{Request: input.Request{Path: "/\xff\x00\n"}, ParsedBody: body}})
	got := parse(t, line)
	if strings.Count(line, "\n") != 1 || got["request"].(map[string]any)["path"] != "/\ufffd\x00\n" {
		t.Errorf("%q", line)
	}
	if diff := cmp.Diff(map[string]any{"k\ufffd": "v\ufffd("}, got["input"].(map[string]any)["parsed_body"]); diff != "" {
		t.Error(diff)
	}
}

// ids returns how often each decision is in the files; every line must parse.
func ids(t *testing.T, files ...string) map[string]int {
	t.Helper()
	found := map[string]int{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(f)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var line struct {
				ID string `json:"decision_id"`
			}
			if err := json.Unmarshal(in.Bytes(), &line); err != nil {
				t.Fatalf("%v in line %q", err, in.Text())
			}
			if line.ID != "" {
				found[line.ID]++
			}
		}
		f.Close()
	}
	return found
}

func TestRotateWhileWriting(t *testing.T) {
	const writers, each, rotations = 4, 2000, 20
	name := filepath.Join(t.TempDir(), "d.log")
	l := open(t, decisionlog.Config{File: name, Queue: 64, MaxWait: time.Hour})
	end := run(l)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := l.Append(context.Background(), entry(w*each+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	files := []string{name}
	for i := range rotations {
		old := fmt.Sprint(name, ".", i)
		if err := os.Rename(name, old); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
	}
	wg.Wait()
	finish(t, end)
	if err := l.Reopen(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reopen after the end: %v", err)
	}
	found := ids(t, files...)
	for i := range writers * each {
		if n := found[fmt.Sprint(i)]; n != 1 {
			t.Fatalf("entry %d was written %d times", i, n)
		}
	}
}

func TestReopenFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, decisionlog.Config{File: filepath.Join(dir, "d.log")})
	end := run(l)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reopen: %v", err)
	}
	add(t, l, entry(1))
	finish(t, end)
	if found := ids(t, filepath.Join(dir+".old", "d.log")); found["1"] != 1 {
		t.Errorf("%v", found)
	}
}

// flaky takes n bytes and fails, for each n in turn; then it works.
type flaky struct {
	*sink
	takes []int
}

func (f *flaky) Write(p []byte) (int, error) {
	if len(f.takes) == 0 {
		return f.sink.Write(p)
	}
	n := min(f.takes[0], len(p))
	f.takes = f.takes[1:]
	f.sink.Write(p[:n])
	return n, errors.New("no space left")
}

func TestSinkRecovers(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	out := &flaky{newSink(), []int{0, 10, 200}}
	l := open(t, decisionlog.Config{File: "-", Stdout: out, Logger: zap.New(core)})
	for i := range 5 {
		add(t, l, entry(i))
	}
	end := run(l)
	text := out.await(`{"decision_id":"4"`)
	finish(t, end)
	for i, line := range strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n") {
		if got := parse(t, line)["decision_id"]; got != fmt.Sprint(i) {
			t.Errorf("line %d is entry %v", i, got)
		}
	}
	if got := l.Status(); got.Written != 5 || got.Dropped != 0 || got.Error != "" {
		t.Errorf("%+v", got)
	}
	if all := logs.All(); len(all) != 2 || all[0].Message != "writing decision log; will keep trying" || all[1].Message != "decision log is being written again" {
		t.Errorf("%v", all)
	}
}

// TestFullDisk uses the device that always answers ENOSPC.
func TestFullDisk(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	failed := make(chan struct{})
	var once sync.Once
	logger := zap.New(core, zap.Hooks(func(zapcore.Entry) error { once.Do(func() { close(failed) }); return nil }))
	l := open(t, decisionlog.Config{File: "/dev/full", Queue: 1, DrainTimeout: 250 * time.Millisecond, Logger: logger, MaxWait: time.Hour})
	end := run(l)
	add(t, l, entry(1))
	<-failed
	add(t, l, entry(2))
	// The default is to wait, but not for a sink that is known to refuse.
	if err := l.Append(context.Background(), entry(3)); !errors.Is(err, decisionlog.ErrFull) {
		t.Error(err)
	}
	if got := l.Status(); got.Queued != 2 || !strings.Contains(got.Error, "no space left on device") {
		t.Errorf("%+v", got)
	}
	if err := end(); err == nil || !strings.Contains(err.Error(), "2 entries were not written") {
		t.Errorf("run: %v", err)
	}
	if got := l.Status(); got.Queued != 0 || got.Written != 0 || got.Dropped != 3 {
		t.Errorf("%+v", got)
	}
	if logs.Len() != 1 {
		t.Errorf("told %d times within a minute", logs.Len())
	}
}

// TestTornLine breaks a pipe in the middle of a line: the file that comes into
// its place starts with the whole of that line.
func TestTornLine(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d.log")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, decisionlog.Config{File: name})
	long := decisionlog.Input{ParsedBody: doc(`"` + strings.Repeat("x", 30<<10) + `"`)}
	for i := range 3 { // one batch of 90 KiB; the pipe takes 64
		add(t, l, &decisionlog.Entry{DecisionID: fmt.Sprint(i), Asked: true, Input: long})
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	end := run(l)
	if _, err := io.ReadFull(pipe, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	finish(t, end)
	if diff := cmp.Diff(map[string]int{"2": 1}, ids(t, name)); diff != "" {
		t.Error(diff)
	}
}

// hung never returns from a write until it is released.
type hung struct{ entered, release chan struct{} }

func (h *hung) Write(p []byte) (int, error) {
	close(h.entered)
	<-h.release
	return len(p), nil
}

func TestHungSink(t *testing.T) {
	out := &hung{make(chan struct{}), make(chan struct{})}
	l := open(t, decisionlog.Config{File: "-", Stdout: out, DrainTimeout: 10 * time.Millisecond})
	end := run(l)
	add(t, l, entry(1))
	<-out.entered
	add(t, l, entry(2))
	if err := end(); err == nil || !strings.Contains(err.Error(), "2 entries were not written: the sink does not take them") {
		t.Errorf("run: %v", err)
	}
	if err := l.Append(context.Background(), entry(3)); !errors.Is(err, decisionlog.ErrFull) {
		t.Errorf("append after the end: %v", err)
	}
	close(out.release)
	if got := l.Status(); got.Queued != 0 || got.Dropped != 3 || got.Written != 0 {
		t.Errorf("%+v", got)
	}
}

// TestEnd ends Run while entries arrive: each is either written or counted.
func TestEnd(t *testing.T) {
	for range 50 {
		name := filepath.Join(t.TempDir(), "d.log")
		l := open(t, decisionlog.Config{File: name, Queue: 4})
		end := run(l)
		var wg sync.WaitGroup
		var taken, lost atomic.Uint64
		first := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for i := range 200 {
					if l.Append(context.Background(), entry(i)) == nil {
						taken.Add(1)
					} else {
						lost.Add(1)
					}
					if i == 20 {
						select {
						case first <- struct{}{}:
						default:
						}
					}
				}
			})
		}
		<-first
		finish(t, end)
		wg.Wait()
		lines := 0
		for _, n := range ids(t, name) {
			lines += n
		}
		got := l.Status()
		if got.Written != taken.Load() || got.Dropped != lost.Load() || got.Written+got.Dropped != 800 || uint64(lines) != got.Written || got.Queued != 0 {
			t.Fatalf("%+v, %d lines, %d taken, %d lost", got, lines, taken.Load(), lost.Load())
		}
	}
}

func TestRunTwice(t *testing.T) {
	l := open(t, decisionlog.Config{File: "-", Stdout: io.Discard})
	finish(t, run(l))
	if err := l.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Error(err)
	}
}
