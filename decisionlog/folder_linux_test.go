package decisionlog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/decisionlog"
)

// load appends from four goroutines, as requests do, until it is stopped.
type load struct {
	stop chan struct{}
	wait sync.WaitGroup

	mu      sync.Mutex
	taken   []string
	lost    int
	slowest time.Duration
	slow    int // appends that waited
}

func appendTo(l *decisionlog.Log) *load {
	w := &load{stop: make(chan struct{})}
	for n := range 4 {
		w.wait.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-w.stop:
					return
				default:
				}
				w.one(l, fmt.Sprintf("%d-%d", n, i))
				if i%8 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	return w
}

func (w *load) one(l *decisionlog.Log, id string) {
	e := usual()
	e.DecisionID = id
	start := time.Now()
	err := l.Append(context.Background(), e)
	took := time.Since(start)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.taken = append(w.taken, id)
	} else {
		w.lost++
	}
	if took > w.slowest {
		w.slowest = took
	}
	if took > 400*time.Millisecond {
		w.slow++
	}
}

// more waits until n further entries were appended or lost.
func (w *load) more(n int) {
	count := func() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.taken) + w.lost }
	for until := count() + n; count() < until; {
		time.Sleep(time.Millisecond)
	}
}

func (w *load) end() { close(w.stop); w.wait.Wait() }

// check holds that everything is accounted for: what was taken is in the files once, or a gap says what is not; what was not is counted.
func (w *load) check(t *testing.T, l *decisionlog.Log, damage bool, files ...string) {
	t.Helper()
	found, missing := ids(t, files...), 0
	for _, id := range w.taken {
		switch found[id] {
		case 1:
		case 0:
			missing++
		default:
			t.Errorf("%s is there %d times", id, found[id])
		}
	}
	damaged := 0.0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, `"gap"`) {
				continue
			}
			if g, ok := parse(t, line)["gap"].(map[string]any); ok {
				for _, name := range []string{"damaged_bytes", "unfinished_bytes"} {
					n, _ := g[name].(float64)
					damaged += n
				}
			}
		}
	}
	if float64(missing)*500 > damaged { // they are about a KiB each
		t.Errorf("%d of %d entries are missing, and the gaps say %.0f bytes", missing, len(w.taken), damaged)
	}
	if !damage && missing > 0 {
		t.Errorf("%d of %d entries are missing", missing, len(w.taken))
	}
	if st := l.Status(); st.Dropped != uint64(w.lost) {
		t.Errorf("%d were lost, %d are counted", w.lost, st.Dropped)
	}
	t.Logf("%d taken, %d lost, %d missing for %.0f bytes; slowest %s, %d waited", len(w.taken), w.lost, missing, damaged, w.slowest, w.slow)
}

// awaitDegraded waits until the log says, or no longer says, something.
func awaitDegraded(t *testing.T, l *decisionlog.Log, want string) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		got := strings.Join(l.Degraded(), "; ")
		if want == "" && got == "" || want != "" && strings.Contains(got, want) {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("degraded is %q, not %q", got, want)
		}
	}
}

// TestSpoolCutOff cuts segments off while requests and writers use them, which is a fault of the mapping (SIGBUS).
func TestSpoolCutOff(t *testing.T) {
	truncate := func(n int64) func(path string) error {
		return func(path string) error { return os.Truncate(path, n) }
	}
	for _, tt := range []struct {
		name string
		cut  func(path string) error
		held bool // the sink takes nothing meanwhile, so that it is the writer that comes upon it
	}{
		{"to nothing", truncate(0), false},
		{"to the header", truncate(64), false},
		{"to a page", truncate(4096), false},
		{"within a page", truncate(9000), false},
		{"to nothing, nobody has read it", truncate(0), true},
		{"within a page, nobody has read it", truncate(9000), true},
		{"to nothing and back", func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.Truncate(path, 0), os.Truncate(path, info.Size()))
		}, true},
		{"overwritten in place", func(path string) error { return os.WriteFile(path, []byte("oops\n"), 0o600) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := small(t.TempDir())
			cfg.MaxSize, cfg.MaxWait = 64<<20, time.Minute
			reg := prometheus.NewRegistry()
			cfg.Registerer = reg
			out := &gate{sink: newSink(), open: make(chan struct{})}
			file := cfg.File
			if tt.held {
				cfg.File, cfg.Stdout = "-", out
			}
			l := open(t, cfg)
			end := run(l)
			w := appendTo(l)
			w.more(200)
			for _, path := range segments(t, cfg) {
				if err := tt.cut(path); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
			w.more(500)
			close(out.open)
			awaitDegraded(t, l, "a segment was cut off while it was in use")
			w.more(200)
			w.end()
			if tt.held {
				awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Spool.Unread == 0 })
			}
			finish(t, end)
			if tt.held {
				if err := os.WriteFile(file, out.text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w.check(t, l, true, file)
			if n := len(w.taken); w.lost > 0 || n < 900 {
				t.Errorf("%d taken, %d lost: an append to a segment that was cut off goes to the next", n, w.lost)
			}
		})
	}
}

