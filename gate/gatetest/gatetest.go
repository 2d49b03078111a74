// Package gatetest is the test harness shared by policies, gates and transports: a policy from text, settings of a
// plain service, and a gate that runs until its test ends. It is for tests alone, and imports package gate and what
// that imports.
package gatetest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// Decision is the decision path of Policy and Settings.
const Decision = "envoy/authz/allow"

// AllowAll is a policy that allows every request.
const AllowAll = "package envoy.authz\nallow := true"

// Compile compiles one bundle to a snapshot. files are its files by path.
func Compile(t testing.TB, cfg policy.Config, name string, files map[string]string) *policy.Snapshot {
	t.Helper()
	tree := fstest.MapFS{}
	for file, text := range files {
		tree[file] = &fstest.MapFile{Data: []byte(text), Mode: 0o444}
	}
	b, err := bundle.Read(name, tree, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(context.Background(), cfg, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Policy compiles one module of package envoy.authz, whose rule allow decides.
func Policy(t testing.TB, text string) *policy.Snapshot {
	t.Helper()
	return Compile(t, policy.Config{Decision: Decision}, "test", map[string]string{"policy.rego": text})
}

// Plain reports whether the tests run on the reference path (GATEHOUSE_PLAIN=1): every request is evaluated with its
// complete input.
func Plain() bool { return os.Getenv("GATEHOUSE_PLAIN") == "1" }

// Settings are those of one application without routes, credentials or a decision log.
func Settings() *gate.Settings {
	return &gate.Settings{
		Plain:   Plain(),
		Headers: gate.IdentityHeaders{Subject: "x-auth-subject", Roles: "x-auth-roles"},
		Apps:    []gate.App{{Decision: []string{"envoy", "authz", "allow"}}},
		Timeout: time.Second,
		Limits:  gate.Limits{Message: 1 << 20, Headers: 256},
	}
}

// Start runs a gate until the test ends, and publishes the parts.
func Start(t testing.TB, cfg gate.Config, parts ...gate.Part) *gate.Gate {
	t.Helper()
	g, err := gate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = g.Run(ctx) }() // goroutine: of a test, which a panic may end
	t.Cleanup(func() { cancel(); <-ended })
	if err := g.Publish(ctx, parts...); err != nil {
		t.Fatal(err)
	}
	return g
}

// With validates settings, and puts them and a policy into a View.
func With(t testing.TB, s *gate.Settings, p *policy.Snapshot) gate.Part {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return func(v *gate.View) { v.Settings, v.Policy = s, p }
}

// Log is a decision log in a file. text closes it and returns its content.
func Log(t testing.TB) (log *decisionlog.Log, text func() string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "decisions.log")
	log, err := decisionlog.New(decisionlog.Config{File: file})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }() // goroutine: of a test, which a panic may end
	t.Cleanup(cancel)
	return log, func() string {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(written)
	}
}
