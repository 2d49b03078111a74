package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/control/policies"
	"gatehouse/control/store"
	"gatehouse/policy/bundle"
)

// Bounds of the service of policies.
const (
	maxPush       = policies.MaxTarball + 2<<20 // bytes of one message: the bundle and its tables
	maxTables     = 20
	maxDiff       = 200 // changes of data, rules and files each that are listed
	pushesAtOnce  = 4   // whose bundles are in memory
	theirDecision = "envoy/authz/allow"
)

type policyService struct {
	*Server
	diffing chan struct{} // one comparison at a time: it parses two bundles
}

// denied refuses what a token may not do with policies, on record.
func (s *Server) denied(ctx context.Context, t *store.Token, action, subject, scope string) error {
	err := connect.NewError(connect.CodePermissionDenied, fmt.Errorf("the token may not %s in %q: it needs the scope %s:%s", action, subject, scope, subject))
	s.refusal(ctx, store.Audit{Actor: t.Actor(), Action: action, Subject: short(subject), Detail: "the token lacks the scope " + scope})
	return err
}

// refusal records what was refused, unless its peer is refused too often for that.
func (s *Server) refusal(ctx context.Context, a store.Audit) {
	p := peerOf(ctx)
	if !s.limits.refused(p.address) {
		return
	}
	a.Peer, a.Refused = p.address, true
	s.logger.Warn("a request was refused", zap.String("by", a.Actor), zap.String("peer", a.Peer), zap.String("action", a.Action), zap.String("subject", a.Subject), zap.String("reason", a.Detail))
	if err := s.store.Record(ctx, a); err != nil {
		s.logger.Error("writing the audit log", zap.Error(err))
	}
}

// revisionOf is a revision as the API has it.
func (s *Server) revisionOf(r *store.Revision) *api.Revision {
	out := &api.Revision{Digest: r.Digest, Project: r.Project, Archive: r.Archive, Size: r.Size, Decision: r.Decision, Message: r.Message, Actor: r.Actor, At: at(r.At),
		Files: int32(r.Files), Rules: int32(r.Rules), Tests: int32(r.Tests), Smoke: int32(r.Smoke)}
	for _, e := range s.store.Environments() {
		if p, _ := e.Policy(); p != nil && p.Revision.Digest == r.Digest && e.Project() == r.Project {
			out.Environments = append(out.Environments, e.Name)
		}
	}
	return out
}

func (s *Server) promotionOf(p *store.Promotion) *api.Promotion {
	return &api.Promotion{Environment: p.Environment, Sequence: p.Sequence, Action: p.Action, Revision: s.revisionOf(&p.Revision), Previous: p.Previous,
		Actor: p.Actor, Message: p.Message, At: timestamppb.New(p.At)}
}

