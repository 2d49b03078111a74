package main

import (
	"context"
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
	"gatehouse/identity"
	"gatehouse/panics"
	"gatehouse/server"
)

// node is a gate, and the engine of the configuration that is active.
type node struct {
	gate   *gate.Gate
	logger *zap.Logger
	engine *engine // replaced by Reload, on its caller's goroutine
	failed func(error)

	current atomic.Pointer[engine] // engine, for the status page
	retired sync.WaitGroup         // decision logs that a reload replaced
	stop    context.CancelFunc
	running sync.WaitGroup
}

// newNode reports every problem of the configuration at once. A policy that does not compile is none: the node is not ready until it does.
func newNode(ctx context.Context, c server.NodeConfig) (server.Node, error) {
	e, policyErr, err := newEngine(ctx, c.Config, c.Found, c.Gate.Logger, c.Busy, nil)
	if err != nil {
		return nil, err
	}
	n := &node{logger: c.Gate.Logger}
	if policyErr != nil {
		n.logger.Error("no policy yet: not ready until this is mended", zap.Error(policyErr))
	}
	if n.gate, err = gate.New(c.Gate); err != nil {
		return nil, err
	}
	n.setEngine(e)
	return n, nil
}

func (n *node) setEngine(e *engine) {
	n.engine = e
	n.current.Store(e)
}

// Start implements server.Node.
func (n *node) Start(ctx context.Context, failed func(error)) error {
	ctx, n.stop = context.WithCancel(ctx)
	n.failed = failed
	n.running.Go(func() { failed(panics.LoopError(ctx, "publishing what decides", n.gate.Run)) })
	n.engine.sink.start(ctx, n.gate, failed)
	if err := n.gate.Publish(ctx, n.engine.parts(false)); err != nil {
		return err
	}
	// Where the policy does not fit the rest, the bundles' manager says so, and goes on trying.
	_ = n.gate.Publish(ctx, n.engine.parts(true))
	n.engine.start(ctx, n.gate, failed)
	return nil
}

// Reload implements server.Node.
func (n *node) Reload(ctx context.Context, cfg *config.Config, found *config.Problems) (active bool, err error) {
	e, policyErr, err := newEngine(ctx, cfg, found, n.logger, n.engine.busy, n.engine)
	if err != nil {
		return false, err
	}
	if policyErr != nil {
		e.sink.discard(n.engine.sink)
		return false, policyErr
	}
	if err := n.gate.Validate(e.parts(true)); err != nil {
		e.sink.discard(n.engine.sink)
		return false, err
	}
	n.engine.halt() // so that the old sources publish nothing over the new ones
	e.sink.start(ctx, n.gate, n.failed)
	if err := n.gate.Publish(ctx, e.parts(true)); err != nil {
		return false, err
	}
	old := n.engine.sink
	n.setEngine(e)
	e.start(ctx, n.gate, n.failed)
	if old == e.sink {
		return true, e.sink.log.Reopen()
	}
	n.retired.Go(func() { // requests that began before the reload still write to it
		defer panics.Recover("ending a decision log")
		time.Sleep(2 * time.Duration(cfg.Policy.Timeout))
		old.halt()
	})
	return true, nil
}

// Stop implements server.Node.
func (n *node) Stop() {
	n.engine.halt()
	n.retired.Wait()
	n.engine.sink.halt()
	n.stop()
	n.running.Wait()
}

// Gather implements prometheus.Gatherer: the metrics of the active engine come and go with it.
func (n *node) Gather() ([]*dto.MetricFamily, error) {
	e := n.current.Load()
	return prometheus.Gatherers{e.metrics, e.sink.metrics}.Gather()
}

// Gate implements server.Node.
func (n *node) Gate() *gate.Gate { return n.gate }

// Bundles implements server.Node.
func (n *node) Bundles() *bundles.Manager { return n.current.Load().bundles }

// Minter implements server.Node.
func (n *node) Minter() *identity.Minter { return n.current.Load().minter }

// Routes implements server.Node.
func (n *node) Routes() (list []server.RoutesStatus) {
	for _, r := range n.current.Load().routes {
		list = append(list, r.status())
	}
	return list
}

// DecisionLog implements server.Node.
func (n *node) DecisionLog() decisionlog.Status { return n.current.Load().sink.log.Status() }

// Degraded implements server.Node.
func (n *node) Degraded() server.Degraded {
	e := n.current.Load()
	return server.Degraded{Keys: n.gate.View().Degraded(), Bundles: e.bundles.Degraded(), Routes: e.degradedRoutes(), DecisionLog: e.sink.log.Degraded()}
}
