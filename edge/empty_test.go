package edge

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"gatehouse/directory"
)

// TestDirectoryEmptied: a file that is emptied in place, as one is that a program begins to write, does not take away what it had. What is in it at
// last counts; one that stays empty counts after a while.
func TestDirectoryEmptied(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, test := range map[string]struct{ file, content string }{
		"relations":   {"people/relations.jsonl", someRelations},
		"a yaml file": {"people/directory.yaml", "objects: [user:ann]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, "")
			if name == "a yaml file" {
				for _, file := range []string{"objects", "relations"} {
					if err := os.Remove(filepath.Join(p.dir, "people", file+".jsonl")); err != nil {
						t.Fatal(err)
					}
				}
				p.write(test.file, test.content)
			}
			cfg, _ := p.read()
			cfg.Directory.File = filepath.Join(p.dir, "people")
			s := newDirectorySource(cfg, zap.NewNop(), nil)
			if err := s.start(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex // guards ahead
			ahead := time.Duration(0)
			s.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
			published := make(chan *directory.Snapshot, 10)
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { s.run(ctx, func(next *directory.Snapshot) error { published <- next; return nil }) })
			defer func() { cancel(); running.Wait() }()
			inPlace := func(text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(p.dir, test.file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			status := func(what string, is func(*DirectoryStatus) bool) {
				t.Helper()
				p.T = t
				p.eventually(what, func() error {
					if got := s.status.Load(); !is(got) {
						return &os.PathError{Op: what, Path: got.Error, Err: os.ErrInvalid}
					}
					return nil
				})
			}
			held := func(s *DirectoryStatus) bool {
				return strings.Contains(s.Error, "is empty, as a file is that is being written")
			}
			inPlace("")
			status("waiting until it is held back", held)
			inPlace(test.content)
			status("waiting for the content", good)
			if len(published) > 0 {
				t.Fatal("an empty directory was published")
			}
			inPlace("")
			status("waiting until it is held back again", held)
			mu.Lock()
			ahead = emptyWait
			mu.Unlock()
			inPlace("")
			if next := <-published; next.Stats().Relations != 0 {
				t.Errorf("published: %+v", next.Stats())
			}
		})
	}
}
