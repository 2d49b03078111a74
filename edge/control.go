package edge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/config"
	"gatehouse/control/follow"
	"gatehouse/directory"
	"gatehouse/panics"
)

// controlConfig says where a directory of the control plane comes from. The zero value: it comes from elsewhere.
type controlConfig struct{ URL, CA, Pin, TokenFile, Name, Dir string }

// control makes s the source of a directory that is pushed by control. A previous source of the same control hands its
// follower over, which goes on where it is.
func (s *directorySource) control(c *config.Config, before *directorySource) *directorySource {
	s.cfg.Control = controlOf(c)
	if c.Directory.Dir != "" { // a tool reads the copy, and leaves it alone
		s.cfg.Control.Dir, s.readOnly = c.Directory.Dir, true
	}
	if before != nil && before.cfg.Control == s.cfg.Control && before.follower != nil {
		s.before, s.follower = before, before.follower
		s.status.Store(before.status.Load())
		return s
	}
	s.report()
	return s
}

// ErrNothingYet says that nothing has come from control yet: an edge without a copy decides nothing until then.
var ErrNothingYet = errors.New("nothing was received from control yet, and there is no copy on disk")

// loadControl reads the copy on disk. Control is not asked: the edge starts without it.
func (s *directorySource) loadControl() (err error) {
	k := s.cfg.Control
	s.follower, err = follow.Open(follow.Config{URL: k.URL, CA: k.CA, Pin: k.Pin, TokenFile: k.TokenFile, Dir: k.Dir, Name: k.Name, Version: s.version,
		Limits: s.cfg.Limits, Logger: s.logger, ReadOnly: s.readOnly})
	if err == nil {
		if s.current = s.follower.Snapshot(); s.current == nil {
			err = ErrNothingYet
		}
	}
	if err != nil {
		s.fail(err)
		s.report()
		return err
	}
	s.copied = true
	s.notConfirmed(s.follower.Status())
	s.report()
	return nil
}

// notConfirmed records that control does not confirm the directory any more.
func (s *directorySource) notConfirmed(is *follow.Status) {
	if s.problem == "" {
		s.failed.Add(1)
	}
	s.problem = is.Error
	if s.failing.IsZero() || s.current != nil {
		s.failing = is.Confirmed
	}
}

// offer is a directory that the follower wants to have in force.
type offer struct {
	next *directory.Snapshot
	done chan error
}

// runControl follows control until ctx ends.
func (s *directorySource) runControl(ctx context.Context, publish func(*directory.Snapshot) error) {
	if s.follower == nil { // its folder could not be read: a reload tries again
		<-ctx.Done()
		return
	}
	offers := make(chan offer)
	var following sync.WaitGroup
	defer following.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	following.Go(func() {
		panics.Loop(ctx, "following control", func(ctx context.Context) {
			s.follower.Run(ctx, s.cfg.Limits, func(next *directory.Snapshot) error {
				o := offer{next, make(chan error, 1)}
				select {
				case offers <- o:
					return <-o.done
				case <-ctx.Done():
					return ctx.Err()
				}
			}, s.state)
		})
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if at, will := s.expires(); will {
			timer.Reset(at.Sub(s.now()))
		}
		select {
		case <-ctx.Done():
			return
		case o := <-offers:
			o.done <- s.take(o.next, publish)
		case <-s.follower.Changed():
			s.heard(publish)
		case <-timer.C:
			s.expire(publish)
		}
	}
}

// take puts a directory of control in force.
func (s *directorySource) take(next *directory.Snapshot, publish func(*directory.Snapshot) error) error {
	if err := publish(next); err != nil {
		return err
	}
	s.current, s.withdrawn, s.expired, s.copied, s.failing, s.problem = next, false, false, false, time.Time{}, ""
	s.report()
	return nil
}

// heard takes in how it goes with control. A directory that was withdrawn for its age is back in force as soon as
// control confirms it.
func (s *directorySource) heard(publish func(*directory.Snapshot) error) {
	is := s.follower.Status()
	if is.Connected && s.current != nil {
		if s.withdrawn && publish(s.current) != nil {
			return // another source has taken over
		}
		s.withdrawn, s.expired, s.copied, s.failing, s.problem = false, false, false, time.Time{}, ""
	} else if !is.Connected {
		s.notConfirmed(is)
	}
	s.report()
}

// degradedControl says why the directory may be older than control's.
func (s *directorySource) degradedControl(is *DirectoryStatus) (list []string) {
	switch {
	case !is.Loaded:
		list = append(list, "directory: nothing is decided without it: "+is.Error)
	case is.Error != "":
		list = append(list, fmt.Sprintf("directory: control does not confirm it since %s, it stays as it is: %s", is.Failing.UTC().Format(time.RFC3339), is.Error))
	}
	if k := is.Control; k != nil && k.CopyError != "" {
		list = append(list, "directory: its copy on disk is not the newest: "+k.CopyError)
	}
	return list
}

// stateForControl is what control is told of this edge: what does not work besides the directory, and which policy of
// control's is in force.
func (e *engine) stateForControl() follow.State {
	v := e.publisher.gate.View()
	out := follow.State{Degraded: slices.Concat(v.Degraded(), e.bundles.Degraded(), e.degradedRoutes(), e.sink.log.Degraded()), WithoutPolicy: e.controlBundle == ""}
	if v.Policy == nil || e.controlBundle == "" {
		return out
	}
	for _, b := range v.Policy.Bundles() {
		if b.Name == e.controlBundle {
			out.Policy = b.Revision
		}
	}
	if since := e.counted.Load(); since != nil {
		n := e.publisher.gate.Counts().Since(*since)
		out.Counts = follow.Counts{Decisions: n.Decisions, Denied: n.Denied, Errors: n.Errors, Took: n.Took}
	}
	return out
}

// The metrics of an edge that follows control.
var (
	controlConnected = prometheus.NewDesc("gatehouse_control_connected", "1: control confirms the directory in use.", nil, nil)
	controlConfirmed = prometheus.NewDesc("gatehouse_control_confirmed_timestamp_seconds", "When control last confirmed the directory in use.", nil, nil)
	controlExpires   = prometheus.NewDesc("gatehouse_control_certificate_expiry_timestamp_seconds", "When the edge's certificate expires; it is renewed long before.", nil, nil)
)

// collectControl adds them.
func (s *directorySource) collectControl(out chan<- prometheus.Metric, is *follow.Status) {
	connected := 0.0
	if is.Connected {
		connected = 1
	}
	out <- prometheus.MustNewConstMetric(controlConnected, prometheus.GaugeValue, connected)
	out <- prometheus.MustNewConstMetric(controlConfirmed, prometheus.GaugeValue, float64(is.Confirmed.Unix()))
	if !is.Certificate.IsZero() {
		out <- prometheus.MustNewConstMetric(controlExpires, prometheus.GaugeValue, float64(is.Certificate.Unix()))
	}
}