// again does what somebody else may be faster at, who makes the folder anew.
func again(do func() error) (err error) {
	for range 1000 {
		if err = do(); err == nil {
			return nil
		}
	}
	return err
}

func removeAll(dir string) error { return again(func() error { return os.RemoveAll(dir) }) }

func moveOver(from, to string) error {
	return again(func() error { return errors.Join(os.RemoveAll(to), os.Rename(from, to)) })
}

// TestSpoolFolder does to a spool's folder what people do, while requests append to it.
func TestSpoolFolder(t *testing.T) {
	all := func(paths []string, err error) error {
		for _, p := range paths {
			err = errors.Join(err, os.Remove(p))
		}
		return err
	}
	for _, tt := range []struct {
		name string
		do   func(dir string) error
		says string
		mend func(dir string) error // nil: it mends itself
		lost bool                   // meanwhile
	}{
		{"removed", removeAll, "was removed while it was in use", nil, false},
		{"removed with its parent", func(dir string) error { return removeAll(filepath.Dir(dir)) }, "was removed while it was in use", nil, false},
		{"moved away", func(dir string) error { return os.Rename(dir, dir+".old") }, "was removed while it was in use", nil, false},
		{"moved away and back", func(dir string) error { return os.Rename(dir, dir+".old") }, "was removed while it was in use",
			func(dir string) error { return moveOver(dir+".old", dir) }, false},
		{"a file in its place", func(dir string) error {
			return again(func() error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) })
		},
			"is not a folder: remove it", os.Remove, true},
		{"a link that leads nowhere", func(dir string) error {
			return again(func() error { return errors.Join(os.RemoveAll(dir), os.Symlink("/nowhere/at/all", dir)) })
		},
			"the spool cannot use its folder", os.Remove, true},
		{"segments removed", func(dir string) error { return all(filepath.Glob(filepath.Join(dir, "*.seg"))) }, "a segment was removed", nil, false},
		{"everything in it removed", func(dir string) error { return all(filepath.Glob(filepath.Join(dir, "*"))) }, "a segment was removed", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cfg := small(dir)
			cfg.Dir = filepath.Join(dir, "state", "spool")
			cfg.MaxWait = time.Minute // for what is not lost
			if tt.lost {
				cfg.MaxWait = 500 * time.Millisecond
			}
			cfg.Sync = 100 * time.Millisecond
			l := open(t, cfg)
			end := run(l)
			w := appendTo(l)
			w.more(200)
			if err := tt.do(cfg.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			awaitDegraded(t, l, tt.says)
			w.more(1000)
			if tt.mend != nil {
				if err := tt.mend(cfg.Dir); err != nil {
					t.Fatal(err)
				}
			}
			for len(segments(t, cfg)) == 0 || l.Status().Spool.Error != "" {
				time.Sleep(time.Millisecond)
			}
			w.more(500)
			w.end()
			finish(t, end)
			w.check(t, l, false, cfg.File)
			if !tt.lost && w.lost > 0 {
				t.Errorf("%d were lost", w.lost)
			}
			if all := len(w.taken) + w.lost; w.slow > all/10 { // four at a time wait when it happens and when it is known that nothing comes of it; the load of the machine makes a few
				t.Errorf("%d of %d appends waited", w.slow, all)
			}
			l = open(t, cfg) // nothing is written again, and what is appended next is there
			end = run(l)
			add(t, l, entry(1))
			finish(t, end)
			w.taken, w.lost = append(w.taken, "1"), 0
			w.check(t, l, false, cfg.File)
		})
	}
}