var decisionPath = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$`)

// PushRevision implements api.PolicyServiceHandler.
func (s *policyService) PushRevision(ctx context.Context, r *connect.Request[api.PushRevisionRequest]) (*connect.Response[api.PushRevisionResponse], error) {
	t, m := tokenOf(ctx), r.Msg
	if !t.Has(store.ScopePush, m.GetProject()) {
		return nil, s.denied(ctx, t, "push", m.GetProject(), store.ScopePush)
	}
	if m.GetDecision() == "" {
		m.Decision = theirDecision
	}
	switch {
	case len(m.GetBundle()) > policies.MaxTarball:
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the bundle has %d bytes: %d are possible", len(m.GetBundle()), policies.MaxTarball))
	case len(m.GetSmoke()) > maxTables:
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d tables of requests: %d are possible", len(m.GetSmoke()), maxTables))
	case len(m.GetDecision()) > 500 || !decisionPath.MatchString(m.GetDecision()):
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("decision %q: give its path, as envoy/authz/allow", short(m.GetDecision())))
	}
	if err := errors.Join(s.store.CheckProject(m.GetProject()), store.CheckMessage(m.GetMessage())); err != nil {
		return nil, failure(err)
	}
	out, err := s.push(ctx, t, m)
	if problems, bad := errors.AsType[bundle.Problems](err); bad {
		s.logger.Info("a bundle was refused", zap.String("project", m.GetProject()), zap.String("by", t.Actor()), zap.String("problem", problems[0].Error()))
		if err := s.store.Record(ctx, store.Audit{Actor: t.Actor(), Peer: peerOf(ctx).address, Action: "push", Subject: m.GetProject(), Refused: true, Detail: problems[0].Error()}); err != nil {
			return nil, failure(err)
		}
		return nil, checkFailure(problems)
	}
	if err != nil {
		return nil, failure(err)
	}
	return connect.NewResponse(out), nil
}

// checkFailure is the error of a bundle that did not pass, with its problems one by one.
func checkFailure(problems bundle.Problems) error {
	failed := connect.NewError(connect.CodeInvalidArgument, problems)
	list := &api.CheckFailure{}
	for _, p := range problems {
		list.Problems = append(list.Problems, &api.Problem{Stage: p.Stage, File: p.File, Line: int32(p.Line), Text: p.Text})
	}
	if detail, err := connect.NewErrorDetail(list); err == nil {
		failed.AddDetail(detail)
	}
	return failed
}

// push checks, signs and keeps a bundle.
func (s *policyService) push(ctx context.Context, t *store.Token, m *api.PushRevisionRequest) (*api.PushRevisionResponse, error) {
	files, err := policies.Unpack(m.GetBundle())
	if err != nil {
		return nil, err
	}
	digest, err := policies.Digest(files)
	if err != nil {
		return nil, err
	}
	job := policies.Job{Files: files, Decision: m.GetDecision()}
	for _, table := range m.GetSmoke() {
		job.Smoke = append(job.Smoke, policies.Table{Name: short(table.GetName()), Text: table.GetText()})
	}
	verdict, err := s.checker.Check(ctx, job)
	if err != nil {
		return nil, err
	}
	archive, size, err := s.policies.Put(files, digest)
	if err != nil {
		return nil, err
	}
	made, existed, err := s.store.AddRevision(ctx, store.Revision{Project: m.GetProject(), Digest: digest, Archive: archive, Size: size, Decision: m.GetDecision(), Message: m.GetMessage(),
		Actor: t.Actor(), Files: len(files), Rules: verdict.Rules, Tests: verdict.Tests, Smoke: verdict.Smoke},
		store.Audit{Actor: t.Actor(), Peer: peerOf(ctx).address, Action: "push", Subject: m.GetProject(), Detail: digest + ": " + m.GetMessage()})
	if existed {
		s.policies.Remove(archive)
	}
	if err != nil {
		return nil, err // the write may still be made: the file stays
	}
	s.logger.Info("a revision was pushed", zap.String("project", made.Project), zap.String("revision", made.Digest), zap.Bool("existed", existed), zap.String("by", t.Actor()))
	return &api.PushRevisionResponse{Revision: s.revisionOf(&made), Existed: existed, Notices: verdict.Notices}, nil
}

// seen checks that a token may see a project's policies.
func (s *policyService) seen(ctx context.Context, project string) error {
	t := tokenOf(ctx)
	if !t.MaySee(project) {
		return s.denied(ctx, t, "read policies", project, store.ScopePush)
	}
	return nil
}

// ListRevisions implements api.PolicyServiceHandler.
func (s *policyService) ListRevisions(ctx context.Context, r *connect.Request[api.ListRevisionsRequest]) (*connect.Response[api.ListRevisionsResponse], error) {
	if err := s.seen(ctx, r.Msg.GetProject()); err != nil {
		return nil, err
	}
	if err := s.store.CheckProject(r.Msg.GetProject()); err != nil {
		return nil, failure(err)
	}
	list, next, err := s.store.Revisions(ctx, r.Msg.GetProject(), int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	if err != nil {
		return nil, failure(err)
	}
	out := &api.ListRevisionsResponse{NextPageToken: next}
	for i := range list {
		out.Revisions = append(out.Revisions, s.revisionOf(&list[i]))
	}
	return connect.NewResponse(out), nil
}

// find finds a revision by its digest, or the one that an environment of the project has.
func (s *policyService) find(ctx context.Context, project, name string) (store.Revision, error) {
	of, short, full := strings.Cut(name, "/")
	if !full {
		of, short = project, name
	}
	if e, err := s.store.Environment(of + "/" + short); err == nil && of == project {
		p, _ := e.Policy()
		if p == nil {
			return store.Revision{}, fmt.Errorf("the policy of %s: %w: nothing was promoted there yet", e.Name, store.ErrNotFound)
		}
		return p.Revision, nil
	}
	return s.store.FindRevision(ctx, project, name)
}

// DiffRevisions implements api.PolicyServiceHandler.
func (s *policyService) DiffRevisions(ctx context.Context, r *connect.Request[api.DiffRevisionsRequest]) (*connect.Response[api.DiffRevisionsResponse], error) {
	if err := s.seen(ctx, r.Msg.GetProject()); err != nil {
		return nil, err
	}
	select {
	case s.diffing <- struct{}{}:
		defer func() { <-s.diffing }()
	case <-ctx.Done():
		return nil, failure(ctx.Err())
	}
	out := &api.DiffRevisionsResponse{}
	var sides [2]*bundle.Bundle
	var files [2]map[string][]byte
	for i, name := range []string{r.Msg.GetBefore(), r.Msg.GetAfter()} {
		found, err := s.find(ctx, r.Msg.GetProject(), name)
		if err != nil {
			return nil, failure(err)
		}
		if sides[i], files[i], err = s.policies.Open(found.Archive); err != nil {
			return nil, failure(err)
		}
		if i == 0 {
			out.Before = s.revisionOf(&found)
		} else {
			out.After = s.revisionOf(&found)
		}
	}
	d := bundle.Diff(sides[0], sides[1], maxDiff)
	places := func(list []bundle.Place) (out []string) {
		for _, p := range list {
			out = append(out, p.String())
		}
		return out
	}
	for _, c := range d.Rules[:min(maxDiff, len(d.Rules))] {
		out.Rules = append(out.Rules, &api.RuleChange{Change: c.Change, Path: c.Path, Before: places(c.Before), After: places(c.After)})
	}
	for _, c := range d.Data {
		out.Data = append(out.Data, &api.ValueChange{Change: c.Change, Pointer: c.Pointer, Before: c.Before, After: c.After})
	}
	out.MoreData = int32(d.MoreData)
	out.Files = diffFiles(files[0], files[1])
	return connect.NewResponse(out), nil
}

// diffFiles says which files differ. The manifest differs in any case, by the revision that control writes.
func diffFiles(before, after map[string][]byte) (list []*api.FileChange) {
	names := slices.Collect(maps.Keys(before))
	for name := range after {
		if before[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		a, had := before[name]
		b, has := after[name]
		change := "changed"
		switch {
		case name == ".manifest" || bytes.Equal(a, b) && had == has || len(list) >= maxDiff:
			continue
		case !had:
			change = "added"
		case !has:
			change = "removed"
		}
		list = append(list, &api.FileChange{Change: change, File: name})
	}
	return list
}

// Promote implements api.PolicyServiceHandler.
func (s *policyService) Promote(ctx context.Context, r *connect.Request[api.PromoteRequest]) (*connect.Response[api.PromoteResponse], error) {
	if r.Msg.GetRevision() == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("give the revision to promote"))
	}
	return s.move(ctx, store.ActionPromote, r.Msg.GetEnvironment(), store.Promote{Revision: r.Msg.GetRevision(), Expected: r.Msg.GetExpected(), Message: r.Msg.GetMessage()}, r.Msg)
}

// Rollback implements api.PolicyServiceHandler.
func (s *policyService) Rollback(ctx context.Context, r *connect.Request[api.RollbackRequest]) (*connect.Response[api.PromoteResponse], error) {
	return s.move(ctx, store.ActionRollback, r.Msg.GetEnvironment(), store.Promote{Expected: r.Msg.GetExpected(), Message: r.Msg.GetMessage()}, nil)
}

// move points an environment at another revision, or begins a rollout where staged asks for stages.
func (s *policyService) move(ctx context.Context, action, name string, with store.Promote, staged *api.PromoteRequest) (*connect.Response[api.PromoteResponse], error) {
	t := tokenOf(ctx)
	if !t.Has(store.ScopePromote, name) {
		return nil, s.denied(ctx, t, action, name, store.ScopePromote)
	}
	e, err := s.store.Environment(name)
	if err == nil {
		err = store.CheckMessage(with.Message)
	}
	if err != nil {
		return nil, failure(err)
	}
	if with.Revision != "" { // what cannot be served is not promoted
		found, err := s.store.FindRevision(ctx, e.Project(), with.Revision)
		if err == nil {
			with.Revision = found.Digest
			_, err = s.policies.Read(found.Archive)
		}
		if err != nil {
			return nil, failure(err)
		}
	}
	if len(staged.GetStages()) > 0 {
		staged.Revision = with.Revision
		return s.begin(ctx, t, e, staged)
	}
	with.Actor, with.Peer = t.Actor(), peerOf(ctx).address
	p, changed, err := s.store.Promote(ctx, e, with)
	if err != nil {
		return nil, failure(err)
	}
	if changed {
		s.logger.Info("an environment has another policy", zap.String("environment", e.Name), zap.String("action", p.Action), zap.String("revision", p.Revision.Digest),
			zap.String("previous", p.Previous), zap.String("by", p.Actor))
	}
	return connect.NewResponse(&api.PromoteResponse{Promotion: s.promotionOf(p), Changed: changed}), nil
}

// policyOf finds an environment whose policy a token may see.
func (s *policyService) policyOf(ctx context.Context, name string) (*store.Environment, error) {
	t := tokenOf(ctx)
	project, _, _ := strings.Cut(name, "/")
	if !t.Has(store.ScopeRead, name) && !t.Has(store.ScopePromote, name) && !t.Has(store.ScopePush, project) {
		return nil, s.denied(ctx, t, "read the policy", name, store.ScopeRead)
	}
	e, err := s.store.Environment(name)
	if err != nil {
		return nil, failure(err)
	}
	return e, nil
}

// GetPolicy implements api.PolicyServiceHandler.
func (s *policyService) GetPolicy(ctx context.Context, r *connect.Request[api.GetPolicyRequest]) (*connect.Response[api.GetPolicyResponse], error) {
	e, err := s.policyOf(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(s.policyState(e)), nil
}

// ListPromotions implements api.PolicyServiceHandler.
func (s *policyService) ListPromotions(ctx context.Context, r *connect.Request[api.ListPromotionsRequest]) (*connect.Response[api.ListPromotionsResponse], error) {
	e, err := s.policyOf(ctx, r.Msg.GetEnvironment())
	if err != nil {
		return nil, err
	}
	list, next, err := e.Promotions(ctx, r.Msg.GetBeforeSequence(), int(r.Msg.GetPageSize()))
	if err != nil {
		return nil, failure(err)
	}
	out := &api.ListPromotionsResponse{NextBeforeSequence: next}
	for i := range list {
		out.Promotions = append(out.Promotions, s.promotionOf(&list[i]))
	}
	return connect.NewResponse(out), nil
}

// ListAudit implements api.PolicyServiceHandler.
func (s *policyService) ListAudit(ctx context.Context, r *connect.Request[api.ListAuditRequest]) (*connect.Response[api.ListAuditResponse], error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	list, next, err := s.store.Audits(ctx, r.Msg.GetBeforeId(), int(r.Msg.GetPageSize()))
	if err != nil {
		return nil, failure(err)
	}
	out := &api.ListAuditResponse{NextBeforeId: next}
	for _, a := range list {
		out.Entries = append(out.Entries, &api.AuditEntry{Id: a.ID, At: at(a.At), Actor: a.Actor, Peer: a.Peer, Action: a.Action, Subject: a.Subject, Refused: a.Refused, Detail: a.Detail})
	}
	return connect.NewResponse(out), nil
}
