package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/control/store"
	"gatehouse/directory"
)

type directoryService struct{ *Server }

// made executes a write of a client.
func (s *directoryService) made(ctx context.Context, environment string, o *api.WriteOptions, edits []store.Edit) (*connect.Response[api.WriteResponse], error) {
	e, t, err := s.environment(ctx, environment, true)
	if err != nil {
		return nil, err
	}
	if len(edits) == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("there is nothing to write in this request"))
	}
	out, err := s.store.Write(ctx, e, store.Write{Actor: t.Actor(), Source: o.GetSource(), TakeOver: o.GetTakeOver(), Key: o.GetIdempotencyKey(), Edits: edits})
	if err != nil {
		return nil, failure(err)
	}
	return connect.NewResponse(&api.WriteResponse{Revision: out.Revision, Epoch: out.Epoch}), nil
}

func (s *directoryService) SetObjects(ctx context.Context, r *connect.Request[api.SetObjectsRequest]) (*connect.Response[api.WriteResponse], error) {
	edits, err := setObjects(nil, r.Msg.GetObjects())
	if err != nil {
		return nil, err
	}
	return s.made(ctx, r.Msg.GetEnvironment(), r.Msg.GetOptions(), edits)
}

func (s *directoryService) DeleteObjects(ctx context.Context, r *connect.Request[api.DeleteObjectsRequest]) (*connect.Response[api.WriteResponse], error) {
	var edits []store.Edit
	for _, o := range r.Msg.GetObjects() {
		edits = append(edits, store.Edit{Change: directory.Change{DeleteObject: &directory.Ref{Type: o.GetType(), ID: o.GetId()}}, Etag: o.GetEtag()})
	}
	return s.made(ctx, r.Msg.GetEnvironment(), r.Msg.GetOptions(), edits)
}

func (s *directoryService) SetRelations(ctx context.Context, r *connect.Request[api.SetRelationsRequest]) (*connect.Response[api.WriteResponse], error) {
	edits, err := setRelations(nil, r.Msg.GetRelations())
	if err != nil {
		return nil, err
	}
	return s.made(ctx, r.Msg.GetEnvironment(), r.Msg.GetOptions(), edits)
}

func (s *directoryService) DeleteRelations(ctx context.Context, r *connect.Request[api.DeleteRelationsRequest]) (*connect.Response[api.WriteResponse], error) {
	var edits []store.Edit
	for _, x := range r.Msg.GetRelations() {
		one, err := relationOf(x)
		if err != nil {
			return nil, err
		}
		one.Expires = time.Time{}
		edits = append(edits, store.Edit{Change: directory.Change{DeleteRelation: one}, Etag: x.GetEtag()})
	}
	return s.made(ctx, r.Msg.GetEnvironment(), r.Msg.GetOptions(), edits)
}

func setObjects(edits []store.Edit, list []*api.Object) ([]store.Edit, error) {
	for i, o := range list {
		out := &directory.Object{Ref: directory.Ref{Type: o.GetType(), ID: o.GetId()}, DisplayName: o.GetDisplayName()}
		if p := o.GetProperties(); p != nil && len(p.GetFields()) > 0 {
			text, err := json.Marshal(p.AsMap())
			if err != nil {
				return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("objects[%d].properties: %w", i, err))
			}
			out.Properties = text
		}
		edits = append(edits, store.Edit{Change: directory.Change{SetObject: out}, Etag: o.GetEtag()})
	}
	return edits, nil
}

func setRelations(edits []store.Edit, list []*api.Relation) ([]store.Edit, error) {
	for _, x := range list {
		one, err := relationOf(x)
		if err != nil {
			return nil, err
		}
		edits = append(edits, store.Edit{Change: directory.Change{SetRelation: one}, Etag: x.GetEtag()})
	}
	return edits, nil
}

func relationOf(x *api.Relation) (*directory.Relation, error) {
	out := &directory.Relation{Object: directory.Ref{Type: x.GetObjectType(), ID: x.GetObjectId()}, Relation: x.GetRelation(),
		Subject: directory.Ref{Type: x.GetSubjectType(), ID: x.GetSubjectId()}, SubjectRelation: x.GetSubjectRelation()}
	if at := x.GetExpiresAt(); at != nil {
		if at.CheckValid() != nil || at.GetNanos() != 0 || at.GetSeconds() <= 0 {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%s: expires_at is a time in whole seconds after 1970", out))
		}
		out.Expires = at.AsTime()
	}
	return out, nil
}