// TestSpoolPosition removes the files that say how far the sinks are, and ends without a word: the next start writes nothing twice.
func TestSpoolPosition(t *testing.T) {
	cfg := small(t.TempDir())
	l := open(t, cfg)
	end := run(l)
	for i := range 200 {
		add(t, l, entry(i))
	}
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Spool.Unread == 0 })
	position := filepath.Join(cfg.Dir, "position.file")
	if err := os.Remove(position); err != nil {
		t.Fatal(err)
	}
	for {
		if text, _ := os.ReadFile(position); len(text) > 512 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	finish(t, end)
	finish(t, run(open(t, cfg)))
	once(t, 200, cfg.File)
}

// inSmallDisk is set for the process that has disks of its own.
const inSmallDisk = "GATEHOUSE_TEST_SMALL_DISK"

// TestSpoolSmallDisk fills the disk that the spool is on, and puts a read-only one over it, in a process that may mount one: what is lost is counted, nobody waits
// for what does not come, and all is well when there is room again.
func TestSpoolSmallDisk(t *testing.T) {
	if inNamespace(t) {
		onSmallDisk(t, t.TempDir())
	}
}

func onSmallDisk(t *testing.T, dir string) {
	disk := filepath.Join(dir, "disk")
	if err := errors.Join(os.Mkdir(disk, 0o700), syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=512k")); err != nil {
		t.Fatalf("mounting: %v", err)
	}
	defer syscall.Unmount(disk, syscall.MNT_DETACH)
	stop, empty := context.WithCancel(t.Context())
	defer empty()
	var filling sync.WaitGroup
	for _, tt := range []struct {
		name     string
		do, mend func() error
		says     string
	}{
		{"full", func() error {
			f, err := os.Create(filepath.Join(disk, "ballast"))
			if err != nil {
				return err
			}
			filling.Go(func() { // also what is given back meanwhile
				defer f.Close()
				for stop.Err() == nil {
					if _, err := f.Write(make([]byte, 4096)); err != nil {
						time.Sleep(100 * time.Microsecond)
					}
				}
			})
			return nil
		}, func() error { empty(); filling.Wait(); return os.Remove(filepath.Join(disk, "ballast")) }, "no space left on device"},
		{"read-only", func() error {
			return syscall.Mount("tmpfs", filepath.Join(disk, "spool-read-only"), "tmpfs", syscall.MS_RDONLY, "")
		}, func() error { // the keeper looks into it now and then, and it is busy for that moment
			return again(func() error { return syscall.Unmount(filepath.Join(disk, "spool-read-only"), 0) })
		}, "read-only file system"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := small(filepath.Join(dir, tt.name))
			if err := os.Mkdir(filepath.Dir(cfg.File), 0o700); err != nil {
				t.Fatal(err)
			}
			cfg.Dir = filepath.Join(disk, "spool-"+tt.name)
			cfg.MaxSize = 2 << 20 // more than the disk has
			cfg.MaxWait = 500 * time.Millisecond
			l := open(t, cfg)
			end := run(l)
			w := appendTo(l)
			w.more(100)
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			awaitDegraded(t, l, tt.says)
			w.more(2000)
			if err := tt.mend(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); l.Status().Spool.Error != ""; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("mended, and still: %+v", l.Status().Spool)
				}
			}
			w.more(200)
			w.end()
			finish(t, end)
			w.check(t, l, false, cfg.File)
			if all := len(w.taken) + w.lost; w.lost == 0 || w.slow > all/10 {
				t.Errorf("%d of %d were lost, %d waited", w.lost, all, w.slow)
			}
			if !slices.ContainsFunc(lines(t, cfg.File), func(line map[string]any) bool { return line["gap"] != nil }) {
				t.Error("no gap says so")
			}
			if err := os.RemoveAll(cfg.Dir); err != nil { // the next wants room, too
				t.Error(err)
			}
		})
	}
}

// inNamespace reports whether this process may mount what nobody else sees. Where it is not yet such a process it runs this one test in one, and
// returns false.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inSmallDisk) != "" {
		_ = syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		parts = append(parts, "^"+part+"$")
	}
	runtime.LockOSThread() // the child ends with the thread that began it, and never outlives us
	defer runtime.UnlockOSThread()
	args := []string{"-test.run=" + strings.Join(parts, "/"), "-test.v"}
	if until, ok := t.Deadline(); ok { // before ours, so that the stacks are told
		args = append(args, "-test.timeout="+max(time.Until(until)*9/10, time.Second).String())
	}
	c := exec.Command(self, args...)
	c.Env = append(os.Environ(), inSmallDisk+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), "mounting: operation not permitted") {
		t.Skip("this process may mount nothing")
	}
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: ") {
		t.Error(err)
	}
	return false
}
