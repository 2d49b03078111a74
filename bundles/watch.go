package bundles

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	// settleAtomic is how long a change that is complete when it is seen waits for others like it.
	settleAtomic = 25 * time.Millisecond
	// settleWrite is how long nothing must be written before files that are written in place are read.
	settleWrite = 100 * time.Millisecond
	// settleMost bounds the wait under constant writing.
	settleMost = 2 * time.Second
)

// settling is a source's changes that have been seen and not yet been read.
type settling struct {
	first  time.Time // zero: nothing is pending
	due    time.Time
	atomic bool // all of them were complete when seen
	tries  int  // reads thrown away because the directory was changing
}

func (p *settling) note(now time.Time, atomic bool) {
	if p.first.IsZero() {
		*p = settling{first: now, atomic: true}
	}
	p.atomic = p.atomic && atomic
	if p.atomic {
		p.due = now.Add(settleAtomic)
		return
	}
	p.due = earlier(now.Add(settleWrite), p.first.Add(settleMost))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// again puts a read off because the directory was changing under it.
func (p *settling) again(now time.Time) {
	p.tries++
	p.first, p.due, p.atomic = now, now.Add(unstablePause), false
}

// watcher watches directories, never files: a file that is replaced takes its watch with it. The directory that a source is
// in is watched too, for the source to be removed, replaced and created again; of an archive there is nothing more.
type watcher struct {
	events  *fsnotify.Watcher
	watched map[string]fs.FileInfo // what each watch was set on
	logger  *zap.Logger
	warned  bool // that a watch could not be set
}

// newWatcher never fails: without events there is still the poll.
func newWatcher(logger *zap.Logger) *watcher {
	w := &watcher{watched: map[string]fs.FileInfo{}, logger: logger}
	events, err := fsnotify.NewBufferedWatcher(4096)
	if err != nil {
		w.warn(err)
		events = &fsnotify.Watcher{}
	}
	w.events = events
	return w
}

func (w *watcher) warn(err error) {
	if !w.warned {
		w.logger.Warn("directories cannot be watched; changes are found by looking every few seconds", zap.Error(err))
	}
	w.warned = true
}

func (w *watcher) close() {
	if w.events.Events != nil {
		_ = w.events.Close() // nothing is left to be done about it
	}
}

// cover sees that everything of a source is watched that exists: its parent, itself, the folders below. A volume's files
// are never written in place, so nothing below it is watched.
func (w *watcher) cover(s *source) {
	if w.events.Events == nil {
		return
	}
	dirs := []string{filepath.Dir(s.Path), s.Path}
	if s.seen != nil && !s.seen.volume {
		for _, dir := range s.seen.dirs {
			dirs = append(dirs, filepath.Join(s.Path, filepath.FromSlash(dir)))
		}
	}
	// A watch ends with its directory, and the same name may be another directory by now.
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
}

func (w *watcher) add(dir string, info fs.FileInfo) {
	_ = w.events.Remove(dir) // it may not be there
	if err := w.events.Add(dir); err != nil {
		if !os.IsNotExist(err) {
			w.warn(fmt.Errorf("watching %s: %w", dir, err))
		}
		return
	}
	w.watched[dir] = info
}

// judge says what an event means for a source: nothing, a change, or a change that is complete.
func (w *watcher) judge(s *source, e fsnotify.Event) (changed, atomic bool) {
	if e.Name == s.Path {
		return w.judgeTop(e)
	}
	if e.Name == filepath.Join(filepath.Dir(s.Path), dataLink) { // an archive in a Kubernetes volume
		return e.Has(fsnotify.Create), true
	}
	name, ok := strings.CutPrefix(e.Name, s.Path+string(filepath.Separator))
	if !ok {
		return false, false
	}
	name = filepath.ToSlash(name)
	created := e.Has(fsnotify.Create)
	switch {
	case name == dataLink:
		return created, true
	case slices.ContainsFunc(prefixes(name), ignored):
		return false, false
	case s.wanted(name):
		return true, created && e.Op == fsnotify.Create
	case created:
		return w.newFolder(e.Name), false
	case e.Has(fsnotify.Remove), e.Has(fsnotify.Rename), e.Has(fsnotify.Chmod):
		_, folder := w.watched[e.Name]
		return folder, false
	}
	return false, false
}

// judgeTop judges an event on the source's own path. A directory that was just made is empty: its files will follow. One
// with files in it, or a link, was put into place. An archive that appears may have been moved or be about to be written:
// it is read at once, because one that is not whole yet is found out, and read again when the rest has come.
func (w *watcher) judgeTop(e fsnotify.Event) (changed, atomic bool) {
	if !e.Has(fsnotify.Create) {
		return true, false
	}
	if !w.newFolder(e.Name) {
		return true, true
	}
	entries, err := os.ReadDir(e.Name)
	return true, err == nil && len(entries) > 0
}

// newFolder watches a new folder and those in it at once, so that what is written there is seen while it settles. It
// reports whether the path is a folder.
func (w *watcher) newFolder(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	w.add(path, info)
	entries, _ := os.ReadDir(path) // what cannot be read now is an error when the source is read
	for _, e := range entries {
		if e.IsDir() && !ignored(e.Name()) {
			w.newFolder(filepath.Join(path, e.Name()))
		}
	}
	return true
}

// prefixes returns a path and the folders above it.
func prefixes(name string) []string {
	var list []string
	for i, c := range name {
		if c == '/' {
			list = append(list, name[:i])
		}
	}
	return append(list, name)
}
