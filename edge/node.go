// Package edge is one node: a gate with all that keeps it fresh. It makes of a configuration the sources of keys, policy and routes, the decision
// log and the signer of headers.jwt, publishes what they find, and on a reload hands over from one configuration to the next: the old one ends
// only after the new one is published.
//
// It is the only caller of gate.Publish outside of tests. It may import config, gate, bundles, upstream and the leaves; it listens nowhere, reads no
// flags and never exits.
package edge

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"gatehouse/bundles"
	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity/mint"
	"gatehouse/panics"
)

// Config is what a node is made of.
type Config struct {
	Config *config.Config
	Found  *config.Problems // of the configuration so far; New adds its own
	Gate   gate.Config      // its Logger is also the node's

	// Failed is called, from any goroutine, with what the node cannot do any more: its process is to end. Default: it is logged.
	Failed func(error)
	// Busy is called around what computes for long; nil: nobody wants to know.
	Busy func() (end func())
	// Smoke reads policy.smoke and returns what puts its requests to a gate, nil where there are none. Default: they are not put.
	Smoke func(*config.Config) (func(context.Context, *gate.Gate) error, error)
}

func (c Config) logger() *zap.Logger {
	if c.Gate.Logger == nil {
		return zap.NewNop()
	}
	return c.Gate.Logger
}

// Node is a gate, and the engine of the configuration that is active.
type Node struct {
	with   Config
	logger *zap.Logger
	own    *publisher
	ready  chan struct{}   // closed by Run
	ctx    context.Context // of what Run began; set before ready is closed

	current   atomic.Pointer[engine] // of the active configuration; replaced by Reload
	retired   sync.WaitGroup         // decision logs that a reload replaced
	running   sync.WaitGroup         // the gate
	reloading sync.Mutex             // held while an engine takes another's place, and from the end of Run's ctx on
}

// Degraded is what a node that decides cannot do right now, one sentence each.
type Degraded struct{ Keys, Bundles, Routes, Directory, DecisionLog []string }

// New makes everything off to the side and reports every problem of the configuration at once; it starts nothing. A policy that does not
// compile is none: the node is not ready until it does.
func New(ctx context.Context, c Config) (*Node, error) {
	e, policyErr, err := newEngine(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	n := &Node{with: c, logger: c.logger(), ready: make(chan struct{})}
	if policyErr != nil {
		n.logger.Error("policy failed to load; answering not_ready", zap.Error(policyErr))
	}
	if e.directoryErr != nil {
		n.logger.Error("the directory failed to load; answering not_ready", zap.Error(e.directoryErr))
	}
	g, err := gate.New(c.Gate)
	if err != nil {
		e.sink.discard(nil)
		return nil, err
	}
	n.own = &publisher{gate: g}
	n.current.Store(e)
	return n, nil
}

// Run publishes the configuration, closes Ready, and keeps what decides fresh until ctx ends; then it writes out the decision log and waits for
// all that it began. It returns an error where the configuration cannot be published, at once. What fails later it tells Config.Failed, and decides on:
// who serves drains first, and then ends ctx.
func (n *Node) Run(ctx context.Context) error {
	defer n.running.Wait()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx)) // the gate and the log outlast what keeps them fresh
	defer stop()
	n.ctx = inner
	n.running.Go(func() { n.fail(panics.LoopError(inner, "publishing what decides", n.own.gate.Run)) })
	e := n.current.Load()
	e.sink.start(inner, n.own.gate, n.fail)
	e.begin(inner)
	if err := n.own.handOver(ctx, nil, e, e.parts(false)); err != nil {
		e.stop()
		e.sink.halt()
		return err
	}
	// Where the policy does not fit the rest, the bundles' manager says so, and goes on trying.
	_ = n.own.publish(ctx, e, e.parts(true))
	e.start(n.own, n.fail)
	close(n.ready)
	<-ctx.Done()
	n.reloading.Lock() // one that is under way makes another engine
	defer n.reloading.Unlock()
	e = n.current.Load()
	e.halt()
	n.retired.Wait()
	e.sink.halt()
	stop() // before another reload can begin
	return nil
}

