package control

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/control/store"
)

type adminService struct{ *Server }

func environmentOf(e *store.Environment) *api.Environment {
	now := e.Snapshot()
	stats := now.Stats()
	return &api.Environment{Name: e.Name, Revision: now.Revision(), Digest: now.Digest(), Objects: int64(stats.Objects), Relations: int64(stats.Relations)}
}

func (s *adminService) CreateEnvironment(ctx context.Context, r *connect.Request[api.CreateEnvironmentRequest]) (*connect.Response[api.CreateEnvironmentResponse], error) {
	t, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	e, err := s.store.CreateEnvironment(ctx, r.Msg.GetName(), t.Actor())
	if err != nil {
		return nil, failure(err)
	}
	s.logger.Info("an environment was made", zap.String("environment", e.Name), zap.String("by", t.Actor()))
	return connect.NewResponse(&api.CreateEnvironmentResponse{Environment: environmentOf(e)}), nil
}

func (s *adminService) ListEnvironments(ctx context.Context, _ *connect.Request[api.ListEnvironmentsRequest]) (*connect.Response[api.ListEnvironmentsResponse], error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	out := &api.ListEnvironmentsResponse{Epoch: s.store.Epoch()}
	for _, e := range s.store.Environments() {
		out.Environments = append(out.Environments, environmentOf(e))
	}
	return connect.NewResponse(out), nil
}

// seconds is a length of time that a client gives.
func seconds(n int64) (time.Duration, error) {
	if n < 0 || n > 1<<32 {
		return 0, connect.NewError(connect.CodeInvalidArgument, errors.New("valid_seconds: a number of seconds, up to ten years"))
	}
	return time.Duration(n) * time.Second, nil
}

func tokenMessage(t store.Token) *api.Token {
	return &api.Token{Id: t.ID, Name: t.Name, Scopes: t.Scopes, CreatedBy: t.CreatedBy, CreatedAt: at(t.CreatedAt), ExpiresAt: at(t.ExpiresAt), RevokedAt: at(t.Revoked)}
}

// at is a time, nil where there is none.
func at(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func (s *adminService) CreateToken(ctx context.Context, r *connect.Request[api.CreateTokenRequest]) (*connect.Response[api.CreateTokenResponse], error) {
	by, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	valid, err := seconds(r.Msg.GetValidSeconds())
	if err != nil {
		return nil, err
	}
	t, text, err := s.store.CreateToken(ctx, r.Msg.GetName(), r.Msg.GetScopes(), valid, by.Actor())
	if err != nil {
		return nil, failure(err)
	}
	s.logger.Info("a token was made", zap.String("token", t.Actor()), zap.Strings("scopes", t.Scopes), zap.String("by", by.Actor()))
	return connect.NewResponse(&api.CreateTokenResponse{Token: tokenMessage(t), Text: text}), nil
}

func (s *adminService) ListTokens(ctx context.Context, _ *connect.Request[api.ListTokensRequest]) (*connect.Response[api.ListTokensResponse], error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	list, err := s.store.Tokens(ctx)
	if err != nil {
		return nil, failure(err)
	}
	out := &api.ListTokensResponse{}
	for _, t := range list {
		out.Tokens = append(out.Tokens, tokenMessage(t))
	}
	return connect.NewResponse(out), nil
}

func (s *adminService) RevokeToken(ctx context.Context, r *connect.Request[api.RevokeTokenRequest]) (*connect.Response[api.RevokeTokenResponse], error) {
	by, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.store.RevokeToken(ctx, r.Msg.GetId()); err != nil {
		return nil, failure(err)
	}
	s.logger.Info("a token was revoked", zap.String("token", r.Msg.GetId()), zap.String("by", by.Actor()))
	return connect.NewResponse(&api.RevokeTokenResponse{}), nil
}

func (s *adminService) CreateEnrollment(ctx context.Context, r *connect.Request[api.CreateEnrollmentRequest]) (*connect.Response[api.CreateEnrollmentResponse], error) {
	by, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	e, err := s.store.Environment(r.Msg.GetEnvironment())
	if err != nil {
		return nil, failure(err)
	}
	valid, err := seconds(r.Msg.GetValidSeconds())
	if err != nil {
		return nil, err
	}
	text, expires, err := s.store.CreateEnrollment(ctx, e, r.Msg.GetName(), valid, by.Actor())
	if err != nil {
		return nil, failure(err)
	}
	s.logger.Info("an enrolment token was made", zap.String("environment", e.Name), zap.String("name", r.Msg.GetName()), zap.String("by", by.Actor()))
	return connect.NewResponse(&api.CreateEnrollmentResponse{Token: text, ExpiresAt: timestamppb.New(expires), Pin: s.Pin()}), nil
}

func (s *adminService) ListEdges(ctx context.Context, r *connect.Request[api.ListEdgesRequest]) (*connect.Response[api.ListEdgesResponse], error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	list, err := s.store.Edges(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, failure(err)
	}
	out := &api.ListEdgesResponse{}
	for _, e := range list {
		now, connected := s.fleet.lookup(e.ID)
		if now.ID != "" { // newer than what is stored, but for what an edge does not say itself
			e.Version, e.LastSeen, e.Revision, e.Degraded, e.Error, e.Policy, e.WithoutDirectory = now.Version, now.LastSeen, now.Revision, now.Degraded, now.Error, now.Policy, now.WithoutDirectory
		}
		one := &api.Edge{Id: e.ID, Name: e.Name, Environment: e.Environment, Version: e.Version, Connected: connected, Revision: e.Revision, EnrolledAt: at(e.Enrolled),
			LastSeen: at(e.LastSeen), CertificateExpiresAt: at(e.Certificate), RevokedAt: at(e.Revoked), Degraded: e.Degraded, Error: e.Error, Policy: e.Policy}
		if of, err := s.store.Environment(e.Environment); err == nil {
			if head := of.Snapshot().Revision(); head > e.Revision && !e.WithoutDirectory {
				one.Behind = head - e.Revision
			}
		}
		out.Edges = append(out.Edges, one)
	}
	return connect.NewResponse(out), nil
}

func (s *adminService) RevokeEdge(ctx context.Context, r *connect.Request[api.RevokeEdgeRequest]) (*connect.Response[api.RevokeEdgeResponse], error) {
	by, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.store.RevokeEdge(ctx, r.Msg.GetId()); err != nil {
		return nil, failure(err)
	}
	s.fleet.cut(r.Msg.GetId(), errRevoked)
	s.logger.Info("an edge was revoked", zap.String("edge", r.Msg.GetId()), zap.String("by", by.Actor()))
	return connect.NewResponse(&api.RevokeEdgeResponse{}), nil
}
