package top_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/gate"
	"gatehouse/server"
	"gatehouse/top"
)

// process stands for a running gatehouse: what it would answer, which changes with every look, and its log.
type process struct {
	mu    sync.Mutex
	looks int
	log   string
	each  func(look int) // called before each answer; may write to the log
	down  bool
}

func (p *process) status(context.Context) (server.Status, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return server.Status{}, errors.New("talking to the running process: refused\nis it running?")
	}
	p.looks++
	if p.each != nil {
		p.each(p.looks)
	}
	return server.Status{Ready: true, Started: time.Unix(1e9, 0), Revision: "v\x1b[31m1", Memo: gate.MemoStatus{On: true, Hits: uint64(90 * p.looks), Misses: uint64(10 * p.looks), Entries: 7}}, nil
}

func (p *process) metrics(context.Context) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.looks
	return fmt.Appendf(nil, `# TYPE gatehouse_decisions_total counter
gatehouse_decisions_total{outcome="allow",reason=""} %d
gatehouse_decisions_total{outcome="deny",reason="no_route"} %d
# TYPE gatehouse_decision_duration_seconds histogram
gatehouse_decision_duration_seconds_bucket{le="0.001"} %d
gatehouse_decision_duration_seconds_bucket{le="+Inf"} %d
gatehouse_decision_duration_seconds_sum 1
gatehouse_decision_duration_seconds_count %d
# TYPE gatehouse_decision_log_spool_oldest_seconds gauge
gatehouse_decision_log_spool_oldest_seconds{sink="s"} 2.5
`, 900*n, 100*n, 1000*n, 1000*n, 1000*n), nil
}

// decided is lines of a decision log.
func decided(n int, method, route, outcome, reason string) string {
	return strings.Repeat(fmt.Sprintf(`{"decision_id":"X","timestamp":%q,"format":1,"route":%q,"request":{"method":%q,"path":"/x"},"outcome":%q,"reason":%q,"metrics":{"timer_server_handler_ns":50000}}`+"\n",
		time.Now().UTC().Format(time.RFC3339Nano), route, method, outcome, reason), n)
}

func (p *process) append(t *testing.T, text string) {
	t.Helper()
	f, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		t.Error(err)
	}
}

func start(t *testing.T) (*process, top.Config) {
	t.Helper()
	p := &process{log: filepath.Join(t.TempDir(), "decisions.log")}
	return p, top.Config{Status: p.status, Metrics: p.metrics, Log: p.log, Every: 200 * time.Millisecond, Window: time.Minute, Once: true, JSON: true}
}

// once is what one look shows.
func once(t *testing.T, c top.Config) (s top.State) {
	t.Helper()
	var out bytes.Buffer
	c.Out = &out
	if err := top.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return s
}

func TestStateIsOfTheWindow(t *testing.T) {
	p, c := start(t)
	p.append(t, decided(3, "GET", "/orders", "allow", "")+`not JS`)
	p.each = func(look int) {
		if look == 2 {
			p.append(t, "ON\n"+decided(2, "POST", "/orders", "deny", "denied"))
			if err := os.Rename(p.log, p.log+".1"); err != nil { // rotated between two looks
				t.Error(err)
			}
			p.append(t, decided(1, "GET", "", "deny", "no_route"))
		}
	}
	s := once(t, c)
	if s.Source != "metrics" || s.Requests <= 0 || s.Denied < 0.09*s.Requests || s.Denied > 0.11*s.Requests || s.Reasons["no_route"] != s.Denied || s.P50 <= 0 || s.P99 > 0.001 {
		t.Errorf("%+v", s)
	}
	if s.Memo.Hits != 0.9 || s.Log.Seconds != 2.5 || s.Directory != -1 {
		t.Errorf("%+v", s)
	}
	var got []string
	for _, r := range s.Routes {
		got = append(got, fmt.Sprintf("%s %v", r.Route, r.Denied > 0))
	}
	if text := strings.Join(got, ", "); text != "GET /orders false, POST /orders true, (no route) true" {
		t.Error(text)
	}
	// Without metrics rates are the log's.
	p, c = start(t)
	c.Metrics = nil
	p.append(t, decided(30, "GET", "/orders", "allow", "")+decided(10, "GET", "/orders", "deny", "denied"))
	if s := once(t, c); s.Source != "log" || s.Requests <= 0 || s.Denied != s.Requests/4 {
		t.Errorf("%+v", s)
	}
	// Without a log it says so.
	c.Log, c.NoLog = "", "no log"
	if s := once(t, c); s.NoRoutes != "no log" || len(s.Routes) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestMemoryIsBounded: routes without end are some routes and the others; a log that grows faster than it is read is read at its end.
func TestMemoryIsBounded(t *testing.T) {
	p, c := start(t)
	p.append(t, strings.Repeat("x", 3<<20)+"\n")
	p.each = func(look int) {
		if look == 2 {
			var all strings.Builder
			all.WriteString(strings.Repeat("not JSON, and long\n", 500_000))
			for i := range 3000 {
				all.WriteString(decided(1, "GET", fmt.Sprintf("/r%d", i), "allow", ""))
			}
			p.append(t, all.String())
		}
	}
	s := once(t, c)
	if len(s.Routes) < 1000 || len(s.Routes) > 1001 || s.Log.Skipped < 1<<20 {
		t.Errorf("%d routes, %d bytes skipped", len(s.Routes), s.Log.Skipped)
	}
}

func TestItSaysWhatIsWrong(t *testing.T) {
	p, c := start(t)
	p.down = true
	if err := top.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Error(err)
	}
	for _, change := range []func(*top.Config){
		func(c *top.Config) { c.Every = time.Millisecond },
		func(c *top.Config) { c.Window = 10000 * time.Hour },
		func(c *top.Config) { c.Sort = "size" },
	} {
		_, c := start(t)
		change(&c)
		if err := top.Run(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), "--") {
			t.Error(err)
		}
	}
}

