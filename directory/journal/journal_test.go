package journal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse/directory"
	"gatehouse/directory/journal"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		writeUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

const (
	snapshotFile = "written.snapshot"
	journalFile  = "written.journal"
)

// running is a Store that runs, with what it put in force.
type running struct {
	*journal.Store
	inForce atomic.Pointer[directory.Snapshot]
	stop    func()
}

func config(dir string) journal.Config {
	return journal.Config{Dir: dir, Seed: func(context.Context) (*directory.Snapshot, error) {
		return directory.New(directory.DefaultManifest(), directory.Limits{}).WithRevision(1), nil
	}}
}

func open(t testing.TB, with journal.Config) *journal.Store {
	t.Helper()
	s, err := journal.Open(context.Background(), with)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t testing.TB, with journal.Config) *running {
	t.Helper()
	r := &running{Store: open(t, with)}
	r.start(t)
	return r
}

func (r *running) start(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r.inForce.Store(r.Snapshot())
	go func() { // goroutine: of a test, which a panic may end
		defer close(ended)
		r.Run(ctx, directory.Limits{}, func(s *directory.Snapshot) error { r.inForce.Store(s); return nil })
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(r.stop)
}

// write makes changes.
func (r *running) write(t testing.TB, changes ...directory.Change) *directory.Snapshot {
	t.Helper()
	s, err := r.Write(context.Background(), write(changes...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(changes ...directory.Change) journal.Write {
	return journal.Write{By: "test", Make: func(*directory.Snapshot) (journal.Edit, error) { return journal.Edit{Changes: changes}, nil }}
}

func user(id string) directory.Change {
	return directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: id}, Properties: []byte(`{"n":1}`)}}
}

func member(group, id string) directory.Change {
	return directory.Change{SetRelation: &directory.Relation{Object: directory.Ref{Type: "group", ID: group}, Relation: "member", Subject: directory.Ref{Type: "user", ID: id}}}
}

func group(id string) directory.Change {
	return directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "group", ID: id}}}
}

func same(t testing.TB, what string, got, want *directory.Snapshot) {
	t.Helper()
	if got.Digest() != want.Digest() || got.Revision() != want.Revision() {
		t.Fatalf("%s: revision %d with %d objects, want %d with %d", what, got.Revision(), got.Stats().Objects, want.Revision(), want.Stats().Objects)
	}
}

const smallManifest = "model:\n  version: 3\ntypes:\n  user: {}\n"

// TestWrites: what was written is in force, and there after a restart, also with a manifest, an expiry and deletions.
func TestWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	r := run(t, config(dir))
	expires := member("g", "b")
	expires.SetRelation.Expires = time.Unix(4102444800, 0).UTC()
	deleted := directory.Ref{Type: "user", ID: "a"}
	for i, changes := range [][]directory.Change{{user("a"), user("b"), group("g"), member("g", "a")}, {expires}, {{DeleteObject: &deleted}}, {{DeleteRelation: expires.SetRelation}}, {expires}} {
		after := r.write(t, changes...)
		if after.Revision() != uint64(i)+2 || r.inForce.Load() != after {
			t.Fatalf("write %d: revision %d", i, after.Revision())
		}
	}
	if again := r.write(t, expires); again.Revision() != 6 {
		t.Errorf("a write that changes nothing made revision %d", again.Revision())
	}
	if _, err := r.Write(t.Context(), write(user("c"), user("*"))); err == nil || !strings.Contains(err.Error(), "change 2") {
		t.Errorf("a wrong change: %v", err)
	}
	m, err := directory.ParseManifest("m", []byte(smallManifest))
	if err != nil {
		t.Fatal(err)
	}
	set := func(force bool) (*directory.Snapshot, error) {
		return r.Write(t.Context(), journal.Write{Make: func(*directory.Snapshot) (journal.Edit, error) {
			return journal.Edit{Manifest: m, Force: force}, nil
		}})
	}
	var orphans *directory.OrphanError
	if _, err := set(false); !errors.As(err, &orphans) || orphans.Total != 2 {
		t.Errorf("a manifest that orphans: %v", err)
	}
	last, err := set(true)
	if err != nil || last.Stats().Objects != 1 {
		t.Fatalf("with force: %v", err)
	}
	same(t, "in force", r.inForce.Load(), last)
	r.stop()
	same(t, "after a restart", open(t, config(dir)).Snapshot(), last)

	r.start(t) // the same one, as after a reload
	last = r.write(t, user("z"))
	r.stop()
	same(t, "after a reload", open(t, config(dir)).Snapshot(), last)
}

