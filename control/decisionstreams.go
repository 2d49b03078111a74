package control

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"gatehouse/control/api"
	"gatehouse/control/decisions"
	"gatehouse/control/store"
)

func (s *decisionService) CountDecisions(ctx context.Context, r *connect.Request[api.CountDecisionsRequest]) (*connect.Response[api.CountDecisionsResponse], error) {
	e, _, err := s.audited(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	f, err := s.filter(ctx, e.Name, r.Msg.GetFilter())
	if err != nil {
		return nil, err
	}
	counts, err := e.Count(ctx, f, r.Msg.GetBy(), r.Msg.GetNewSinceRevision(), int(r.Msg.GetLimit()))
	if err != nil {
		return nil, decisionFailure(err)
	}
	names := s.names(ctx, e.Name)
	message := func(c *decisions.Count) *api.DecisionCount {
		out := &api.DecisionCount{Value: c.Value, Allowed: c.Allow, Denied: c.Deny, Gaps: c.Gap, P50Ns: c.P50, P99Ns: c.P99, MaxNs: c.Max}
		if r.Msg.GetBy() == "edge" && c.Value != "" {
			if name := names.name(c.Value); name != "" {
				out.Value = name + " (" + c.Value + ")"
			}
		}
		if c.FirstTime != 0 {
			out.First, out.Last = at(time.Unix(0, c.FirstTime)), at(time.Unix(0, c.LastNew))
		}
		return out
	}
	out := &api.CountDecisionsResponse{Total: message(&counts.Total), Values: int64(counts.Values)}
	for i := range counts.List {
		out.Counts = append(out.Counts, message(&counts.List[i]))
	}
	return connect.NewResponse(out), nil
}

// How entries are sent to who follows: as many as there are, at most so many at once.
const followBatch = 100

func (s *decisionService) FollowDecisions(ctx context.Context, r *connect.Request[api.FollowDecisionsRequest], stream *connect.ServerStream[api.FollowDecisionsResponse]) error {
	e, t, err := s.audited(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return err
	}
	f, err := s.filter(ctx, e.Name, r.Msg.GetFilter())
	if err != nil {
		return err
	}
	tail, err := e.Follow(f)
	if err != nil {
		return decisionFailure(err)
	}
	defer tail.Close()
	if err := stream.Send(&api.FollowDecisionsResponse{}); err != nil { // from now on nothing is missed
		return err
	}
	names, beat := s.names(ctx, e.Name), time.NewTicker(headEvery)
	defer beat.Stop()
	for {
		out := &api.FollowDecisionsResponse{}
		select {
		case row := <-tail.C:
			out.Decisions = append(out.Decisions, names.message(&row, r.Msg.GetEntries()))
		case <-beat.C: // a client that is gone is noticed, and a token that is revoked
			if err := s.still(ctx, t.ID, e.Name); err != nil {
				return err
			}
		case <-s.stopping:
			return errStopping
		case <-ctx.Done():
			return failure(ctx.Err())
		}
	more:
		for len(out.GetDecisions()) < followBatch {
			select {
			case row := <-tail.C:
				out.Decisions = append(out.Decisions, names.message(&row, r.Msg.GetEntries()))
			default:
				break more
			}
		}
		out.Lost = tail.Lost()
		if err := stream.Send(out); err != nil {
			return connect.NewError(connect.CodeCanceled, err)
		}
	}
}

var errEndedToken = errors.New("the token has expired, or was revoked")

// still reports whether a token may still see the decisions of an environment.
func (s *decisionService) still(ctx context.Context, token, environment string) error {
	list, err := s.store.Tokens(ctx)
	if err != nil {
		return failure(err)
	}
	for i := range list {
		if t := &list[i]; t.ID == token && t.Revoked.IsZero() && s.with.Clock().Before(t.ExpiresAt) && t.Has(store.ScopeAudit, environment) {
			return nil
		}
	}
	return connect.NewError(connect.CodeUnauthenticated, errEndedToken)
}

// parts sends a file in parts.
type parts struct {
	stream *connect.ServerStream[api.ExportDecisionsResponse]
	buffer []byte
}

const partBytes = 256 << 10

// Write implements io.Writer.
func (p *parts) Write(b []byte) (int, error) {
	p.buffer = append(p.buffer, b...)
	if len(p.buffer) < partBytes {
		return len(b), nil
	}
	return len(b), p.flush()
}

func (p *parts) flush() error {
	if len(p.buffer) == 0 {
		return nil
	}
	err := p.stream.Send(&api.ExportDecisionsResponse{Data: p.buffer})
	p.buffer = p.buffer[:0]
	return err
}

func (s *decisionService) ExportDecisions(ctx context.Context, r *connect.Request[api.ExportDecisionsRequest], stream *connect.ServerStream[api.ExportDecisionsResponse]) error {
	e, t, err := s.audited(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return err
	}
	f, err := s.filter(ctx, e.Name, r.Msg.GetFilter())
	if err != nil {
		return err
	}
	as, ok := map[api.ExportFormat]decisions.Format{api.ExportFormat_EXPORT_FORMAT_UNSPECIFIED: decisions.JSON, api.ExportFormat_EXPORT_FORMAT_JSON: decisions.JSON,
		api.ExportFormat_EXPORT_FORMAT_CSV: decisions.CSV, api.ExportFormat_EXPORT_FORMAT_PARQUET: decisions.Parquet}[r.Msg.GetFormat()]
	if !ok {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("there is no such format"))
	}
	s.logger.Info("decisions are exported", zap.String("environment", e.Name), zap.String("by", t.Actor()))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // goroutine: it only waits
		select {
		case <-s.stopping:
			stop()
		case <-ctx.Done():
		}
	}()
	out := &parts{stream: stream}
	if err := e.Export(ctx, out, f, as); err != nil {
		return decisionFailure(err)
	}
	return out.flush()
}
