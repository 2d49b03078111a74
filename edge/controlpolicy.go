package edge

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
	"gatehouse/config"
	"gatehouse/control/follow"
	"gatehouse/directory"
)

// controlOf says which control an edge follows.
func controlOf(c *config.Config) controlConfig {
	return controlConfig{URL: c.Control.URL, CA: c.Control.CA, Pin: c.Control.Pin, TokenFile: c.Control.EnrollTokenFile, Name: c.Control.Name, Dir: c.ControlDir()}
}

// follows is what a follower is made of.
func (k controlConfig) follows(version string, logger *zap.Logger) follow.Config {
	return follow.Config{URL: k.URL, CA: k.CA, Pin: k.Pin, TokenFile: k.TokenFile, Dir: k.Dir, Name: k.Name, Version: version, Logger: logger}
}

// controlLink follows control for the policy alone: the directory comes from elsewhere, or there is none.
type controlLink struct {
	cfg      controlConfig
	follower *follow.Follower
	state    func() follow.State
}

// linkControl makes the link to control where a bundle comes from there and the directory does not.
func (e *engine) linkControl(with Config, before *engine) error {
	c := with.Config
	if !c.Policy.FromControl() || c.Control.URL == "" { // the latter is reported by who checks the configuration
		return nil
	}
	for _, b := range c.Policy.Bundles {
		if b.Control {
			e.controlBundle, e.controlKept = b.Name, b.Kept
		}
	}
	if c.Directory.Control || e.controlKept != "" {
		return nil
	}
	l := &controlLink{cfg: controlOf(c), state: e.stateForControl}
	if before != nil && before.control != nil && before.control.cfg == l.cfg {
		l.follower = before.control.follower
	} else {
		how := l.cfg.follows(with.Version, e.logger)
		how.WithoutDirectory = true
		var err error
		if l.follower, err = follow.Open(how); err != nil {
			return config.Wrong("control", "%w", err)
		}
	}
	e.control = l
	return nil
}

// run follows control until ctx ends.
func (l *controlLink) run(ctx context.Context) {
	l.follower.Run(ctx, directory.Limits{}, func(*directory.Snapshot) error {
		return errors.New("control sent a directory, and this edge asked for none")
	}, l.state)
}

// follower is what follows control; nil: nothing does.
func (e *engine) follower() *follow.Follower {
	switch {
	case e.control != nil:
		return e.control.follower
	case e.directory != nil:
		return e.directory.follower
	}
	return nil
}

// fromControl completes the source of control's bundle: it is fetched with this edge's certificate, and its signature
// must be of a key that control's authority has signed.
func (e *engine) fromControl(c *config.Config, to *bundles.Config) {
	for i := range to.Sources {
		s := &to.Sources[i]
		if s.Name != e.controlBundle || e.controlBundle == "" {
			continue
		}
		s.Remote.From = from(c)
		if e.controlKept != "" {
			with := controlOf(c).follows("", e.logger)
			with.Dir = (&config.Config{StateDir: e.controlKept}).ControlDir()
			s.Verification = verifiesControl(with)
			s.Remote.Origin = func(limit int64) bundles.Origin {
				return &keptOrigin{bundlesDir(e.controlKept), s.Name, s.Remote.From, limit}
			}
			continue
		}
		f := e.follower()
		if f == nil { // its folder cannot be read: that is reported, and a reload tries again
			with := controlOf(c).follows("", e.logger)
			s.Remote.Origin = func(int64) bundles.Origin { return noControl{} }
			s.Verification = verifiesControl(with)
			continue
		}
		wait := s.Remote.LongPoll
		if wait == 0 {
			wait = 30 * time.Second
		}
		s.Remote.Origin = func(limit int64) bundles.Origin { return &controlOrigin{f.Bundles(limit), wait} }
		s.Verification = verifiesControl(controlOf(c).follows("", e.logger))
	}
}

func from(c *config.Config) string { return "control at " + c.Control.URL }

func verifiesControl(with follow.Config) *signature.Verification {
	return &signature.Verification{Keys: []signature.Key{{ID: follow.KeyID, File: follow.SignerFile(with.Dir), Algorithm: follow.Algorithm, Check: follow.Signer(with)}}}
}

// controlOrigin fetches control's bundle.
type controlOrigin struct {
	*follow.Bundles
	wait time.Duration
}

// Fetch implements bundles.Origin.
func (o *controlOrigin) Fetch(ctx context.Context, q bundles.Request) (bundles.Answer, error) {
	wait := time.Duration(0)
	if q.Hold {
		wait = o.wait
	}
	a, err := o.Get(ctx, q.Tag, wait)
	return bundles.Answer{Raw: a.Raw, Tag: a.Tag, Holds: o.wait > 0}, err
}

// noControl is the origin of an edge whose folder of control cannot be read.
type noControl struct{}

func (noControl) Fetch(context.Context, bundles.Request) (bundles.Answer, error) {
	return bundles.Answer{}, errors.New("this edge's folder of control cannot be read")
}
func (noControl) Close() {}

// keptOrigin reads the copy that an edge keeps of control's bundle, for tools.
type keptOrigin struct {
	dir, name, from string
	limit           int64
}

// Fetch implements bundles.Origin.
func (o *keptOrigin) Fetch(context.Context, bundles.Request) (bundles.Answer, error) {
	raw, err := bundles.Kept(o.dir, o.name, o.from, o.limit)
	return bundles.Answer{Raw: raw}, err
}

// Close implements bundles.Origin.
func (o *keptOrigin) Close() {}