// Discard gives back what a node holds that is never run, and removes the folders that New has made.
func (n *Node) Discard() { n.current.Load().sink.discard(nil) }

// Ready is closed when the gate decides by the configuration.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// fail tells what went wrong; nil is nothing.
func (n *Node) fail(err error) {
	if err == nil {
		return
	}
	if n.with.Failed == nil {
		n.logger.Error("a part of the node ended", zap.Error(err))
		return
	}
	n.with.Failed(err)
}

// Reload makes another configuration active in one step, or leaves all as it was, with all that runs. It reports whether it is active: some of it
// may have failed even so. It is called once the node is Ready, by one goroutine at a time.
func (n *Node) Reload(ctx context.Context, cfg *config.Config, found *config.Problems) (active bool, err error) {
	old, with := n.current.Load(), n.with
	with.Config, with.Found = cfg, found
	e, policyErr, err := newEngine(ctx, with, old)
	if err != nil {
		return false, err
	}
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if err = errors.Join(policyErr, e.directoryErr); err == nil {
		err = errors.Join(n.ctx.Err(), ctx.Err()) // Run has ended, or nobody wants it any more
	}
	if err == nil {
		err = n.own.gate.Validate(e.parts(true))
	}
	if err == nil {
		e.begin(n.ctx)
		// From here on it is one step: a ctx that ends in the middle of it would leave half.
		if err = n.own.handOver(context.WithoutCancel(ctx), old, e, e.parts(true)); err != nil {
			e.stop()
		}
	}
	if err != nil {
		e.sink.discard(old.sink)
		return false, err
	}
	e.sink.start(n.ctx, n.own.gate, n.fail)
	old.halt()
	n.current.Store(e)
	e.start(n.own, n.fail)
	if old.sink == e.sink {
		return true, e.sink.log.Reopen()
	}
	n.retired.Go(func() { // requests that began before the reload still write to it
		defer panics.Recover("ending a decision log")
		time.Sleep(2 * time.Duration(cfg.Policy.Timeout))
		old.sink.halt()
	})
	return true, nil
}

// Gather implements prometheus.Gatherer: the metrics of the active engine come and go with it.
func (n *Node) Gather() ([]*dto.MetricFamily, error) {
	e := n.current.Load()
	return prometheus.Gatherers{e.metrics, e.sink.metrics}.Gather()
}

// Gate decides.
func (n *Node) Gate() *gate.Gate { return n.own.gate }

// Bundles is the manager of the active configuration.
func (n *Node) Bundles() *bundles.Manager { return n.current.Load().bundles }

// Minter signs headers.jwt of the active configuration; nil without.
func (n *Node) Minter() *mint.Minter { return n.current.Load().minter }

// Routes are the route tables, for the status page.
func (n *Node) Routes() (list []RoutesStatus) {
	for _, r := range n.current.Load().routes {
		list = append(list, r.status())
	}
	return list
}

// Directory is how the directory is doing; nil where there is none.
func (n *Node) Directory() *DirectoryStatus {
	if d := n.current.Load().directory; d != nil {
		return d.status.Load()
	}
	return nil
}

// DecisionLog is its state.
func (n *Node) DecisionLog() decisionlog.Status { return n.current.Load().sink.log.Status() }

// Degraded is what cannot be done right now.
func (n *Node) Degraded() Degraded {
	e := n.current.Load()
	return Degraded{Keys: n.own.gate.View().Degraded(), Bundles: e.bundles.Degraded(), Routes: e.degradedRoutes(), Directory: e.directory.degraded(),
		DecisionLog: e.sink.log.Degraded()}
}

// RoutesStatus is what the status page shows of a route table.
type RoutesStatus struct {
	App    string `json:"app,omitempty"`
	File   string `json:"file"`
	Routes int64  `json:"routes"`
	Error  string `json:"error,omitempty"`
}
