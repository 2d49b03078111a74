package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSettling(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }
	for _, c := range []struct {
		name string
		do   func(*settling)
		due  int
	}{
		{"a rename", func(p *settling) { p.note(at(0), true) }, 25},
		{"two renames", func(p *settling) { p.note(at(0), true); p.note(at(20), true) }, 45},
		{"writing", func(p *settling) { p.note(at(0), false) }, 100},
		{"writing after a rename", func(p *settling) { p.note(at(0), true); p.note(at(10), false) }, 110},
		{"a rename amid writing", func(p *settling) { p.note(at(0), false); p.note(at(50), true) }, 150},
		{"writing without end", func(p *settling) {
			for ms := 0; ms <= 1990; ms += 10 {
				p.note(at(ms), false)
			}
		}, 2000},
		{"put off", func(p *settling) { p.schedule(at(0), 50*time.Millisecond) }, 50},
		{"a rename while it is put off", func(p *settling) { p.schedule(at(0), 50*time.Millisecond); p.note(at(10), true) }, 110},
		{"put off while it is written", func(p *settling) { p.note(at(0), false); p.schedule(at(10), 50*time.Millisecond) }, 60},
	} {
		var p settling
		if c.do(&p); !p.due.Equal(at(c.due)) {
			t.Errorf("%s: due after %s, not %d ms", c.name, p.due.Sub(at(0)), c.due)
		}
	}
}

func TestStepsTo(t *testing.T) {
	dir := folder(t)
	volume(t, dir, "..1", map[string]string{"keys.json": "1"})
	link(t, "keys.json", filepath.Join(dir, "again"))
	link(t, "loop", filepath.Join(dir, "loop"))
	link(t, dir, filepath.Join(dir, "top"))
	for path, want := range map[string][]string{
		"plain":          {"plain"},
		"missing/folder": {"missing", "missing/folder"},
		"keys.json":      {"keys.json", "..data", "..1/keys.json"},
		"again":          {"again", "keys.json", "..data", "..1/keys.json"},
		"top/keys.json":  {"top", "keys.json", "..data", "..1/keys.json"},
		"..data":         {"..data", "..1"},
	} {
		var got []string
		for _, step := range stepsTo(filepath.Join(dir, path)) {
			got = append(got, strings.TrimPrefix(step, dir+"/"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", path, got, want)
		}
	}
	if n := len(stepsTo(filepath.Join(dir, "loop"))); n == 0 || n > 2*maxLinks {
		t.Errorf("a loop of links has %d steps", n)
	}
}

// TestChanges makes successive changes and waits for each report, with events and without.
func TestChanges(t *testing.T) {
	type step func(t *testing.T, dir string)
	write := func(name, text string) step {
		return func(t *testing.T, dir string) { put(t, filepath.Join(dir, name), text) }
	}
	replace := func(name, text string) step {
		return func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, ".draft"), text)
			must(t, os.Rename(filepath.Join(dir, ".draft"), filepath.Join(dir, name)))
		}
	}
	remove := func(name string) step {
		return func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, name))) }
	}
	swap := func(version, text string) step {
		return func(t *testing.T, dir string) { volume(t, dir, version, map[string]string{"f": text}) }
	}
	relink := func(name, to string) step {
		return func(t *testing.T, dir string) {
			link(t, to, filepath.Join(dir, ".draft"))
			must(t, os.Rename(filepath.Join(dir, ".draft"), filepath.Join(dir, name)))
		}
	}
	all := func(steps ...step) step {
		return func(t *testing.T, dir string) {
			for _, do := range steps {
				do(t, dir)
			}
		}
	}
	for _, c := range []struct {
		name, path string
		tree       bool
		before     step
		steps      []step
	}{
		{"written in place", "f", false, write("f", "1"), []step{write("f", "22"), write("f", "333")}},
		{"replaced", "f", false, write("f", "1"), []step{replace("f", "2"), replace("f", "3")}},
		{"removed and made again", "f", false, write("f", "1"), []step{remove("f"), write("f", "2"), replace("f", "3")}},
		{"not there at first", "f", false, all(), []step{write("f", "1"), replace("f", "2")}},
		{"not even its folder", "a/b/f", false, all(), []step{write("a/b/f", "1"), write("a/b/f", "22")}},
		{"its folder replaced", "a/f", false, write("a/f", "1"), []step{all(remove("a"), write("a/f", "2")), write("a/f", "33")}},
		{"a volume", "f", false, swap("..1", "1"), []step{swap("..2", "2"), swap("..3", "3"), swap("..4", "4")}},
		{"a link", "f", false, all(write("1/f", "1"), write("2/f", "2"), relink("f", "1/f")),
			[]step{write("1/f", "11"), relink("f", "2/f"), write("2/f", "22"), replace("2/f", "33")}},
		{"a link above", "current/f", false, all(write("1/f", "1"), write("2/f", "2"), relink("current", "1")),
			[]step{relink("current", "2"), write("2/f", "22"), relink("current", "1"), replace("1/f", "11")}},
		{"a tree", "t", true, write("t/f", "1"), []step{write("t/f", "2"), write("t/a/b/g", "1"), write("t/a/b/g", "2"), replace("t/a/b/g", "3"),
			remove("t/a"), remove("t"), write("t/a/g", "4"), write("t/a/g", "5")}},
		{"a tree that is a volume", "t", true, func(t *testing.T, dir string) { volume(t, filepath.Join(dir, "t"), "..1", map[string]string{"f": "1"}) },
			[]step{func(t *testing.T, dir string) { volume(t, filepath.Join(dir, "t"), "..2", map[string]string{"f": "2"}) }}},
		{"a tree behind a link", "t", true, all(write("1/f", "1"), write("2/a/f", "2"), relink("t", "1")),
			[]step{write("1/f", "2"), relink("t", "2"), write("2/a/f", "3"), relink("t", "1"), write("1/f", "4")}},
	} {
		for _, events := range []bool{true, false} {
			name := c.name + "/events"
			if !events {
				name = c.name + "/poll"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dir := folder(t)
				c.before(t, dir)
				target := Target{Path: filepath.Join(dir, c.path)}
				if !events {
					target.Look = func() *Look { return LookAt(target.Path) } // which is not told again for being new
				}
				if c.tree {
					target.Look = func() *Look { return lookAtTree(filepath.Join(dir, c.path)) }
				}
				config := Config{Targets: []Target{target}, Poll: time.Hour}
				if !events {
					config.Poll = 10 * time.Millisecond
				}
				w := New(config)
				if !events {
					w.open = func() (*fsnotify.Watcher, error) { return nil, errors.New("no watches left") }
				}
				run(t, w)
				wait(t, w, "the first look")
				for i, do := range c.steps {
					do(t, dir)
					want := state(target)
					for {
						wait(t, w, "step "+string(rune('1'+i)))
						if state(target) == want {
							break
						}
					}
					quiet(w)
				}
			})
		}
	}
}

