package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"gatehouse/bundles"
	"gatehouse/gate"
	"gatehouse/policy"
)

// errNotKept says that a bundle that decided is not among those that are kept by their digest, or not any more.
var errNotKept = errors.New("the policy that decided is no longer kept")

// pastSnapshot compiles the very bundles that decided, as far as the configuration's state_dir still has them. The error is
// errNotKept where it has not.
func (c *config) pastSnapshot(ctx context.Context, decided map[string]loggedBundle) (*policy.Snapshot, error) {
	if c.StateDir == "" || len(decided) == 0 {
		return nil, errNotKept
	}
	settings := c.bundlesConfig(nil, nil, nil)
	var all []*policy.Bundle
	for _, name := range slices.Sorted(maps.Keys(decided)) {
		b, err := bundles.ReadPast(c.pastDir(), name, decided[name].Digest, settings.Limits)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: bundle %q, digest %.12s", errNotKept, name, decided[name].Digest)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	settings.Policy.Decision = "" // which rule is asked may have been another then
	return policy.Compile(ctx, settings.Policy, all)
}

// usePast puts the very policy that decided in the place of the configuration's, where that is another one and the former is kept.
func (t *trial) usePast(ctx context.Context, cfg *config, decided map[string]loggedBundle) error {
	if isMadeOf(t.engine.policy, decided) {
		return nil
	}
	s, err := cfg.pastSnapshot(ctx, decided)
	if err != nil {
		return err
	}
	if err := t.gate.Publish(ctx, func(v *gate.View) { v.Policy = s }); err != nil {
		return fmt.Errorf("the kept policy does not fit the configuration: %w", err)
	}
	t.engine.policy = s
	return nil
}

// isMadeOf reports whether a policy is made of these very bundles.
func isMadeOf(s *policy.Snapshot, decided map[string]loggedBundle) bool {
	now := s.Bundles()
	return len(now) == len(decided) && !slices.ContainsFunc(now, func(b policy.BundleInfo) bool { return decided[b.Name].Digest != b.Digest })
}

// maxPast bounds how many policies of the past a replay has compiled at once.
const maxPast = 8

// pastCandidates finds, for each decision, the policy that made it. It may be used by several goroutines at once.
type pastCandidates struct {
	ctx    context.Context
	config *config
	like   *candidate // which rules are asked, and who is anonymous; it may have decided itself

	mu         sync.Mutex
	candidates map[string]*pastCandidate // by the bundles as the log has them
	order      []string                  // the oldest first
}

type pastCandidate struct {
	candidate *candidate // nil: it is not kept
	err       error
}

// of is the candidate of a decision; nil where it is not kept.
func (p *pastCandidates) of(r *recorded) (*candidate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.candidates[string(r.bundles)]; known != nil {
		return known.candidate, known.err
	}
	found := &pastCandidate{}
	found.candidate, found.err = p.make(r.bundles)
	if len(p.order) == maxPast {
		delete(p.candidates, p.order[0])
		p.order = p.order[1:]
	}
	key := string(bytes.Clone(r.bundles))
	p.candidates[key], p.order = found, append(p.order, key)
	return found.candidate, found.err
}

func (p *pastCandidates) make(raw []byte) (*candidate, error) {
	decided := map[string]loggedBundle{}
	if json.Unmarshal(raw, &decided) != nil {
		return nil, nil
	}
	if isMadeOf(p.like.snapshot, decided) {
		return p.like, nil
	}
	snapshot, err := p.config.pastSnapshot(p.ctx, decided)
	if errors.Is(err, errNotKept) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := newCandidate(snapshot)
	s.apps, s.credentials = p.like.apps, p.like.credentials
	return s, nil
}
