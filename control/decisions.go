package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/control/decisions"
	"gatehouse/control/store"
)

// DecisionsFolder is the folder in control's own that has the decisions.
const DecisionsFolder = "decisions"

// DecisionsPath is where edges send their decisions.
const DecisionsPath = "/logs"

// Bounds of what edges send at once.
const (
	maxTaking  = 64 // requests, of different edges
	takeWithin = 30 * time.Second
	waitFull   = "10" // seconds until an edge is to try again
)

// trail takes the decisions of edges.
type trail struct {
	*decisions.Store
	slots chan struct{}

	mu   sync.Mutex
	busy map[string]struct{} // edges with a request under way; guarded by mu
}

func newTrail(s *decisions.Store) *trail {
	return &trail{Store: s, slots: make(chan struct{}, maxTaking), busy: map[string]struct{}{}}
}

// begin takes a place for an edge, which has one.
func (t *trail) begin(ctx context.Context, edge string) (done func(), ok bool) {
	t.mu.Lock()
	_, busy := t.busy[edge]
	if !busy {
		t.busy[edge] = struct{}{}
	}
	t.mu.Unlock()
	if busy {
		return nil, false
	}
	end := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.busy, edge)
	}
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots; end() }, true
	case <-ctx.Done():
		end()
		return nil, false
	}
}

// openTrail opens the decisions that are there. Those of one environment that cannot be opened do not keep control from serving.
func (s *Server) openTrail() {
	for _, e := range s.store.Environments() {
		if !s.trail.Has(e.Name) {
			continue
		}
		if _, err := s.trail.Environment(e.Name); err != nil {
			s.logger.Error("decisions cannot be opened: edges keep theirs, and send them again", zap.String("environment", e.Name), zap.Error(err))
		}
	}
}

// takeDecisions takes what an edge decided: a gzipped JSON array of entries. It answers when they are durable. Whose they are says the
// certificate, whatever the entries say.
func (s *Server) takeDecisions(w http.ResponseWriter, r *http.Request) {
	edges := &edgeService{s}
	edge, err := edges.known(r.Context(), "decisions")
	if err != nil {
		about, _ := errors.AsType[*connect.Error](err)
		status := http.StatusForbidden
		if about.Code() == connect.CodeResourceExhausted {
			status = http.StatusTooManyRequests
		}
		http.Error(w, about.Message(), status)
		return
	}
	if r.Header.Get("Content-Encoding") != "gzip" {
		http.Error(w, "send gzip", http.StatusUnsupportedMediaType)
		return
	}
	ctx, stop := context.WithTimeout(r.Context(), takeWithin)
	defer stop()
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(takeWithin)) // both versions of HTTP can
	done, ok := s.trail.begin(ctx, edge.ID)
	if !ok {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this edge sends one request at a time", http.StatusTooManyRequests)
		return
	}
	defer done()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, decisions.MaxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		err = decisions.ErrLarge
	} else if err != nil {
		return // the edge has left
	}
	if err == nil {
		_, err = s.trail.Add(ctx, edge.Environment, edge.ID, body)
	}
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, decisions.ErrLarge):
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
	case errors.Is(err, decisions.ErrBody):
		s.logger.Warn("decisions of an edge cannot be read", zap.String("edge", edge.ID), zap.String("name", edge.Name), zap.Error(err))
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		if s.limits.refused(edge.ID) {
			s.logger.Warn("decisions of an edge are not taken now", zap.String("edge", edge.ID), zap.String("name", edge.Name), zap.Error(err))
		}
		w.Header().Set("Retry-After", waitFull)
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}
}

type decisionService struct {
	api.UnimplementedDecisionServiceHandler
	*Server
}

// audited finds the decisions of a request's environment, where its token allows to see them.
func (s *decisionService) audited(ctx context.Context, name string) (*decisions.Environment, *store.Token, error) {
	t := tokenOf(ctx)
	if name == "" {
		if name = t.Only(); name == "" {
			return nil, nil, connect.NewError(connect.CodeInvalidArgument, errors.New("give the environment, as project/name: the token is for several"))
		}
	}
	if !t.Has(store.ScopeAudit, name) {
		s.logger.Warn("a request was refused", zap.String("token", t.Actor()), zap.String("environment", name), zap.String("scope", "audit"), zap.String("peer", peerOf(ctx).address))
		return nil, nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the token may not see the decisions of %q: it needs the scope audit:%s", name, name))
	}
	if _, err := s.store.Environment(name); err != nil {
		return nil, nil, failure(err)
	}
	e, err := s.trail.Environment(name)
	return e, t, decisionFailure(err)
}

