// Package bundles loads policy from its sources and keeps it current. It owns the sources, their validation and activation, the history for
// rollbacks, and the copies on disk. It imports policy and images; its parts are origin, signature and tarball.
//
// A Manager reads its sources (directories and tarballs), compiles all of them together into one policy.Snapshot and hands
// that over through Config.Publish. Then it watches. If a change fails, the snapshot that was published
// last stays active: the manager logs the problem with stage, file and line, counts it, shows it in Status, and tries again
// when something changes.
//
// # Activation
//
// A bundle is read within the limits; its signature is verified, where the source requires one; it is parsed, and compiled together with the
// other sources; its decisions must be defined; its own tests must pass, then Config.Smoke; the snapshot decides once, to be warm; then it is
// published. The last few snapshots are kept: Rollback publishes one of them again, at once.
//
// # Changes
//
// Events are collected until they settle, and then the whole source is read again. A rename into place and the swap of a
// Kubernetes volume's ..data link are complete when they are seen and settle at once; files that are written in place
// settle when nothing has been written for a moment, and under constant writing are read after two seconds all the same.
// A source is read twice over: when a name, size, time or inode changed between the first look and the last, what was
// read is thrown away. A change that leaves the contents as they are is not an activation.
//
// Events can get lost (network file systems, a full queue, too few inotify watches). So every source is also looked over
// every few seconds, by the names, sizes and times of its files alone.
//
// # What is read
//
// Of a directory: what bundle.Read wants, without hidden files and folders and without what editors leave behind.
// Symbolic links may point to files within the directory, never out of it, and folders behind links are refused.
// A directory with a ..data link is a Kubernetes volume: only what the link leads to is read.
//
// Of a tarball: everything, and it must be whole. What is cut off, has something behind its end, or holds a link or a name
// that climbs is refused. Hidden files in it count, because it was packed on purpose.
//
// # Who owns what
//
// Run's goroutine alone changes the manager's state and calls Publish. Status may be called by anyone at any time and
// takes no lock. Load reads and compiles without touching any state.
package bundles

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/bundles/signature"
	"gatehouse/panics"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/watch"
)

// Config says where policy comes from and where it goes.
type Config struct {
	Sources []Source
	Policy  policy.Config
	Limits  bundle.Limits // of each source

	// Smoke, where set, looks at every snapshot before it becomes active, when all other checks have passed. Its error names
	// file and line of what does not hold, and keeps the snapshot from becoming active.
	Smoke func(context.Context, *policy.Snapshot) error

	TestTimeout time.Duration // how long the bundles' own tests (*_test.rego) may take before an activation; default 10 s
	SkipTests   bool          // they are not run

	// Keep is how many snapshots are kept to roll back to, at most 100; default 5, below zero none. Of larger ones fewer are
	// kept: the files of all of them together have at most KeepBytes, default 16 MiB, except for the last one. They are kept packed, in
	// Dir or else in memory, and compiled when they are gone back to.
	Keep      int
	KeepBytes int64

	// Dir is where the last good bundle of each remote source is kept, to begin with when the source cannot be reached, and where the
	// history, pins and serials of all sources outlive a restart. It is made where it is missing. Empty: nothing is kept.
	Dir string

	// Archive keeps every bundle that was active by its digest.
	Archive Archive

	// Publish receives every snapshot to activate, one after the other, from Run's goroutine. Run waits for
	// it. An error is a snapshot that does not fit the rest of the configuration: then the one before stays active. A nil
	// snapshot withdraws the policy: nothing may be decided by it any more (Remote.Withdraw).
	Publish func(context.Context, *policy.Snapshot) error

	// Succeeds is the manager of the configuration before this one, if there was any. Its history goes on: what was rolled back there
	// is not activated here either, and a serial that was active there is not undercut. Without it the history is the one in Dir. All that
	// becomes active of it is made again, and has to pass every check of this configuration.
	Succeeds *Manager

	Report *Report // where the state of the bundles is reported to; nil: nowhere

	// Busy, where set, is told when a large bundle is read or compiled, which takes a core for seconds. What it returns is called
	// when that is done. It may be called by several goroutines.
	Busy func() (done func())

	Logger     *zap.Logger           // default: none
	Clock      func() time.Time      // default: time.Now; for the times in Status and metrics
	Registerer prometheus.Registerer // nil: no metrics
	Poll       time.Duration         // how often to look for changes that caused no event; default 5 s
}

