// Package watch reports that files and folders may have changed, at times when their content is likely complete.
//
// A [Watcher] has a list of targets: a file, or a folder with everything below it. It watches their parent folders,
// and those of the links on the way: a replaced file loses its own watch, and a Kubernetes volume (ConfigMap, Secret)
// changes by swapping one link, ..data. Changes settle before they are reported: a complete one, such as a rename,
// after 25 ms, writing in place 100 ms after the last write, but at most two seconds after the first. Events get lost
// on network file systems and in overflows, or are not supported: so each target is also polled.
//
// Whether and how the content changed is for the reader to find out: a report may be spurious.
//
// It is a foundation: it imports no other package of this module, and all may import it.
package watch

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"

	"gatehouse/panics"
)

// Config says what is watched.
type Config struct {
	Targets []Target
	Poll    time.Duration // interval of polling; default: 2s
	Logger  *zap.Logger   // for operators: reports where only polling works; default: none
}

// Target is a file or a folder, which need not exist. Its functions are called by one goroutine at a time and open no
// files.
type Target struct {
	Path string // relative to the working directory of [New]

	// Look stats the target; nil: missing or not listable. Default: [LookAt] the path.
	Look func() *Look

	// Of a folder, by slash-separated names below it: entries to ignore, with everything below, and files that matter.
	// Default: nothing is ignored, everything matters.
	Ignored, Wanted func(name string) bool
}

// Watcher watches targets while Run runs.
type Watcher struct {
	targets []*target
	poll    time.Duration
	logger  *zap.Logger
	changed chan []int
	wake    chan struct{} // a due time was set by another goroutine
	open    func() (*fsnotify.Watcher, error)

	// Owned by Run.
	events  *fsnotify.Watcher      // nil: polling only
	watched map[string]fs.FileInfo // what each watch was set on
	warned  bool                   // about a watch that could not be set
}

// target is a Target and its state.
type target struct {
	Target
	plain bool // it has no Look func

	// Owned by Run.
	steps   []string // paths whose replacement changes where Path leads; the last is where it leads
	dirs    []string // folders watched for it
	seen    *Look
	covered bool // watched, and looked at since the last event

	mu      sync.Mutex // guards pending
	pending settling
}

const (
	defaultPoll = 2 * time.Second
	dataLink    = "..data" // the link that a Kubernetes volume swaps to change all files at once
)

// New makes a Watcher. It starts nothing.
func New(c Config) *Watcher {
	w := &Watcher{poll: c.Poll, logger: c.Logger, changed: make(chan []int), wake: make(chan struct{}, 1)}
	w.open = func() (*fsnotify.Watcher, error) { return fsnotify.NewBufferedWatcher(4096) }
	if w.poll <= 0 {
		w.poll = defaultPoll
	}
	if w.logger == nil {
		w.logger = zap.NewNop()
	}
	for _, t := range c.Targets {
		if abs, err := filepath.Abs(t.Path); err == nil {
			t.Path = abs
		}
		plain := t.Look == nil
		if plain {
			t.Look = func() *Look { return LookAt(t.Path) }
		}
		if t.Ignored == nil {
			t.Ignored = func(string) bool { return false }
		}
		if t.Wanted == nil {
			t.Wanted = func(string) bool { return true }
		}
		w.targets = append(w.targets, &target{Target: t, plain: plain})
	}
	return w
}

// Changed delivers the indices in Config of the targets to read: all of them once when Run begins, then those that
// may have changed. They are watched before they are delivered: a change during the read is reported again.
func (w *Watcher) Changed() <-chan []int { return w.changed }

// LookAgain schedules a target to be reported after a pause, changed or not. It never blocks.
func (w *Watcher) LookAgain(i int, after time.Duration) {
	w.targets[i].schedule(time.Now(), after)
	select {
	case w.wake <- struct{}{}:
	default: // already signalled
	}
}

// Run watches until ctx ends. Where watching fails it polls, and logs that. One Run at a time. Without targets it only waits.
func (w *Watcher) Run(ctx context.Context) {
	if len(w.targets) == 0 {
		<-ctx.Done()
		return
	}
	w.watched, w.warned = map[string]fs.FileInfo{}, false
	var err error
	if w.events, err = w.open(); err != nil {
		w.events = nil
		w.warn(err)
	} else {
		defer w.events.Close()
	}
	for _, t := range w.targets {
		t.covered = false
		t.schedule(time.Now(), 0)
	}
	w.loop(ctx)
}