// decisionFailure is failure for an error of package decisions.
func decisionFailure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, decisions.ErrFilter):
		return connect.NewError(connect.CodeInvalidArgument, err)
	case errors.Is(err, decisions.ErrBusy), errors.Is(err, decisions.ErrFull):
		return connect.NewError(connect.CodeResourceExhausted, err)
	case errors.Is(err, decisions.ErrEnded):
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return failure(err)
}

// filter is the one of a request. Edges may be named by their names.
func (s *decisionService) filter(ctx context.Context, environment string, f *api.DecisionFilter) (out decisions.Filter, err error) {
	out = decisions.Filter{ID: f.GetId(), User: f.GetUser(), Route: f.GetRoute(), Outcome: f.GetOutcome(), Reason: f.GetReason(), App: f.GetApp(), Revision: f.GetRevision(), Text: f.GetText()}
	if t := f.GetSince(); t != nil {
		out.Since = t.AsTime()
	}
	if t := f.GetUntil(); t != nil {
		out.Until = t.AsTime()
	}
	if f.GetEdge() == "" {
		return out, nil
	}
	list, err := s.store.Edges(ctx, environment)
	if err != nil {
		return out, failure(err)
	}
	out.Edges = []string{f.GetEdge()}
	for _, e := range list {
		if e.Name == f.GetEdge() && e.ID != f.GetEdge() {
			out.Edges = append(out.Edges, e.ID)
		}
	}
	return out, nil
}

// names knows the names of edges.
type names struct {
	of   func(id string) string
	seen map[string]string
}

func (s *decisionService) names(ctx context.Context, environment string) *names {
	var byID map[string]string
	return &names{seen: map[string]string{}, of: func(id string) string {
		if byID == nil {
			byID = map[string]string{}
			list, err := s.store.Edges(ctx, environment)
			if err != nil {
				return ""
			}
			for _, e := range list {
				byID[e.ID] = e.Name
			}
		}
		return byID[id]
	}}
}

func (n *names) name(id string) string {
	if _, ok := n.seen[id]; !ok {
		n.seen[id] = n.of(id)
	}
	return n.seen[id]
}

// message is a decision as the API has it.
func (n *names) message(r *decisions.Row, whole bool) *api.Decision {
	out := &api.Decision{Id: r.ID, Time: timestamppb.New(time.Unix(0, r.Time)), Edge: r.Edge, EdgeName: n.name(r.Edge), Outcome: r.Outcome, Reason: r.Reason, App: r.App, Route: r.Route, User: r.User,
		Method: r.Method, Host: r.Host, Path: r.Path, Status: r.Status, Revision: r.Revision, Rule: r.Rule, RequestedBy: r.Client, TraceId: r.Trace, DurationNs: r.Duration, DryRun: r.DryRun,
		Memo: r.Memo, Received: timestamppb.New(time.Unix(0, r.Received))}
	if whole {
		out.Entry = string(r.AppendEntry(nil))
	}
	return out
}