// TestSeed: the first directory is asked for once.
func TestSeed(t *testing.T) {
	with := config(t.TempDir())
	seeds := 0
	seed := with.Seed
	with.Seed = func(ctx context.Context) (*directory.Snapshot, error) { seeds++; return seed(ctx) }
	for range 3 {
		run(t, with).stop()
	}
	if seeds != 1 {
		t.Errorf("%d seeds", seeds)
	}
	with = config(t.TempDir())
	broken := errors.New("no file")
	with.Seed = func(context.Context) (*directory.Snapshot, error) { return nil, broken }
	if _, err := journal.Open(t.Context(), with); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// TestOpenChangesNothing: who only reads leaves no file.
func TestOpenChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	open(t, config(dir))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}

// TestCompaction: a journal over the bound is replaced, and what is read after that is the same.
func TestCompaction(t *testing.T) {
	with := config(t.TempDir())
	with.CompactAt = 500
	r := run(t, with)
	var last *directory.Snapshot
	journalPath, snapshotPath := filepath.Join(with.Dir, journalFile), filepath.Join(with.Dir, snapshotFile)
	var old []byte
	for i := range 40 {
		if i == 2 {
			old = read(t, journalPath)
		}
		last = r.write(t, user(fmt.Sprint(i)))
	}
	r.stop()
	if size := len(read(t, journalPath)); size > 700 {
		t.Errorf("the journal has %d bytes", size)
	}
	same(t, "after compactions", open(t, with).Snapshot(), last)
	// A process that died after a new snapshot and before the new journal leaves an old journal, all of which the snapshot has.
	put(t, journalPath, old)
	same(t, "snapshot", open(t, with).Snapshot(), func() *directory.Snapshot {
		f, err := os.Open(snapshotPath)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := directory.Read(f, directory.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}())
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// written is a folder with a few writes, the revisions that each length of the journal holds, and the journal.
func written(t testing.TB) (with journal.Config, whole []byte, ends map[int]*directory.Snapshot) {
	with = config(t.TempDir())
	r := run(t, with)
	ends = map[int]*directory.Snapshot{}
	path := filepath.Join(with.Dir, journalFile)
	for i := range 4 {
		after := r.write(t, user(fmt.Sprintf("user-%d", i)), user("other"))
		ends[len(read(t, path))] = after
	}
	r.stop()
	return with, read(t, path), ends
}

// TestWritesBesideCompaction: writes go on while a snapshot is written, and none is lost.
func TestWritesBesideCompaction(t *testing.T) {
	with := config(t.TempDir())
	with.CompactAt = 2000
	seed := with.Seed
	with.Seed = func(ctx context.Context) (*directory.Snapshot, error) {
		s, err := seed(ctx)
		if err != nil {
			return nil, err
		}
		var changes []directory.Change
		for i := range 20_000 {
			changes = append(changes, user(fmt.Sprint("first-", i)))
		}
		s, err = s.Apply(changes)
		return s.WithRevision(1), err
	}
	r := run(t, with)
	for i := range 200 {
		last := r.write(t, user(fmt.Sprint(i)))
		if i%50 == 0 {
			same(t, "read meanwhile", open(t, with).Snapshot(), last)
		}
	}
	last := r.inForce.Load()
	r.stop()
	same(t, "after that", open(t, with).Snapshot(), last)
	if size := len(read(t, filepath.Join(with.Dir, journalFile))); size > 4000 {
		t.Errorf("the journal has %d bytes", size)
	}
}

// TestTwoProcesses: one writes; the other refuses, and goes on from what the first left.
func TestTwoProcesses(t *testing.T) {
	with := config(t.TempDir())
	first := run(t, with)
	first.write(t, user("a"))
	second := run(t, with)
	if _, err := second.Write(t.Context(), write(user("b"))); !errors.Is(err, journal.ErrUnavailable) || !strings.Contains(err.Error(), "another process writes here") {
		t.Fatalf("got %v", err)
	}
	if second.Problem() == "" || second.inForce.Load() != nil {
		t.Error("it has no problem, or decides by what the first may have changed since")
	}
	last := first.write(t, user("c"))
	first.stop()
	for {
		after, err := second.Write(t.Context(), write(user("d")))
		if errors.Is(err, journal.ErrUnavailable) {
			time.Sleep(10 * time.Millisecond) // a second at most until it tries again
			continue
		}
		if err != nil || after.Revision() != last.Revision()+1 || second.Problem() != "" {
			t.Fatalf("revision %d after %d, %v", after.Revision(), last.Revision(), err)
		}
		if second.inForce.Load() != after {
			t.Error("it does not decide by what it wrote")
		}
		break
	}
}

// TestFullDisk: a write that does not fit is refused, nothing of it stays, and later ones are made.
func TestFullDisk(t *testing.T) {
	with := config(t.TempDir())
	r := run(t, with)
	last := r.write(t, user("a"))
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	limit := uint64(len(read(t, filepath.Join(with.Dir, journalFile))) + 20) // in the middle of a record
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := r.Write(t.Context(), write(user("b")))
	problem := r.Problem()
	if e := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, journal.ErrUnavailable) || problem == "" {
		t.Fatalf("got %v, problem %q", err, problem)
	}
	same(t, "in force", r.inForce.Load(), last)
	same(t, "on disk", open(t, with).Snapshot(), last)
	last = r.write(t, user("c"))
	r.stop()
	if _, found := last.Object(directory.Ref{Type: "user", ID: "b"}); found || r.Problem() != "" {
		t.Errorf("found %v, problem %q", found, r.Problem())
	}
	same(t, "after that", open(t, with).Snapshot(), last)
}

// TestAtOnce: many writers at once; each acknowledged write is there, and writes see those before them.
func TestAtOnce(t *testing.T) {
	with := config(t.TempDir())
	with.CompactAt = 5000
	r := run(t, with)
	const writers, each = 16, 20
	var wait sync.WaitGroup
	for i := range writers {
		wait.Go(func() {
			for j := range each {
				_, err := r.Write(t.Context(), journal.Write{By: fmt.Sprint(i), Make: func(s *directory.Snapshot) (journal.Edit, error) {
					if _, found := s.Object(directory.Ref{Type: "user", ID: fmt.Sprintf("%d-%d", i, j-1)}); !found && j > 0 {
						return journal.Edit{}, errors.New("the write before is not there")
					}
					return journal.Edit{Changes: []directory.Change{user(fmt.Sprintf("%d-%d", i, j))}}, nil
				}})
				if err != nil {
					t.Errorf("%d-%d: %v", i, j, err)
				}
			}
		})
	}
	wait.Wait()
	r.stop()
	s := open(t, with).Snapshot()
	if n := s.Stats().Objects; n != writers*each || s.Revision() != writers*each+1 {
		t.Errorf("%d objects, revision %d", n, s.Revision())
	}
}

// TestRefused: what a write does wrong is its own error, and nothing else suffers.
func TestRefused(t *testing.T) {
	r := run(t, config(t.TempDir()))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	stale := errors.New("stale")
	for name, test := range map[string]struct {
		ctx  context.Context
		w    journal.Write
		want error
	}{
		"too large":    {t.Context(), journal.Write{Size: journal.MaxWrite + 1}, journal.ErrTooLarge},
		"nobody waits": {ended, write(user("x")), context.Canceled},
		"its own":      {t.Context(), journal.Write{Make: func(*directory.Snapshot) (journal.Edit, error) { return journal.Edit{}, stale }}, stale},
	} {
		if _, err := r.Write(test.ctx, test.w); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.Write(t.Context(), journal.Write{Make: func(*directory.Snapshot) (journal.Edit, error) { panic("odd") }}); err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("a panic: %v", err)
	}
	r.write(t, user("after all that"))
}

// TestBusy: what waits is bounded.
func TestBusy(t *testing.T) {
	s := open(t, config(t.TempDir())) // nobody runs it
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	var busy, ended atomic.Int64
	refused := make(chan struct{}, 1000)
	for range 300 {
		wait.Go(func() {
			switch _, err := s.Write(ctx, write(user("a"))); {
			case errors.Is(err, journal.ErrBusy):
				busy.Add(1)
				refused <- struct{}{}
			case errors.Is(err, context.Canceled):
				ended.Add(1)
			default:
				t.Errorf("got %v", err)
			}
		})
	}
	for range 300 - 256 {
		<-refused
	}
	cancel()
	wait.Wait()
	if busy.Load() != 44 || ended.Load() != 256 {
		t.Errorf("%d refused, %d ended", busy.Load(), ended.Load())
	}
}

// TestPublishFails: what is on disk and cannot be put in force is not acknowledged until it is, which may be in the next Run.
func TestPublishFails(t *testing.T) {
	with := config(t.TempDir())
	s := open(t, with)
	ctx, cancel := context.WithCancel(t.Context())
	tried, ended := make(chan struct{}, 1), make(chan struct{})
	go func() { // goroutine: of a test, which a panic may end
		defer close(ended)
		s.Run(ctx, directory.Limits{}, func(*directory.Snapshot) error {
			select {
			case tried <- struct{}{}:
			default:
			}
			return errors.New("not now")
		})
	}()
	done := make(chan error, 1)
	go func() { _, err := s.Write(t.Context(), write(user("a"))); done <- err }() // goroutine: of a test, which a panic may end
	<-tried
	cancel()
	<-ended
	select {
	case err := <-done:
		t.Fatalf("answered: %v", err)
	default:
	}
	r := &running{Store: s}
	r.start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, found := r.inForce.Load().Object(directory.Ref{Type: "user", ID: "a"}); !found {
		t.Error("it is not in force")
	}
}
