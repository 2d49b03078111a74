package watch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// classify classifies an event for a target: irrelevant, a change, or a complete change.
func (w *Watcher) classify(t *target, e fsnotify.Event) (changed, complete bool) {
	if slices.Contains(t.steps, e.Name) {
		return w.judgeStep(t, e)
	}
	if filepath.Base(e.Name) == dataLink && slices.ContainsFunc(t.steps, func(step string) bool { return filepath.Dir(step) == filepath.Dir(e.Name) }) {
		return e.Has(fsnotify.Create), true // a file in a Kubernetes volume
	}
	name, ok := strings.CutPrefix(e.Name, t.top()+string(filepath.Separator))
	if !ok {
		return false, false
	}
	name = filepath.ToSlash(name)
	created := e.Has(fsnotify.Create)
	switch {
	case name == dataLink:
		return created, true
	case t.ignored(name):
		return false, false
	case created && w.newFolder(t, e.Name):
		return true, false
	case t.Wanted(name):
		return true, e.Op == fsnotify.Create
	case e.Has(fsnotify.Remove), e.Has(fsnotify.Rename), e.Has(fsnotify.Chmod):
		_, folder := w.watched[e.Name]
		return folder, false
	}
	return false, false
}

// judgeStep classifies an event on the target itself or a link on the way to it. A new empty folder will get its
// files later; one with files, or a link, was moved into place. A new file may have been moved or may still be
// written: it is read soon, because an incomplete one is detected and read again.
func (w *Watcher) judgeStep(t *target, e fsnotify.Event) (changed, complete bool) {
	if !e.Has(fsnotify.Create) {
		return true, false
	}
	t.steps = stepsTo(t.Path)
	if !w.newFolder(t, t.top()) {
		return true, true
	}
	entries, err := os.ReadDir(t.top())
	return true, err == nil && len(entries) > 0
}

// newFolder watches a new folder and its subfolders at once, so that writes in it are seen while it settles. It
// reports whether the path is a folder.
func (w *Watcher) newFolder(t *target, path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	w.add(path, info)
	entries, _ := os.ReadDir(path) // a read error shows again when the target is read
	for _, e := range entries {
		below := filepath.Join(path, e.Name())
		if name, err := filepath.Rel(t.top(), below); err == nil && e.IsDir() && !t.Ignored(filepath.ToSlash(name)) {
			w.newFolder(t, below)
		}
	}
	return true
}

// ignored reports whether a name, or a folder above it, is not part of the contents.
func (t *target) ignored(name string) bool {
	for i, c := range name {
		if c == '/' && t.Ignored(name[:i]) {
			return true
		}
	}
	return t.Ignored(name)
}
