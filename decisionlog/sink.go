package decisionlog

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sink is a place that decisions are written to.
type Sink struct {
	// Name tells it from the others: in metrics, and in the spool, which keeps by it how far the sink is. Lower-case letters, digits, "-"
	// and "_". Default: what it is, such as "file".
	Name string
	// File is a path, or "-" for standard output. The file is created with mode 0600 and appended to; its directory must exist.
	File string
}

// mostSinks bounds what each decision may cost.
const mostSinks = 16

var sinkName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// sink is what is known of a sink.
type sink struct {
	cfg    Sink
	log    *Log
	file   *os.File // as New opened it; Run has it from then on. nil for standard output
	reader *reader  // in the spool; nil: there is none

	wake    chan struct{} // tells its writer that next is set
	failing atomic.Bool   // it refused the last write
	written atomic.Uint64
	errors  prometheus.Counter

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
	if len(all) > mostSinks {
		return nil, fmt.Errorf("decision log: %d sinks are too many: at most %d", len(all), mostSinks)
	}
	if len(all) > 1 && c.Dir == "" {
		return nil, errors.New("decision log: several sinks need a folder for what one of them does not have yet: set dir, or state_dir")
	}
	seen := map[string]bool{}
	for i := range all {
		s := &all[i]
		if s.Name == "" {
			s.Name = s.kind()
		}
		switch {
		case s.File == "":
			return nil, fmt.Errorf("decision log: sink %d says nothing of where decisions go: set file", i+1)
		case !sinkName.MatchString(s.Name):
			return nil, fmt.Errorf("decision log: the sink's name %q is not 1 to 40 of a-z, 0-9, - and _", s.Name)
		case seen[s.Name]:
			return nil, fmt.Errorf("decision log: two sinks are named %q: give each its own name", s.Name)
		}
		seen[s.Name] = true
	}
	return all, nil
}

// kind is what a sink is called that has no other name.
func (s *Sink) kind() string {
	if s.File == "-" {
		return "stdout"
	}
	return "file"
}

// String is the sink as people see it.
func (s *Sink) String() string {
	if s.File == "-" {
		return "stdout"
	}
	return s.File
}

// open opens what the sink writes to.
func (s *sink) open() (err error) {
	if s.cfg.File != "-" {
		s.file, err = openFile(s.cfg.File)
	}
	return err
}

func (s *sink) close() {
	if s.file != nil {
		s.file.Close()
	}
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
	if ns := s.reader.oldest.Load(); ns != 0 {
		return time.Unix(0, ns).UTC()
	}
	return time.Time{}
}

func (s *sink) unread() uint64 {
	if s.reader == nil {
		return 0
	}
	return s.log.spool.unread(s.reader)
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
	poke(s.wake)
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

// Status may be called at any time.
func (l *Log) Status() Status {
	if l == nil || len(l.sinks) == 0 {
		return Status{}
	}
	st := Status{Sink: l.names(), Queued: l.queued(), Written: l.sinks[0].written.Load(), Dropped: l.dropped.Load(), Spool: l.spool.status()}
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
