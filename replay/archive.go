package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"gatehouse/bundles"
	"gatehouse/decisionlog/events"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// ErrNotKept says that a bundle that decided is not among those that are kept by their digest, or not any more.
var ErrNotKept = errors.New("the policy that decided is no longer kept")

// Archive is where bundles are kept by their digest.
type Archive struct {
	Dir    string // "": nothing is kept
	Limits bundle.Limits
	Policy policy.Config // how they are compiled; its Decision does not count: which rule is asked may have been another then
}

// Snapshot compiles the bundles that decided, as far as they are kept. The error is ErrNotKept where they are not.
func (a *Archive) Snapshot(ctx context.Context, decided map[string]events.Bundle) (*policy.Snapshot, error) {
	if a.Dir == "" || len(decided) == 0 {
		return nil, ErrNotKept
	}
	var all []*bundle.Bundle
	for _, name := range slices.Sorted(maps.Keys(decided)) {
		b, err := bundles.ReadArchived(a.Dir, name, decided[name].Digest, a.Limits)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: bundle %q, digest %.12s", ErrNotKept, name, decided[name].Digest)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	how := a.Policy
	how.Decision = ""
	return policy.Compile(ctx, how, all)
}

// IsMadeOf reports whether a policy is made of these bundles.
func IsMadeOf(s *policy.Snapshot, decided map[string]events.Bundle) bool {
	now := s.Bundles()
	return len(now) == len(decided) && !slices.ContainsFunc(now, func(b bundle.Info) bool { return decided[b.Name].Digest != b.Digest })
}

// maxArchived bounds how many policies of the past a replay has compiled at once.
const maxArchived = 8

// archived finds, for each decision, the policy that made it. It may be used by several goroutines at once.
type archived struct {
	ctx     context.Context
	archive Archive
	like    *Candidate // which rules are asked, and who is anonymous; it may have decided itself

	mu    sync.Mutex
	known map[string]*archivedCandidate // by the bundles as the log has them
	order []string                      // the oldest first
}

type archivedCandidate struct {
	candidate *Candidate // nil: it is not kept
	err       error
}

// Candidates gives, for Config.Old, the policy that made a decision; nil where it is not kept. Which rules are asked, and who is anonymous, is
// as with like.
func (a Archive) Candidates(ctx context.Context, like *Candidate) func(*Record) (*Candidate, error) {
	past := &archived{ctx: ctx, archive: a, like: like, known: map[string]*archivedCandidate{}}
	return past.of
}

func (p *archived) of(r *Record) (*Candidate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[string(r.Bundles)]; known != nil {
		return known.candidate, known.err
	}
	found := &archivedCandidate{}
	found.candidate, found.err = p.make(r)
	if len(p.order) == maxArchived {
		delete(p.known, p.order[0])
		p.order = p.order[1:]
	}
	key := string(bytes.Clone(r.Bundles))
	p.known[key], p.order = found, append(p.order, key)
	return found.candidate, found.err
}

func (p *archived) make(r *Record) (*Candidate, error) {
	decided, err := r.DecodeBundles()
	if err != nil {
		return nil, nil
	}
	if IsMadeOf(p.like.view.Policy, decided) {
		return p.like, nil
	}
	snapshot, err := p.archive.Snapshot(p.ctx, decided)
	if errors.Is(err, ErrNotKept) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return p.like.With(snapshot), nil
}
