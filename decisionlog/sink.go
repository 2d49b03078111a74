package decisionlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/decisionlog/remote"
	"gatehouse/decisionlog/spool"
)

// Sink is a place that decisions are written to.
type Sink struct {
	// Name tells it from the others: in metrics, and in the spool, which keeps by it how far the sink is. Lower-case letters, digits, "-"
	// and "_". Default: what it is, such as "file".
	Name string
	// File is a path, or "-" for standard output. The file is created with mode 0600 and appended to; its directory must exist.
	File string
	// OPA is a receiver of Open Policy Agent's decision log API: POST with a gzipped JSON array of events.
	OPA *remote.Server
	// OTLP is a receiver of OpenTelemetry's logs: POST with a gzipped ExportLogsServiceRequest.
	OTLP *remote.Server
}

// maxSinks bounds what each decision may cost.
const maxSinks = 16

var sinkName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// sink is what is known of a sink.
type sink struct {
	cfg    Sink
	log    *Log
	file   *os.File      // as New opened it; Run has it from then on. nil for standard output
	made   bool          // it was not there before
	reader *spool.Reader // in the spool; nil: there is none

	wake     chan struct{} // tells its writer that next is set
	failing  atomic.Bool   // it refused the last write
	written  atomic.Uint64
	errors   prometheus.Counter
	unwanted prometheus.Counter // events that a server took and refuses permanently
	damaged  prometheus.Counter // bytes of the spool that could not be read for it

	next    *os.File // opened by Reopen, not yet taken by the writer; guarded by Log.mu, as is what follows
	lastErr string
}

// sinks are those of the configuration, by name.
func (c *Config) sinks() ([]Sink, error) {
	var all []Sink
	if c.File != "" {
		all = append(all, Sink{File: c.File})
	}
	all = append(all, c.Sinks...)
	if len(all) > maxSinks {
		return nil, fmt.Errorf("decision log: %d sinks are too many: at most %d", len(all), maxSinks)
	}
	if c.Dir == "" && (len(all) > 1 || len(all) == 1 && all[0].File == "") {
		return nil, errors.New("decision log: a server, or several sinks, need a spool on disk: set dir, or state_dir")
	}
	seen := map[string]bool{}
	for i := range all {
		s := &all[i]
		if s.Name == "" {
			s.Name = s.kind()
		}
		if err := s.check(i); err != nil {
			return nil, err
		}
		switch {
		case !sinkName.MatchString(s.Name):
			return nil, fmt.Errorf("decision log: the sink's name %q is not 1 to 40 of a-z, 0-9, - and _", s.Name)
		case seen[s.Name]:
			return nil, fmt.Errorf("decision log: two sinks are named %q: give each its own name", s.Name)
		}
		seen[s.Name] = true
	}
	return all, sameFile(all)
}

// check refuses a sink that is not one thing.
func (s *Sink) check(i int) error {
	n := 0
	for _, is := range []bool{s.File != "", s.OPA != nil, s.OTLP != nil} {
		if is {
			n++
		}
	}
	switch {
	case n == 0:
		return fmt.Errorf("decision log: sink %d has no destination: set one of file, opa and otlp", i+1)
	case n > 1:
		return fmt.Errorf("decision log: sink %d has several destinations: set one of file, opa and otlp", i+1)
	case s.OPA != nil:
		return s.OPA.Check("opa")
	case s.OTLP != nil:
		return s.OTLP.Check("otlp")
	}
	return nil
}

// kind is what a sink is called that has no other name.
func (s *Sink) kind() string {
	switch {
	case s.File == "-":
		return "stdout"
	case s.OPA != nil:
		return "opa"
	case s.OTLP != nil:
		return "otlp"
	}
	return "file"
}

// String is the sink as people see it.
func (s *Sink) String() string {
	switch {
	case s.File == "-":
		return "stdout"
	case s.OPA != nil:
		return s.OPA.URL
	case s.OTLP != nil:
		return s.OTLP.URL
	}
	return s.File
}

// open opens what the sink writes to.
func (s *sink) open() (err error) {
	if s.cfg.File != "" && s.cfg.File != "-" {
		_, missing := os.Lstat(s.cfg.File)
		s.made = errors.Is(missing, fs.ErrNotExist)
		s.file, err = openFile(s.cfg.File)
	}
	return err
}

// discard closes what open has opened, and removes a file that it made and nobody wrote to.
func (s *sink) discard() {
	if s.file != nil && s.made {
		mine, err := s.file.Stat()
		if named, err2 := os.Lstat(s.cfg.File); err == nil && err2 == nil && os.SameFile(mine, named) && mine.Size() == 0 {
			_ = os.Remove(s.cfg.File) // an empty file harms nobody
		}
	}
	s.close()
}

