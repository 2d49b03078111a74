package topaz

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/emptypb"

	"gatehouse/directory"
	"gatehouse/directory/journal"
	"gatehouse/topaz/pb/common"
	"gatehouse/topaz/pb/writer"
)

type writerService struct {
	writer.UnimplementedWriterServer
	*Service
}

// maker says what to do with the directory as it is.
type maker = func(*directory.Snapshot) (journal.Edit, error)

// errMayNotWrite is the answer to keys without the right.
var errMayNotWrite = status.Error(codes.PermissionDenied, "this key may not change the directory: only a key with the scope write may")

// write makes one write in the name of the client, and returns the directory after it. The key is looked at again: a stream may be open for longer
// than its key is valid.
func (s *Service) write(ctx context.Context, size int, make maker) (*directory.Snapshot, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	if !client.Write {
		return nil, errMayNotWrite
	}
	after, err := s.with.Write(ctx, journal.Write{By: client.ID, Size: size, Make: make})
	return after, writeStatus(err)
}

// writeStatus is the error of a write.
//
// A directory that cannot be written by this node is Unimplemented, not FailedPrecondition: Aserto's SDKs make of that an error about etags
// which says nothing else.
func writeStatus(err error) error {
	code := codes.Internal
	for _, known := range []struct {
		err  error
		code codes.Code
	}{
		{journal.ErrReadOnly, codes.Unimplemented}, {journal.ErrBusy, codes.Unavailable}, {journal.ErrUnavailable, codes.Unavailable},
		{journal.ErrTooLarge, codes.InvalidArgument}, {context.DeadlineExceeded, codes.DeadlineExceeded}, {context.Canceled, codes.Canceled},
		{directory.ErrFull, codes.ResourceExhausted}, {directory.ErrNotFound, codes.NotFound}, {directory.ErrInvalid, codes.InvalidArgument},
		{directory.ErrNotAllowed, codes.InvalidArgument}, {directory.ErrUnknownType, codes.InvalidArgument}, {directory.ErrUnknownRelation, codes.InvalidArgument},
	} {
		if errors.Is(err, known.err) {
			code = known.code
			break
		}
	}
	var orphans *directory.OrphanError
	var manifest *directory.ManifestError
	var change *directory.ChangeError
	switch {
	case err == nil:
		return nil
	case status.Code(err) != codes.Unknown: // it is one already
		return err
	case errors.As(err, &orphans):
		return status.Errorf(codes.InvalidArgument, "%v: the header %s: true drops them", err, forceHeader)
	case errors.As(err, &manifest):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.As(err, &change): // which change of the one that there was does not matter
		return status.Errorf(code, "%s: %v", change.What, change.Err)
	}
	return status.Error(code, err.Error())
}

// ifMatch is the etag that a client's header if-match names; "": any.
func ifMatch(ctx context.Context) string {
	in, _ := metadata.FromIncomingContext(ctx)
	if values := in.Get("if-match"); len(values) > 0 {
		return values[0]
	}
	return ""
}

// errStale is the answer to a write that names another etag than what is there has.
func errStale(what string) error {
	return status.Errorf(codes.FailedPrecondition, "etag: %s was changed meanwhile: read it again", what)
}

// objectOfMessage is an object as the directory takes it.
func objectOfMessage(in *common.Object) (*directory.Object, error) {
	o := &directory.Object{Ref: refOf(in.GetType(), in.GetId()), DisplayName: in.GetDisplayName()}
	if o.Type == "" || o.ID == "" {
		return nil, status.Error(codes.InvalidArgument, "object: give type and id")
	}
	if len(in.GetProperties().GetFields()) > 0 {
		var err error
		if o.Properties, err = protojson.Marshal(in.Properties); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "object.properties: %v", err)
		}
	}
	return o, nil
}

func relationOfMessage(in *common.Relation) (*directory.Relation, error) {
	r := &directory.Relation{Object: refOf(in.GetObjectType(), in.GetObjectId()), Relation: in.GetRelation(), Subject: refOf(in.GetSubjectType(), in.GetSubjectId()),
		SubjectRelation: in.GetSubjectRelation()}
	if r.Object.Type == "" || r.Object.ID == "" || r.Relation == "" || r.Subject.Type == "" || r.Subject.ID == "" {
		return nil, status.Error(codes.InvalidArgument, "relation: give object_type, object_id, relation, subject_type and subject_id")
	}
	return r, nil
}

func sizeOfObject(o *directory.Object) int {
	return len(o.Type) + len(o.ID) + len(o.DisplayName) + len(o.Properties) + 16
}