func (w *Watcher) loop(ctx context.Context) {
	var events <-chan fsnotify.Event
	var lost <-chan error
	if w.events != nil {
		events, lost = w.events.Events, w.events.Errors
	}
	poll := time.NewTicker(w.poll)
	defer poll.Stop()
	settled := time.NewTimer(0)
	defer settled.Stop()
	for ctx.Err() == nil {
		due, next := w.due(time.Now())
		var out chan []int
		if len(due) > 0 {
			out = w.changed
		}
		settled.Stop()
		if !next.IsZero() {
			settled.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
		case out <- due:
			for _, i := range due {
				w.targets[i].handed(time.Now())
			}
		case event := <-events:
			for _, t := range w.targets {
				if changed, complete := w.classify(t, event); changed {
					t.note(time.Now(), complete)
				}
			}
		case err := <-lost:
			w.logger.Warn("watching directories: events may be lost, looking at all of them", zap.Error(err))
			for _, t := range w.targets {
				t.note(time.Now(), false)
			}
		case <-poll.C:
			w.compareAll()
		case <-w.wake:
		case <-settled.C:
		}
	}
}

// due returns the settled targets, after watching and looking at them, and when the next one will be due.
func (w *Watcher) due(now time.Time) (due []int, next time.Time) {
	for i, t := range w.targets {
		switch at, pending := t.due(); {
		case !pending:
		case at.After(now):
			if next.IsZero() || at.Before(next) {
				next = at
			}
		default:
			if !t.covered {
				w.cover(t)
			}
			due = append(due, i)
		}
	}
	return due, next
}

// compareAll compares each target with its last look.
func (w *Watcher) compareAll() {
	for _, t := range w.targets {
		if _, pending := t.due(); pending {
			continue
		}
		if now := t.Look(); !now.Same(t.seen) || t.plain && t.seen.fresh() {
			t.note(time.Now(), false)
		}
	}
}

// cover watches everything of a target that exists: the parents of links, the target, its subfolders. It takes the
// look that later ones are compared with. Watches use resolved names, because events of a folder come under a single
// name.
func (w *Watcher) cover(t *target) {
	const attempts = 3 // a path that changed meanwhile was not watched
	t.covered = true
	for range attempts {
		t.seen, t.steps = t.Look(), stepsTo(t.Path)
		if w.events == nil {
			return
		}
		top := t.top()
		t.dirs = nil
		for _, step := range t.steps {
			t.dirs = append(t.dirs, filepath.Dir(step))
		}
		t.dirs = append(t.dirs, top)
		if t.seen != nil {
			for _, dir := range t.seen.Folders {
				t.dirs = append(t.dirs, filepath.Join(top, filepath.FromSlash(dir)))
			}
		}
		w.follow(t.dirs)
		if slices.Equal(t.steps, stepsTo(t.Path)) {
			return
		}
	}
}

// top is where the target's path leads.
func (t *target) top() string { return t.steps[len(t.steps)-1] }

// follow watches folders, and removes watches that no target needs.
func (w *Watcher) follow(dirs []string) {
	// A watch ends with its folder, and the name may be another folder now.
	live := map[string]bool{}
	for _, dir := range w.events.WatchList() {
		live[dir] = true
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		if known := w.watched[dir]; live[dir] && known != nil && os.SameFile(known, info) {
			continue
		}
		w.add(dir, info)
	}
	wanted := map[string]bool{}
	for _, t := range w.targets {
		for _, dir := range t.dirs {
			wanted[dir] = true
		}
	}
	for dir := range w.watched {
		if !wanted[dir] {
			_ = w.events.Remove(dir) // may have ended already
			delete(w.watched, dir)
		}
	}
}

func (w *Watcher) add(dir string, info fs.FileInfo) {
	_ = w.events.Remove(dir) // may not exist
	if err := w.events.Add(dir); err != nil {
		if !os.IsNotExist(err) {
			w.warn(fmt.Errorf("watching %s: %w", dir, err))
		}
		return
	}
	w.watched[dir] = info
}

func (w *Watcher) warn(err error) {
	if !w.warned {
		w.logger.Warn("directories cannot be watched; changes are found by looking every few seconds", zap.Error(err))
	}
	w.warned = true
}

// Files calls read at once, and then whenever a target may have changed, until ctx ends.
func Files(ctx context.Context, c Config, read func()) {
	w := New(c)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { panics.Loop(ctx, "watching files", w.Run) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Changed():
			read()
		}
	}
}

// Paths are targets of plain files.
func Paths(paths ...string) []Target {
	var list []Target
	for _, path := range paths {
		list = append(list, Target{Path: path})
	}
	return list
}