// Source is one bundle and where it is.
type Source struct {
	Name string // letters, digits, dots, dashes and underscores, at most 64; unique
	Path string // a directory, or a bundle's tarball: .tar.gz or .tar

	Remote *Remote // instead of Path

	Verification *signature.Verification // nil: signatures are not looked at
	Optional     bool                    // there is a policy without it too, until it was there for the first time
}

// Status is the state of one source.
type Status struct {
	Name        string    `json:"name"`
	Source      string    `json:"source"`                // where it comes from
	Revision    string    `json:"revision,omitempty"`    // of the active bundle; empty before the first activation
	Digest      string    `json:"digest,omitempty"`      // of the active bundle
	Archive     string    `json:"archive,omitempty"`     // SHA-256 of the tarball that it came in
	Serial      int64     `json:"serial,omitempty"`      // in its manifest's metadata, where the source asks for one
	ActiveSince time.Time `json:"active_since,omitzero"` // when the active bundle was published
	LastAttempt time.Time `json:"last_attempt,omitzero"` // when the source was last read
	Stage       string    `json:"stage,omitempty"`       // what failed last: "reading", "verifying", "compiling", "testing", "smoke", "warming", "publishing", "waiting" for another bundle; empty when nothing did
	File        string    `json:"file,omitempty"`        // where, within the bundle
	Line        int       `json:"line,omitempty"`        // where in the file
	Error       string    `json:"error,omitempty"`       // its error, with file and line
	Pinned      bool      `json:"pinned,omitempty"`      // it was rolled back to
	Held        string    `json:"held,omitempty"`        // digest of what the source offers and what was rolled back

	Remote *RemoteStatus `json:"remote,omitempty"` // nil for a source with a path
}

// Manager reads, watches and publishes. New makes it.
type Manager struct {
	cfg      Config
	metrics  *metrics
	remotes  *remoteMetrics
	archiver *archiver // nil: nothing is kept by digest
	// reporter is nil where no status service is configured.
	reporter *reporter
	sources  []*source
	status   atomic.Pointer[[]Status]
	earlier  atomic.Pointer[[]Activation]
	legacy   atomic.Pointer[legacy] // for the manager that comes after this one
	took     *legacy                // what New inherited of cfg.Succeeds
	state    *stateFile             // nil: nothing outlives the process
	degraded atomic.Pointer[[]string]
	nudged   chan struct{} // buffered: says that something else has changed that a bundle may have failed on

	commands chan command
	loaded   *loaded // by Load, for Run to begin with

	// Below: Run's goroutine only.
	now      *activation      // what is active; nil before the first
	snapshot *policy.Snapshot // of now
	last     *activation      // what was active in the configuration or the process before, where that is in the history
	history  []*activation    // oldest first, now among them
	serial   uint64           // of the last activation
	dirty    bool             // what is to be left has changed since it was saved
	unsaved  string           // why it could not be
	swapped  bool             // something was activated since memory was given back
	watcher  *watch.Watcher   // of the sources that have a path
	watched  []*source        // those, in its order

	stateLost string // what of the process before could not be read

	withdrawn bool // active was published and then withdrawn, because a bundle of it expired
}

// loaded is what Load made.
type loaded struct {
	snapshot *policy.Snapshot
	list     []*candidate
}