// close is for a sink that nobody writes to.
func (s *sink) close() {
	if s.file != nil {
		s.file.Close()
	}
	for _, r := range []*remote.Server{s.cfg.OPA, s.cfg.OTLP} {
		if r != nil {
			r.Release()
		}
	}
}

// remote is what sends to the sink's server.
func (s *sink) remote() *remote.Sender {
	if s.cfg.OPA != nil {
		return remote.ToOPA(*s.cfg.OPA, s.refused)
	}
	return remote.ToOTLP(*s.cfg.OTLP, s.log.cfg.Labels, s.refused)
}

// refused accounts for events that a server took and does not want.
func (s *sink) refused(n int, err error) {
	s.unwanted.Add(float64(n))
	s.log.cfg.Logger.Error("a server permanently refuses decisions", zap.String("sink", s.cfg.String()), zap.Int("decisions", n), zap.Error(err))
}

func (s *sink) setError(text string) {
	s.log.mu.Lock()
	s.lastErr = text
	s.log.mu.Unlock()
}

// oldest is when the oldest entry was that the sink does not have; zero: it has all.
func (s *sink) oldest() time.Time {
	if s.reader == nil {
		return time.Time{}
	}
	return s.reader.Oldest()
}

func (s *sink) unread() uint64 {
	if s.reader == nil {
		return 0
	}
	return s.reader.Unread()
}

// Reopen opens the files anew under the same paths, for a log rotation that has
// moved the old ones away. Lines written until Run takes a new file go to the
// old one; none is lost or written twice. If one cannot be opened, the
// old file stays in use. Standard output has nothing to reopen.
func (l *Log) Reopen() error {
	if l == nil {
		return nil
	}
	var errs []error
	for _, s := range l.sinks {
		errs = append(errs, s.reopen())
	}
	return errors.Join(errs...)
}

func (s *sink) reopen() error {
	if s.file == nil {
		return nil
	}
	f, err := openFile(s.cfg.File)
	if err != nil {
		return err
	}
	l := s.log
	l.mu.Lock()
	old := s.next
	s.next = f
	if l.ended {
		old, s.next = f, nil
	}
	ended := l.ended
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
	if ended {
		return fmt.Errorf("reopening decision log %q: %w", s.cfg.File, os.ErrClosed)
	}
	notify(s.wake)
	return nil
}

// names are the sinks as people see them.
func (l *Log) names() string {
	var all []string
	for _, s := range l.sinks {
		all = append(all, s.cfg.String())
	}
	return strings.Join(all, ", ")
}

// failing reports whether a sink is known to refuse what it is given.
func (l *Log) failing() bool {
	for _, s := range l.sinks {
		if s.failing.Load() {
			return true
		}
	}
	return false
}

// SinkStatus is what the status page shows of a sink that reads from a spool.
type SinkStatus struct {
	Name    string    `json:"name"`
	To      string    `json:"to"`              // path of the file, "stdout", or the URL
	Written uint64    `json:"written"`         // entries since the start
	Unread  uint64    `json:"unread_bytes"`    // of entries that it does not have yet
	Oldest  time.Time `json:"oldest,omitzero"` // when the oldest of these was; zero: there is none
	Error   string    `json:"error,omitempty"` // what it says while it refuses to take more, else ""
}

func (l *Log) spoolStatus() *Spool {
	if l.spool == nil {
		return nil
	}
	st := l.spool.Status()
	return &Spool{Dir: l.cfg.Dir, Bytes: st.Bytes, MaxBytes: st.MaxBytes, Segments: st.Segments, Error: st.Error}
}

// Status may be called at any time.
func (l *Log) Status() Status {
	if l == nil || len(l.sinks) == 0 {
		return Status{}
	}
	st := Status{Sink: l.names(), Queued: l.queued(), Written: l.sinks[0].written.Load(), Dropped: l.dropped.Load(), Spool: l.spoolStatus()}
	for _, s := range l.sinks {
		l.mu.Lock()
		one := SinkStatus{Name: s.cfg.Name, To: s.cfg.String(), Written: s.written.Load(), Error: s.lastErr}
		l.mu.Unlock()
		one.Unread, one.Oldest = s.unread(), s.oldest()
		st.Written = min(st.Written, one.Written)
		if st.Error == "" {
			st.Error = one.Error
		}
		if l.spool == nil {
			continue
		}
		st.Sinks = append(st.Sinks, one)
		st.Spool.Unread = max(st.Spool.Unread, one.Unread)
		if !one.Oldest.IsZero() && (st.Spool.Oldest.IsZero() || one.Oldest.Before(st.Spool.Oldest)) {
			st.Spool.Oldest = one.Oldest
		}
	}
	return st
}
