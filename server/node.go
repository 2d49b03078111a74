package server

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/bundles"
	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity"
)

// Node decides, and keeps fresh what decides.
type Node interface {
	prometheus.Gatherer // of what comes and goes with a configuration

	Gate() *gate.Gate

	// Start publishes the configuration and returns when the gate decides by it. failed is called with what ends the process.
	Start(ctx context.Context, failed func(error)) error
	// Reload makes another configuration active in one step, or leaves all as it was. It reports whether it is active: some of it may have
	// failed even so.
	Reload(ctx context.Context, cfg *config.Config, found *config.Problems) (active bool, err error)
	// Stop writes out the decision log and waits for all that Start began.
	Stop()

	Bundles() *bundles.Manager
	Minter() *identity.Minter // nil without headers.jwt
	Routes() []RoutesStatus
	DecisionLog() decisionlog.Status
	Degraded() Degraded
}

// NodeConfig is what a node takes from the process around it.
type NodeConfig struct {
	Config *config.Config
	Found  *config.Problems // of the configuration so far
	Gate   gate.Config
	Busy   func() (end func()) // called around what computes for long
}

// Degraded is what a node that decides cannot do right now, one sentence each.
type Degraded struct{ Keys, Bundles, Routes, DecisionLog []string }

// RoutesStatus is what the status page shows of a route table.
type RoutesStatus struct {
	App    string `json:"app,omitempty"`
	File   string `json:"file"`
	Routes int64  `json:"routes"`
	Error  string `json:"error,omitempty"`
}
