package edge

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/control/follow"
	"gatehouse/directory"
	"gatehouse/directory/journal"
	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/watch"
)

// directorySource keeps the directory in step with its files. The last good version stays in use whatever happens to
// the files, unless it exceeds max_age and the configuration withdraws it then.
type directorySource struct {
	cfg    directoryConfig
	logger *zap.Logger
	now    func() time.Time
	kept   *keptDirectory   // the local copy; nil without state_dir
	before *directorySource // the previous source of the same files, whose directory is in use; nil once taken over
	status atomic.Pointer[DirectoryStatus]
	failed atomic.Uint64  // failed loads
	store  *journal.Store // of a writable directory (writable.go); nil: it comes from elsewhere, or could not be opened

	follower *follow.Follower    // of a directory of control (control.go); nil: it comes from elsewhere, or could not be opened
	version  string              // of this process, for control
	readOnly bool                // a tool reads the copy of what control sent
	state    func() follow.State // of this edge, for control; set before run

	load                              func(context.Context, directoryConfig) (*directory.Snapshot, error)
	lookWithin, loadWithin, emptyWait time.Duration

	// Owned by newEngine until the source runs, then by Run.
	attempt   *attempt            // the load in progress; nil: none
	last      *DirectoryChange    // the most recent change
	current   *directory.Snapshot // the last good one; nil: none yet
	seen      []*watch.Look       // of the targets, when it was loaded
	failing   time.Time           // since when the files are unusable; zero: they are usable
	problem   string              // the reason
	copied    bool                // current is the local copy of an earlier process
	expired   bool                // current is older than max_age
	withdrawn bool                // the directory was withdrawn from the gate
	emptied   time.Time           // since when an empty file is held back; zero: none is
}

// directoryConfig is what a source is made of.
type directoryConfig struct {
	File, Manifest string
	Writable       string        // the folder of a writable directory; "": the directory comes from elsewhere
	Control        controlConfig // zero: the directory comes from elsewhere
	Limits         directory.Limits
	MaxAge         time.Duration
	Withdraw       bool // withdraw the directory after MaxAge
}

// DirectoryStatus is the directory's part of the status page.
type DirectoryStatus struct {
	File      string         `json:"file,omitempty"`
	Writable  bool           `json:"writable,omitempty"`
	Loaded    bool           `json:"loaded"`
	Revision  uint64         `json:"revision"`
	Digest    string         `json:"digest,omitempty"`
	Objects   int            `json:"objects"`
	Relations int            `json:"relations"`
	Bytes     int64          `json:"bytes"`
	Copy      bool           `json:"copy,omitempty"` // it is the copy kept by an earlier process
	Control   *follow.Status `json:"control,omitempty"`
	Expired   bool           `json:"expired,omitempty"` // it is older than max_age
	Failing   time.Time      `json:"failing_since,omitzero"`
	Error     string         `json:"error,omitempty"`

	Change *DirectoryChange `json:"change,omitempty"` // the most recent; nil: none since the process started

	inUse *directory.Snapshot // nil: none, or withdrawn
}

// Users says how callers are looked up in the directory; nil where there is none.
func Users(c config.Directory) *gate.Users {
	if !c.Configured() {
		return nil
	}
	return &gate.Users{Email: c.User.From == "email", Claim: c.User.Claim, ByID: c.User.By == "id", Issuers: c.User.Issuers, DenyUnknown: c.UnknownUser == "deny",
		AllowDisabled: c.DisabledUser == "allow"}
}

// newDirectorySource makes the source for a configuration, nil where there is no directory. before is the source that
// it replaces.
func newDirectorySource(c *config.Config, logger *zap.Logger, before *directorySource) *directorySource {
	d := c.Directory
	if !d.Configured() {
		return nil
	}
	s := &directorySource{logger: logger, now: time.Now, load: loadFiles, lookWithin: lookWithin, loadWithin: loadWithin, emptyWait: emptyWait, cfg: directoryConfig{File: d.File, Manifest: d.Manifest, MaxAge: time.Duration(d.MaxAge),
		Withdraw: d.AfterMaxAge == "deny", Limits: directory.Limits{Depth: d.Limits.Depth, Work: d.Limits.Work}}}
	if d.Writable {
		return s.writable(c.DirectoryDir(), before)
	}
	if d.Control {
		return s.control(c, before)
	}
	if c.StateDir != "" {
		s.kept = newKeptDirectory(filepath.Join(c.StateDir, "directory"), d.File, logger)
	}
	if before != nil && before.cfg.Writable == "" && before.cfg.Control == (controlConfig{}) && before.cfg.File == d.File && before.cfg.Manifest == d.Manifest {
		s.before = before
		s.status.Store(before.status.Load())
		return s
	}
	s.report()
	return s
}

