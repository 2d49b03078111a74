// Package bundles loads policy from its sources and keeps it current. It owns the sources, their validation and activation, the history for
// rollbacks, and the copies on disk. It imports policy and images; its parts are origin, signature and tarball.
//
// A Manager reads its sources (directories, tarballs, and remote ones), compiles them together into one policy.Snapshot and passes it to
// Config.Publish. Then it watches for changes. If a change fails, the last published snapshot stays active: the manager logs the problem
// with stage, file and line, counts it, shows it in Status, and tries again when something changes.
//
// # Activation
//
// A bundle is read within the limits; its signature is verified, if the source requires one; it is parsed, and compiled together with the
// other sources; its decisions must be defined; its tests must pass, then Config.Smoke; the snapshot makes one decision to warm up; then it
// is published. The last few snapshots are kept: Rollback publishes one of them again.
//
// # Changes
//
// Events are collected until they settle, and then the whole source is read again. A rename into place and the swap of a Kubernetes volume's
// ..data link are atomic and settle at once; files written in place settle when nothing has been written for a moment, and under constant
// writing are read after two seconds anyway. A source is listed before and after reading: if a name, size, time or inode changed, what was
// read is discarded. A change that leaves the contents the same is not an activation.
//
// Events can get lost (network file systems, a full queue, too few inotify watches). So every source is also polled every few seconds, by
// the names, sizes and times of its files.
//
// # What is read
//
// Of a directory: what bundle.Read wants, without hidden files and folders and without editors' temporary files. Symbolic links may point to
// files within the directory, never out of it, and links to folders are refused. A directory with a ..data link is a Kubernetes volume: only
// the link's target is read.
//
// Of a tarball: everything, and it must be complete. A truncated tarball, trailing data, links and names with ".." are refused. Hidden files
// count, because they were packed on purpose.
//
// # Who owns what
//
// Only Run's goroutine changes the manager's state and calls Publish. Status is safe for concurrent use and takes no lock. Load reads and
// compiles without changing any state.
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
	"slices"
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

// Config says where policy comes from and where it is published.
type Config struct {
	Sources []Source
	Policy  policy.Config
	Limits  bundle.Limits // of each source

	// Smoke, if set, checks every snapshot before it becomes active, after all other checks. Its error names file and line, and prevents the
	// activation.
	Smoke func(context.Context, *policy.Snapshot) error

	TestTimeout time.Duration // for the bundles' tests (*_test.rego) before an activation; default 10 s
	SkipTests   bool          // tests are not run

	// Keep is the number of snapshots kept for rollback, at most 100; default 5, negative: none. Fewer are kept if they are large: their
	// files together are at most KeepBytes, default 16 MiB, except for the last one. They are kept compressed, in Dir or in memory, and
	// compiled on rollback.
	Keep      int
	KeepBytes int64

	// Dir holds the last good bundle of each remote source, for a start while the source is unreachable, and the history, pins and serials
	// of all sources across restarts. It is created if missing. Empty: nothing is kept.
	Dir string

	// Archive keeps every bundle that was active, by digest.
	Archive Archive

	// Publish is called for every snapshot to activate, one at a time, from Run's goroutine, which waits for it. An error means that the
	// snapshot does not fit the rest of the configuration: the previous one stays active. A nil snapshot withdraws the policy: no further
	// decision may be made with it (Remote.Withdraw).
	Publish func(context.Context, *policy.Snapshot) error

	// Succeeds is the manager of the previous configuration, if any. Its history is continued: what was rolled back there is not activated
	// here either, and serials must not go below those active there. Without it the history is read from Dir. Everything activated from the
	// history is made again, and must pass every check of this configuration.
	Succeeds *Manager

	Report *Report // where bundle status is reported; nil: nowhere

	// Busy, if set, is called when reading or compiling a large bundle starts, which uses a core for seconds. The returned function is
	// called when that ends. Must be safe for concurrent use.
	Busy func() (done func())

	Logger     *zap.Logger           // default: none
	Clock      func() time.Time      // default: time.Now; for times in Status and metrics
	Registerer prometheus.Registerer // nil: no metrics
	Poll       time.Duration         // interval of the checks for changes without an event; default 5 s
}

// Source is one bundle and its location.
type Source struct {
	Name string // letters, digits, dots, dashes and underscores, at most 64; unique
	Path string // a directory, or a tarball: .tar.gz or .tar

	Remote *Remote // instead of Path

	Verification *signature.Verification // nil: signatures are not checked
	Optional     bool                    // the policy may be active without it until it has been read once
}

