package decisionlog_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse/decisionlog"
)

// small is a spool of four small segments.
func small(dir string) decisionlog.Config {
	return decisionlog.Config{File: filepath.Join(dir, "d.log"), Dir: filepath.Join(dir, "spool"), MaxEntry: 8 << 10, MaxSize: 128 << 10,
		MaxWait: time.Minute, Sync: 20 * time.Millisecond}
}

// full is the same with a sink that takes nothing, and that is soon given up at the end.
func full(dir string) decisionlog.Config {
	cfg := small(dir)
	cfg.File, cfg.DrainTimeout = "/dev/full", 10*time.Millisecond
	return cfg
}

// once checks that the files have every entry from 0 to n, each once.
func once(t *testing.T, n int, files ...string) {
	t.Helper()
	found := ids(t, files...)
	for i := range n {
		if got := found[fmt.Sprint(i)]; got != 1 {
			t.Fatalf("entry %d is there %d times, of %d", i, got, len(found))
		}
	}
}

func lines(t *testing.T, file string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for line := range strings.Lines(string(text)) {
		all = append(all, parse(t, line))
	}
	return all
}

// segments are the files of a spool, oldest first.
func segments(t *testing.T, cfg decisionlog.Config) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSpool(t *testing.T) {
	cfg := small(t.TempDir())
	for round := range 3 {
		l := open(t, cfg)
		end := run(l)
		for i := range 1000 {
			add(t, l, entry(1000*round+i))
		}
		finish(t, end)
		once(t, 1000*(round+1), cfg.File)
		if got := l.Status(); got.Written != 1000 || got.Dropped != 0 || got.Spool.Unread != 0 || !got.Spool.Oldest.IsZero() {
			t.Errorf("%+v %+v", got, got.Spool)
		}
	}
	if n := len(segments(t, cfg)); n > 2 {
		t.Errorf("%d segments are left", n)
	}
}

// TestSpoolIsTaken holds that nobody else uses a spool that is in use.
func TestSpoolIsTaken(t *testing.T) {
	cfg := small(t.TempDir())
	l := open(t, cfg)
	if _, err := decisionlog.New(cfg); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Error(err)
	}
	finish(t, run(l))
	finish(t, run(open(t, cfg)))
	cfg.MaxSize = 1000
	if _, err := decisionlog.New(cfg); err == nil || !strings.Contains(err.Error(), "max_size is 1000 bytes: must be at least 131072") {
		t.Error(err)
	}
}

// TestSpoolOutlivesTheSink ends with a sink that took nothing: what was appended is written by the next start.
func TestSpoolOutlivesTheSink(t *testing.T) {
	dir := t.TempDir()
	l := open(t, full(dir))
	end := run(l)
	for i := range 200 {
		add(t, l, entry(i))
	}
	if st := l.Status().Spool; st.Unread == 0 || st.Segments < 1 {
		t.Errorf("%+v", st)
	}
	finish(t, end)
	cfg := small(dir)
	finish(t, run(open(t, cfg)))
	once(t, 200, cfg.File)
	for i, line := range lines(t, cfg.File) {
		if line["decision_id"] != fmt.Sprint(i) {
			t.Fatalf("line %d is entry %v", i, line["decision_id"])
		}
	}
}

// filled gives a log whose spool has no room, and whose sink takes nothing.
func filled(t *testing.T, cfg decisionlog.Config) (l *decisionlog.Log, end func() error, n int) {
	t.Helper()
	l = open(t, cfg)
	end = run(l)
	for range 1_000_000 {
		switch err := l.Append(context.Background(), entry(n)); {
		case err == nil:
			n++
		case l.Status().Spool.Error != "": // else the next segment was not made in time
			return l, end, n
		}
	}
	t.Fatal("the spool has no bound")
	return nil, nil, 0
}

