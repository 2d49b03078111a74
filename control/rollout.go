package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"gatehouse/control/api"
	"gatehouse/control/store"
)

// Times of rollouts.
const (
	guardEvery  = time.Second      // between two looks at the rollouts
	arriveLimit = 2 * time.Minute  // for the edges of a stage to have the revision in force
	leastSoak   = 30 * time.Second // of a stage that ends by itself: twice what an edge takes to say how it goes
	tooFew      = 10 * time.Minute // for what there is to compare, beyond the time of the stage
)

// rolled are the counts of a rollout: at the edges that have the new revision in force, and at those with the old one. late
// are edges of the stage that have not got it in force.
func (s *Server) rolled(e *store.Environment, r *store.Rollout) (now, before store.Counts, late []string) {
	p, _ := e.Policy()
	for _, edge := range s.fleet.deciding(e.Name) {
		switch {
		case edge.Policy != "" && strings.HasPrefix(r.Revision.Digest, edge.Policy):
			now.Add(edge.Counts)
			continue
		case p != nil && edge.Policy != "" && strings.HasPrefix(p.Revision.Digest, edge.Policy):
			before.Add(edge.Counts)
		}
		if r.Has(edge.ID) {
			late = append(late, edge.Name)
		}
	}
	if before.Decisions < e.Guard().OrDefault().Least {
		before = r.Baseline
	}
	return now, before, late
}

// guardRollouts looks at the rollouts now and then: one that leaves its bounds is held, and one whose stage is over goes on.
func (s *Server) guardRollouts(ctx context.Context) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, e := range s.store.Environments() {
			if r := e.Rollout(); r != nil && !r.Held {
				s.guard(ctx, e, r)
			}
		}
	}
}

// guard looks at one rollout.
func (s *Server) guard(ctx context.Context, e *store.Environment, r *store.Rollout) {
	now, before, late := s.rolled(e, r)
	age := s.with.Clock().Sub(r.Since)
	action, reason := "", ""
	guard := e.Guard().OrDefault()
	if left := guard.Left(now, before); left != "" {
		action, reason = store.RolloutHold, left
	} else if len(late) > 0 && age > arriveLimit {
		action, reason = store.RolloutHold, fmt.Sprintf("%d edges of the stage have not got it in force, %s among them: gatehouse control status may say why", len(late), late[0])
	} else if over := r.Every > 0 && age >= r.Every && len(late) == 0; over && guard.Compares(now, before) {
		action, reason = store.RolloutNext, fmt.Sprintf("stage %s is over", r.Stages[r.Stage])
	} else if over && age >= r.Every+tooFew {
		action, reason = store.RolloutHold, fmt.Sprintf("too few decisions to compare: %d by this revision and %d by the one before, of %d that each must have made; gatehouse control rollout next goes on without",
			now.Decisions, before.Decisions, guard.Least)
	}
	if action == "" {
		return
	}
	err := s.store.Change(ctx, e, r, action, reason, s.connected(e), store.Audit{Actor: "control"})
	switch {
	case err != nil && !errors.Is(err, store.ErrEtag):
		s.logger.Error("changing a rollout", zap.String("environment", e.Name), zap.Error(err))
	case action == store.RolloutHold:
		s.logger.Warn("a rollout is held: the other edges keep the revision before", zap.String("environment", e.Name), zap.String("revision", r.Revision.Digest), zap.String("reason", reason))
	default:
		s.logger.Info("a rollout goes on", zap.String("environment", e.Name), zap.String("revision", r.Revision.Digest), zap.String("reason", reason))
	}
}

// connected are the ids of an environment's connected edges that take their policy from control.
func (s *Server) connected(e *store.Environment) (ids []string) {
	for _, edge := range s.fleet.deciding(e.Name) {
		ids = append(ids, edge.ID)
	}
	return ids
}

// begin begins a staged rollout.
func (s *policyService) begin(ctx context.Context, t *store.Token, e *store.Environment, m *api.PromoteRequest) (*connect.Response[api.PromoteResponse], error) {
	every := time.Duration(m.GetEverySeconds()) * time.Second
	if every < 0 || m.GetEverySeconds() > 1<<31 || every > 0 && every < leastSoak {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("a stage lasts at least %s", leastSoak))
	}
	r := store.Rollout{Revision: store.Revision{Digest: m.GetRevision()}, Stages: m.GetStages(), Every: every, Actor: t.Actor(), Message: m.GetMessage()}
	p, _ := e.Policy()
	if p != nil {
		for _, edge := range s.fleet.deciding(e.Name) {
			if edge.Policy != "" && strings.HasPrefix(p.Revision.Digest, edge.Policy) {
				r.Baseline.Add(edge.Counts)
			}
		}
	}
	made, err := s.store.Begin(ctx, e, r, m.GetExpected(), s.connected(e), peerOf(ctx).address)
	if err != nil {
		return nil, failure(err)
	}
	s.logger.Info("a rollout begins", zap.String("environment", e.Name), zap.String("revision", made.Revision.Digest), zap.Strings("stages", made.Stages), zap.String("by", made.Actor))
	return connect.NewResponse(&api.PromoteResponse{Promotion: s.promotionOf(p), Rollout: s.rolloutOf(e, made), Changed: true}), nil
}

