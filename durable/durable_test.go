package durable_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"gatehouse/durable"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state")
	must(t, durable.WriteFile(file, []byte("one"), 0o600))
	holds(t, file, "one", 0o600)
	must(t, os.WriteFile(file+durable.Ending, []byte("left by a crash, and longer"), 0o644))
	must(t, durable.WriteFile(file, []byte("two"), 0o640))
	holds(t, file, "two", 0o640)
	only(t, dir, "state")
}

func TestWriteThatFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state")
	must(t, durable.WriteFile(file, []byte("one"), 0o600))
	full := errors.New("full")
	err := durable.Write(file, 0o600, func(w io.Writer) error {
		_, _ = w.Write([]byte("half"))
		return full
	})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	holds(t, file, "one", 0o600)
	only(t, dir, "state")
	if err := durable.WriteFile(filepath.Join(dir, "missing", "state"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	if err := durable.WriteFile(filepath.Join(dir, "folder"), nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	only(t, dir, "folder", "state")
}

// TestFullDisk writes to a disk that is full after a megabyte: the limit of a file's size stands in for it.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state")
	must(t, durable.WriteFile(file, []byte("one"), 0o600))
	var before syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 20, Max: before.Max}))
	defer func() { must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before)) }()
	if err := durable.WriteFile(file, make([]byte, 3<<20), 0o600); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("got %v", err)
	}
	holds(t, file, "one", 0o600)
	only(t, dir, "state")
}

func TestLinksAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	file, victim := filepath.Join(dir, "state"), filepath.Join(dir, "victim")
	must(t, os.WriteFile(victim, []byte("untouched"), 0o600))
	must(t, os.Symlink(victim, file))
	must(t, os.Symlink(victim, file+durable.Ending))
	must(t, durable.WriteFile(file, []byte("one"), 0o600))
	holds(t, victim, "untouched", 0o600)
	holds(t, file, "one", 0o600)
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the link is still there: %v, %v", info, err)
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	var made atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			switch err := durable.Create(file, []byte(strconv.Itoa(i))); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("%d made it", n)
	}
	only(t, dir, "key")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestAlwaysWhole reads while it is written.
func TestAlwaysWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	content := func(n int) []byte { return []byte(strconv.Itoa(n) + "=" + strconv.Itoa(n)) }
	must(t, durable.WriteFile(file, content(0), 0o600))
	var writing sync.WaitGroup
	writing.Go(func() {
		for n := range 50 {
			if err := durable.WriteFile(file, content(n), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	defer writing.Wait()
	for range 500 {
		text, err := os.ReadFile(file)
		must(t, err)
		if half := len(text) / 2; string(text[:half]) != string(text[half+1:]) {
			t.Fatalf("read %q", text)
		}
	}
}

func holds(t *testing.T, file, want string, mode fs.FileMode) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	info, err := os.Stat(file)
	must(t, err)
	if string(text) != want || info.Mode().Perm() != mode {
		t.Errorf("%s holds %q with mode %v, not %q with %v", file, text, info.Mode(), want, mode)
	}
}

func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for i, e := range entries {
		if i >= len(want) || e.Name() != want[i] {
			t.Errorf("%d entries, %s among them, not %q", len(entries), e.Name(), want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
