package topaz

import (
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/directory"
	"gatehouse/topaz/pb/common"
	"gatehouse/topaz/pb/reader"
)

type readerService struct {
	reader.UnimplementedReaderServer
	*Service
}

func (s *readerService) GetObject(_ context.Context, in *reader.GetObjectRequest) (*reader.GetObjectResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	out := &reader.GetObjectResponse{}
	ref := refOf(in.ObjectType, in.ObjectId)
	if out.Result, err = objectOf(d, ref); err != nil || !in.WithRelations {
		return out, err
	}
	p, err := pageOf(d, in.Page, "object", ref.Type, ref.ID)
	if err != nil {
		return nil, err
	}
	relations, answer := collect(p, d.RelationsFrom(directory.RelationFilter{Object: ref}, p.from, s.with.Clock()))
	for _, r := range relations {
		out.Relations = append(out.Relations, relationMessage(r))
	}
	out.Page = answer
	return out, nil
}

// objectOf is an object of that name; NotFound where there is none.
func objectOf(d *directory.Snapshot, ref directory.Ref) (*common.Object, error) {
	if ref.Type == "" || ref.ID == "" {
		return nil, status.Error(codes.InvalidArgument, "object_type and object_id: give both")
	}
	o, found := d.Object(ref)
	if !found {
		return nil, status.Errorf(codes.NotFound, "there is no object %s", ref)
	}
	return objectMessage(o)
}

func (s *readerService) GetObjectMany(_ context.Context, in *reader.GetObjectManyRequest) (*reader.GetObjectManyResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	if len(in.Param) > maxChecks {
		return nil, status.Errorf(codes.InvalidArgument, "param: more than %d objects", maxChecks)
	}
	out, size := &reader.GetObjectManyResponse{}, answerSize(0)
	for _, p := range in.Param {
		if found, ok := d.Object(refOf(p.ObjectType, p.ObjectId)); ok {
			if err := size.add(found); err != nil {
				return nil, err
			}
		}
		o, err := objectOf(d, refOf(p.ObjectType, p.ObjectId))
		if err != nil {
			return nil, err
		}
		out.Results = append(out.Results, o)
	}
	return out, nil
}

func (s *readerService) GetObjects(_ context.Context, in *reader.GetObjectsRequest) (*reader.GetObjectsResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	p, err := pageOf(d, in.Page, "objects", in.ObjectType)
	if err != nil {
		return nil, err
	}
	objects, answer := collect(p, d.ObjectsFrom(in.ObjectType, p.from))
	out, size := &reader.GetObjectsResponse{Page: answer}, answerSize(0)
	for _, o := range objects {
		if err := size.add(o); err != nil {
			return nil, err
		}
		message, err := objectMessage(o)
		if err != nil {
			return nil, err
		}
		out.Results = append(out.Results, message)
	}
	return out, nil
}

func (s *readerService) GetRelation(_ context.Context, in *reader.GetRelationRequest) (*reader.GetRelationResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	r := directory.Relation{Object: refOf(in.ObjectType, in.ObjectId), Relation: in.Relation, Subject: refOf(in.SubjectType, in.SubjectId),
		SubjectRelation: in.SubjectRelation}
	if slices.Contains([]string{r.Object.Type, r.Object.ID, r.Relation, r.Subject.Type, r.Subject.ID}, "") {
		return nil, status.Error(codes.InvalidArgument, "give object_type, object_id, relation, subject_type and subject_id")
	}
	found, is := d.Relation(r, s.with.Clock())
	if !is {
		return nil, status.Errorf(codes.NotFound, "there is no relation %s", r)
	}
	out := &reader.GetRelationResponse{Result: relationMessage(found)}
	if in.WithObjects {
		out.Objects, err = endsOf(d, []directory.Relation{found})
	}
	return out, err
}

func (s *readerService) GetRelations(_ context.Context, in *reader.GetRelationsRequest) (*reader.GetRelationsResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	f := directory.RelationFilter{Object: refOf(in.ObjectType, in.ObjectId), Relation: in.Relation, Subject: refOf(in.SubjectType, in.SubjectId),
		SubjectRelation: in.SubjectRelation, HasSubjectRelation: in.WithEmptySubjectRelation || in.SubjectRelation != ""}
	p, err := pageOf(d, in.Page, "relations", f.Object.Type, f.Object.ID, f.Relation, f.Subject.Type, f.Subject.ID, f.SubjectRelation,
		strconv.FormatBool(f.HasSubjectRelation))
	if err != nil {
		return nil, err
	}
	relations, answer := collect(p, d.RelationsFrom(f, p.from, s.with.Clock()))
	out := &reader.GetRelationsResponse{Page: answer}
	for _, r := range relations {
		out.Results = append(out.Results, relationMessage(r))
	}
	if in.WithObjects {
		out.Objects, err = endsOf(d, relations)
	}
	return out, err
}

// endsOf are the objects and subjects of relations, by type:id.
func endsOf(d *directory.Snapshot, relations []directory.Relation) (map[string]*common.Object, error) {
	out, size := map[string]*common.Object{}, answerSize(0)
	for _, r := range relations {
		for _, ref := range []directory.Ref{r.Object, r.Subject} {
			o, found := d.Object(ref)
			if !found { // every subject of a type
				continue
			}
			if out[ref.String()] != nil {
				continue
			}
			if err := size.add(o); err != nil {
				return nil, err
			}
			message, err := objectMessage(o)
			if err != nil {
				return nil, err
			}
			out[ref.String()] = message
		}
	}
	return out, nil
}