func (s *directoryService) GetManifest(ctx context.Context, r *connect.Request[api.GetManifestRequest]) (*connect.Response[api.GetManifestResponse], error) {
	e, _, err := s.environment(ctx, r.Msg.GetEnvironment(), false)
	if err != nil {
		return nil, err
	}
	etag, err := e.ManifestEtag(ctx)
	if err != nil {
		return nil, failure(err)
	}
	now := e.Snapshot()
	return connect.NewResponse(&api.GetManifestResponse{Manifest: string(now.Manifest().Text()), Etag: etag, Revision: now.Revision()}), nil
}

func (s *directoryService) SetManifest(ctx context.Context, r *connect.Request[api.SetManifestRequest]) (*connect.Response[api.SetManifestResponse], error) {
	e, t, err := s.environment(ctx, r.Msg.GetEnvironment(), true)
	if err != nil {
		return nil, err
	}
	m, err := directory.ParseManifest("manifest", []byte(r.Msg.GetManifest()))
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	var out api.SetManifestResponse
	if _, err := e.Snapshot().SetManifest(m, false); err != nil { // what force will delete
		list, total, ok := store.Orphans(err)
		if !ok {
			return nil, failure(err)
		}
		out.Orphans, out.OrphansTotal = list, int32(min(total, 1<<31-1))
	}
	o := r.Msg.GetOptions()
	made, err := s.store.Write(ctx, e, store.Write{Actor: t.Actor(), Source: o.GetSource(), Key: o.GetIdempotencyKey(), Manifest: m, ManifestEtag: r.Msg.GetEtag(), Force: r.Msg.GetForce()})
	if list, total, ok := store.Orphans(err); ok {
		return connect.NewResponse(&api.SetManifestResponse{Epoch: s.store.Epoch(), Orphans: list, OrphansTotal: int32(min(total, 1<<31-1))}), nil
	}
	if err != nil {
		return nil, failure(err)
	}
	out.Revision, out.Epoch = made.Revision, made.Epoch
	return connect.NewResponse(&out), nil
}

