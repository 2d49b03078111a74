package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gatehouse/control/store"
	"gatehouse/directory"
)

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func set(t *testing.T, s *store.Store, e *store.Environment, id string) store.Result {
	t.Helper()
	out, err := s.Write(t.Context(), e, store.Write{Actor: "test", Edits: []store.Edit{{Change: directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: id}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestEpoch: a database that goes on keeps its epoch; an older one that was put back begins a new one, so that no edge takes
// its revisions for those that it knows. One that was altered is not served.
func TestEpoch(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	e, err := s.CreateEnvironment(t.Context(), "a/b", "test")
	if err != nil {
		t.Fatal(err)
	}
	set(t, s, e, "alice")
	digest := e.Snapshot().Digest()
	run := func(s *store.Store, ids ...string) string { // as control does: Run writes the mark
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		e, err := s.Environment("a/b")
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			set(t, s, e, id)
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.Close()
		return s.Epoch()
	}
	first := run(s)
	database, saved := filepath.Join(dir, "control.db"), filepath.Join(t.TempDir(), "saved.db")
	copyFile(t, database, saved)

	s = open(t, dir)
	if s.Epoch() != first {
		t.Errorf("epoch %s after a restart, %s before", s.Epoch(), first)
	}
	e, _ = s.Environment("a/b")
	if e.Snapshot().Digest() != digest || e.Snapshot().Revision() != 2 {
		t.Errorf("revision %d after a restart", e.Snapshot().Revision())
	}
	run(s, "bob", "carol")

	copyFile(t, saved, database) // an older one
	for _, name := range []string{database + "-wal", database + "-shm"} {
		os.Remove(name)
	}
	s = open(t, dir)
	second := run(s)
	if second == first {
		t.Error("an older database goes on with its epoch")
	}
	elsewhere := t.TempDir()
	copyFile(t, database, filepath.Join(elsewhere, "control.db"))
	s = open(t, elsewhere)
	if s.Epoch() == second {
		t.Error("a copy in another folder goes on with its epoch")
	}
	if known, err := e.Known(t.Context(), first, 2, nil); known && err == nil {
		t.Error("a revision of another epoch is known")
	}
	s.Close()
}

// TestAltered: a database whose directory is not the one that was stored is not served.
func TestAltered(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	e, err := s.CreateEnvironment(t.Context(), "a/b", "test")
	if err != nil {
		t.Fatal(err)
	}
	set(t, s, e, "alice")
	s.Close()
	alter(t, filepath.Join(dir, "control.db"), "update object set id = 'mallory'")
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); err == nil {
		t.Error("it is served")
	}
	alter(t, filepath.Join(dir, "control.db"), "insert into schema_version (version) values (99)")
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); err == nil {
		t.Error("a database of a newer release is served")
	}
}

// TestSince: edges that are close behind are served from memory, the others from the database, with the same result.
func TestSince(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	e, err := s.CreateEnvironment(t.Context(), "a/b", "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		set(t, s, e, id)
	}
	near, _, err := e.Since(t.Context(), 1, 1<<20)
	if err != nil || len(near) != 4 {
		t.Fatalf("%d changes, %v", len(near), err)
	}
	if one, _, err := e.Since(t.Context(), 1, 1); err != nil || len(one) != 1 {
		t.Errorf("%d changes where one is allowed, %v", len(one), err)
	}
	s.Close()
	s = open(t, dir) // with nothing in memory
	defer s.Close()
	e, err = s.Environment("a/b")
	if err != nil {
		t.Fatal(err)
	}
	far, _, err := e.Since(t.Context(), 1, 1<<20)
	if err != nil || len(far) != 4 {
		t.Fatalf("%d changes, %v", len(far), err)
	}
	for i := range far {
		if far[i].Revision != near[i].Revision || string(far[i].Digest) != string(near[i].Digest) || string(far[i].Ops) != string(near[i].Ops) {
			t.Errorf("change %d: %v and %v", i, far[i], near[i])
		}
	}
	list, wake, err := e.Since(t.Context(), e.Snapshot().Revision(), 1<<20)
	if err != nil || list != nil || wake == nil {
		t.Errorf("at the head: %v, %v", list, err)
	}
	set(t, s, e, "e")
	<-wake
}

// TestQueue: writes that wait share a transaction; each has its own revision, and one that is refused leaves the others.
func TestQueue(t *testing.T) {
	s := open(t, t.TempDir())
	e, err := s.CreateEnvironment(t.Context(), "a/b", "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	results := make(chan error, 200)
	for i := range 200 {
		go func() {
			typ := "user"
			if i%10 == 0 {
				typ = "car"
			}
			_, err := s.Write(t.Context(), e, store.Write{Actor: "test", Edits: []store.Edit{{Change: directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: typ, ID: string(rune('a'+i%26)) + string(rune('a'+i/26))}}}}}})
			results <- err
		}()
	}
	failed := 0
	for range 200 {
		if err := <-results; err != nil {
			if !errors.Is(err, directory.ErrUnknownType) {
				t.Error(err)
			}
			failed++
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if failed != 20 || e.Snapshot().Revision() != 181 || e.Snapshot().Stats().Objects != 180 {
		t.Errorf("%d failed, revision %d", failed, e.Snapshot().Revision())
	}
	if _, err := s.Write(t.Context(), e, store.Write{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a write after the end: %v", err)
	}
	s.Close()
}