// check asks one question. An error is none of the answers.
func check(d *directory.Snapshot, in *reader.CheckRequest, now time.Time) (yes bool, trace []string, err error) {
	q := directory.Question{Object: refOf(in.ObjectType, in.ObjectId), Relation: in.Relation, Subject: refOf(in.SubjectType, in.SubjectId)}
	if slices.Contains([]string{q.Object.Type, q.Object.ID, q.Relation, q.Subject.Type, q.Subject.ID}, "") {
		return false, nil, status.Error(codes.InvalidArgument, "give object_type, object_id, relation, subject_type and subject_id")
	}
	if yes, err = d.Check(q, now); err != nil {
		return false, nil, asStatus(err)
	}
	if in.Trace {
		why, err := d.Explain(q, now)
		if err != nil {
			return false, nil, asStatus(err)
		}
		trace = []string{why.String()}
	}
	return yes, trace, nil
}

func (s *readerService) Check(_ context.Context, in *reader.CheckRequest) (*reader.CheckResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	yes, trace, err := check(d, in, s.with.Clock())
	if err != nil {
		return nil, err
	}
	return &reader.CheckResponse{Check: yes, Trace: trace}, nil
}

func (s *readerService) Checks(ctx context.Context, in *reader.ChecksRequest) (*reader.ChecksResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	if len(in.Checks) > maxChecks {
		return nil, status.Errorf(codes.InvalidArgument, "checks: more than %d", maxChecks)
	}
	out, now := &reader.ChecksResponse{}, s.with.Clock()
	for i, c := range in.Checks {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		yes, trace, err := check(d, merged(in.Default, c), now)
		if err != nil {
			return nil, status.Errorf(status.Code(err), "checks[%d]: %s", i, status.Convert(err).Message())
		}
		out.Checks = append(out.Checks, &reader.CheckResponse{Check: yes, Trace: trace})
	}
	return out, nil
}

// merged is a check in which what is missing is the default's.
func merged(base, c *reader.CheckRequest) *reader.CheckRequest {
	or := func(value, otherwise string) string {
		if value != "" {
			return value
		}
		return otherwise
	}
	return &reader.CheckRequest{ObjectType: or(c.GetObjectType(), base.GetObjectType()), ObjectId: or(c.GetObjectId(), base.GetObjectId()),
		Relation: or(c.GetRelation(), base.GetRelation()), SubjectType: or(c.GetSubjectType(), base.GetSubjectType()),
		SubjectId: or(c.GetSubjectId(), base.GetSubjectId()), Trace: c.GetTrace() || base.GetTrace()}
}

func (s *readerService) CheckPermission(_ context.Context, in *reader.CheckPermissionRequest) (*reader.CheckPermissionResponse, error) {
	yes, trace, err := s.checkKind("permission", (*directory.Manifest).Permissions, &reader.CheckRequest{ObjectType: in.ObjectType, ObjectId: in.ObjectId,
		Relation: in.Permission, SubjectType: in.SubjectType, SubjectId: in.SubjectId, Trace: in.Trace})
	if err != nil {
		return nil, err
	}
	return &reader.CheckPermissionResponse{Check: yes, Trace: trace}, nil
}

func (s *readerService) CheckRelation(_ context.Context, in *reader.CheckRelationRequest) (*reader.CheckRelationResponse, error) {
	yes, trace, err := s.checkKind("relation", (*directory.Manifest).Relations, &reader.CheckRequest{ObjectType: in.ObjectType, ObjectId: in.ObjectId,
		Relation: in.Relation, SubjectType: in.SubjectType, SubjectId: in.SubjectId, Trace: in.Trace})
	if err != nil {
		return nil, err
	}
	return &reader.CheckRelationResponse{Check: yes, Trace: trace}, nil
}

// checkKind asks one question about what is a relation, or a permission, of the object's type: of lists those.
func (s *readerService) checkKind(kind string, of func(m *directory.Manifest, typ string) []string, in *reader.CheckRequest) (yes bool, trace []string, err error) {
	d, err := s.directory()
	if err != nil {
		return false, nil, err
	}
	if !slices.Contains(of(d.Manifest(), in.ObjectType), in.Relation) {
		return false, nil, status.Errorf(codes.InvalidArgument, "type %q has no %s %q", in.ObjectType, kind, in.Relation)
	}
	return check(d, in, s.with.Clock())
}

func (s *readerService) GetGraph(_ context.Context, in *reader.GetGraphRequest) (*reader.GetGraphResponse, error) {
	d, err := s.directory()
	if err != nil {
		return nil, err
	}
	found, err := d.Graph(directory.GraphQuery{Object: refOf(in.ObjectType, in.ObjectId), Relation: in.Relation, Subject: refOf(in.SubjectType, in.SubjectId),
		SubjectRelation: in.SubjectRelation, Explain: in.Explain, Trace: in.Trace}, s.with.Clock())
	if err != nil {
		return nil, asStatus(err)
	}
	out := &reader.GetGraphResponse{Trace: found.Trace}
	for _, ref := range found.Results {
		out.Results = append(out.Results, &common.ObjectIdentifier{ObjectType: ref.Type, ObjectId: ref.ID})
	}
	if in.Explain {
		out.Explanation = explanation(found.Explanation)
	}
	return out, nil
}

func explanation(paths map[string][][]string) *structpb.Struct {
	list := func(values []*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: values})
	}
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for name, of := range paths {
		var all []*structpb.Value
		for _, path := range of {
			var steps []*structpb.Value
			for _, step := range path {
				steps = append(steps, structpb.NewStringValue(step))
			}
			all = append(all, list(steps))
		}
		out.Fields[name] = list(all)
	}
	return out
}
