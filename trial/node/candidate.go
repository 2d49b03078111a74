package node

import (
	"context"
	"fmt"
	"strings"

	"gatehouse/bundles/tarball"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/replay"
)

// Candidate is the policy of a configuration, after replace put other bundles into it.
func Candidate(ctx context.Context, src config.Source, replace func(*config.Config) error) (*replay.Candidate, error) {
	var misplaced error
	t, err := New(ctx, config.Source{File: src.File}, nil, func(cfg *config.Config) { misplaced = replace(cfg) }, func(string) {})
	if err == nil {
		defer t.Close()
	}
	if misplaced != nil {
		return nil, misplaced
	}
	if err != nil {
		return nil, err
	}
	return replay.NewCandidate(t.Gate.View()), nil
}

// BareCandidate is a bundle without a configuration.
func BareCandidate(ctx context.Context, name string, files map[string][]byte) (*replay.Candidate, error) {
	b, err := bundle.Read(name, tarball.Tree(files), bundle.Limits{})
	if err != nil {
		return nil, err
	}
	s, err := policy.Compile(ctx, policy.Config{}, []*bundle.Bundle{b})
	if err != nil {
		return nil, err
	}
	return replay.NewCandidate(&gate.View{Policy: s}), nil
}

// Archive is where the configuration keeps bundles by their digest, and how they are compiled.
func Archive(c *config.Config) replay.Archive {
	if c.StateDir == "" {
		return replay.Archive{}
	}
	settings := edge.BundlesConfig(c, nil, nil, nil)
	return replay.Archive{Dir: c.ArchiveDir(), Limits: settings.Limits, Policy: settings.Policy}
}

// ReplaceBundle puts the bundle at a path in the place of the named one, or of the only one.
func ReplaceBundle(c *config.Config, name, file string) error {
	var names []string
	for i, b := range c.Policy.Bundles {
		if names = append(names, b.Name); name == b.Name || name == "" && len(c.Policy.Bundles) == 1 {
			c.Policy.Bundles[i] = config.Bundle{Name: b.Name, Path: file}
			return nil
		}
	}
	if len(names) == 0 {
		c.Policy.Bundles = []config.Bundle{{Name: "app", Path: file}}
		return nil
	}
	return fmt.Errorf("--name says which bundle of the configuration is compared: %s", strings.Join(names, ", "))
}