// start loads the directory for the first time. Where the files are unusable it uses the copy that an earlier process
// kept, and returns the error; without a copy there is no directory.
func (s *directorySource) start(ctx context.Context, revision uint64) error {
	if s.before != nil {
		return nil // the directory in use stays
	}
	if s.cfg.Writable != "" {
		return s.loadWritable(ctx, revision)
	}
	if s.cfg.Control.URL != "" {
		return s.loadControl()
	}
	known := s.kept.head()
	revision = max(revision, known.Revision)
	out, err := s.firstLoad(ctx)
	if err == nil {
		if out.next.Digest() != known.Digest {
			revision++
		}
		s.use(out.next.WithRevision(revision), out.looks)
		return nil
	}
	if s.attempt == nil { // otherwise it was already logged
		s.fail(err)
	}
	if ctx.Err() == nil && known.Digest != "" {
		kept, broken := s.kept.read(s.cfg.Limits)
		if broken != nil {
			s.logger.Error("the kept copy of the directory cannot be used", zap.Error(broken))
		} else {
			if kept.Digest() != known.Digest { // the process died between the two writes
				revision++
			}
			s.current, s.copied, s.failing = kept.WithRevision(revision), true, known.Confirmed
			s.logger.Warn("the directory's files cannot be used; the copy that was kept of them decides", zap.String("file", s.cfg.File),
				zap.Time("kept", known.Confirmed), zap.Uint64("revision", revision), zap.Error(err))
			err = nil
		}
	}
	s.report()
	return err
}

// use makes a loaded directory current.
func (s *directorySource) use(next *directory.Snapshot, looks []*watch.Look) {
	s.current, s.seen, s.failing, s.problem, s.copied, s.expired, s.withdrawn, s.emptied = next, looks, time.Time{}, "", false, false, false, time.Time{}
	s.kept.put(next)
	s.report()
}

// fail records that the files are unusable.
func (s *directorySource) fail(err error) {
	if s.failed.Add(1); s.failing.IsZero() {
		s.failing = s.now()
	}
	s.problem = err.Error()
	s.kept.invalidate()
}

// part puts the source's directory into the next View.
func (s *directorySource) part() gate.Part {
	return func(v *gate.View) {
		switch {
		case s == nil:
			v.Directory = nil
		case s.before != nil: // what is in use stays, under the new limits
			if v.Directory == nil { // a gate that is not serving, as for a trial
				v.Directory = s.before.status.Load().inUse
			}
			if v.Directory != nil {
				v.Directory = v.Directory.WithLimits(s.cfg.Limits)
			}
		default:
			v.Directory = s.current
		}
	}
}

// takeOver takes the state of the previous source, which has ended.
func (s *directorySource) takeOver() {
	b := s.before
	if b == nil {
		return
	}
	s.current, s.failing, s.problem, s.copied, s.expired, s.withdrawn = b.current, b.failing, b.problem, b.copied, b.expired, b.withdrawn
	s.last = b.last
	if s.current != nil {
		s.current = s.current.WithLimits(s.cfg.Limits)
	}
	s.failed.Store(b.failed.Load())
	s.before = nil
	s.report()
}

// run keeps the directory fresh until ctx ends.
func (s *directorySource) run(ctx context.Context, publish func(*directory.Snapshot) error) {
	if s.cfg.Writable != "" {
		s.runWritable(ctx, publish)
		return
	}
	if s.cfg.Control.URL != "" {
		s.runControl(ctx, publish)
		return
	}
	watcher := watch.New(watch.Config{Targets: s.targets(), Logger: s.logger})
	var helpers sync.WaitGroup
	defer helpers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	helpers.Go(func() { panics.Loop(ctx, "watching the directory", watcher.Run) })
	if s.kept != nil {
		helpers.Go(func() { panics.Loop(ctx, "keeping a copy of the directory", s.kept.run) })
	}
	defer s.abandon()
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := s.attempt == nil && s.problem != "" // load the files again when no load is in progress
	for {
		timer.Stop()
		if at, will := s.nextDeadline(); will {
			timer.Reset(at.Sub(s.now()))
		}
		var done <-chan loadOutcome
		if s.attempt != nil {
			done = s.attempt.done
		}
		select {
		case <-ctx.Done():
			return
		case <-watcher.Changed():
			again = true
		case <-probe.C:
			if s.attempt == nil {
				s.probe(ctx)
			}
		case out := <-done:
			was := s.attempt
			was.cancel()
			s.attempt = nil
			if was.probe {
				again = again || was.late // the files respond again
				break
			}
			switch err := s.renew(was, out, publish); {
			case errors.Is(err, errChanging):
				watcher.LookAgain(0, resettleWait)
			case errors.Is(err, errEmptied):
				watcher.LookAgain(0, s.emptyWait)
			}
		case <-timer.C:
			s.overdue()
			s.expire(publish)
		}
		if again && s.attempt == nil {
			again = false
			known := s.seen
			if s.problem != "" {
				known = nil
			}
			s.startLoad(ctx, known)
		}
	}
}

