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

// ErrNotKept means that a bundle that decided is not, or no longer, in the archive.
var ErrNotKept = errors.New("the policy that decided is no longer kept")

// Archive is a folder of bundles by digest.
type Archive struct {
	Dir    string // "": no archive
	Limits bundle.Limits
	Policy policy.Config // how they are compiled; Decision is ignored, because another rule may have decided then
}

// Snapshot compiles the bundles that decided. ErrNotKept: one is not in the archive.
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

// IsMadeOf reports whether a policy consists of these bundles.
func IsMadeOf(s *policy.Snapshot, decided map[string]events.Bundle) bool {
	now := s.Bundles()
	return len(now) == len(decided) && !slices.ContainsFunc(now, func(b bundle.Info) bool { return decided[b.Name].Digest != b.Digest })
}

// maxArchived bounds how many archived policies a replay keeps compiled.
const maxArchived = 8

// archived finds the policy that made each decision. It is safe for concurrent use.
type archived struct {
	ctx     context.Context
	archive Archive
	like    *Candidate // determines rules and anonymity; its own policy may be the one

	mu    sync.Mutex
	known map[string]*archivedCandidate // by the bundles as logged
	order []string                      // oldest first
}

type archivedCandidate struct {
	candidate *Candidate // nil: not in the archive
	err       error
}

// Candidates gives, for Config.Old, the policy that made a decision; nil where it is not in the archive. Rules and
// anonymity are determined as with like.
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