func sizeOfRelation(r *directory.Relation) int {
	return len(r.Object.Type) + len(r.Object.ID) + len(r.Relation) + len(r.Subject.Type) + len(r.Subject.ID) + len(r.SubjectRelation) + 16
}

// SetObject adds an object, or replaces it where it is the one whose etag the client names.
func (s *writerService) SetObject(ctx context.Context, in *writer.SetObjectRequest) (*writer.SetObjectResponse, error) {
	o, err := objectOfMessage(in.Object)
	if err != nil {
		return nil, err
	}
	header, etag := ifMatch(ctx), in.Object.Etag
	after, err := s.write(ctx, sizeOfObject(o), func(d *directory.Snapshot) (journal.Edit, error) {
		if known, found := d.Object(o.Ref); found {
			is := objectEtag(known)
			if header != "" && header != is || etag != "" && etag != is {
				return journal.Edit{}, errStale(o.String())
			}
		}
		return journal.Edit{Changes: []directory.Change{{SetObject: o}}}, nil
	})
	if err != nil {
		return nil, err
	}
	out := &writer.SetObjectResponse{}
	out.Result, err = objectOf(after, o.Ref)
	return out, err
}

// DeleteObject deletes an object. With relations left it does so only where the client says that they go too: there is no relation without its objects.
func (s *writerService) DeleteObject(ctx context.Context, in *writer.DeleteObjectRequest) (*writer.DeleteObjectResponse, error) {
	ref := refOf(in.ObjectType, in.ObjectId)
	if ref.Type == "" || ref.ID == "" {
		return nil, status.Error(codes.InvalidArgument, "object_type and object_id: give both")
	}
	header := ifMatch(ctx)
	_, err := s.write(ctx, len(ref.Type)+len(ref.ID), func(d *directory.Snapshot) (journal.Edit, error) {
		if header != "" {
			if known, found := d.Object(ref); !found || objectEtag(known) != header {
				return journal.Edit{}, errStale(ref.String())
			}
		}
		if !in.WithRelations && related(d, ref) {
			return journal.Edit{}, status.Errorf(codes.InvalidArgument, "%s has relations: set with_relations and they are deleted with it, or delete them first", ref)
		}
		return journal.Edit{Changes: []directory.Change{{DeleteObject: &ref}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return &writer.DeleteObjectResponse{Result: &emptypb.Empty{}}, nil
}

// related says whether an object has relations, expired ones too.
func related(d *directory.Snapshot, ref directory.Ref) bool {
	for _, f := range []directory.RelationFilter{{Object: ref}, {Subject: ref}} {
		for range d.Relations(f, time.Time{}) {
			return true
		}
	}
	return false
}

// SetRelation adds a relation. One that is there stays as it is, with the time at which it expires, of which the message knows nothing.
func (s *writerService) SetRelation(ctx context.Context, in *writer.SetRelationRequest) (*writer.SetRelationResponse, error) {
	r, err := relationOfMessage(in.Relation)
	if err != nil {
		return nil, err
	}
	header, etag := ifMatch(ctx), in.Relation.Etag
	_, err = s.write(ctx, sizeOfRelation(r), func(d *directory.Snapshot) (journal.Edit, error) {
		if known, found := d.Relation(*r, s.with.Clock()); found {
			if is := relationMessage(known).Etag; header != "" && header != is || etag != "" && etag != is {
				return journal.Edit{}, errStale(r.String())
			}
			return journal.Edit{}, nil
		}
		return journal.Edit{Changes: []directory.Change{{SetRelation: r}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return &writer.SetRelationResponse{Result: relationMessage(*r)}, nil
}

// DeleteRelation deletes a relation.
func (s *writerService) DeleteRelation(ctx context.Context, in *writer.DeleteRelationRequest) (*writer.DeleteRelationResponse, error) {
	r, err := relationOfMessage(&common.Relation{ObjectType: in.ObjectType, ObjectId: in.ObjectId, Relation: in.Relation, SubjectType: in.SubjectType,
		SubjectId: in.SubjectId, SubjectRelation: in.SubjectRelation})
	if err != nil {
		return nil, err
	}
	header := ifMatch(ctx)
	_, err = s.write(ctx, sizeOfRelation(r), func(d *directory.Snapshot) (journal.Edit, error) {
		if header != "" {
			if known, found := d.Relation(*r, s.with.Clock()); !found || relationMessage(known).Etag != header {
				return journal.Edit{}, errStale(r.String())
			}
		}
		return journal.Edit{Changes: []directory.Change{{DeleteRelation: r}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return &writer.DeleteRelationResponse{Result: &emptypb.Empty{}}, nil
}