func (s *directoryService) ListObjects(ctx context.Context, r *connect.Request[api.ListObjectsRequest]) (*connect.Response[api.ListObjectsResponse], error) {
	e, _, err := s.environment(ctx, r.Msg.GetEnvironment(), false)
	if err != nil {
		return nil, err
	}
	out := &api.ListObjectsResponse{Revision: e.Snapshot().Revision()}
	list, next, err := e.Objects(ctx, r.Msg.GetType(), r.Msg.GetId(), int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	if err != nil {
		return nil, failure(err)
	}
	for _, o := range list {
		one := &api.Object{Type: o.Type, Id: o.ID, DisplayName: o.DisplayName, Etag: o.Etag, Source: o.Source}
		if len(o.Properties) > 0 {
			one.Properties = &structpb.Struct{}
			if err := one.Properties.UnmarshalJSON(o.Properties); err != nil {
				return nil, failure(fmt.Errorf("%s: its properties: %w", o.Object, err))
			}
		}
		out.Objects = append(out.Objects, one)
	}
	out.NextPageToken = next
	return connect.NewResponse(out), nil
}

func (s *directoryService) ListRelations(ctx context.Context, r *connect.Request[api.ListRelationsRequest]) (*connect.Response[api.ListRelationsResponse], error) {
	e, _, err := s.environment(ctx, r.Msg.GetEnvironment(), false)
	if err != nil {
		return nil, err
	}
	out := &api.ListRelationsResponse{Revision: e.Snapshot().Revision()}
	list, next, err := e.Relations(ctx, store.RelationFilter{Object: directory.Ref{Type: r.Msg.GetObjectType(), ID: r.Msg.GetObjectId()}, Relation: r.Msg.GetRelation(),
		Subject: directory.Ref{Type: r.Msg.GetSubjectType(), ID: r.Msg.GetSubjectId()}}, int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	if err != nil {
		return nil, failure(err)
	}
	for _, x := range list {
		one := &api.Relation{ObjectType: x.Object.Type, ObjectId: x.Object.ID, Relation: x.Relation.Relation, SubjectType: x.Subject.Type, SubjectId: x.Subject.ID,
			SubjectRelation: x.SubjectRelation, Etag: x.Etag, Source: x.Source}
		if !x.Expires.IsZero() {
			one.ExpiresAt = timestamppb.New(x.Expires)
		}
		out.Relations = append(out.Relations, one)
	}
	out.NextPageToken = next
	return connect.NewResponse(out), nil
}

func (s *directoryService) ListChanges(ctx context.Context, r *connect.Request[api.ListChangesRequest]) (*connect.Response[api.ListChangesResponse], error) {
	e, _, err := s.environment(ctx, r.Msg.GetEnvironment(), false)
	if err != nil {
		return nil, err
	}
	list, next, err := e.Changes(ctx, r.Msg.GetBeforeRevision(), int(r.Msg.GetPageSize()))
	if err != nil {
		return nil, failure(err)
	}
	out := &api.ListChangesResponse{NextBeforeRevision: next}
	for _, c := range list {
		out.Changes = append(out.Changes, &api.Change{Revision: c.Revision, Epoch: c.Epoch, At: timestamppb.New(c.At), Actor: c.Actor, Source: c.Source, Changes: c.What, Total: int32(c.Total)})
	}
	return connect.NewResponse(out), nil
}

func (s *directoryService) Import(ctx context.Context, stream *connect.ClientStream[api.ImportRequest]) (*connect.Response[api.ImportResponse], error) {
	out := &api.ImportResponse{Epoch: s.store.Epoch()}
	var e *store.Environment
	var with store.Write
	var name string
	for batch := 1; stream.Receive(); batch++ {
		m := stream.Msg()
		if e == nil {
			found, t, err := s.environment(ctx, m.GetEnvironment(), true)
			if err != nil {
				return nil, err
			}
			name = found.Name
			e, with = found, store.Write{Actor: t.Actor(), Source: m.GetOptions().GetSource(), TakeOver: m.GetOptions().GetTakeOver()}
		}
		if batch > 1 { // the token may have been revoked meanwhile
			if _, err := s.authenticate(ctx, "Import", stream.RequestHeader().Get("Authorization")); err != nil {
				return nil, err
			}
		}
		if other := m.GetEnvironment(); other != "" && other != name {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("batch %d is for %q, and the import is for %q", batch, other, name))
		}
		edits, err := setObjects(nil, m.GetObjects())
		if err == nil {
			edits, err = setRelations(edits, m.GetRelations())
		}
		if err != nil {
			return nil, err
		}
		with.Edits = edits
		made, err := s.store.Write(ctx, e, with)
		if err != nil {
			return nil, failure(fmt.Errorf("batch %d, after %d objects and %d relations that are stored: %w", batch, out.Objects, out.Relations, err))
		}
		out.Revision = made.Revision
		out.Objects += int64(len(m.GetObjects()))
		out.Relations += int64(len(m.GetRelations()))
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if e == nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("the import has no message"))
	}
	return connect.NewResponse(out), nil
}

// How long WaitApplied waits.
const (
	defaultWait = 5 * time.Second
	maxWait     = time.Minute
)

func (s *directoryService) WaitApplied(ctx context.Context, r *connect.Request[api.WaitAppliedRequest]) (*connect.Response[api.WaitAppliedResponse], error) {
	e, _, err := s.environment(ctx, r.Msg.GetEnvironment(), false)
	if err != nil {
		return nil, err
	}
	if head := e.Snapshot().Revision(); r.Msg.GetRevision() > head {
		return nil, connect.NewError(connect.CodeOutOfRange, errors.New("revision "+strconv.FormatUint(r.Msg.GetRevision(), 10)+" does not exist: the newest is "+strconv.FormatUint(head, 10)))
	}
	wait := defaultWait
	if ms := r.Msg.GetTimeoutMs(); ms > 0 {
		wait = min(maxWait, time.Duration(ms)*time.Millisecond)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		out, changed := s.fleet.applied(e.Name, r.Msg.GetRevision())
		if out.Applied {
			return connect.NewResponse(out), nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return connect.NewResponse(out), nil
		case <-s.stopping:
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("control is stopping"))
		case <-ctx.Done():
			return nil, failure(ctx.Err())
		}
	}
}
