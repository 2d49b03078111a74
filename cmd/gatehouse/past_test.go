package main

import (
	"context"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"

	"gatehouse/bundles"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/policy"
)

// keep activates the bundles of ./gatehouse.yaml as the service does, so that they are kept in its state_dir.
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: keep")
	}
	cfg, _, err := config.Source{File: ts.MkAbs("gatehouse.yaml")}.Read()
	ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	published := make(chan struct{}, 1)
	m, err := bundles.New(edge.BundlesConfig(cfg, zap.NewNop(), nil, func(context.Context, *policy.Snapshot) error {
		published <- struct{}{}
		return nil
	}))
	ts.Check(err)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	<-published
	stop() // what is to be kept is written before the end
	ts.Check(<-done)
}