// source is the state of one source. Run's goroutine owns it.
type source struct {
	Source
	fetch    fetcher    // nil for a source with a path; set by New
	remote   *remote    // what fetch belongs to
	expired  bool       // the remote source has not confirmed the bundle for too long, and so it must not decide
	active   *candidate // in the published snapshot
	latest   *candidate // read last; differs from active after a failure to compile; nil after a failure to read
	pin      *pin       // nil unless it was rolled back
	highest  int64      // the highest serial that was ever active
	retry    retry
	trying   bool          // what it has is on its way as another attempt, and not because it changed
	told     string        // what was logged of what it has
	since    time.Time     // when what is wrong with it, or another thing, went wrong first; zero: nothing is
	keys     []fs.FileInfo // of a remote source, the key files as they were when it was read last
	restless int           // reads thrown away because the directory was changing
	status   Status
}

var sourceName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// New checks the configuration, all of it before it returns, and that each source is a directory or a file that can be
// read. It starts nothing.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, commands: make(chan command), nudged: make(chan struct{}, 1)}
	if m.cfg.Logger == nil {
		m.cfg.Logger = zap.NewNop()
	}
	if m.cfg.Clock == nil {
		m.cfg.Clock = time.Now
	}
	if m.cfg.Poll == 0 {
		m.cfg.Poll = 5 * time.Second
	}
	var problems []error
	if len(cfg.Sources) == 0 {
		problems = append(problems, errors.New("no bundle is configured: name at least one source of policy"))
	}
	m.cfg.Keep, m.cfg.TestTimeout = max(cmp.Or(cfg.Keep, 5), 0), cmp.Or(cfg.TestTimeout, 10*time.Second)
	m.cfg.KeepBytes = cmp.Or(cfg.KeepBytes, 16<<20)
	if m.cfg.Keep > 100 {
		problems = append(problems, fmt.Errorf("%d snapshots to roll back to are too many: at most 100", cfg.Keep))
	}
	if m.cfg.TestTimeout < 0 {
		problems = append(problems, fmt.Errorf("time limit %v of tests is negative", cfg.TestTimeout))
	}
	if m.cfg.Poll < 0 {
		problems = append(problems, fmt.Errorf("poll interval %v is negative", cfg.Poll))
	}
	var err error
	if m.remotes, err = newRemoteMetrics(cfg.Registerer); err != nil {
		problems = append(problems, err)
	}
	names := map[string]bool{}
	for _, s := range cfg.Sources {
		if names[s.Name] {
			problems = append(problems, fmt.Errorf("two bundles are named %q", s.Name))
		}
		names[s.Name] = true
		checked, err := m.newSource(s)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if err := s.Verification.Validate(); err != nil {
			problems = append(problems, fmt.Errorf("bundle %q: %w", s.Name, err))
		}
		m.sources = append(m.sources, checked)
	}
	if cfg.Report != nil {
		if m.reporter, err = newReporter(*cfg.Report, m.cfg.Logger, cfg.Registerer); err != nil {
			problems = append(problems, err)
		}
	}
	if m.archiver, err = newArchiver(&m.cfg); err != nil {
		problems = append(problems, err)
	}
	if m.metrics, err = newMetrics(cfg.Registerer); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if cfg.Dir != "" {
		dir, err := filepath.Abs(cfg.Dir)
		if err != nil {
			return nil, err
		}
		m.state = &stateFile{dir: dir}
	}
	switch {
	case cfg.Succeeds != nil:
		m.took = cfg.Succeeds.legacy.Load()
		m.inherit(m.took)
	case m.state != nil:
		m.inherit(m.state.load())
	}
	m.tellHistory()
	m.publishStatus()
	return m, nil
}

func (m *Manager) newSource(s Source) (*source, error) {
	if s.Remote == nil || !sourceName.MatchString(s.Name) {
		checked, err := checkSource(s)
		return &source{Source: checked, status: Status{Name: s.Name, Source: s.Path}}, err
	}
	r, err := m.newRemote(s)
	if err != nil {
		return nil, err
	}
	return &source{Source: s, remote: r, fetch: r.fetch, status: Status{Name: s.Name, Source: r.from}}, nil
}

