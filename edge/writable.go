package edge

import (
	"context"
	"fmt"

	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/directory/journal"
)

// writable makes s the source of a writable directory in a folder. A previous source of the same folder hands its
// store over, which goes on with the queued writes.
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

// loadWritable loads the stored directory, or the seed where nothing was written yet.
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

// first is the initial directory of a node without writes.
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

// runWritable runs the store until ctx ends.
func (s *directorySource) runWritable(ctx context.Context, publish func(*directory.Snapshot) error) {
	if s.store == nil { // could not be opened: a reload tries again
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

// degradedWritable says why writes fail, or that there is no directory.
func (s *directorySource) degradedWritable() []string {
	if is := s.status.Load(); !is.Loaded {
		reason := is.Error
		if reason == "" {
			reason = s.store.Problem()
		}
		return []string{fmt.Sprintf("directory: %s cannot be used, and nothing is decided without it: %s", s.cfg.Writable, reason)}
	}
	if problem := s.store.Problem(); problem != "" {
		return []string{"directory: nothing can be written: " + problem}
	}
	return nil
}

// Write changes the directory. It returns the directory after the write once it is on disk and active.
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
