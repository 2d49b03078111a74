// Package follow is the edge's end of the control plane: it gets the edge's certificate, keeps the stream to control,
// applies what comes, and keeps a copy of the directory on the edge's own disk.
//
// The copy is what makes control dispensable: with it an edge starts, and decides as before, while control is down. What
// control was told to be applied is in force and in the copy. Whatever does not fit (a gap, another digest, an
// operation that cannot be applied) changes nothing, is reported, and is followed by the whole directory.
//
// It may import directory, control/api and control/wire.
package follow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/control/api"
	"gatehouse/directory"
)

// Config is what a Follower is made of.
type Config struct {
	URL       string // https://host:port
	CA        string // a file with control's authority; "": Pin names it
	Pin       string // the SHA-256 of its certificate, in hexadecimal
	TokenFile string // the enrolment token; needed until the edge has its certificate
	Dir       string // a folder of our own; made where it is missing
	Name      string // of this edge
	Version   string
	Limits    directory.Limits
	Logger    *zap.Logger
	Clock     func() time.Time // nil: time.Now
	ReadOnly  bool             // for tools: Open only, no Run; nothing is written
	// WithoutDirectory: the edge has its directory from elsewhere, or none, and control is followed for its policies.
	WithoutDirectory bool
}

// Counts are what an edge has decided.
type Counts struct {
	Decisions, Denied, Errors uint64
	Took                      time.Duration // all of them together
}

// State is what an edge tells control about itself.
type State struct {
	Degraded []string // what does not work, one sentence each
	Policy   string   // the revision of control's bundle that is in force; "": none
	Counts   Counts   // of decisions since that policy was activated
	// WithoutPolicy: the edge takes no policy from control, and nobody waits for it to have one. One that takes it, and has
	// none yet, does not say this.
	WithoutPolicy bool
}

// Status is what a Follower is about.
type Status struct {
	URL         string    `json:"url"`
	Connected   bool      `json:"connected"`
	Edge        string    `json:"edge,omitempty"` // its id at control
	Environment string    `json:"environment,omitempty"`
	Epoch       string    `json:"epoch,omitempty"`
	Confirmed   time.Time `json:"confirmed,omitzero"` // when control last said that the directory is the current one
	Certificate time.Time `json:"certificate_expires,omitzero"`
	Error       string    `json:"error,omitempty"`      // why there is no connection
	CopyError   string    `json:"copy_error,omitempty"` // why the copy on disk is not current
}

// Follower follows control. Open makes it; it works while Run runs.
type Follower struct {
	with    Config
	logger  *zap.Logger
	copy    *ownCopy
	status  atomic.Pointer[Status]
	changed chan struct{} // signals another status

	// Owned by Open, then by Run.
	identity *identity           // nil: not enrolled yet
	current  *directory.Snapshot // nil: none yet
	epoch    string              // of current's revision
	doubt    bool                // current is to be replaced as a whole
	backoff  int                 // failures in a row
	saved    time.Time           // the time of confirmation on disk
	state    func() State
	limits   directory.Limits

	shared atomic.Pointer[http.Transport] // the connection to control, for Bundles; nil: there is none
	news   chan struct{}                  // signals that control is to be told the state now
}

// Times of the edge's end.
const (
	aliveEvery   = 15 * time.Second
	newsEvery    = time.Second      // after another policy, and then twice as long each time: a rollout looks at what it does
	silentAfter  = 35 * time.Second // control sends its head every 10 s
	firstPause   = 500 * time.Millisecond
	longestPause = 16 * time.Second
	savedEvery   = time.Minute
)

// Open reads what is on disk. It asks nobody.
func Open(with Config) (*Follower, error) {
	if with.Clock == nil {
		with.Clock = time.Now
	}
	if with.Logger == nil {
		with.Logger = zap.NewNop()
	}
	if with.Name == "" {
		with.Name, _ = os.Hostname() // control asks for one
	}
	u, err := url.Parse(with.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return nil, errors.New("the URL of control is https://host:port")
	}
	f := &Follower{with: with, logger: with.Logger, changed: make(chan struct{}, 1), news: make(chan struct{}, 1), state: func() State { return State{} }}
	if !with.ReadOnly {
		if err := os.MkdirAll(filepath.Join(with.Dir, copyFolder), 0o700); err != nil {
			return nil, err
		}
	}
	if f.identity, err = readIdentity(with.Dir); err != nil {
		return nil, err
	}
	f.copy = &ownCopy{dir: filepath.Join(with.Dir, copyFolder), logger: with.Logger}
	if !with.WithoutDirectory {
		f.current, f.epoch, err = f.copy.load(with.Limits)
	}
	if err != nil {
		f.logger.Error("the copy of the directory cannot be used in full", zap.Error(err))
	}
	s := Status{URL: with.URL, Epoch: f.epoch, Confirmed: f.readConfirmed(), Error: "not connected yet"}
	if err != nil {
		s.CopyError = err.Error()
	}
	f.saved = s.Confirmed
	f.describe(&s)
	f.status.Store(&s)
	return f, nil
}

