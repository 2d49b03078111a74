package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"gatehouse/identity/keyset"
	"gatehouse/panics"
	"gatehouse/upstream"
	"gatehouse/watch"
)

const (
	recheck  = 30 * time.Second // files are looked at this often without any event: network file systems send none
	ageCheck = time.Second      // how late keys may be withdrawn
)

// Load reads every issuer's keys once, URLs for at most five seconds. All files that cannot be used are reported together as an
// error; URLs that cannot are only in the result's Status, because their server may come up later: the copy on disk serves
// where there is one. The next Run begins with what Load got.
func (v *Verifier) Load(ctx context.Context) (*Keys, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	l := v.newLoader()
	l.others.read()
	results := make([]loaded, len(v.issuers))
	var wg sync.WaitGroup
	for i, iss := range v.issuers {
		results[i].issuer = iss
		if iss.remote() {
			wg.Go(func() {
				defer panics.Into("fetching keys", &results[i].err)
				results[i].set, results[i].err = v.fetch(ctx, iss)
			})
			continue
		}
		results[i].set, results[i].err = readKeyFile(iss)
	}
	wg.Wait()
	problems := l.others.problems()
	for i, iss := range v.issuers {
		results[i].at = v.clock()
		if results[i].err != nil {
			l.restore(iss)
		}
		l.apply(results[i])
		if results[i].err != nil && !iss.remote() {
			problems = append(problems, &FieldError{fmt.Sprintf("Issuers[%d].Keys.File", i), fmt.Sprintf("%q", iss.Issuer.Issuer), results[i].err})
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	l.inherit(v.succeeds)
	keys := l.keys()
	v.loaded.Store(l)
	return keys, nil
}

// inherit takes over what the Verifier before this one has of the same issuers at the same URLs, where they could not be read.
func (l *loader) inherit(before *Verifier) {
	if before == nil {
		return
	}
	older := before.shown.Load()
	for i, iss := range l.v.issuers {
		had := older.of(iss)
		if had == nil || !iss.remote() || !l.fetched[i].IsZero() || had.set != nil && had.set == l.sets[i] {
			continue
		}
		status := &l.status[i]
		if l.sets[i] != nil && (had.set == nil || had.status.FetchedAt.Before(status.FetchedAt)) {
			continue // the copy on disk is better
		}
		l.sets[i] = had.set
		failure := status.Error
		*status = had.status
		status.Error, status.Stale = failure, status.Loaded
		l.generation = l.v.generation.Add(1)
	}
}

// Run keeps every issuer's keys fresh until ctx ends; it then returns nil, with all its goroutines ended. It begins with what
// the last Load got, else with the files and the copies on disk. It calls publish, from its own goroutine, with each new
// *Keys: first with what it begins with, then after each change. The only error is that the folder of a key file is not there. Run once at
// a time.
func (v *Verifier) Run(ctx context.Context, publish func(*Keys)) error {
	files := v.files()
	for _, file := range files {
		if _, err := os.Stat(filepath.Dir(file)); err != nil {
			return fmt.Errorf("identity: watching key files: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	watcher := watch.New(watch.Config{Targets: watch.Paths(files...), Poll: recheck, Logger: v.log})
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { panics.Loop(ctx, "watching key files", watcher.Run) })
	l := v.beginning()
	l.inherit(v.succeeds)
	v.succeeds = nil // it is not to be held in memory
	l.readFiles()
	l.withdraw()
	defer v.others.closeIdle()

	results := make(chan loaded)
	stop := l.fetchers(ctx, results)
	defer stop()
	l.publish(publish) // only now: who has the keys may ask for newer ones
	age := time.NewTicker(ageCheck)
	defer age.Stop()
	for {
		changed := false
		var result loaded
		select {
		case <-ctx.Done():
			return nil
		case result = <-results:
			changed = l.apply(result)
		case <-age.C:
		case <-watcher.Changed():
			changed = l.readFiles()
		}
		if l.withdraw() || changed {
			l.publish(publish)
		}
		if result.fetch != nil {
			result.issuer.lookups.finish(result.fetch)
		}
	}
}

// fetchers starts one goroutine for each URL. stop ends them, and wakes every request that waits for one.
func (l *loader) fetchers(ctx context.Context, results chan<- loaded) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i, iss := range l.v.issuers {
		if !iss.remote() {
			continue
		}
		kept, wait := loaded{issuer: iss}, time.Duration(0)
		if !l.fetched[i].IsZero() {
			kept.set, kept.at = l.sets[i], l.status[i].FetchedAt
			wait = max(0, upstream.Shorten(iss.Keys.Refresh)-time.Since(l.fetched[i]))
		}
		iss.lookups.begin()
		wg.Go(func() {
			panics.Loop(ctx, "keeping keys fresh", func(ctx context.Context) { l.v.refresh(ctx, iss, kept, wait, results) })
		})
	}
	return func() {
		cancel()
		wg.Wait()
		for _, iss := range l.v.issuers {
			iss.lookups.end()
		}
	}
}

// loader holds the latest good sets while one Load or Run lasts. One goroutine owns it.
type loader struct {
	v          *Verifier
	generation uint64
	sets       []*keyset.Set
	status     []KeyStatus
	fetched    []time.Time // when a URL was last read, by the machine's own clock; zero = not yet
	others     *otherLoader
}

func (v *Verifier) newLoader() *loader {
	n := len(v.issuers)
	l := &loader{v: v, sets: make([]*keyset.Set, n), status: make([]KeyStatus, n), fetched: make([]time.Time, n), others: v.newOtherLoader()}
	for i, iss := range v.issuers {
		l.status[i] = KeyStatus{Issuer: iss.Issuer.Issuer, Source: iss.source()}
	}
	return l
}

// beginning is what Run begins with.
func (v *Verifier) beginning() *loader {
	if l := v.loaded.Swap(nil); l != nil {
		return l
	}
	l := v.newLoader()
	for _, iss := range v.issuers {
		l.restore(iss)
	}
	return l
}

func (l *loader) keys() *Keys {
	keys := &Keys{owner: l.v, generation: l.generation, sets: slices.Clone(l.sets), status: slices.Concat(l.status, l.others.status),
		others: slices.Clone(l.others.parts)}
	keys.digest = keys.sum()
	l.v.shown.Store(keys)
	return keys
}

// publish hands out what there is. Requests that were pinned to older keys find new ones from then on, not before.
func (l *loader) publish(publish func(*Keys)) {
	publish(l.keys())
	for i, iss := range l.v.issuers {
		iss.lookups.latest.Store(l.sets[i])
	}
}

func (l *loader) readFiles() (changed bool) {
	changed, renewed := l.others.read()
	if renewed {
		l.generation = l.v.generation.Add(1)
	}
	for _, iss := range l.v.issuers {
		if iss.Keys.File == "" {
			continue
		}
		set, err := readKeyFile(iss)
		if l.apply(loaded{issuer: iss, set: set, err: err, at: l.v.clock()}) {
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
	log := l.logFor(r.issuer)
	if r.err != nil {
		if r.issuer.remote() {
			l.v.metrics.fetchFailures[i].Inc()
		}
		if status.Error == r.err.Error() {
			return false
		}
		status.Error = r.err.Error()
		status.Stale = status.Loaded && r.issuer.remote()
		log.Warn("keys not loaded", zap.Error(r.err), zap.Bool("keeping_older_keys", status.Loaded))
		return true
	}
	recovered := status.Error != ""
	status.Error, status.Stale, status.Copy = "", false, false
	if r.issuer.remote() {
		l.fetched[i] = time.Now()
	}
	if l.sets[i] != nil && l.sets[i].Sum() == r.set.Sum() {
		if recovered {
			log.Info("keys readable again")
		}
		if !r.issuer.remote() && !recovered {
			return false // a file is read on every event in its directory
		}
		status.FetchedAt = r.at
		return true
	}
	l.take(r)
	log.Info("keys loaded", zap.Int("keys", status.Keys), zap.Uint64("generation", l.generation))
	for _, notice := range r.set.Notices() {
		log.Warn("key set has a key to look at", zap.String("notice", notice))
	}
	return true
}

func (l *loader) logFor(iss *issuer) *zap.Logger {
	return l.v.log.With(zap.String("issuer", iss.Issuer.Issuer), zap.String("source", l.status[iss.index].Source))
}

// take puts a good set in place of what there was.
func (l *loader) take(r loaded) {
	i := r.issuer.index
	status := &l.status[i]
	r.set.NoteRetired(l.sets[i])
	l.sets[i] = r.set
	l.generation = l.v.generation.Add(1)
	status.Loaded, status.Withdrawn, status.Keys, status.Notices, status.FetchedAt = true, false, r.set.Len(), r.set.Notices(), r.at
}

// restore gives an issuer that has no keys those of the copy on disk, if it is young enough.
func (l *loader) restore(iss *issuer) {
	i := iss.index
	if iss.copy == nil {
		return
	}
	set, at, err := iss.copy.Read(l.v.clock())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if age := l.v.clock().Sub(at); err == nil && age >= iss.Keys.MaxStale {
		err = fmt.Errorf("%s: it is %s old, and keys.max_stale is %s", iss.copy.Path(), age.Round(time.Second), iss.Keys.MaxStale)
	}
	if err != nil {
		l.v.metrics.copyFailures.Inc()
		l.logFor(iss).Warn("the copy of the keys on disk is not used", zap.Error(err))
		return
	}
	l.take(loaded{issuer: iss, set: set, at: at})
	l.status[i].Stale, l.status[i].Copy = true, true
	l.logFor(iss).Info("keys taken from the copy on disk until they can be fetched", zap.Time("fetched_at", at), zap.Uint64("generation", l.generation))
}

// withdraw takes away sets from URLs that became too old, and reports whether there were any.
func (l *loader) withdraw() (changed bool) {
	for i, iss := range l.v.issuers {
		status := &l.status[i]
		if l.sets[i] == nil || !iss.remote() || l.v.clock().Sub(status.FetchedAt) < iss.Keys.MaxStale {
			continue
		}
		changed = true
		l.sets[i] = nil
		l.generation = l.v.generation.Add(1)
		status.Loaded, status.Stale, status.Copy, status.Withdrawn, status.Keys, status.Notices = false, false, false, true, 0, nil
		l.logFor(iss).Error("keys are older than keys.max_stale: the issuer's tokens are unavailable now", zap.Time("fetched_at", status.FetchedAt),
			zap.Duration("max_stale", iss.Keys.MaxStale))
	}
	return changed
}

func readKeyFile(iss *issuer) (*keyset.Set, error) {
	raw, err := keyset.ReadFile(iss.Keys.File)
	if err != nil {
		return nil, err
	}
	return keyset.Parse(iss.Keys.File, raw, true)
}

// files are the paths of all files with keys and secrets.
func (v *Verifier) files() []string {
	var files []string
	for _, f := range v.others.files {
		files = append(files, f.path)
	}
	for _, iss := range v.issuers {
		if iss.Keys.File != "" {
			files = append(files, iss.Keys.File)
		}
	}
	return files
}

// fetch reads an issuer's key set from its URL, or from the one that its metadata names. Errors name URLs without their query.
func (v *Verifier) fetch(ctx context.Context, iss *issuer) (*keyset.Set, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	client, where := keyset.Client{HTTP: v.client}, iss.Keys.URL
	if iss.Keys.Discovery {
		var err error
		if where, err = client.Discover(ctx, iss.Issuer.Issuer); err != nil {
			return nil, err
		}
	}
	return client.Fetch(ctx, where)
}

// remote reports whether the keys come over the network.
func (iss *issuer) remote() bool { return iss.Keys.File == "" }

// source names where the keys come from, for people.
func (iss *issuer) source() string {
	switch {
	case iss.Keys.File != "":
		return iss.Keys.File
	case iss.Keys.Discovery:
		return keyset.MetadataURL(iss.Issuer.Issuer)
	}
	return keyset.WithoutQuery(iss.Keys.URL)
}

// loaded is one attempt to read an issuer's keys.
type loaded struct {
	issuer *issuer
	set    *keyset.Set
	err    error
	at     time.Time // when set was read, by Config.Clock
	fetch  *keyFetch // that waits for it; nil = none does
}

// refresh fetches an issuer's URL again and again until ctx ends: on its interval, early when asked to, and after a failure
// in one second, doubling up to the interval. The first time is in wait; kept is the set that is not to be fetched before and
// was read at that time, nil for none.
func (v *Verifier) refresh(ctx context.Context, iss *issuer, kept loaded, wait time.Duration, results chan<- loaded) {
	backoff := minRefresh
	v.keepCopy(kept)
	for {
		asked, ok := iss.lookups.next(ctx, wait)
		if !ok {
			return
		}
		r := loaded{issuer: iss, fetch: asked}
		r.set, r.err = v.fetch(ctx, iss)
		r.at = v.clock()
		select {
		case results <- r:
		case <-ctx.Done():
			return
		}
		v.keepCopy(r)
		if r.err == nil {
			wait, backoff = upstream.Shorten(iss.Keys.Refresh), minRefresh
			continue
		}
		wait = upstream.Shorten(min(backoff, iss.Keys.Refresh))
		backoff = min(2*backoff, iss.Keys.Refresh)
	}
}

// keepCopy writes a fetched set to disk. A failure only matters after a restart.
func (v *Verifier) keepCopy(r loaded) {
	c := r.issuer.copy
	if r.set == nil || c == nil {
		return
	}
	err := c.Write(r.set, r.at)
	if err == nil {
		r.issuer.failure = ""
		return
	}
	v.metrics.copyFailures.Inc()
	if text := err.Error(); text != r.issuer.failure {
		r.issuer.failure = text
		v.log.Warn("no copy of the keys is kept: a restart would need the provider", zap.String("issuer", r.issuer.Issuer.Issuer), zap.Error(err))
	}
}

// newCopy is nil where none is kept.
func newCopy(dir string, iss *issuer) *keyset.Copy {
	if dir == "" || !iss.remote() {
		return nil
	}
	where := iss.Keys.URL
	if iss.Keys.Discovery {
		where = keyset.MetadataURL(iss.Issuer.Issuer)
	}
	return keyset.NewCopy(dir, iss.Issuer.Issuer, where, iss.source())
}