// TestLines: without a terminal a line for each look, also while the process is away, and nothing that a terminal obeys.
func TestLines(t *testing.T) {
	p, c := start(t)
	c.Once, c.JSON = false, false
	ctx, end := context.WithCancel(t.Context())
	var out bytes.Buffer
	c.Out = &out
	p.each = func(look int) {
		if p.down = look >= 3; p.down {
			time.AfterFunc(time.Second, end)
		}
	}
	if err := top.Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "\x1b") || !strings.Contains(text, "  ready  requests ") || !strings.Contains(text, "refused; is it running?") {
		t.Error(text)
	}
}

// terminalPair makes a terminal: the end of whoever sits at it, and that of the program.
func terminalPair(t *testing.T, width, height uint16) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	resize(t, user, width, height)
	return user, program
}

func resize(t *testing.T, user *os.File, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
		t.Fatal(err)
	}
}

// TestScreen sits at a terminal: the page fits it, keys sort, a change of its size is seen, q leaves it as it was; with NO_COLOR there is none.
func TestScreen(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	p, c := start(t)
	c.Once, c.JSON = false, false
	for i := range 40 {
		p.append(t, decided(1, "GET", fmt.Sprintf("/a-route-with-a-long-name/%d", i), "allow", ""))
	}
	p.append(t, decided(1, "GET", "/zzz", "deny", "denied"))
	user, program := terminalPair(t, 60, 15)
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	c.In, c.Out = program, program
	ended := make(chan error, 1)
	go func() { ended <- top.Run(t.Context(), c) }()
	screen := &shown{}
	go screen.read(user)

	page := screen.waitFor(t, "routes by requests")
	for _, line := range strings.Split(page, "\r\n") {
		if n := len([]rune(plain(line))); n > 60 {
			t.Errorf("%d characters: %q", n, line)
		}
	}
	if n := strings.Count(page, "\r\n") + 1; n > 15 {
		t.Errorf("%d lines:\n%s", n, page)
	}
	if !strings.Contains(page, "\x1b[32mready") || !strings.Contains(page, "more routes") || strings.Contains(page, "v\x1b[31m1") {
		t.Errorf("%q", page)
	}
	_, _ = user.WriteString("d")
	if page := screen.waitFor(t, "routes by denied"); !strings.Contains(page, "/zzz") {
		t.Errorf("%q", page)
	}
	_, _ = user.WriteString(" ")
	screen.waitFor(t, "paused")
	resize(t, user, 30, 8)
	_, _ = user.WriteString("n")
	screen.waitFor(t, "routes by route, of the last …")
	_, _ = user.WriteString("q")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	const enter, leave = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
	for end := time.Now().Add(20 * time.Second); !strings.HasSuffix(screen.text(), leave) && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		continue // what was written last is still on its way
	}
	if all := screen.text(); !strings.HasPrefix(all, enter) || !strings.HasSuffix(all, leave) {
		t.Errorf("%q", all[max(0, len(all)-100):])
	}
	if after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v", err)
	}

	t.Setenv("NO_COLOR", "1")
	user, program = terminalPair(t, 80, 24)
	c.In, c.Out = program, program
	go func() { ended <- top.Run(t.Context(), c) }()
	screen = &shown{}
	go screen.read(user)
	if page := screen.waitFor(t, "routes by requests"); strings.Contains(page, "\x1b[32m") || strings.Contains(page, "\x1b[1m") {
		t.Errorf("%q", page)
	}
	_, _ = user.WriteString("\x03") // Ctrl-C
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// plain is a line without what a terminal obeys.
func plain(line string) string {
	for {
		at := strings.Index(line, "\x1b[")
		if at < 0 {
			return line
		}
		end := strings.IndexAny(line[at+2:], "ABCDHJKmhl")
		if end < 0 {
			return line[:at]
		}
		line = line[:at] + line[at+2+end+1:]
	}
}

// shown is what a terminal was sent.
type shown struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *shown) read(user *os.File) {
	buf := make([]byte, 64<<10)
	for {
		n, err := user.Read(buf)
		s.mu.Lock()
		s.all.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *shown) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// waitFor waits for a page with this in it.
func (s *shown) waitFor(t *testing.T, want string) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		pages := strings.Split(s.text(), "\x1b[H")
		for _, page := range pages[1:] {
			if strings.Contains(page, want) && strings.Contains(page, "\x1b[J") {
				return page
			}
		}
	}
	all := s.text()
	t.Fatalf("no page has %q: ... %q", want, all[max(0, len(all)-1000):])
	return ""
}
