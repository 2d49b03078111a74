package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// startWithin bounds the start of a server; settleWithin the time that a decision log may take to catch up.
const (
	startWithin  = time.Minute
	settleWithin = time.Minute
)

// server is a process under measurement, on a TCP address and a unix socket at once.
type server struct {
	name   string
	cmd    *exec.Cmd
	dir    string // of its configuration and its log, "" for a server that has none
	tcp    string // host:port
	socket string // unix:/path
	admin  string // http://host:port, "" for a server without an admin page
	took   time.Duration
}

// startNoop starts the server that answers OK without looking: this program once more.
func startNoop(ctx context.Context, dir string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{name: "no-op", tcp: address, socket: "unix:" + filepath.Join(dir, "noop.sock")}
	return s, s.start(ctx, self, "-noop", address+","+s.socket)
}

// startGatehouse starts a Gatehouse on the configuration in dir, which has GRPC and ADMIN in place of its ports.
func startGatehouse(ctx context.Context, binary, dir string) (*server, error) {
	s := &server{name: "gatehouse", dir: dir, socket: "unix:" + filepath.Join(dir, "gatehouse.sock")}
	var err error
	if s.tcp, err = freeAddress(); err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s.admin = "http://" + admin
	file := filepath.Join(dir, "gatehouse.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	text = []byte(strings.NewReplacer("GRPC", s.tcp, "ADMIN", admin).Replace(string(text)))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return nil, err
	}
	return s, s.start(ctx, binary, "serve", "--config", file)
}

// start runs the process and waits until it can decide; took is how long that was.
func (s *server) start(ctx context.Context, binary string, args ...string) error {
	s.cmd = exec.CommandContext(ctx, binary, args...)
	var said tail
	s.cmd.Stdout, s.cmd.Stderr = &said, &said
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(os.Interrupt) }
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return err
	}
	err := s.await(ctx)
	s.took = time.Since(begin)
	if err != nil {
		s.stop()
		return fmt.Errorf("%w; the last that it said: %s", err, said.String())
	}
	return nil
}

// tail keeps the end of what a process writes.
type tail struct {
	sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.Lock()
	defer t.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - 4<<10; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.Lock()
	defer t.Unlock()
	return strings.TrimSpace(string(t.text))
}

// await polls once a millisecond: until /readyz says yes or, where there is no admin page, until somebody listens.
func (s *server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		if s.up() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready in time", s.name)
		case <-time.After(time.Millisecond):
		}
	}
}

func (s *server) up() bool {
	if s.admin == "" {
		conn, err := net.Dial("tcp", s.tcp)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}
	res, err := http.Get(s.admin + "/readyz")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode == http.StatusOK
}

func (s *server) stop() {
	if s == nil || s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(os.Interrupt)
	_ = s.cmd.Wait()
}

// cpu is the time that all threads of the process have used, also those that have ended: the kernel's own clock of the process, in
// nanoseconds (clock_getcpuclockid(3) for how its id is made).
func (s *server) cpu() (time.Duration, error) {
	const sched = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^s.cmd.Process.Pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of %s: %w", s.name, err)
	}
	return time.Duration(t.Nano()), nil
}

// resident is the process's memory in bytes: now, and the most that it ever was.
func (s *server) resident() (now, most int64) { return s.memory("VmRSS:"), s.memory("VmHWM:") }

// memory is a figure of /proc/PID/status, in bytes.
func (s *server) memory(key string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, found := strings.Cut(string(text), key)
	if !found {
		return 0
	}
	kilobytes, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kilobytes << 10
}

// awaitIdle waits until the process does next to nothing: a large bundle is read once more behind the start.
func (s *server) awaitIdle(ctx context.Context) error {
	const window, least = 250 * time.Millisecond, 12 * time.Millisecond
	for deadline := time.Now().Add(settleWithin); time.Now().Before(deadline); {
		before, err := s.cpu()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(window):
		}
		if after, err := s.cpu(); err != nil || after-before < least {
			return err
		}
	}
	return fmt.Errorf("%s is still busy a minute after its start", s.name)
}

// awaitLog waits until the decision log has all that was decided, so that what it costs is counted.
func (s *server) awaitLog(ctx context.Context) error {
	if s.admin == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		waiting, err := s.waiting(ctx)
		if err != nil || waiting == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the decision log of %s did not catch up: %d are waiting", s.name, waiting)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// waiting is what the decision log has not written yet: entries, and bytes of the spool.
func (s *server) waiting(ctx context.Context) (uint64, error) {
	var page struct {
		DecisionLog struct {
			Queued  uint64 `json:"queued"`
			Dropped uint64 `json:"dropped"`
			Spool   struct {
				Unread uint64 `json:"unread_bytes"`
			} `json:"spool"`
		} `json:"decision_log"`
	}
	body, err := s.get(ctx, "/status")
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return 0, fmt.Errorf("%s/status: %w", s.admin, err)
	}
	if n := page.DecisionLog.Dropped; n > 0 {
		return 0, fmt.Errorf("%s dropped %d decisions of its log", s.name, n)
	}
	return page.DecisionLog.Queued + page.DecisionLog.Spool.Unread, nil
}

func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.admin+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// series are the values at /metrics, by name and labels as they stand there.
type series map[string]float64

func (s *server) metrics(ctx context.Context) (series, error) {
	if s.admin == "" {
		return nil, nil
	}
	body, err := s.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	out := series{}
	lines := bufio.NewScanner(strings.NewReader(string(body)))
	for lines.Scan() {
		name, value, found := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); found && err == nil {
			out[name] = v
		}
	}
	return out, lines.Err()
}

// sum adds up the series of a metric; ok is false where it does not exist.
func (m series) sum(metric string) (total float64, ok bool) {
	for name, v := range m {
		if name == metric || strings.HasPrefix(name, metric+"{") {
			total, ok = total+v, true
		}
	}
	return total, ok
}

// truncateLog empties the decision log, which would otherwise grow by gigabytes.
func (s *server) truncateLog() error {
	if s.dir == "" {
		return nil
	}
	return os.Truncate(filepath.Join(s.dir, "log", "decisions.log"), 0)
}

// freeAddress is a loopback address that nobody used a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