// Status is the state of one source.
type Status struct {
	Name        string    `json:"name"`
	Source      string    `json:"source"`                // where it comes from
	Revision    string    `json:"revision,omitempty"`    // of the active bundle; empty before the first activation
	Digest      string    `json:"digest,omitempty"`      // of the active bundle
	Archive     string    `json:"archive,omitempty"`     // SHA-256 of the tarball that it came in
	Serial      int64     `json:"serial,omitempty"`      // from its manifest's metadata, if the source requires one
	ActiveSince time.Time `json:"active_since,omitzero"` // when the active bundle was published
	LastAttempt time.Time `json:"last_attempt,omitzero"` // when the source was last read
	Stage       string    `json:"stage,omitempty"`       // where the last attempt failed: "reading", "verifying", "compiling", "testing", "smoke", "warming", "publishing", "waiting" for another bundle; empty if it did not
	File        string    `json:"file,omitempty"`        // the problem's file, within the bundle
	Line        int       `json:"line,omitempty"`        // the problem's line
	Error       string    `json:"error,omitempty"`       // its error, with file and line
	Pinned      bool      `json:"pinned,omitempty"`      // it is active because of a rollback
	Held        string    `json:"held,omitempty"`        // digest of the source's bundle that was rolled back and is not activated

	Remote *RemoteStatus `json:"remote,omitempty"` // nil for a source with a path
}

// Manager reads, watches and publishes. Made by New.
type Manager struct {
	cfg      Config
	metrics  *metrics
	remotes  *remoteMetrics
	archiver *archiver // nil: nothing is archived
	// reporter is nil if no status service is configured.
	reporter    *reporter
	sources     []*source
	status      atomic.Pointer[[]Status]
	earlier     atomic.Pointer[[]Activation]
	handover    atomic.Pointer[handover] // for the manager that succeeds this one
	took        *handover                // what New took over from cfg.Succeeds
	state       *stateFile               // nil: nothing is persisted
	degraded    atomic.Pointer[[]string]
	retrySignal chan struct{} // buffered; signals that something else has changed that a bundle may have failed on

	commands chan command
	loaded   *loaded // by Load, for Run to start with

	// Below: Run's goroutine only.
	now      *activation      // what is active; nil before the first
	snapshot *policy.Snapshot // of now
	last     *activation      // what was active in the previous configuration or process, if that is in the history
	history  []*activation    // oldest first, including now
	serial   uint64           // of the last activation
	dirty    bool             // the state has changed since it was saved
	unsaved  string           // why saving failed
	swapped  bool             // something was activated since the last trim
	watcher  *watch.Watcher   // of the sources with a path
	watched  []*source        // those sources, in the watcher's order

	stateLost string // why the previous process's state could not be read

	withdrawn bool // the policy was published and then withdrawn, because one of its bundles expired
}

// loaded is the result of Load.
type loaded struct {
	snapshot *policy.Snapshot
	list     []*candidate
}

// source is the state of one source, owned by Run's goroutine.
type source struct {
	Source
	fetch         fetcher    // nil for a source with a path; set by New
	remote        *remote    // the state behind fetch
	expired       bool       // the remote source has not confirmed the bundle for max_age, so it must not be used for decisions
	active        *candidate // in the published snapshot
	latest        *candidate // last read; differs from active after a failed activation; nil after a failed read
	pin           *pin       // nil unless rolled back
	highest       int64      // the highest serial that was ever active
	retry         retry
	retrying      bool          // it is being tried again although it has not changed
	lastProblem   string        // the last problem logged
	since         time.Time     // when the current problem began; zero: none
	keys          []fs.FileInfo // of a remote source, the key files at the last read
	unstableReads int           // reads discarded because the directory was changing
	status        Status
}

var sourceName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// New checks the whole configuration, and that each source is a readable directory or file. It starts nothing.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, commands: make(chan command), retrySignal: make(chan struct{}, 1)}
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
		m.took = cfg.Succeeds.handover.Load()
		m.inherit(m.took)
	case m.state != nil:
		m.inherit(m.state.load())
	}
	m.updateHistory()
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

// checkSource returns the source with an absolute path, so that a change of the working directory has no effect.
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

// Status returns the state of each source, in the order of the configuration. The caller owns the slice.
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
		m.handover.Store(m.prepareHandover())
	}
	m.updateDegraded()
	m.status.Store(&list)
	if m.reporter != nil {
		m.reporter.offer(m.Status())
	}
}

// BrokenError is Load's where the policy cannot become active before somebody changes a file on this machine: it does not help to wait.
type BrokenError struct{ Err error }

func (e *BrokenError) Error() string { return e.Err.Error() }
func (e *BrokenError) Unwrap() error { return e.Err }

// broken makes err a BrokenError where it comes from files on this machine alone: a source that is fetched may bring something else.
func (m *Manager) broken(ctx context.Context, err error, from ...*source) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, errChanging) || slices.ContainsFunc(from, func(s *source) bool { return s.fetch != nil }) {
		return err
	}
	return &BrokenError{err}
}

// Load reads all sources once and takes them through every stage before publishing, for a check at start-up or on the command line. It
// publishes nothing and does not change Status. A later Run starts with the result if nothing has changed; Load must not run concurrently
// with it. Errors name bundle, file and line; errors.As finds bundle.Problems, and BrokenError.
func (m *Manager) Load(ctx context.Context) (*policy.Snapshot, error) {
	all, errs := make([]*candidate, len(m.sources)), make([]error, len(m.sources))
	var wait sync.WaitGroup
	for i, s := range m.sources { // concurrently, so that unreachable sources time out together
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
			problems = append(problems, m.broken(ctx, err, s))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	snapshot, err := m.check(ctx, all)
	if err != nil {
		return nil, m.broken(ctx, err, m.sources...)
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