// nextDeadline is when run has to act without any event.
func (s *directorySource) nextDeadline() (at time.Time, will bool) {
	at, will = s.expires()
	if s.attempt != nil && !s.attempt.late {
		if late := s.lateAt(); !will || late.Before(at) {
			at, will = late, true
		}
	}
	return at, will
}

// resettleWait is the delay before files that changed during a load are loaded again.
const resettleWait = 100 * time.Millisecond

// renew takes the outcome of an attempt, and publishes the directory where it differs from the current one.
func (s *directorySource) renew(a *attempt, out loadOutcome, publish func(*directory.Snapshot) error) error {
	out.err = errors.Join(out.err, s.holdBack(out))
	switch {
	case out.err != nil:
		said := s.problem
		s.fail(out.err)
		s.report()
		if said != s.problem {
			s.logger.Error("the directory changed and cannot be used, the old one stays", zap.String("file", s.cfg.File), zap.Error(out.err))
		}
		return out.err
	case out.unchanged:
		return nil
	}
	next, revision := out.next, uint64(1)
	var change *DirectoryChange
	if s.current != nil {
		if revision = s.current.Revision(); next.Digest() != s.current.Digest() {
			revision++
		}
		if next.Digest() == s.current.Digest() && !s.withdrawn { // usable again and unchanged
			if s.problem != "" {
				s.logger.Info("the directory's files can be used again", zap.String("file", s.cfg.File))
			}
			s.use(s.current, out.looks)
			return nil
		}
		next, change = s.difference(next)
	}
	next = next.WithRevision(revision)
	if err := publish(next); err != nil {
		return err
	}
	if change != nil {
		change.At, change.Revision = s.now().UTC(), revision
		s.last = change
	}
	s.use(next, out.looks)
	stats := next.Stats()
	fields := []zap.Field{zap.String("file", s.cfg.File), zap.Uint64("revision", revision), zap.String("digest", next.Digest()),
		zap.Int("objects", stats.Objects), zap.Int("relations", stats.Relations), zap.Duration("took", s.now().Sub(a.started))}
	if change != nil {
		fields = append(fields, zap.String("difference", change.What), zap.Strings("sample", change.Sample))
	}
	s.logger.Info("directory replaced", fields...)
	return nil
}

// DirectoryChange describes the most recent change of the directory.
type DirectoryChange struct {
	At       time.Time `json:"at"`
	Revision uint64    `json:"revision"`
	What     string    `json:"what"`             // "+3 objects, -1 relation"
	Sample   []string  `json:"sample,omitempty"` // some of the changes
}

const (
	maxDifference = 50_000 // changes applied at most (each about 15 us); with more, the loaded snapshot replaces the current one
	maxSample     = 10
	maxSampleText = 200
)

// difference applies what changed to the current snapshot, so that the result shares memory with it, and describes
// the change. Where too much changed, or the manifest, it returns the loaded snapshot.
func (s *directorySource) difference(loaded *directory.Snapshot) (*directory.Snapshot, *DirectoryChange) {
	d, ok := directory.Compare(s.current, loaded, maxDifference)
	if !ok {
		return loaded, &DirectoryChange{What: fmt.Sprintf("the manifest, or more than %d changes", maxDifference)}
	}
	change := &DirectoryChange{What: d.String()}
	for _, c := range d.Changes[:min(len(d.Changes), maxSample)] {
		text := c.String()
		if len(text) > maxSampleText {
			text = strings.ToValidUTF8(text[:maxSampleText], "") + "..."
		}
		change.Sample = append(change.Sample, text)
	}
	next, err := s.current.Apply(d.Changes)
	if err != nil || next.Digest() != loaded.Digest() {
		s.logger.Error("the differences of the directory cannot be applied; it is replaced as a whole", zap.Error(err))
		return loaded, change
	}
	return next, change
}