// TestSpoolFull fills the spool, and gives it room again.
func TestSpoolFull(t *testing.T) {
	for _, onFull := range []string{"wait", "drop", "deny"} {
		t.Run(onFull, func(t *testing.T) {
			cfg := full(t.TempDir())
			cfg.OnFull, cfg.MaxWait = onFull, 50*time.Millisecond
			l, end, n := filled(t, cfg)
			err := l.Append(context.Background(), entry(n))
			if !errors.Is(err, decisionlog.ErrFull) || errors.Is(err, decisionlog.ErrDeny) != (onFull == "deny") {
				t.Errorf("append to a full spool: %v", err)
			}
			st := l.Status()
			if st.Dropped < 2 || onFull == "wait" && st.Spool.Error != "the spool has reached max_size" || st.Spool.Bytes > cfg.MaxSize {
				t.Errorf("%+v %+v", st, st.Spool)
			}
			finish(t, end)
			good := small(filepath.Dir(cfg.Dir))
			l = open(t, good)
			end = run(l)
			add(t, l, entry(n))
			finish(t, end)
			once(t, n+1, good.File)
		})
	}
}

// TestSpoolGap loses entries while the sink takes nothing, and finds that on record once it does.
func TestSpoolGap(t *testing.T) {
	dir := t.TempDir()
	cfg := small(dir)
	cfg.OnFull = "drop"
	out := &gate{sink: newSink(), open: make(chan struct{})}
	cfg.File, cfg.Stdout = "-", out
	l := open(t, cfg)
	end := run(l)
	n := 0
	for ; l.Append(context.Background(), entry(n)) == nil; n++ {
	}
	close(out.open)
	text := out.await(`{"gap":{"dropped":1,`)
	finish(t, end)
	if before, _, _ := strings.Cut(text, `{"gap"`); strings.Count(before, "decision_id") != n {
		t.Errorf("the gap is not behind the %d entries that were appended before it", n)
	}
}

// gate lets nothing through until it is opened.
type gate struct {
	*sink
	open chan struct{}
}

func (g *gate) Write(p []byte) (int, error) { <-g.open; return g.sink.Write(p) }

// TestSpoolWithoutDisk has the next segment's name taken: there is no further segment, as on a full disk.
func TestSpoolWithoutDisk(t *testing.T) {
	cfg := small(t.TempDir())
	cfg.OnFull = "drop"
	obstacle := filepath.Join(cfg.Dir, "0000000000000002.seg")
	if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err == nil {
		defer os.RemoveAll(obstacle)
	}
	if _, err := decisionlog.New(cfg); err == nil {
		t.Error("a directory in a segment's place is no error")
	}
	os.RemoveAll(obstacle)
	l := open(t, cfg)
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	end := run(l)
	n := 0
	for ; l.Append(context.Background(), entry(n)) == nil; n++ {
	}
	if st := l.Status().Spool; !strings.Contains(st.Error, "file exists") {
		t.Errorf("%+v", st)
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	for l.Append(context.Background(), entry(n)) != nil {
		time.Sleep(time.Millisecond)
	}
	finish(t, end)
	once(t, n+1, cfg.File)
}

// TestSpoolDamage changes and cuts off segments: the rest is read, and the gap named.
func TestSpoolDamage(t *testing.T) {
	const n = 300
	for _, tt := range []struct {
		name   string
		damage func(text []byte) []byte
		gaps   int
		lost   int // entries at most
	}{
		{"none", func(b []byte) []byte { return b }, 0, 0},
		{"one byte", func(b []byte) []byte { b[1000] ^= 1; return b }, 1, 1},
		{"a page", func(b []byte) []byte { clear(b[4096:8192]); return b }, 1, 90},
		{"noise", func(b []byte) []byte {
			for i := 3000; i < 4000; i++ {
				b[i] = byte(i * 7)
			}
			return b
		}, 1, 20},
		{"a length", func(b []byte) []byte { b[64+2] = 0xff; return b }, 1, 1},
		{"cut off", func(b []byte) []byte { return b[:5000] }, 1, n},
		{"cut off in the header", func(b []byte) []byte { return b[:20] }, 1, n},
		{"another header", func(b []byte) []byte { b[20] ^= 1; return b }, 1, n},
		{"empty", func([]byte) []byte { return nil }, 0, n},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, full(dir))
			end := run(l)
			for i := range n {
				add(t, l, entry(i))
			}
			finish(t, end)
			cfg := small(dir)
			name := segments(t, cfg)[0]
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, tt.damage(text), 0o600); err != nil {
				t.Fatal(err)
			}
			l = open(t, cfg)
			end = run(l)
			add(t, l, entry(n))
			finish(t, end)
			gaps := 0
			for _, line := range lines(t, cfg.File) {
				if g, ok := line["gap"].(map[string]any); ok {
					gaps++
					if g["damaged_bytes"] == nil && g["unfinished_bytes"] == nil || g["segment"] != filepath.Base(name) {
						t.Errorf("%v", g)
					}
				}
			}
			found := ids(t, cfg.File)
			if found[fmt.Sprint(n)] != 1 || n+1-len(found) > tt.lost || (gaps > 0) != (tt.gaps > 0) {
				t.Errorf("%d gaps, %d entries of %d", gaps, len(found), n+1)
			}
			for id, times := range found {
				if times != 1 {
					t.Errorf("%s is there %d times", id, times)
				}
			}
		})
	}
}