func (s *decisionService) SearchDecisions(ctx context.Context, r *connect.Request[api.SearchDecisionsRequest]) (*connect.Response[api.SearchDecisionsResponse], error) {
	e, _, err := s.audited(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	q := decisions.Query{Limit: int(r.Msg.GetPageSize()), Page: r.Msg.GetPageToken(), Whole: r.Msg.GetEntries()}
	if q.Filter, err = s.filter(ctx, e.Name, r.Msg.GetFilter()); err != nil {
		return nil, err
	}
	page, err := e.Search(ctx, q)
	if err != nil {
		return nil, decisionFailure(err)
	}
	out := &api.SearchDecisionsResponse{NextPageToken: page.Next, SearchedBackTo: at(page.Back)}
	names := s.names(ctx, e.Name)
	for i := range page.Rows {
		out.Decisions = append(out.Decisions, names.message(&page.Rows[i], q.Whole))
	}
	return connect.NewResponse(out), nil
}

func (s *decisionService) GetRetention(ctx context.Context, r *connect.Request[api.GetRetentionRequest]) (*connect.Response[api.GetRetentionResponse], error) {
	e, _, err := s.audited(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	keep, holds := e.Kept()
	out := &api.GetRetentionResponse{Retention: &api.Retention{AllowSeconds: int64(keep.Allow.Seconds()), DenySeconds: int64(keep.Deny.Seconds()), GapSeconds: int64(keep.Gap.Seconds())}}
	for _, h := range holds {
		out.Holds = append(out.Holds, &api.Hold{Name: h.Name, Why: h.Why, Since: at(h.Since), Until: at(h.Until), CreatedBy: h.By, CreatedAt: at(h.At)})
	}
	return connect.NewResponse(out), nil
}

// kept is audited for who may change how long decisions are kept.
func (s *decisionService) kept(ctx context.Context, environment string) (*decisions.Environment, *store.Token, error) {
	e, t, err := s.audited(ctx, environment)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(t.Scopes, store.ScopeAdmin) {
		s.logger.Warn("a request was refused", zap.String("token", t.Actor()), zap.String("environment", e.Name), zap.String("scope", store.ScopeAdmin), zap.String("peer", peerOf(ctx).address))
		return nil, nil, connect.NewError(connect.CodePermissionDenied, errors.New("the token may not say how long decisions are kept: it needs the scope admin"))
	}
	return e, t, nil
}

func (s *decisionService) SetRetention(ctx context.Context, r *connect.Request[api.SetRetentionRequest]) (*connect.Response[api.SetRetentionResponse], error) {
	e, t, err := s.kept(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	var keep decisions.Retention
	for _, one := range []struct {
		seconds int64
		into    *time.Duration
	}{{r.Msg.GetRetention().GetAllowSeconds(), &keep.Allow}, {r.Msg.GetRetention().GetDenySeconds(), &keep.Deny}, {r.Msg.GetRetention().GetGapSeconds(), &keep.Gap}} {
		if *one.into, err = seconds(one.seconds); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("retention: numbers of seconds, up to a hundred years"))
		}
	}
	if err := e.SetRetention(ctx, keep, t.Actor()); err != nil {
		return nil, decisionFailure(err)
	}
	s.logger.Info("the retention of decisions was set", zap.String("environment", e.Name), zap.Duration("allow", keep.Allow), zap.Duration("deny", keep.Deny), zap.Duration("gap", keep.Gap), zap.String("by", t.Actor()))
	return connect.NewResponse(&api.SetRetentionResponse{}), nil
}

func (s *decisionService) CreateHold(ctx context.Context, r *connect.Request[api.CreateHoldRequest]) (*connect.Response[api.CreateHoldResponse], error) {
	e, t, err := s.kept(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	h := decisions.Hold{Name: strings.ToValidUTF8(r.Msg.GetHold().GetName(), ""), Why: r.Msg.GetHold().GetWhy(), By: t.Actor()}
	if since := r.Msg.GetHold().GetSince(); since != nil {
		h.Since = since.AsTime()
	}
	if until := r.Msg.GetHold().GetUntil(); until != nil {
		h.Until = until.AsTime()
	}
	if err := e.Hold(ctx, h); err != nil {
		return nil, decisionFailure(err)
	}
	s.logger.Info("decisions are held", zap.String("environment", e.Name), zap.String("hold", h.Name), zap.String("by", t.Actor()))
	return connect.NewResponse(&api.CreateHoldResponse{}), nil
}

func (s *decisionService) DeleteHold(ctx context.Context, r *connect.Request[api.DeleteHoldRequest]) (*connect.Response[api.DeleteHoldResponse], error) {
	e, t, err := s.kept(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	if err := e.Release(ctx, r.Msg.GetName(), t.Actor()); err != nil {
		return nil, decisionFailure(err)
	}
	s.logger.Info("a hold of decisions was ended", zap.String("environment", e.Name), zap.String("hold", r.Msg.GetName()), zap.String("by", t.Actor()))
	return connect.NewResponse(&api.DeleteHoldResponse{}), nil
}
