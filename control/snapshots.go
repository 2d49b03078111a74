package control

import (
	"bufio"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"sync"

	"gatehouse/control/store"
	"gatehouse/directory"
)

// snapshots are whole directories as files, for edges that have none or too old a one. One file serves all edges of an
// environment; an edge that was sent it gets the changes since as any other does.
type snapshots struct {
	dir string

	mu   sync.Mutex             // guards what is below
	last map[string]*wholeFile  // by environment
	busy map[string]*sync.Mutex // held while an environment's file is written
}

// wholeFile is one directory in a file that has no name any more: it is gone with its last reader.
type wholeFile struct {
	file     *os.File
	epoch    string
	revision uint64
	digest   string
	size     int64
	sum      []byte
	users    int // guarded by the mu of snapshots; 0 closes the file
}

func newSnapshots(dir string) (*snapshots, error) {
	if err := os.RemoveAll(dir); err != nil { // what a crash has left
		return nil, err
	}
	return &snapshots{dir: dir, last: map[string]*wholeFile{}, busy: map[string]*sync.Mutex{}}, os.MkdirAll(dir, 0o700)
}

func (s *snapshots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.last {
		delete(s.last, name)
		s.drop(f)
	}
}

// drop ends one use. The caller holds mu.
func (s *snapshots) drop(f *wholeFile) {
	if f.users--; f.users == 0 {
		_ = f.file.Close() // was read
	}
}

func (s *snapshots) release(f *wholeFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(f)
}

// lock is held by who writes an environment's file.
func (s *snapshots) lock(name string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[name] == nil {
		s.busy[name] = &sync.Mutex{}
	}
	return s.busy[name]
}

func (s *snapshots) current(name string) *wholeFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.last[name]
	if f != nil {
		f.users++
	}
	return f
}

// of returns a file of an environment's directory that is not far behind it, for release.
func (s *snapshots) of(ctx context.Context, e *store.Environment, epoch string) (*wholeFile, error) {
	busy := s.lock(e.Name)
	busy.Lock()
	defer busy.Unlock()
	if f := s.current(e.Name); f != nil {
		behind, err := e.Behind(ctx, f.revision)
		if err == nil && f.epoch == epoch && behind <= f.size/4 {
			return f, nil
		}
		s.release(f)
		if err != nil {
			return nil, err
		}
	}
	f, err := s.write(e.Snapshot())
	if err != nil {
		return nil, err
	}
	f.epoch, f.users = epoch, 2
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.last[e.Name]; was != nil {
		s.drop(was)
	}
	s.last[e.Name] = f
	return f, nil
}

func (s *snapshots) write(d *directory.Snapshot) (out *wholeFile, err error) {
	f, err := os.CreateTemp(s.dir, "snapshot-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		os.Remove(f.Name())
		if err != nil {
			_ = f.Close()
		}
	}()
	sum := sha256.New()
	to := bufio.NewWriterSize(f, 1<<20)
	size, err := d.WriteTo(io.MultiWriter(to, sum))
	if err == nil {
		err = to.Flush()
	}
	if err != nil {
		return nil, err
	}
	return &wholeFile{file: f, revision: d.Revision(), digest: d.Digest(), size: size, sum: sum.Sum(nil)}, nil
}
