package edge

import (
	"context"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/policy"
	"gatehouse/routes"
)

// Static is a node with a fixed configuration: nothing is watched, refreshed or logged. It decides like a serving
// node. Close ends it.
type Static struct {
	Policy *policy.Snapshot // the active policy
	Tables []Table          // the route tables

	gate *gate.Gate
	stop context.CancelFunc
	wait sync.WaitGroup
}

// Table is the route table of one application.
type Table struct {
	App, File string
	*routes.Table
}

// NewStatic makes a node of a configuration. A policy that does not compile is an error.
func NewStatic(ctx context.Context, c Config) (*Static, error) {
	e, policyErr, err := newEngine(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	e.sink.discard(nil)
	e.settings.Log = nil
	if err := errors.Join(policyErr, e.directoryErr); err != nil {
		return nil, err
	}
	if c.Gate.Registerer == nil {
		c.Gate.Registerer = prometheus.NewRegistry()
	}
	s := &Static{Policy: e.policy}
	for _, r := range e.routes {
		s.Tables = append(s.Tables, Table{App: r.app, File: r.file.path, Table: r.table})
	}
	if s.gate, err = gate.New(c.Gate); err != nil {
		return nil, err
	}
	ctx, s.stop = context.WithCancel(ctx)
	s.wait.Go(func() { _ = panics.LoopError(ctx, "trying a policy", s.gate.Run) }) // ends with ctx, without an error
	if err := s.gate.Publish(ctx, e.parts(true)); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Gate is the node's gate.
func (s *Static) Gate() *gate.Gate { return s.gate }

// Use replaces the policy. On an error the current one stays.
func (s *Static) Use(ctx context.Context, p *policy.Snapshot) error {
	if err := s.gate.Publish(ctx, func(v *gate.View) { v.Policy = p }); err != nil {
		return err
	}
	s.Policy = p
	return nil
}

// Close ends the node.
func (s *Static) Close() {
	s.stop()
	s.wait.Wait()
}
