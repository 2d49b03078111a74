package edge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/panics"
	"gatehouse/watch"
)

// Files are read in a goroutine of their own, at most one at a time, because reads on a network mount may block
// forever. The source goes on meanwhile, and reports the delay.
const (
	lookWithin = 30 * time.Second // limit for stat of the files
	loadWithin = 5 * time.Minute  // limit for reading them
	probeEvery = time.Minute      // interval of probes where no event arrives: a blocked mount sends none
	leaveAfter = 2 * time.Second  // how long shutdown waits for a blocked load
)

// attempt is a load of the files, or a probe.
type attempt struct {
	started time.Time
	probe   bool // only stat the files
	reading atomic.Bool
	late    bool             // the delay was logged; owned by the source
	done    chan loadOutcome // buffered, so that the goroutine never blocks
	cancel  context.CancelFunc
}

// loadOutcome is the outcome of an attempt.
type loadOutcome struct {
	next      *directory.Snapshot
	looks     []*watch.Look
	unchanged bool // the files are those already loaded
	err       error
}

// startLoad starts to load the files, unless they are the known ones. Unless blocked, it ends with ctx.
func (s *directorySource) startLoad(ctx context.Context, known []*watch.Look) {
	s.begin(ctx, false, func(ctx context.Context, a *attempt) (out loadOutcome) {
		looks := s.fingerprints()
		if out.unchanged = known != nil && s.settled(looks, known); out.unchanged {
			return out
		}
		a.reading.Store(true)
		out.next, out.err = s.load(ctx, s.cfg)
		if out.looks = looks; out.err == nil && !same(looks, s.fingerprints()) {
			out.err = fmt.Errorf("%s: %w", s.cfg.File, errChanging)
		}
		return out
	})
}

// probe checks that the files respond.
func (s *directorySource) probe(ctx context.Context) {
	s.begin(ctx, true, func(context.Context, *attempt) loadOutcome {
		s.fingerprints()
		return loadOutcome{unchanged: true}
	})
}

func (s *directorySource) begin(ctx context.Context, probe bool, do func(context.Context, *attempt) loadOutcome) {
	a := &attempt{started: s.now(), probe: probe, done: make(chan loadOutcome, 1)}
	ctx, a.cancel = context.WithCancel(ctx)
	s.attempt = a
	go func() {
		var out loadOutcome
		defer func() { a.done <- out }()
		defer panics.Into("loading the directory", &out.err)
		out = do(ctx, a)
	}()
}

// lateAt is when an attempt is overdue.
func (s *directorySource) lateAt() time.Time {
	if s.attempt.reading.Load() {
		return s.attempt.started.Add(s.loadWithin)
	}
	return s.attempt.started.Add(s.lookWithin)
}

// errSlow: the files do not respond, or reading takes too long. The attempt goes on.
var errSlow = errors.New("the files do not answer, or take long to read: is their file system there?")

// overdue reports, and logs once, that an attempt takes too long.
func (s *directorySource) overdue() bool {
	a := s.attempt
	if a == nil || a.late || s.now().Before(s.lateAt()) {
		return false
	}
	a.late = true
	if s.failing.IsZero() {
		s.failing = a.started
	}
	s.fail(fmt.Errorf("%s: since %s %w", s.cfg.File, a.started.UTC().Format(time.RFC3339), errSlow))
	s.report()
	s.logger.Error("the directory's files are waited for, the old one stays", zap.String("file", s.cfg.File), zap.Time("since", a.started))
	return true
}

// abandon waits briefly for an attempt whose context has ended.
func (s *directorySource) abandon() {
	if s.attempt == nil {
		return
	}
	s.attempt.cancel()
	select {
	case <-s.attempt.done:
	case <-time.After(leaveAfter):
		s.logger.Warn("leaving a load of the directory behind that blocks", zap.String("file", s.cfg.File))
	}
	s.attempt = nil
}

// firstLoad loads the files for the first time. A load that takes too long goes on, and run takes its outcome.
func (s *directorySource) firstLoad(ctx context.Context) (loadOutcome, error) {
	s.startLoad(context.WithoutCancel(ctx), nil)
	for {
		late := time.NewTimer(s.lateAt().Sub(s.now()))
		select {
		case <-ctx.Done():
			late.Stop()
			s.abandon()
			return loadOutcome{}, ctx.Err()
		case out := <-s.attempt.done:
			late.Stop()
			s.attempt.cancel()
			s.attempt = nil
			return out, out.err
		case <-late.C:
			if s.overdue() {
				return loadOutcome{}, errors.New(s.problem)
			}
		}
	}
}