func countsOf(c store.Counts) *api.PolicyCounts {
	return &api.PolicyCounts{Decisions: c.Decisions, Denied: c.Denied, Errors: c.Errors, Microseconds: c.Microseconds}
}

// rolloutOf is a rollout as the API has it; nil for nil.
func (s *Server) rolloutOf(e *store.Environment, r *store.Rollout) *api.Rollout {
	if r == nil {
		return nil
	}
	now, before, _ := s.rolled(e, r)
	state := "running"
	if r.Held {
		state = "held"
	}
	var edges []string
	for _, edge := range s.fleet.deciding(e.Name) {
		if r.Has(edge.ID) {
			edges = append(edges, edge.Name)
		}
	}
	return &api.Rollout{Edges: edges, Revision: s.revisionOf(&r.Revision), Stages: r.Stages, Stage: int32(r.Stage), State: state, Reason: r.Reason, Since: at(r.Since), EverySeconds: int64(r.Every.Seconds()),
		Actor: r.Actor, Message: r.Message, New: countsOf(now), Old: countsOf(before)}
}

// ChangeRollout implements api.PolicyServiceHandler.
func (s *policyService) ChangeRollout(ctx context.Context, r *connect.Request[api.ChangeRolloutRequest]) (*connect.Response[api.GetPolicyResponse], error) {
	t, name := tokenOf(ctx), r.Msg.GetEnvironment()
	if !t.Has(store.ScopePromote, name) {
		return nil, s.denied(ctx, t, "change the rollout", name, store.ScopePromote)
	}
	e, err := s.store.Environment(name)
	if err == nil {
		err = store.CheckMessage(r.Msg.GetMessage())
	}
	if err != nil {
		return nil, failure(err)
	}
	was := e.Rollout()
	if was == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("no rollout is under way in %s", name))
	}
	reason := r.Msg.GetMessage()
	if reason == "" {
		reason = "by " + t.Actor()
	}
	if err := s.store.Change(ctx, e, was, r.Msg.GetAction(), reason, s.connected(e), store.Audit{Actor: t.Actor(), Peer: peerOf(ctx).address}); err != nil {
		return nil, failure(err)
	}
	s.logger.Info("a rollout was changed", zap.String("environment", e.Name), zap.String("action", r.Msg.GetAction()), zap.String("by", t.Actor()))
	return connect.NewResponse(s.policyState(e)), nil
}

// SetGuard implements api.PolicyServiceHandler.
func (s *policyService) SetGuard(ctx context.Context, r *connect.Request[api.SetGuardRequest]) (*connect.Response[api.GetPolicyResponse], error) {
	t, name, g := tokenOf(ctx), r.Msg.GetEnvironment(), r.Msg.GetGuard()
	if !t.Has(store.ScopePromote, name) {
		return nil, s.denied(ctx, t, "set the guard", name, store.ScopePromote)
	}
	e, err := s.store.Environment(name)
	if err != nil {
		return nil, failure(err)
	}
	guard := store.Guard{Errors: g.GetErrors(), Denied: g.GetDenied(), Latency: g.GetLatency(), Least: g.GetLeast()}
	if err := s.store.SetGuard(ctx, e, guard, store.Audit{Actor: t.Actor(), Peer: peerOf(ctx).address}); err != nil {
		return nil, failure(err)
	}
	return connect.NewResponse(s.policyState(e)), nil
}

// policyState is what an environment and its edges have.
func (s *Server) policyState(e *store.Environment) *api.GetPolicyResponse {
	out := &api.GetPolicyResponse{Rollout: s.rolloutOf(e, e.Rollout())}
	if p, _ := e.Policy(); p != nil {
		out.Promotion = s.promotionOf(p)
	}
	g := e.Guard().OrDefault()
	out.Guard = &api.Guard{Errors: g.Errors, Denied: g.Denied, Latency: g.Latency, Least: g.Least, Actor: g.By, At: at(g.At)}
	for _, edge := range s.fleet.deciding(e.Name) {
		r, _ := e.RevisionFor(edge.ID)
		out.Edges = append(out.Edges, &api.EdgePolicy{Edge: edge.ID, Name: edge.Name, Revision: edge.Policy, Current: r != nil && edge.Policy != "" && strings.HasPrefix(r.Digest, edge.Policy)})
	}
	return out
}