// TestTold: changes are reported for their target only, and irrelevant ones not at all.
func TestTold(t *testing.T) {
	dir := folder(t)
	put(t, filepath.Join(dir, "a", "f"), "1")
	put(t, filepath.Join(dir, "tree", "f.rego"), "1")
	w := New(Config{Poll: time.Hour, Targets: []Target{
		{Path: filepath.Join(dir, "a", "f")},
		{Path: filepath.Join(dir, "tree"), Look: func() *Look { return lookAtTree(filepath.Join(dir, "tree")) },
			Ignored: func(name string) bool { return strings.HasPrefix(filepath.Base(name), ".") },
			Wanted:  func(name string) bool { return strings.HasSuffix(name, ".rego") }},
	}})
	run(t, w)
	for seen := map[int]bool{}; len(seen) < 2; {
		for _, i := range wait(t, w, "both") {
			seen[i] = true
		}
	}
	put(t, filepath.Join(dir, "a", "other"), "1")
	put(t, filepath.Join(dir, "tree", "notes.txt"), "1")
	put(t, filepath.Join(dir, "tree", ".git", "x.rego"), "1")
	if got := quiet(w); len(got) > 0 {
		t.Errorf("changes of no interest were told for %v", got)
	}
	put(t, filepath.Join(dir, "tree", "g.rego"), "1")
	if got := wait(t, w, "the tree"); !slices.Equal(got, []int{1}) {
		t.Errorf("told for %v", got)
	}
	quiet(w)
	w.LookAgain(0, time.Millisecond)
	for !slices.Contains(wait(t, w, "again"), 0) {
		continue // a busy machine may read the events of one change in two parts
	}
	if got := quiet(w); slices.Contains(got, 0) {
		t.Errorf("told twice for %v", got)
	}
}

// TestWatchesEnd has no watch left on what a path no longer leads to.
func TestWatchesEnd(t *testing.T) {
	dir := folder(t)
	volume(t, dir, "..0", map[string]string{"f": "0"})
	w := New(Config{Targets: Paths(filepath.Join(dir, "f")), Poll: time.Hour})
	stop := run(t, w)
	wait(t, w, "the first look")
	for i := 1; i < 5; i++ {
		volume(t, dir, "..now"+string(rune('0'+i)), map[string]string{"f": "x"})
		wait(t, w, "a swap")
		quiet(w)
	}
	stop()
	if len(w.watched) != 2 { // the volume and what it leads to
		t.Errorf("watches: %v", w.watched)
	}
}