// describe fills in what the identity says.
func (f *Follower) describe(s *Status) {
	if f.identity != nil {
		s.Edge, s.Environment, s.Certificate = f.identity.Edge, f.identity.Environment, f.identity.expires()
	}
}

// Snapshot is the directory that Open found, with the revision that it has at control; nil: none. Only valid before Run.
func (f *Follower) Snapshot() *directory.Snapshot { return f.current }

// Status says how it goes.
func (f *Follower) Status() *Status { return f.status.Load() }

// Changed signals another status.
func (f *Follower) Changed() <-chan struct{} { return f.changed }

// set changes the status.
func (f *Follower) set(change func(*Status)) {
	s := *f.status.Load()
	change(&s)
	f.describe(&s)
	f.status.Store(&s)
	select {
	case f.changed <- struct{}{}:
	default: // signalled already
	}
}

// Run follows control until ctx ends. publish puts a directory in force; its error ends the connection. state is
// what control is told of this edge. One Run at a time.
func (f *Follower) Run(ctx context.Context, limits directory.Limits, publish func(*directory.Snapshot) error, state func() State) {
	f.limits, f.state = limits, state
	if f.current != nil {
		f.current = f.current.WithLimits(limits)
	}
	if !f.with.WithoutDirectory {
		f.keep(f.copy.begin())
	}
	link := &link{follower: f, publish: publish}
	defer link.close()
	defer func() {
		f.saveConfirmed(true)
		f.set(func(s *Status) { s.Connected, s.Error = false, "not connected yet" })
	}()
	for ctx.Err() == nil {
		err := link.session(ctx)
		if ctx.Err() != nil {
			return
		}
		said := f.status.Load().Error
		f.set(func(s *Status) { s.Connected, s.Error = false, err.Error() })
		f.saveConfirmed(true)
		if said != err.Error() {
			f.logger.Warn("there is no connection to control; the directory stays as it is", zap.String("url", f.with.URL), zap.Error(err))
		}
		pause := time.NewTimer(f.pause())
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// pause is how long to wait after a further failure. It is spread widely: thousands of edges may have lost control at
// the same moment.
func (f *Follower) pause() time.Duration {
	d := min(longestPause, firstPause<<min(f.backoff, 10))
	f.backoff++
	return d/4 + time.Duration(rand.Int64N(int64(d)))
}

// confirm says that control has confirmed the directory now.
func (f *Follower) confirm() {
	f.backoff = 0
	was := f.status.Load()
	if !was.Connected {
		f.logger.Info("connected to control, and current", zap.String("url", f.with.URL), zap.Uint64("revision", f.revision()), zap.String("epoch", f.epoch))
	}
	f.set(func(s *Status) { s.Connected, s.Error, s.Epoch, s.Confirmed = true, "", f.epoch, f.with.Clock().UTC() })
	f.saveConfirmed(false)
}

// revision is that of the directory; 0: there is none.
func (f *Follower) revision() uint64 {
	if f.current == nil {
		return 0
	}
	return f.current.Revision()
}

// Tell has control told the state of this edge soon, instead of with the next heartbeat. It never blocks.
func (f *Follower) Tell() {
	select {
	case f.news <- struct{}{}:
	default: // it will be
	}
}

// errGap: what came does not follow what is here.
var errGap = errors.New("what control sent does not follow the directory that is here")

// apply applies changes of control.
func (f *Follower) apply(c *api.Changes, publish func(*directory.Snapshot) error) error {
	if f.current == nil || c.GetEpoch() != f.epoch || c.GetFrom() != f.current.Revision() || c.GetTo() <= c.GetFrom() {
		f.doubt = true
		return errGap
	}
	next, err := applied(f.current, c)
	if err != nil {
		f.doubt = true
		return err
	}
	if err := publish(next); err != nil {
		return err
	}
	f.current = next
	f.keep(f.copy.add(c, next))
	return nil
}

// replace puts a whole directory in force, which is in a file of the copy's folder.
func (f *Follower) replace(s *api.Snapshot, file string, publish func(*directory.Snapshot) error) error {
	next, err := readSnapshot(file, f.limits)
	if err != nil {
		return err
	}
	next = next.WithRevision(s.GetRevision())
	if next.Digest() != fmt.Sprintf("%x", s.GetDigest()) {
		return fmt.Errorf("the directory that control sent has the digest %s, and control says %x", next.Digest(), s.GetDigest())
	}
	if err := publish(next); err != nil {
		return err
	}
	f.current, f.epoch, f.doubt = next, s.GetEpoch(), false
	f.keep(f.copy.replace(s, file))
	return nil
}

// keep records whether the copy is current. A directory that is in force stays so, whatever becomes of its copy.
func (f *Follower) keep(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if f.status.Load().CopyError == text {
		return
	}
	if err != nil {
		f.logger.Error("the directory is in force, and its copy on disk could not be written", zap.Error(err))
	}
	f.set(func(s *Status) { s.CopyError = text })
}
