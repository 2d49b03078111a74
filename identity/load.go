package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	settle     = 100 * time.Millisecond // files are read this long after the last event
	settleMost = time.Second            // and at the latest this long after the first
	recheck    = 30 * time.Second       // and this often without any: network file systems send none
)

// Load reads every issuer's keys once. All files that cannot be used are reported together as an error; URLs that cannot are
// only in the result's Status, because their server may come up later. It keeps nothing for a later Run.
func (v *Verifier) Load(ctx context.Context) (*Keys, error) {
	l := v.newLoader()
	results := make([]loaded, len(v.issuers))
	var wg sync.WaitGroup
	for i, iss := range v.issuers {
		if iss.remote() {
			wg.Go(func() { results[i].set, results[i].err = v.fetch(ctx, iss) })
			continue
		}
		results[i].set, results[i].err = readKeyFile(iss)
	}
	wg.Wait()
	var problems []error
	for i, iss := range v.issuers {
		results[i].issuer = iss
		l.apply(results[i])
		if results[i].err != nil && iss.Keys.File != "" {
			problems = append(problems, fmt.Errorf("identity: issuer %q: keys.file: %w", iss.Issuer.Issuer, results[i].err))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return l.keys(), nil
}

// Run reads every issuer's keys and keeps them fresh until ctx ends; it then returns nil, with all its goroutines ended. It
// calls publish, from its own goroutine, with each new *Keys: first with what the files gave, then after each change. The
// only error is that key files cannot be watched. Run once at a time.
func (v *Verifier) Run(ctx context.Context, publish func(*Keys)) error {
	watch, err := newFileWatch(v.issuers)
	if err != nil {
		return fmt.Errorf("identity: watching key files: %w", err)
	}
	defer watch.close()
	l := v.newLoader()
	l.readFiles()
	publish(l.keys())

	results := make(chan loaded)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, iss := range v.issuers {
		if iss.remote() {
			wg.Go(func() { v.refresh(ctx, iss, results) })
		}
	}
	for {
		changed := false
		select {
		case <-ctx.Done():
			return nil
		case result := <-results:
			changed = l.apply(result)
		case <-watch.events():
			watch.touched()
		case err := <-watch.errors():
			v.log.Warn("watching key files", zap.Error(err))
			watch.touched()
		case <-watch.settled():
			watch.follow()
			changed = l.readFiles()
		}
		if changed {
			publish(l.keys())
		}
	}
}

// loader holds the latest good sets while one Load or Run lasts. One goroutine owns it.
type loader struct {
	v          *Verifier
	generation uint64
	sets       []*keySet
	status     []KeyStatus
}

func (v *Verifier) newLoader() *loader {
	l := &loader{v: v, sets: make([]*keySet, len(v.issuers)), status: make([]KeyStatus, len(v.issuers))}
	for i, iss := range v.issuers {
		l.status[i] = KeyStatus{Issuer: iss.Issuer.Issuer, Source: iss.source()}
	}
	return l
}

func (l *loader) keys() *Keys {
	return &Keys{owner: l.v, generation: l.generation, sets: slices.Clone(l.sets), status: slices.Clone(l.status)}
}

func (l *loader) readFiles() (changed bool) {
	for _, iss := range l.v.issuers {
		if iss.Keys.File == "" {
			continue
		}
		set, err := readKeyFile(iss)
		if l.apply(loaded{iss, set, err}) {
			changed = true
		}
	}
	return changed
}

// apply takes one attempt's result and reports whether there is something to publish. A failed attempt never takes a good
// set away.
func (l *loader) apply(r loaded) bool {
	i := r.issuer.index
	status := &l.status[i]
	log := l.v.log.With(zap.String("issuer", status.Issuer), zap.String("source", status.Source))
	if r.err != nil {
		if status.Error == r.err.Error() {
			return false
		}
		status.Error = r.err.Error()
		log.Warn("keys not loaded", zap.Error(r.err), zap.Bool("keeping_older_keys", status.Loaded))
		return true
	}
	recovered := status.Error != ""
	status.Error = ""
	if l.sets[i] != nil && l.sets[i].sum == r.set.sum {
		if recovered {
			log.Info("keys readable again")
		}
		if r.issuer.Keys.File != "" && !recovered {
			return false // a file is read on every event in its directory
		}
		status.FetchedAt = l.v.clock()
		return true
	}
	l.sets[i] = r.set
	l.generation = l.v.generation.Add(1)
	status.Loaded, status.Keys, status.Notices = true, len(r.set.keys), r.set.notices
	status.FetchedAt = l.v.clock()
	log.Info("keys loaded", zap.Int("keys", status.Keys), zap.Uint64("generation", l.generation))
	for _, notice := range r.set.notices {
		log.Warn("key set has a key to look at", zap.String("notice", notice))
	}
	return true
}

func readKeyFile(iss *issuer) (*keySet, error) {
	info, err := os.Stat(iss.Keys.File) // first: opening a named pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", iss.Keys.File)
	}
	f, err := os.Open(iss.Keys.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", iss.Keys.File, err)
	}
	return parseKeySet(iss.Keys.File, raw, true)
}

// fileWatch tells when key files may have changed. It watches directories, because a file that is replaced by a rename is
// another file: those that the configured paths are in, and those that they lead to through symbolic links. A Kubernetes
// ConfigMap shows as a rename of ..data in the first.
type fileWatch struct {
	watcher *fsnotify.Watcher // nil = no key files
	files   []string
	timer   *time.Timer // runs out when files should be read
	first   time.Time   // of the events not yet acted on; zero = none
}

func newFileWatch(issuers []*issuer) (*fileWatch, error) {
	w := &fileWatch{}
	for _, iss := range issuers {
		if iss.Keys.File != "" {
			w.files = append(w.files, iss.Keys.File)
		}
	}
	if len(w.files) == 0 {
		return w, nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w.watcher = watcher
	w.timer = time.NewTimer(recheck)
	for _, file := range w.files {
		if err := watcher.Add(filepath.Dir(file)); err != nil {
			w.close()
			return nil, fmt.Errorf("%s: %w", filepath.Dir(file), err)
		}
	}
	w.follow()
	return w, nil
}

func (w *fileWatch) close() {
	if w.watcher != nil {
		w.timer.Stop()
		_ = w.watcher.Close()
	}
}

func (w *fileWatch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *fileWatch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

func (w *fileWatch) settled() <-chan time.Time {
	if w.watcher == nil {
		return nil
	}
	return w.timer.C
}

// touched puts the reading off until the directory has been quiet, but not for ever.
func (w *fileWatch) touched() {
	now := time.Now()
	if w.first.IsZero() {
		w.first = now
	}
	w.timer.Reset(min(settle, time.Until(w.first.Add(settleMost))))
}

// follow watches where the files are now and no longer where they were, also when a directory was made anew. A directory that
// is missing is tried again at the next turn; the file in it fails to read until then, and says so.
func (w *fileWatch) follow() {
	w.first = time.Time{}
	w.timer.Reset(recheck)
	var wanted []string
	for _, file := range w.files {
		wanted = append(wanted, filepath.Dir(file))
		if target, err := filepath.EvalSymlinks(file); err == nil {
			wanted = append(wanted, filepath.Dir(target))
		}
	}
	for _, dir := range w.watcher.WatchList() {
		if !slices.Contains(wanted, dir) {
			_ = w.watcher.Remove(dir)
		}
	}
	for _, dir := range wanted {
		_ = w.watcher.Add(dir)
	}
}
