package decisionlog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/decisionlog"
)

// reloads runs one log after another over one spool, each with sinks of its own, as reloads do, while requests append to the newest.
func reloads(t *testing.T, cfg decisionlog.Config, rounds int, sinks func(round int) []decisionlog.Sink) (n int) {
	t.Helper()
	var l *decisionlog.Log
	var end func() error
	for round := range rounds {
		cfg.Sinks, cfg.Succeeds = sinks(round), l
		next := open(t, cfg)
		endNext := run(next)
		for range 60 {
			add(t, next, entry(n))
			n++
		}
		if end != nil {
			finish(t, end)
		}
		l, end = next, endNext
	}
	finish(t, end)
	return n
}

// TestSinkComesAgain removes a file sink and adds it again, renames it, moves it: no line is there twice, and none is missing that the spool still
// had.
func TestSinkComesAgain(t *testing.T) {
	named := func(name, file string) decisionlog.Sink { return decisionlog.Sink{Name: name, File: file} }
	for _, tt := range []struct {
		name  string
		sinks func(round int) []decisionlog.Sink
	}{
		{"removed and added", func(round int) []decisionlog.Sink {
			if round%3 == 1 {
				return []decisionlog.Sink{named("other", "other.log")}
			}
			return []decisionlog.Sink{named("other", "other.log"), named("a", "a.log")}
		}},
		{"away for two", func(round int) []decisionlog.Sink {
			if round%4 == 1 || round%4 == 2 {
				return []decisionlog.Sink{named("other", "other.log")}
			}
			return []decisionlog.Sink{named("a", "a.log"), named("other", "other.log")}
		}},
		{"renamed", func(round int) []decisionlog.Sink {
			return []decisionlog.Sink{named(fmt.Sprint("name-", round), "a.log"), named("other", "other.log")}
		}},
		{"names exchanged", func(round int) []decisionlog.Sink {
			return []decisionlog.Sink{named([]string{"x", "y"}[round%2], "a.log"), named([]string{"y", "x"}[round%2], "other.log")}
		}},
		{"another path and back", func(round int) []decisionlog.Sink {
			return []decisionlog.Sink{named("a", []string{"a.log", "b.log"}[round%2]), named("other", "other.log")}
		}},
		{"by another name of the folder", func(round int) []decisionlog.Sink {
			return []decisionlog.Sink{named(fmt.Sprint("name-", round), []string{"a.log", "./here/a.log"}[round%2]), named("other", "other.log")}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.Symlink(".", "here"); err != nil {
				t.Fatal(err)
			}
			cfg := small(".")
			cfg.File, cfg.MaxSize, cfg.DrainTimeout = "", 8<<20, time.Minute // nothing is trimmed: what comes again finds all
			n := reloads(t, cfg, 12, tt.sinks)
			found := ids(t, "a.log")
			files := []string{"a.log", "other.log"}
			if _, err := os.Stat("b.log"); err == nil {
				files = append(files, "b.log")
				found = ids(t, "a.log", "b.log")
			}
			for i := range n {
				if got := found[fmt.Sprint(i)]; got != 1 && tt.name != "names exchanged" {
					t.Fatalf("entry %d is there %d times, of %d", i, got, n)
				}
			}
			if tt.name == "names exchanged" { // the files exchange what they get, too: together they have everything twice
				once := ids(t, files...)
				for i := range n {
					if got := once[fmt.Sprint(i)]; got != 2 {
						t.Fatalf("entry %d is there %d times, of %d", i, got, n)
					}
				}
			}
		})
	}
}

// TestSinkAfterHalfALine finds a file that ends in half a line, its own or another's: what is written next is a line.
func TestSinkAfterHalfALine(t *testing.T) {
	for _, spool := range []bool{false, true} {
		for _, text := range []string{`{"decision_id":"half","out`, "not ours, and no line's end", `{"decision_id":"whole"}`, "\n", ""} {
			t.Run(fmt.Sprintf("%v %.20q", spool, text), func(t *testing.T) {
				cfg := small(t.TempDir())
				if !spool {
					cfg.Dir = ""
				}
				if err := os.WriteFile(cfg.File, []byte("{\"decision_id\":\"0\"}\n"+text), 0o600); err != nil {
					t.Fatal(err)
				}
				l := open(t, cfg)
				end := run(l)
				add(t, l, entry(1))
				finish(t, end)
				got, err := os.ReadFile(cfg.File)
				if err != nil {
					t.Fatal(err)
				}
				all := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
				if last := all[len(all)-1]; parse(t, last)["decision_id"] != "1" || !strings.Contains(string(got), text) {
					t.Errorf("%s", got)
				}
			})
		}
	}
}

