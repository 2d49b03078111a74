package edge

import (
	"context"
	"fmt"

	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/directory/journal"
)

// writable makes s the source of a directory that is written and kept in a folder. One before of the same folder hands its store over: it goes
// on with the writes that wait.
func (s *directorySource) writable(dir string, before *directorySource) *directorySource {
	s.cfg.Writable = dir
	if before != nil && before.cfg.Writable == dir && before.store != nil {
		s.before, s.store = before, before.store
		s.status.Store(before.status.Load())
		return s
	}
	s.report()
	return s
}

// loadWritable reads what was written, or the first directory where nothing was.
func (s *directorySource) loadWritable(ctx context.Context, revision uint64) (err error) {
	s.store, err = journal.Open(ctx, journal.Config{Dir: s.cfg.Writable, Limits: s.cfg.Limits, Logger: s.logger,
		Seed: func(ctx context.Context) (*directory.Snapshot, error) {
			first, err := s.first(ctx)
			if err != nil {
				return nil, err
			}
			return first.WithRevision(revision + 1), nil
		}})
	if err != nil {
		s.fail(err)
		s.report()
		return fmt.Errorf("%w; mend that, and reload", err)
	}
	s.current = s.store.Snapshot()
	s.report()
	return nil
}

// first is the directory with which a node begins that nobody has written to.
func (s *directorySource) first(ctx context.Context) (*directory.Snapshot, error) {
	if s.cfg.File != "" {
		return format.Load(ctx, s.cfg.File, format.Options{Manifest: s.cfg.Manifest, Limits: s.cfg.Limits})
	}
	m := directory.DefaultManifest()
	if s.cfg.Manifest != "" {
		var err error
		if m, err = format.ReadManifest(s.cfg.Manifest); err != nil {
			return nil, err
		}
	}
	return directory.New(m, s.cfg.Limits), nil
}

// runWritable writes until ctx ends.
func (s *directorySource) runWritable(ctx context.Context, publish func(*directory.Snapshot) error) {
	if s.store == nil { // it could not be read: a reload tries again
		<-ctx.Done()
		return
	}
	s.store.Run(ctx, s.cfg.Limits, func(next *directory.Snapshot) error {
		if err := publish(next); err != nil {
			return err
		}
		s.current = next
		s.report()
		return nil
	})
}

// degradedWritable says why nothing can be written, or that there is no directory.
func (s *directorySource) degradedWritable() []string {
	if is := s.status.Load(); !is.Loaded {
		return []string{fmt.Sprintf("directory: %s cannot be used, and nothing is decided without it: %s", s.cfg.Writable, is.Error)}
	}
	if problem := s.store.Problem(); problem != "" {
		return []string{"directory: nothing can be written: " + problem}
	}
	return nil
}

// Write changes the directory. It returns the one after the write when that is on disk and in force.
func (n *Node) Write(ctx context.Context, w journal.Write) (*directory.Snapshot, error) {
	d := n.current.Load().directory
	switch {
	case d == nil || d.cfg.Writable == "":
		return nil, journal.ErrReadOnly
	case d.store == nil:
		return nil, fmt.Errorf("%w: it could not be loaded", journal.ErrUnavailable)
	}
	return d.store.Write(ctx, w)
}
