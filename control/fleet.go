package control

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"gatehouse/control/api"
	"gatehouse/control/store"
)

// fleet are the edges that are connected, and what each of them said last.
type fleet struct {
	mu      sync.Mutex
	live    map[string]*session   // by edge; guarded by mu
	gone    map[string]store.Edge // whose last words are not stored yet; guarded by mu
	changed chan struct{}         // closed when an edge has applied something, comes or goes; guarded by mu
}

// session is one stream.
type session struct {
	stop context.CancelCauseFunc

	// Guarded by the fleet's mu.
	edge  store.Edge
	dirty bool // edge is not stored yet
}

func newFleet() *fleet {
	return &fleet{live: map[string]*session{}, gone: map[string]store.Edge{}, changed: make(chan struct{})}
}

func (f *fleet) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// join adds a session. An earlier one of the same edge ends: its connection may be dead without either end knowing.
func (f *fleet) join(x *session) (replaced bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.live[x.edge.ID]
	if was != nil {
		was.stop(errReplaced)
	}
	f.live[x.edge.ID] = x
	delete(f.gone, x.edge.ID)
	x.dirty = true
	f.tell()
	return was != nil
}

func (f *fleet) leave(x *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live[x.edge.ID] == x {
		delete(f.live, x.edge.ID)
		f.gone[x.edge.ID] = x.edge
		f.tell()
	}
}

// said records what an edge said.
func (f *fleet) said(x *session, now time.Time, set func(*store.Edge)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := x.edge.Revision
	set(&x.edge)
	x.edge.LastSeen, x.dirty = now, true
	if x.edge.Revision != before {
		f.tell()
	}
}

// cut ends an edge's session.
func (f *fleet) cut(edge string, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.live[edge]; x != nil {
		x.stop(why)
	}
}

// applied says which connected edges of an environment have applied a revision. changed is closed when that may be
// another answer.
func (f *fleet) applied(environment string, revision uint64) (out *api.WaitAppliedResponse, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out = &api.WaitAppliedResponse{}
	for _, x := range f.live {
		switch {
		case x.edge.Environment != environment || x.edge.WithoutDirectory:
		case x.edge.Revision >= revision && x.edge.Error == "":
			out.Edges = append(out.Edges, x.edge.Name)
		default:
			out.Missing = append(out.Missing, &api.Missing{Edge: x.edge.Name, Revision: x.edge.Revision, Error: x.edge.Error})
		}
	}
	out.Applied = len(out.Missing) == 0
	slices.Sort(out.Edges)
	slices.SortFunc(out.Missing, func(a, b *api.Missing) int { return strings.Compare(a.GetEdge(), b.GetEdge()) })
	return out, f.changed
}

// lookup is an edge that is connected.
func (f *fleet) lookup(edge string) (store.Edge, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.live[edge]; x != nil {
		return x.edge, true
	}
	return f.gone[edge], false
}

// in are the connected edges of an environment, by name.
func (f *fleet) in(environment string) (list []store.Edge) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.live {
		if x.edge.Environment == environment {
			list = append(list, x.edge)
		}
	}
	slices.SortFunc(list, func(a, b store.Edge) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	return list
}

// deciding are those of them whose policy is control's. One that has not said otherwise is, whether it has a policy yet or not.
func (f *fleet) deciding(environment string) []store.Edge {
	return slices.DeleteFunc(f.in(environment), func(e store.Edge) bool { return e.WithoutPolicy && e.Policy == "" })
}

// take returns up to most edges whose last words are not stored yet.
func (f *fleet) take(most int) (list []store.Edge) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, e := range f.gone {
		if len(list) == most {
			return list
		}
		list = append(list, e)
		delete(f.gone, id)
	}
	for _, x := range f.live {
		if len(list) == most {
			return list
		}
		if x.dirty {
			x.dirty = false
			list = append(list, x.edge)
		}
	}
	return list
}

// keepSeen stores what edges said, now and then.
func (s *Server) keepSeen(ctx context.Context) {
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.storeSeen(ctx); err != nil {
				s.logger.Warn("storing what edges said", zap.Error(err))
			}
		}
	}
}

func (s *Server) storeSeen(ctx context.Context) error {
	for {
		list := s.fleet.take(200)
		if len(list) == 0 {
			return nil
		}
		if err := s.store.Seen(ctx, list); err != nil {
			return err
		}
	}
}