// broken reports whether the first load failed by what is in the files: they are there, and stay as they are until somebody changes them.
func (s *directorySource) broken(err error) bool {
	return err != nil && s.cfg.Writable == "" && s.cfg.Control == (controlConfig{}) && s.attempt == nil && !errors.Is(err, errChanging) && !errors.Is(err, context.Canceled)
}

// loadFiles reads the files.
func loadFiles(ctx context.Context, c directoryConfig) (*directory.Snapshot, error) {
	return format.Load(ctx, c.File, format.Options{Manifest: c.Manifest, Limits: c.Limits})
}

// errChanging: the files are being written while they are read.
var errChanging = errors.New("the files change while they are read")

// emptyWait is how long a directory that an empty file left without relations, or without objects, is held back: a file that is
// written in place ("tool > relations.jsonl") is empty at first, and what it excluded would be allowed.
const emptyWait = 10 * time.Second

// errEmptied: a file is empty, and the directory in use has what was in it.
var errEmptied = errors.New("is empty, as a file is that is being written")

// holdBack is an error while the loaded directory is held back because of an empty file.
func (s *directorySource) holdBack(out loadOutcome) error {
	name := ""
	if out.err == nil && out.next != nil && s.current != nil {
		was, is := s.current.Stats(), out.next.Stats()
		if was.Relations > 0 && is.Relations == 0 || was.Objects > 0 && is.Objects == 0 {
			name = emptyFile(s.cfg.File, out.looks[0])
		}
	}
	switch {
	case out.unchanged:
		return nil
	case name == "":
		s.emptied = time.Time{}
		return nil
	case s.emptied.IsZero():
		s.emptied = s.now()
	case s.now().Sub(s.emptied) >= s.emptyWait:
		return nil
	}
	return fmt.Errorf("%s %w; it is taken if it still is after %s", name, errEmptied, s.emptyWait)
}

// emptyFile is an empty file among those looked at; "" where none is.
func emptyFile(path string, look *watch.Look) string {
	switch {
	case look == nil:
	case !look.Base.IsDir():
		if look.Base.Size() == 0 {
			return path
		}
	default:
		for _, name := range look.Names {
			if info := look.Files[name]; info != nil && info.Mode().IsRegular() && info.Size() == 0 {
				return filepath.Join(path, name)
			}
		}
	}
	return ""
}

// targets are the watched files and folders.
func (s *directorySource) targets() []watch.Target {
	list := []watch.Target{{Path: s.cfg.File, Ignored: hidden, Look: func() *watch.Look { return fingerprint(s.cfg.File) }}}
	if s.cfg.Manifest != "" {
		list = append(list, watch.Target{Path: s.cfg.Manifest})
	}
	return list
}

func (s *directorySource) fingerprints() []*watch.Look {
	list := []*watch.Look{fingerprint(s.cfg.File)}
	if s.cfg.Manifest != "" {
		list = append(list, watch.LookAt(s.cfg.Manifest))
	}
	return list
}

func same(a, b []*watch.Look) bool {
	for i := range a {
		if !a[i].Same(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// hidden reports whether a file in a folder is not part of the directory, such as editors' backup files.
func hidden(name string) bool { return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") }

// maxDirectoryFiles bounds the files of a folder.
const maxDirectoryFiles = 10_000

// fingerprint looks at a file, or at a folder with the files that are in it.
func fingerprint(path string) *watch.Look {
	look := watch.LookAt(path)
	if look == nil || !look.Base.IsDir() {
		return look
	}
	look.Files = map[string]fs.FileInfo{}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) > maxDirectoryFiles {
		return nil
	}
	for _, e := range entries {
		if hidden(e.Name()) {
			continue
		}
		look.Names = append(look.Names, e.Name())
		if info, err := os.Stat(filepath.Join(path, e.Name())); err == nil {
			look.Files[e.Name()] = info
		}
	}
	return look
}

// settled reports whether the files are the known ones. Recently written ones may have changed unnoticed: a file
// system's clock may be coarse.
func (s *directorySource) settled(looks, known []*watch.Look) bool {
	if !same(looks, known) {
		return false
	}
	const lately = 2 * time.Second
	old := func(info fs.FileInfo) bool {
		return info == nil || info.IsDir() || s.now().Sub(info.ModTime()) > lately
	}
	for _, l := range looks {
		if l == nil || !old(l.Base) {
			return false
		}
		for _, info := range l.Files {
			if !old(info) {
				return false
			}
		}
	}
	return true
}