// TestSpoolRotation appends from many goroutines over many segments, while the sink's file is rotated.
func TestSpoolRotation(t *testing.T) {
	const writers, each, rotations = 4, 2000, 20
	cfg := small(t.TempDir())
	l := open(t, cfg)
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
	files := []string{cfg.File}
	for i := range rotations {
		old := fmt.Sprint(cfg.File, ".", i)
		if err := os.Rename(cfg.File, old); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
	}
	wg.Wait()
	finish(t, end)
	once(t, writers*each, files...)
}

// TestSpoolSuccession hands a spool from log to log under load, as reloads do. One of them is never used.
func TestSpoolSuccession(t *testing.T) {
	cfg := small(t.TempDir())
	l := open(t, cfg)
	end := run(l)
	n := 0
	for range 10 {
		for range 300 {
			add(t, l, entry(n))
			n++
		}
		cfg.Succeeds = l
		discarded, cancel := context.WithCancel(context.Background())
		cancel()
		if err := open(t, cfg).Run(discarded); err != nil {
			t.Fatal(err)
		}
		next := open(t, cfg)
		endNext := run(next)
		for range 50 {
			add(t, l, entry(n))
			add(t, next, entry(n+1))
			n += 2
		}
		finish(t, end)
		l, end = next, endNext
	}
	finish(t, end)
	once(t, n, cfg.File)
}

// TestSpoolEnd ends Run while entries arrive: what Append took is written by then, or by the next start.
func TestSpoolEnd(t *testing.T) {
	for range 20 {
		cfg := small(t.TempDir())
		l := open(t, cfg)
		end := run(l)
		var wg sync.WaitGroup
		var mu sync.Mutex
		taken := map[string]bool{}
		first := make(chan struct{}, 4)
		for w := range 4 {
			wg.Go(func() {
				for i := range 300 {
					e := entry(w*1000 + i)
					if l.Append(context.Background(), e) == nil {
						mu.Lock()
						taken[e.DecisionID] = true
						mu.Unlock()
					}
					if i == 20 {
						first <- struct{}{}
					}
				}
			})
		}
		<-first
		finish(t, end)
		wg.Wait()
		finish(t, run(open(t, cfg)))
		found := ids(t, cfg.File)
		for id := range taken {
			if found[id] != 1 {
				t.Fatalf("%s was taken and is there %d times", id, found[id])
			}
		}
		if len(found) != len(taken) {
			t.Fatalf("%d taken, %d written", len(taken), len(found))
		}
	}
}

// killed is set for the process that TestKill kills, and where its receiver is.
const (
	killed     = "GATEHOUSE_TEST_KILLED"
	killedSend = "GATEHOUSE_TEST_RECEIVER"
)

// killing is a log that is killed: into a file, and to a receiver that fails at random. There is room for what that does not have yet.
func killing(dir, url string) decisionlog.Config {
	cfg := small(dir)
	cfg.MaxSize, cfg.DrainTimeout = 8<<20, time.Minute
	cfg.Sinks = []decisionlog.Sink{{OPA: serverAt(url)}}
	cfg.Sinks[0].OPA.Delay, cfg.Sinks[0].OPA.Timeout, cfg.Sinks[0].OPA.MaxRequest = 5*time.Millisecond, time.Second, 8<<10
	return cfg
}