// expires is when the current directory exceeds max_age.
func (s *directorySource) expires() (time.Time, bool) {
	if s.cfg.MaxAge == 0 || s.failing.IsZero() || s.current == nil || s.expired {
		return time.Time{}, false
	}
	return s.failing.Add(s.cfg.MaxAge), true
}

// expire reports that the directory exceeded max_age, and withdraws it where the configuration says so.
func (s *directorySource) expire(publish func(*directory.Snapshot) error) {
	if at, will := s.expires(); !will || s.now().Before(at) {
		return
	}
	s.expired, s.withdrawn = true, s.cfg.Withdraw
	s.report()
	if s.withdrawn && publish(nil) != nil {
		return // another source has taken over
	}
	s.logger.Error("the directory is older than directory.max_age", zap.String("file", s.cfg.File), zap.Time("failing_since", s.failing),
		zap.Duration("max_age", s.cfg.MaxAge), zap.Bool("decides", !s.withdrawn))
}

// report logs the state of the source.
func (s *directorySource) report() {
	out := &DirectoryStatus{Change: s.last, File: s.cfg.File, Writable: s.cfg.Writable != "", Copy: s.copied, Expired: s.expired, Failing: s.failing, Error: s.problem}
	if s.follower != nil {
		out.Control = s.follower.Status()
	}
	if s.current != nil {
		stats := s.current.Stats()
		out.Loaded, out.Revision, out.Digest = true, s.current.Revision(), s.current.Digest()
		out.Objects, out.Relations, out.Bytes = stats.Objects, stats.Relations, stats.Bytes
		if !s.withdrawn {
			out.inUse = s.current
		}
	}
	s.status.Store(out)
}

// degraded lists what does not work.
func (s *directorySource) degraded() (list []string) {
	if s == nil {
		return nil
	}
	is := s.status.Load()
	switch {
	case is.Writable:
		list = append(list, s.degradedWritable()...)
	case s.cfg.Control.URL != "":
		list = append(list, s.degradedControl(is)...)
	case is.Error == "":
	case !is.Loaded:
		list = append(list, fmt.Sprintf("directory: %s cannot be used, and nothing is decided without it: %s", is.File, is.Error))
	case is.Copy:
		list = append(list, fmt.Sprintf("directory: %s cannot be used, the copy that was kept of it decides: %s", is.File, is.Error))
	default:
		list = append(list, fmt.Sprintf("directory: %s cannot be used, the old one stays: %s", is.File, is.Error))
	}
	if is.Expired {
		list = append(list, "directory: it is older than directory.max_age")
	}
	return list
}

// The metrics of the directory.
var (
	directoryRevision  = directoryDesc("revision", "Revision of the directory in use: it counts its changes. 0: none was loaded.")
	directoryObjects   = directoryDesc("objects", "Objects in the directory.")
	directoryRelations = directoryDesc("relations", "Relations in the directory.")
	directoryBytes     = directoryDesc("bytes", "Memory that the directory takes.")
	directoryFailures  = directoryDesc("load_failures_total", "Loads of directory.file that failed; the directory before stays in use.")
	directoryFailing   = directoryDesc("failing_seconds", "For how long directory.file could not be used; 0 where it can.")
	directoryExpired   = directoryDesc("expired", "1: the directory is older than directory.max_age.")
)

func directoryDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("gatehouse_directory_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (s *directorySource) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, out) }

// Collect implements prometheus.Collector.
func (s *directorySource) Collect(out chan<- prometheus.Metric) {
	is, expired, failing := s.status.Load(), 0.0, 0.0
	if is.Expired {
		expired = 1
	}
	if !is.Failing.IsZero() {
		failing = s.now().Sub(is.Failing).Seconds()
	}
	out <- prometheus.MustNewConstMetric(directoryFailures, prometheus.CounterValue, float64(s.failed.Load()))
	if s.follower != nil {
		s.collectControl(out, s.follower.Status())
	}
	for desc, value := range map[*prometheus.Desc]float64{directoryRevision: float64(is.Revision), directoryObjects: float64(is.Objects),
		directoryRelations: float64(is.Relations), directoryBytes: float64(is.Bytes), directoryFailing: failing, directoryExpired: expired} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
}
