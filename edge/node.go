// Package edge is one node: a gate and everything that keeps it up to date. From a configuration it makes the sources
// of keys, policy and routes, the decision log and the signer of headers.jwt, publishes what the sources load, and on
// a reload replaces one configuration by the next: the old one ends only after the new one is published.
//
// It is the only caller of gate.Publish outside of tests. It may import config, gate, bundles, upstream and the
// leaves; it listens on no port, reads no flags and never exits.
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
	Found  *config.Problems // problems of the configuration so far; New adds its own
	Gate   gate.Config      // its Logger is also the node's
	// Version of this process, for the control plane.
	Version string

	// Failed is called, from any goroutine, on a fatal error: the process should end. Default: it is logged.
	Failed func(error)
	// Busy brackets long computations; nil: not called.
	Busy func() (end func())
	// RefuseBroken has New fail where policy or directory are files on this machine that cannot be used as they are. Otherwise, and where the
	// policy is still to be fetched, the node answers not_ready until it has both.
	RefuseBroken bool
	// Smoke reads policy.smoke and returns a func that runs its requests on a gate, nil where there are none. Default:
	// none are run.
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
	with      Config
	logger    *zap.Logger
	publisher *publisher
	ready     chan struct{}   // closed by Run
	ctx       context.Context // the context of Run's work; set before ready is closed

	current   atomic.Pointer[engine] // of the active configuration; replaced by Reload
	retired   sync.WaitGroup         // decision logs that a reload replaced
	running   sync.WaitGroup         // the gate
	reloading sync.Mutex             // held while an engine is replaced, and from the end of Run's ctx on
}

// Degraded lists what does not work in a running node, one sentence each.
type Degraded struct{ Keys, Bundles, Routes, Directory, DecisionLog []string }

// New prepares everything and reports all problems of the configuration at once; it starts nothing. A policy that
// does not compile is one of them with Config.RefuseBroken; else the node is not ready until it does.
func New(ctx context.Context, c Config) (*Node, error) {
	e, policyErr, err := newEngine(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	n := &Node{with: c, logger: c.logger(), ready: make(chan struct{})}
	g, err := gate.New(c.Gate)
	if err == nil && c.RefuseBroken {
		err = e.broken(g, policyErr)
	}
	if err != nil {
		e.sink.discard(nil)
		return nil, err
	}
	switch { // the bundles' manager reports the policy's own
	case errors.Is(e.directoryErr, ErrNothingYet): // the first start of an edge
		n.logger.Info("waiting for control to send the directory; answering not_ready until then")
	case e.directoryErr != nil:
		n.logger.Error("the directory failed to load; answering not_ready", zap.Error(e.directoryErr))
	}
	n.publisher = &publisher{gate: g}
	n.current.Store(e)
	return n, nil
}

// Run publishes the configuration, closes Ready, and keeps everything up to date until ctx ends; then it flushes the
// decision log and waits for everything it started. It returns an error at once where the configuration cannot be
// published. Later failures go to Config.Failed while decisions continue: the server drains first, and then ends ctx.
func (n *Node) Run(ctx context.Context) error {
	defer n.running.Wait()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx)) // the gate and the log outlive their sources
	defer stop()
	n.ctx = inner
	n.running.Go(func() { n.fail(panics.LoopError(inner, "publishing what decides", n.publisher.gate.Run)) })
	e := n.current.Load()
	e.sink.start(inner, n.publisher.gate, n.fail)
	e.begin(inner)
	if err := n.publisher.handOver(ctx, nil, e, e.parts(false)); err != nil {
		e.stop()
		e.sink.shutDown()
		return err
	}
	// Where the policy does not fit the rest, the bundles' manager reports it and retries.
	_ = n.publisher.publish(ctx, e, e.parts(true))
	e.start(n.publisher, n.fail)
	close(n.ready)
	<-ctx.Done()
	n.reloading.Lock() // wait for a reload in progress: it replaces the engine
	defer n.reloading.Unlock()
	e = n.current.Load()
	e.shutDown()
	n.retired.Wait()
	e.sink.shutDown()
	stop() // before another reload can begin
	return nil
}

// Discard releases a node that never runs, and removes the folders that New made.
func (n *Node) Discard() { n.current.Load().sink.discard(nil) }

// Ready is closed when the gate uses the configuration.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// fail reports an error; nil is ignored.
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

// Reload activates another configuration in one step, or leaves everything unchanged. active says which; with active,
// err may still report parts that failed. It is called after Ready, by one goroutine at a time.
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
		err = errors.Join(n.ctx.Err(), ctx.Err()) // Run has ended, or the caller gave up
	}
	if err == nil {
		err = n.publisher.gate.Validate(e.parts(true))
	}
	if err == nil {
		e.begin(n.ctx)
		// From here on the switch must complete: cancelling it halfway would leave a mixed state.
		if err = n.publisher.handOver(context.WithoutCancel(ctx), old, e, e.parts(true)); err != nil {
			e.stop()
		}
	}
	if err != nil {
		e.sink.discard(old.sink)
		return false, err
	}
	e.sink.start(n.ctx, n.publisher.gate, n.fail)
	old.shutDown()
	n.current.Store(e)
	e.start(n.publisher, n.fail)
	if old.sink == e.sink {
		return true, e.sink.log.Reopen()
	}
	n.retired.Go(func() { // requests from before the reload still write to it
		defer panics.Recover("ending a decision log")
		time.Sleep(2 * time.Duration(cfg.Policy.Timeout))
		old.sink.shutDown()
	})
	return true, nil
}

// Gather implements prometheus.Gatherer: metrics of the active engine are added and removed with it.
func (n *Node) Gather() ([]*dto.MetricFamily, error) {
	e := n.current.Load()
	return prometheus.Gatherers{e.metrics, e.sink.metrics}.Gather()
}

// Gate is the node's gate.
func (n *Node) Gate() *gate.Gate { return n.publisher.gate }

// Bundles is the manager of the active configuration.
func (n *Node) Bundles() *bundles.Manager { return n.current.Load().bundles }

// Minter signs headers.jwt of the active configuration; nil where none is configured.
func (n *Node) Minter() *mint.Minter { return n.current.Load().minter }

// Routes are the route tables, for the status page.
func (n *Node) Routes() (list []RoutesStatus) {
	for _, r := range n.current.Load().routes {
		list = append(list, r.status())
	}
	return list
}

// Directory is the directory's status; nil where there is none.
func (n *Node) Directory() *DirectoryStatus {
	if d := n.current.Load().directory; d != nil {
		return d.status.Load()
	}
	return nil
}

// DecisionLog is the decision log's status.
func (n *Node) DecisionLog() decisionlog.Status { return n.current.Load().sink.log.Status() }

// Degraded lists what does not work right now.
func (n *Node) Degraded() Degraded {
	e := n.current.Load()
	return Degraded{Keys: n.publisher.gate.View().Degraded(), Bundles: e.bundles.Degraded(), Routes: e.degradedRoutes(), Directory: e.directory.degraded(),
		DecisionLog: e.sink.log.Degraded()}
}

// RoutesStatus is a route table's part of the status page.
type RoutesStatus struct {
	App    string `json:"app,omitempty"`
	File   string `json:"file"`
	Routes int64  `json:"routes"`
	Error  string `json:"error,omitempty"`
}
