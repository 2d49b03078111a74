package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"gatehouse/directory"
	"gatehouse/durable"
	"gatehouse/watch"
)

// keptDirectory is the process's local copy of its directory, which the next process uses where the files are
// unusable. A nil one keeps nothing.
type keptDirectory struct {
	dir    string
	file   string // the file that is copied
	logger *zap.Logger
	wake   chan struct{}

	mu        sync.Mutex // guards the fields below
	next      *directory.Snapshot
	good      bool      // the files are usable
	confirmed time.Time // when they last were, if they are not

	// Owned by run, and before it by who made this.
	saved string // digest of the copy on disk; "": unknown
}

// keptHead describes the copy.
type keptHead struct {
	File      string    `json:"file"`
	Revision  uint64    `json:"revision"`
	Digest    string    `json:"digest"`
	Confirmed time.Time `json:"confirmed"` // when the files were last usable
}

const (
	keptSnapshot = "directory.snapshot"
	keptAbout    = "directory.json"
	maxKeptAbout = 64 << 10
	keptEvery    = time.Minute // how often the time of confirmation is written
)

func newKeptDirectory(dir, file string, logger *zap.Logger) *keptDirectory {
	return &keptDirectory{dir: dir, file: file, logger: logger, wake: make(chan struct{}, 1)}
}

// head reads the head of the copy on disk; zero where there is none of this file.
func (k *keptDirectory) head() (h keptHead) {
	if k == nil {
		return keptHead{}
	}
	text, err := watch.ReadFile(filepath.Join(k.dir, keptAbout), maxKeptAbout)
	if errors.Is(err, fs.ErrNotExist) {
		return keptHead{}
	}
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err != nil {
		k.logger.Warn("what is kept of the directory cannot be read", zap.Error(err))
		return keptHead{}
	}
	if h.File != k.file {
		return keptHead{}
	}
	return h
}

// read reads the copy.
func (k *keptDirectory) read(limits directory.Limits) (*directory.Snapshot, error) {
	f, err := os.Open(filepath.Join(k.dir, keptSnapshot))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := directory.Read(f, limits)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return s, nil
}

// put queues a snapshot to be kept. It never blocks.
func (k *keptDirectory) put(s *directory.Snapshot) {
	if k == nil {
		return
	}
	k.mu.Lock()
	k.next, k.good = s, true
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default: // already signalled
	}
}

// invalidate records that the files are no longer usable.
func (k *keptDirectory) invalidate() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.good {
		k.good, k.confirmed = false, time.Now().UTC()
	}
}

// run writes queued snapshots until ctx ends, then the last one. Writing a large directory that changes constantly is
// limited to a small share of the time.
func (k *keptDirectory) run(ctx context.Context) {
	confirm := time.NewTicker(keptEvery)
	defer confirm.Stop()
	for {
		select {
		case <-ctx.Done():
			k.save()
			return
		case <-confirm.C:
			k.save()
			continue
		case <-k.wake:
		}
		started := time.Now()
		k.save()
		pause := time.NewTimer(20 * time.Since(started))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// save writes the snapshot if it is not on disk, else only the time.
func (k *keptDirectory) save() {
	k.mu.Lock()
	s, confirmed := k.next, k.confirmed
	if k.good {
		confirmed = time.Now().UTC()
	}
	k.mu.Unlock()
	if s == nil {
		return // the files were never usable
	}
	err := os.MkdirAll(k.dir, 0o700)
	if err == nil && s.Digest() != k.saved {
		err = durable.Write(filepath.Join(k.dir, keptSnapshot), 0o600, func(w io.Writer) error { _, err := s.WriteTo(w); return err })
	}
	if err == nil {
		k.saved = s.Digest()
		text, _ := json.Marshal(keptHead{File: k.file, Revision: s.Revision(), Digest: k.saved, Confirmed: confirmed}) // strings and a number: cannot fail
		err = durable.WriteFile(filepath.Join(k.dir, keptAbout), text, 0o600)
	}
	if err != nil {
		k.saved = ""
		k.logger.Error("keeping a copy of the directory", zap.Error(err))
	}
}