// checkSource returns the source with an absolute path, so that a later change of the working directory moves nothing.
func checkSource(s Source) (Source, error) {
	if !sourceName.MatchString(s.Name) {
		return s, fmt.Errorf("bundle name %q: use letters, digits, dots, dashes and underscores, at most 64", s.Name)
	}
	info, err := os.Stat(s.Path)
	if errors.Is(err, fs.ErrNotExist) && s.Optional {
		s.Path, err = filepath.Abs(s.Path)
		return s, err
	}
	if err != nil {
		return s, fmt.Errorf("bundle %q: %w", s.Name, err)
	}
	switch {
	case info.IsDir():
		_, err = os.ReadDir(s.Path)
	case info.Mode().IsRegular():
		var f *os.File
		if f, err = os.Open(s.Path); err == nil {
			err = f.Close()
		}
	default:
		err = fmt.Errorf("%s is neither a directory nor a file", s.Path)
	}
	if err != nil {
		return s, fmt.Errorf("bundle %q: %w", s.Name, err)
	}
	if s.Path, err = filepath.Abs(s.Path); err != nil {
		return s, fmt.Errorf("bundle %q: %w", s.Name, err)
	}
	return s, nil
}

// Status returns the state of each source in the order of the configuration. The slice is the caller's.
func (m *Manager) Status() []Status {
	list := append([]Status(nil), *m.status.Load()...)
	for i, s := range m.sources {
		if s.remote != nil {
			list[i].Remote = s.remote.status()
		}
	}
	return list
}

func (m *Manager) publishStatus() {
	list := make([]Status, len(m.sources))
	for i, s := range m.sources {
		list[i] = s.status
	}
	if m.dirty {
		m.legacy.Store(m.leave())
	}
	m.tellDegraded()
	m.status.Store(&list)
	if m.reporter != nil {
		m.reporter.tell(m.Status())
	}
}

// Load reads all sources once and takes them through every stage but the last, for a check at start-up or on the command
// line. It publishes nothing and leaves Status alone. A Run that follows begins with the result where nothing has changed
// meanwhile; Load must not be called beside it. Its errors name bundle, file and line; bundle.Problems can be had with
// errors.As.
func (m *Manager) Load(ctx context.Context) (*policy.Snapshot, error) {
	all, errs := make([]*candidate, len(m.sources)), make([]error, len(m.sources))
	var wait sync.WaitGroup
	for i, s := range m.sources { // at once: several that cannot be reached take no longer than one
		wait.Go(func() {
			defer panics.Into("loading a bundle", &errs[i])
			all[i], errs[i] = m.loadOne(ctx, s)
		})
	}
	wait.Wait()
	var problems []error
	for i, s := range m.sources {
		switch err := errs[i]; {
		case err != nil && s.Optional:
			m.cfg.Logger.Warn("an optional bundle is left out", zap.String("bundle", s.Name), zap.Error(err))
		case err != nil:
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	snapshot, err := m.check(ctx, all)
	if err != nil {
		return nil, err
	}
	m.loaded = &loaded{snapshot: snapshot, list: all}
	return snapshot, nil
}

func (m *Manager) loadOne(ctx context.Context, s *source) (*candidate, error) {
	once := m.readStable
	if s.fetch != nil {
		once = fetchOnce
	}
	d, err := once(ctx, s)
	if err == nil {
		err = d.err
	}
	if err != nil && s.pin == nil {
		return nil, err
	}
	var c *candidate
	if err == nil {
		c, err = m.prepare(s, d)
	}
	if s.pin != nil && ctx.Err() == nil && (err != nil || s.pin.holds(c)) {
		return m.pinned(s)
	}
	return c, err
}

// readStable reads a source, again if it changes meanwhile.
func (m *Manager) readStable(ctx context.Context, s *source) (delivery, error) {
	for attempt := 0; ; attempt++ {
		d, _, err := readPath(s.Source, m.cfg.Limits)
		if !errors.Is(err, errChanging) || attempt == maxUnstable {
			return d, err
		}
		select {
		case <-ctx.Done():
			return delivery{}, fmt.Errorf("reading bundle %q: %w", s.Name, ctx.Err())
		case <-time.After(unstablePause):
		}
	}
}