// TestSinkDiskFull has no more disk in the middle of a line, by a limit on the file's size that a tmpfs sets: the line is continued, or
// begun anew, when there is room, in this log and in the next.
func TestSinkDiskFull(t *testing.T) {
	for _, what := range []string{"room", "reload", "restart", "sink removed and added", "cut off meanwhile"} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			if !inNamespace(t) {
				return
			}
			disk := filepath.Join(dir, "disk")
			if err := errors.Join(os.Mkdir(disk, 0o700), syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64k")); err != nil {
				t.Fatalf("mounting: %v", err)
			}
			defer syscall.Unmount(disk, syscall.MNT_DETACH)
			ballast := filepath.Join(disk, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 40<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := small(dir)
			cfg.File, cfg.DrainTimeout = filepath.Join(disk, "d.log"), 300*time.Millisecond
			cfg.MaxSize = 8 << 20
			l := open(t, cfg)
			end := run(l)
			n := 0
			for ; n < 300; n++ { // 16 KiB are room for about a hundred
				add(t, l, entry(n))
			}
			awaitDegraded(t, l, `sink "file" refuses decisions, which wait in the spool: `)
			half, err := os.ReadFile(cfg.File)
			if err != nil || len(half) == 0 || half[len(half)-1] == '\n' {
				t.Fatalf("no half line: %v", err)
			}
			room := func() {
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
			}
			switch what {
			case "reload", "sink removed and added":
				files := []decisionlog.Sink{{Name: "file", File: cfg.File}}
				if what != "reload" {
					files[0] = decisionlog.Sink{Name: "other", File: filepath.Join(dir, "other.log")}
				}
				next := cfg
				next.File, next.Sinks, next.Succeeds = "", files, l
				m := open(t, next)
				endNext := run(m)
				_ = end()
				add(t, m, entry(n))
				n++
				l, end = m, endNext
				if what != "reload" {
					next.Sinks, next.Succeeds = []decisionlog.Sink{{Name: "file", File: cfg.File}}, l
					m = open(t, next)
					endNext = run(m)
					_ = end()
					l, end = m, endNext
				}
				room()
			case "restart":
				_ = end()
				room()
				l = open(t, cfg)
				end = run(l)
			case "cut off meanwhile":
				if err := os.Truncate(cfg.File, 0); err != nil {
					t.Fatal(err)
				}
				room()
			default:
				room()
			}
			awaitDegraded(t, l, "")
			for range 10 {
				add(t, l, entry(n))
				n++
			}
			awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Spool.Unread == 0 })
			finish(t, end)
			if what != "cut off meanwhile" {
				inOrder(t, cfg.File, 0, n)
				return
			}
			found := ids(t, cfg.File) // each line is whole, and what had not been written is there
			if first := n - len(found); first > 200 || found[fmt.Sprint(n-1)] != 1 || found[fmt.Sprint(first)] != 1 {
				t.Errorf("%d of %d", len(found), n)
			}
		})
	}
}

// TestSinkDeleted deletes and cuts off the file while it is written to: it is made again, and what is written from then on is in it.
func TestSinkDeleted(t *testing.T) {
	for _, spool := range []bool{false, true} {
		for what, do := range map[string]func(path string) error{
			"deleted":  os.Remove,
			"cut off":  func(path string) error { return os.Truncate(path, 0) },
			"in pairs": func(path string) error { return os.Truncate(path, 7) },
		} {
			t.Run(fmt.Sprint(spool, what), func(t *testing.T) {
				cfg := small(t.TempDir())
				if !spool {
					cfg.Dir = ""
				}
				l := open(t, cfg)
				end := run(l)
				for i := range 100 {
					add(t, l, entry(i))
				}
				awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Written == 100 })
				if err := do(cfg.File); err != nil {
					t.Fatal(err)
				}
				for i := range 100 {
					add(t, l, entry(100+i))
				}
				finish(t, end)
				text, err := os.ReadFile(cfg.File)
				if err != nil {
					t.Fatal(err)
				}
				for i := range 100 {
					if !strings.Contains(string(text), fmt.Sprintf("\"decision_id\":\"%d\"", 100+i)) {
						t.Fatalf("%d is missing in %.300q", 100+i, text)
					}
				}
				if what == "in pairs" {
					if _, rest, ok := strings.Cut(string(text), "\n"); !ok || parse(t, strings.SplitN(rest, "\n", 2)[0])["decision_id"] != "100" {
						t.Errorf("%.300q", text)
					}
				}
			})
		}
	}
}

func TestSinksOfOneFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "d.log")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file, filepath.Join(dir, "link")), os.Link(file, filepath.Join(dir, "hard")),
		os.Symlink(dir, filepath.Join(dir, "folder"))); err != nil {
		t.Fatal(err)
	}
	for _, two := range [][2]string{{file, file}, {file, filepath.Join(dir, "link")}, {file, filepath.Join(dir, "hard")}, {file, dir + "/./x/../d.log"},
		{filepath.Join(dir, "new"), filepath.Join(dir, "folder", "new")}, {"-", "-"}} {
		_, err := decisionlog.New(decisionlog.Config{Dir: filepath.Join(dir, "spool"), Sinks: []decisionlog.Sink{{Name: "a", File: two[0]}, {Name: "b", File: two[1]}}})
		if err == nil || !strings.Contains(err.Error(), `the sinks "a" and "b" write to the same file`) {
			t.Errorf("%q: %v", two, err)
		}
	}
	l := open(t, decisionlog.Config{Dir: filepath.Join(dir, "spool"), Sinks: []decisionlog.Sink{{Name: "a", File: "/dev/null"}, {Name: "b", File: "/dev/null"}}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Error(err)
	}
}