// beKilled appends for ever, and says what was appended.
func beKilled(dir string) {
	l, err := decisionlog.New(killing(dir, os.Getenv(killedSend)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() { _ = l.Run(context.Background()) }()
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				e := entry(0)
				if i%16 == 0 { // most are small, so that there are many
					e = usual()
				}
				e.DecisionID = fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				if l.Append(context.Background(), e) == nil {
					_, _ = os.Stdout.WriteString(e.DecisionID + "\n")
				}
			}
		}()
	}
	for {
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		if rand.IntN(4) == 0 { // moved away, and opened anew at once or not at all
			_ = os.Rename(filepath.Join(dir, "d.log"), filepath.Join(dir, fmt.Sprintf("d.log.%d", time.Now().UnixNano())))
			if rand.IntN(2) == 0 {
				_ = l.Reopen()
			}
		}
	}
}

// TestKill kills a process that appends, again and again: once the next one has run, what it said it had appended is in the log's
// file, once, and at a receiver that fails at random, once for who looks at the ids, and in the order of each who appended.
func TestKill(t *testing.T) {
	dir, r := t.TempDir(), newReceiver(t)
	r.failWith(flakily)
	said := map[string]bool{}
	for range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), killed+"="+dir, killedSend+"="+r.URL)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in, n := bufio.NewReader(out), 1+rand.IntN(1000)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				break // what it has not said whole it has not said
			}
			said[strings.TrimSpace(line)] = true
			if n--; n == 0 {
				time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, _ = io.Copy(io.Discard, in)
		_ = cmd.Wait() // it was killed
	}
	awaitAll(t, killing(dir, r.URL))
	files, err := filepath.Glob(filepath.Join(dir, "d.log*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) != "d.log" {
			cutHalf(t, file)
		}
	}
	found := ids(t, files...)
	lost, twice := 0, 0
	for id := range said {
		if found[id] == 0 {
			lost++
		}
	}
	for _, n := range found {
		if n > 1 {
			twice++
		}
	}
	t.Logf("%d kills: %d appended, %d in %d files", rounds, len(said), len(found), len(files))
	if lost+twice > 0 || len(said) < rounds {
		t.Errorf("%d are lost, %d are there more than once", lost, twice)
	}
	if !slices.Contains(files, filepath.Join(dir, "d.log")) {
		t.Error("there is no log")
	}
	r.hasAll(t, said)
}

// cutHalf takes half a line off the end of a file that was moved away before a kill: that line is whole in the file that came after.
func cutHalf(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, int64(bytes.LastIndexByte(text, '\n')+1)); err != nil {
		t.Fatal(err)
	}
}

// awaitAll runs a log until every sink has everything.
func awaitAll(t *testing.T, cfg decisionlog.Config) {
	t.Helper()
	l := open(t, cfg)
	end := run(l)
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Spool.Unread == 0 })
	finish(t, end)
}

// hasAll checks that a receiver got everything that was said, and what each goroutine of each process appended in its order.
func (r *receiver) hasAll(t *testing.T, said map[string]bool) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	events := unique(r.events)
	got, last, damaged, disorder := map[string]bool{}, map[string]int{}, 0, 0
	for _, e := range events {
		id, _ := e["decision_id"].(string)
		i := strings.LastIndexByte(id, '-')
		n, err := strconv.Atoi(id[i+1:])
		if e["error"] != nil {
			damaged++
		}
		if err != nil || e["gap"] != nil {
			continue
		}
		if got[id] = true; last[id[:i]] > n {
			disorder++
		}
		last[id[:i]] = n
	}
	missing := 0
	for id := range said {
		if !got[id] {
			missing++
		}
	}
	t.Logf("the receiver took %d requests with %d events: %d after de-duplication", len(r.sizes), len(r.events), len(events))
	if missing+disorder > 0 {
		t.Errorf("the receiver lacks %d, has %d out of order, and could not read %d requests", missing, disorder, damaged)
	}
}