// TestCoarseClock: a file that was just written is reported again, though it looks the same.
func TestCoarseClock(t *testing.T) {
	dir := folder(t)
	put(t, filepath.Join(dir, "f"), "1")
	w := New(Config{Targets: Paths(filepath.Join(dir, "f")), Poll: 10 * time.Millisecond})
	w.open = func() (*fsnotify.Watcher, error) { return nil, errors.New("no watches left") }
	run(t, w)
	wait(t, w, "the first look")
	wait(t, w, "another one")
}

func TestFiles(t *testing.T) {
	dir := folder(t)
	file := filepath.Join(dir, "f")
	put(t, file, "1")
	ctx, stop := context.WithCancel(t.Context())
	read := make(chan string, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Files(ctx, Config{Targets: Paths(file)}, func() {
			text, err := ReadFile(file, 10)
			if err != nil {
				read <- err.Error()
				return
			}
			read <- string(text)
		})
	}()
	until := func(want string) {
		t.Helper()
		for deadline := time.After(time.Minute); ; {
			select {
			case got := <-read:
				if strings.Contains(got, want) {
					return
				}
			case <-deadline:
				t.Fatalf("never read %q", want)
			}
		}
	}
	until("1")
	put(t, file, "22")
	until("22")
	put(t, file, "12345678901")
	until("is larger than 10 bytes")
	must(t, os.Remove(file))
	until("no such file")
	put(t, file, "3")
	until("3")
	stop()
	<-ended
}

// TestUnderWriting reads in two goroutines while files are written, for the race detector.
func TestUnderWriting(t *testing.T) {
	dir := folder(t)
	w := New(Config{Poll: 5 * time.Millisecond, Targets: Paths(filepath.Join(dir, "f"), filepath.Join(dir, "g"))})
	run(t, w)
	for i := range 100 {
		put(t, filepath.Join(dir, []string{"f", "g"}[i%2]), strings.Repeat("x", i))
		w.LookAgain(i%2, 0)
		select {
		case <-w.Changed():
		default:
		}
	}
	for got := map[int]bool{}; len(got) < 2; {
		for _, i := range wait(t, w, "both") {
			got[i] = true
		}
	}
}

func TestReadFile(t *testing.T) {
	dir := folder(t)
	if _, err := ReadFile(dir, 10); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := ReadFile(os.DevNull, 10); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a device: %v", err)
	}
	if _, err := ReadFile(filepath.Join(dir, "missing"), 10); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func folder(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	return dir
}

// run runs a Watcher until the test or stop ends it.
func run(t *testing.T, w *Watcher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func wait(t *testing.T, w *Watcher, what string) []int {
	t.Helper()
	select {
	case got := <-w.Changed():
		return got
	case <-time.After(time.Minute):
		t.Fatalf("%s was never told", what)
		return nil
	}
}

// quiet drains reports until none arrives for a while.
func quiet(w *Watcher) (told []int) {
	for {
		select {
		case got := <-w.Changed():
			told = append(told, got...)
		case <-time.After(settleWrite + settleWrite/2):
			return told
		}
	}
}

func state(t Target) string {
	var all strings.Builder
	_ = filepath.Walk(resolved(t.Path), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			text, _ := os.ReadFile(path)
			all.WriteString(filepath.Base(path) + "=" + string(text) + "\n")
		}
		return nil
	})
	return all.String()
}

func resolved(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

func lookAtTree(path string) *Look {
	l := LookAt(path)
	if l == nil {
		return nil
	}
	top := resolved(path)
	l.Files = map[string]os.FileInfo{}
	_ = filepath.Walk(top, func(path string, info os.FileInfo, err error) error {
		name, _ := filepath.Rel(top, path)
		switch {
		case err != nil || name == ".":
		case info.IsDir():
			l.Folders = append(l.Folders, name)
		default:
			l.Names = append(l.Names, name)
			l.Files[name] = info
		}
		return nil
	})
	if target, err := os.Readlink(filepath.Join(path, dataLink)); err == nil {
		l.Names = append(l.Names, target)
	}
	return l
}

// volume writes files as a Kubernetes volume does.
func volume(t *testing.T, dir, version string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		put(t, filepath.Join(dir, version, name), text)
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			link(t, filepath.Join(dataLink, name), filepath.Join(dir, name))
		}
	}
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	link(t, version, filepath.Join(dir, "..data_tmp"))
	must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, dataLink)))
	if old != "" {
		must(t, os.RemoveAll(filepath.Join(dir, old)))
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	must(t, os.Symlink(to, path))
}

func put(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
