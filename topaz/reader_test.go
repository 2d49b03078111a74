package topaz_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/topaz/pb/common"
	"gatehouse/topaz/pb/reader"
)

var somePeople = []string{
	`{"type":"user","id":"ann","display_name":"Ann","properties":{"age":7}}`, "user:bob", "user:eve", "group:eng", "group:all", "folder:f", "doc:1", "doc:2", "doc:public",
	"group:eng#member@user:ann", "group:all#member@group:eng#member", "folder:f#owner@user:bob", "doc:1#parent@folder:f", "doc:1#viewer@group:all#member",
	"doc:2#editor@user:ann", "doc:public#viewer@user:*", "doc:2#viewer@user:eve until 2001-01-01T00:00:00Z", "doc:2#viewer@user:bob until 2999-01-01T00:00:00Z",
}

func ask(object, relation, subject string) *reader.CheckRequest {
	objectType, objectID, _ := strings.Cut(object, ":")
	subjectType, subjectID, _ := strings.Cut(subject, ":")
	return &reader.CheckRequest{ObjectType: objectType, ObjectId: objectID, Relation: relation, SubjectType: subjectType, SubjectId: subjectID}
}

func relation(text string) *common.Relation {
	object, rest, _ := strings.Cut(text, "#")
	name, rest, _ := strings.Cut(rest, "@")
	subject, set, _ := strings.Cut(rest, "#")
	q := ask(object, name, subject)
	return &common.Relation{ObjectType: q.ObjectType, ObjectId: q.ObjectId, Relation: name, SubjectType: q.SubjectType, SubjectId: q.SubjectId, SubjectRelation: set}
}

// TestChecks puts questions by Check, Checks, CheckPermission and CheckRelation.
func TestChecks(t *testing.T) {
	s := newService(t, "file: people, limits: {depth: 20}", "")
	s.people(append(somePeople, "group:a", "group:b", "group:a#member@group:b#member", "group:b#member@group:a#member")...)
	s.start()
	ctx, r := s.as("reader"), s.reader()
	var every reader.ChecksRequest
	var want []bool
	for _, test := range []struct {
		object, relation, subject string
		yes                       bool
		code                      codes.Code
		saying                    string
	}{
		{"doc:1", "can_read", "user:ann", true, 0, ""},    // through two groups
		{"doc:1", "can_read", "user:bob", true, 0, ""},    // the folder's owner
		{"doc:1", "can_read", "user:eve", false, 0, ""},   // nothing
		{"doc:1", "can_read", "user:ghost", false, 0, ""}, // nobody
		{"doc:9", "can_read", "user:ann", false, 0, ""},
		{"doc:1", "viewer", "user:ann", true, 0, ""},
		{"doc:1", "editor", "user:ann", false, 0, ""},
		{"doc:public", "can_read", "user:eve", true, 0, ""}, // everyone
		{"doc:public", "can_read", "user:ghost", true, 0, ""},
		{"doc:2", "can_read", "user:eve", false, 0, ""}, // until 2001
		{"doc:2", "can_read", "user:bob", true, 0, ""},  // until 2999
		{"group:a", "member", "user:ann", false, 0, ""}, // a circle
		{"doc:1", "can_fly", "user:ann", false, codes.InvalidArgument, "can_fly"},
		{"dog:1", "can_read", "user:ann", false, codes.InvalidArgument, "dog"},
		{"doc:1", "can_read", "robot:r", false, codes.InvalidArgument, "robot"},
		{"doc:", "can_read", "user:ann", false, codes.InvalidArgument, "give object_type"},
		{"doc:1", "", "user:ann", false, codes.InvalidArgument, "give object_type"},
		{"doc:1", "can_read", "user:", false, codes.InvalidArgument, "give object_type"},
	} {
		q := ask(test.object, test.relation, test.subject)
		what := test.object + "#" + test.relation + "@" + test.subject
		got, err := r.Check(ctx, q)
		s.is(what, err, test.code, test.saying)
		if got.GetCheck() != test.yes {
			t.Errorf("%s: %v", what, got)
		}
		traced := ask(test.object, test.relation, test.subject)
		traced.Trace = true
		if got, err := r.Check(ctx, traced); err == nil && (got.Check != test.yes || len(got.Trace) == 0) {
			t.Errorf("%s, traced: %v", what, got)
		}
		one, err := r.Checks(ctx, &reader.ChecksRequest{Default: ask(test.object, "", test.subject), Checks: []*reader.CheckRequest{{Relation: test.relation}}})
		if status.Code(err) != test.code || err == nil && one.Checks[0].Check != test.yes || err != nil && !strings.HasPrefix(status.Convert(err).Message(), "checks[0]: ") {
			t.Errorf("%s by default: %v, %v", what, one, err)
		}
		if test.code == 0 {
			every.Checks, want = append(every.Checks, q), append(want, test.yes)
		}
		p, perr := r.CheckPermission(ctx, &reader.CheckPermissionRequest{ObjectType: q.ObjectType, ObjectId: q.ObjectId, Permission: q.Relation, SubjectType: q.SubjectType, SubjectId: q.SubjectId})
		l, lerr := r.CheckRelation(ctx, &reader.CheckRelationRequest{ObjectType: q.ObjectType, ObjectId: q.ObjectId, Relation: q.Relation, SubjectType: q.SubjectType, SubjectId: q.SubjectId})
		permission := test.relation == "can_read"
		switch {
		case test.code != 0 && (status.Code(perr) != codes.InvalidArgument || status.Code(lerr) != codes.InvalidArgument):
			t.Errorf("%s: %v, %v", what, perr, lerr)
		case test.code == 0 && permission && (p.GetCheck() != test.yes || perr != nil || status.Code(lerr) != codes.InvalidArgument):
			t.Errorf("%s: %v, %v, %v", what, p, perr, lerr)
		case test.code == 0 && !permission && (l.GetCheck() != test.yes || lerr != nil || status.Code(perr) != codes.InvalidArgument):
			t.Errorf("%s: %v, %v, %v", what, l, lerr, perr)
		}
	}
	got, err := r.Checks(ctx, &every)
	if err != nil || len(got.Checks) != len(want) {
		t.Fatalf("%v, %v", got, err)
	}
	for i, c := range got.Checks {
		if c.Check != want[i] {
			t.Errorf("checks[%d]: %v", i, c.Check)
		}
	}
	if got, err := r.Checks(ctx, &reader.ChecksRequest{}); err != nil || len(got.Checks) != 0 {
		t.Errorf("no checks: %v, %v", got, err)
	}
	_, err = r.Checks(ctx, &reader.ChecksRequest{Checks: slices.Repeat(every.Checks[:1], 1001)})
	s.is("1001 checks", err, codes.InvalidArgument, "more than 1000")
}

// TestBeyondLimits: a question that takes too much is an error, not a no.
func TestBeyondLimits(t *testing.T) {
	s := newService(t, "file: people, limits: {depth: 3}", "")
	lines := []string{"user:ann", "group:0", "group:0#member@user:ann", "doc:1"}
	for i := range 8 {
		lines = append(lines, fmt.Sprintf("group:%d", i+1), fmt.Sprintf("group:%d#member@group:%d#member", i+1, i))
	}
	s.people(append(lines, "doc:1#viewer@group:8#member")...)
	s.start()
	_, err := s.reader().Check(s.as("reader"), ask("doc:1", "can_read", "user:ann"))
	s.is("8 groups", err, codes.ResourceExhausted, "directory.limits")
}

// TestObjects reads objects: one, several, by type, with relations.
func TestObjects(t *testing.T) {
	s := newService(t, "file: people", "")
	s.people(somePeople...)
	s.start()
	ctx, r := s.as("reader"), s.reader()
	age, err := structpb.NewStruct(map[string]any{"age": 7})
	if err != nil {
		t.Fatal(err)
	}
	ann := &common.Object{Type: "user", Id: "ann", DisplayName: "Ann", Properties: age}
	for _, test := range []struct {
		typ, id string
		code    codes.Code
		saying  string
	}{{"user", "ann", 0, ""}, {"user", "Ann", codes.NotFound, "user:Ann"}, {"dog", "ann", codes.NotFound, "dog:ann"}, {"user", "*", codes.NotFound, ""}, {"", "ann", codes.InvalidArgument, "give both"}, {"user", "", codes.InvalidArgument, "give both"}} {
		got, err := r.GetObject(ctx, &reader.GetObjectRequest{ObjectType: test.typ, ObjectId: test.id})
		s.is(test.typ+":"+test.id, err, test.code, test.saying)
		if err == nil {
			equal(t, "ann", got, &reader.GetObjectResponse{Result: ann}, "etag")
			again, err := r.GetObject(ctx, &reader.GetObjectRequest{ObjectType: test.typ, ObjectId: test.id})
			if err != nil || got.Result.Etag == "" || got.Result.Etag != again.Result.Etag {
				t.Errorf("etag %q, then %q", got.Result.Etag, again.GetResult().GetEtag())
			}
		}
	}
	got, err := r.GetObject(ctx, &reader.GetObjectRequest{ObjectType: "doc", ObjectId: "2", WithRelations: true})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "with relations, of which one has expired", got, &reader.GetObjectResponse{Result: &common.Object{Type: "doc", Id: "2"},
		Relations: []*common.Relation{relation("doc:2#viewer@user:bob"), relation("doc:2#editor@user:ann")}}, "etag")

	many, err := r.GetObjectMany(ctx, &reader.GetObjectManyRequest{Param: []*common.ObjectIdentifier{{ObjectType: "user", ObjectId: "ann"}, {ObjectType: "doc", ObjectId: "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "two", many, &reader.GetObjectManyResponse{Results: []*common.Object{ann, {Type: "doc", Id: "1"}}}, "etag")
	for _, test := range []struct {
		param  []*common.ObjectIdentifier
		code   codes.Code
		saying string
	}{
		{nil, 0, ""},
		{[]*common.ObjectIdentifier{{ObjectType: "user", ObjectId: "ann"}, {ObjectType: "doc", ObjectId: "x"}}, codes.NotFound, "doc:x"},
		{[]*common.ObjectIdentifier{{}}, codes.InvalidArgument, "give both"},
		{slices.Repeat([]*common.ObjectIdentifier{{ObjectType: "user", ObjectId: "ann"}}, 1001), codes.InvalidArgument, "more than 1000"},
	} {
		_, err := r.GetObjectMany(ctx, &reader.GetObjectManyRequest{Param: test.param})
		s.is(fmt.Sprint(len(test.param), " objects"), err, test.code, test.saying)
	}
	for typ, want := range map[string]int{"user": 3, "doc": 3, "": 9, "dog": 0, "identity": 0} {
		got, err := r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: typ})
		if err != nil || len(got.Results) != want || got.Page.GetNextToken() != "" {
			t.Errorf("objects of %q: %v, %v", typ, got, err)
		}
	}
}

// TestRelations reads relations: one, and by each part of it.
func TestRelations(t *testing.T) {
	s := newService(t, "file: people", "")
	s.people(somePeople...)
	s.start()
	ctx, r := s.as("reader"), s.reader()
	for _, test := range []struct {
		relation string
		code     codes.Code
		saying   string
	}{
		{"doc:1#viewer@group:all#member", 0, ""},
		{"doc:1#viewer@group:all", codes.NotFound, "doc:1#viewer@group:all"},
		{"doc:public#viewer@user:*", 0, ""},
		{"doc:2#viewer@user:bob", 0, ""},
		{"doc:2#viewer@user:eve", codes.NotFound, ""}, // expired
		{"dog:1#viewer@user:eve", codes.NotFound, ""},
		{"doc:1#viewer@user:", codes.InvalidArgument, "subject_id"},
		{"doc:#viewer@user:eve", codes.InvalidArgument, "object_id"},
	} {
		x := relation(test.relation)
		got, err := r.GetRelation(ctx, &reader.GetRelationRequest{ObjectType: x.ObjectType, ObjectId: x.ObjectId, Relation: x.Relation, SubjectType: x.SubjectType,
			SubjectId: x.SubjectId, SubjectRelation: x.SubjectRelation, WithObjects: true})
		s.is(test.relation, err, test.code, test.saying)
		if err != nil {
			continue
		}
		equal(t, test.relation, got.Result, x, "etag")
		object, subject := x.ObjectType+":"+x.ObjectId, x.SubjectType+":"+x.SubjectId
		if got.Result.Etag == "" || got.Objects[object].GetId() != x.ObjectId || x.SubjectId != "*" && got.Objects[subject].GetId() != x.SubjectId {
			t.Errorf("%s: %v", test.relation, got)
		}
	}
	for _, test := range []struct {
		in   *reader.GetRelationsRequest
		want int
	}{
		{&reader.GetRelationsRequest{}, 8},
		{&reader.GetRelationsRequest{ObjectType: "doc"}, 5},
		{&reader.GetRelationsRequest{ObjectType: "doc", ObjectId: "1"}, 2},
		{&reader.GetRelationsRequest{ObjectId: "1"}, 2},
		{&reader.GetRelationsRequest{Relation: "viewer"}, 3},
		{&reader.GetRelationsRequest{SubjectType: "user"}, 5},
		{&reader.GetRelationsRequest{SubjectType: "user", SubjectId: "ann"}, 2},
		{&reader.GetRelationsRequest{SubjectType: "user", SubjectId: "*"}, 1},
		{&reader.GetRelationsRequest{SubjectType: "group", SubjectRelation: "member"}, 2},
		{&reader.GetRelationsRequest{SubjectType: "group", WithEmptySubjectRelation: true}, 0},
		{&reader.GetRelationsRequest{ObjectType: "dog"}, 0},
		{&reader.GetRelationsRequest{ObjectType: "doc", Relation: "member"}, 0},
	} {
		got, err := r.GetRelations(ctx, test.in)
		if err != nil || len(got.Results) != test.want {
			t.Errorf("%v: %v, %v", test.in, got, err)
		}
	}
	got, err := r.GetRelations(ctx, &reader.GetRelationsRequest{ObjectType: "doc", ObjectId: "1", WithObjects: true})
	if err != nil || len(got.Objects) != 3 || got.Objects["folder:f"].GetId() != "f" || got.Objects["group:all"].GetId() != "all" {
		t.Errorf("with objects: %v, %v", got, err)
	}
}

// TestPages goes through listings by pages, and gives tokens that are none.
func TestPages(t *testing.T) {
	s := newService(t, "writable: true", "")
	var objects []string
	for i := range 250 {
		objects = append(objects, fmt.Sprintf("user:%d", i))
	}
	for i := range 250 {
		objects = append(objects, fmt.Sprintf("group:eng#member@user:%d", i))
	}
	s.write("gatehouse.yaml", strings.Replace(string(mustRead(t, s.dir+"/gatehouse.yaml")), "writable: true", "writable: true, file: people", 1))
	s.people(append(objects, "group:eng", "group:other")...)
	s.start()
	ctx, r := s.as("reader"), s.reader()
	for _, test := range []struct {
		size  int32
		pages int
	}{{0, 3}, {-1, 3}, {100, 3}, {101, 3}, {1 << 30, 3}, {250, 3}, {99, 3}, {50, 5}, {7, 36}} {
		for what, page := range map[string]func(*common.PaginationRequest) (int, *common.PaginationResponse, error){
			"objects": func(p *common.PaginationRequest) (int, *common.PaginationResponse, error) {
				out, err := r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: "user", Page: p})
				return len(out.GetResults()), out.GetPage(), err
			},
			"relations": func(p *common.PaginationRequest) (int, *common.PaginationResponse, error) {
				out, err := r.GetRelations(ctx, &reader.GetRelationsRequest{ObjectType: "group", ObjectId: "eng", Page: p})
				return len(out.GetResults()), out.GetPage(), err
			},
			"an object's": func(p *common.PaginationRequest) (int, *common.PaginationResponse, error) {
				out, err := r.GetObject(ctx, &reader.GetObjectRequest{ObjectType: "group", ObjectId: "eng", WithRelations: true, Page: p})
				return len(out.GetRelations()), out.GetPage(), err
			},
		} {
			total, pages := 0, 0
			for p := (&common.PaginationRequest{Size: test.size}); ; {
				n, next, err := page(p)
				if err != nil {
					t.Fatalf("%s by %d: %v", what, test.size, err)
				}
				total, pages, p.Token = total+n, pages+1, next.GetNextToken()
				if p.Token == "" || pages > 100 {
					break
				}
			}
			if total != 250 || pages != test.pages {
				t.Errorf("%s by %d: %d on %d pages, want %d", what, test.size, total, pages, test.pages)
			}
		}
	}
	first, err := r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: "user"})
	if err != nil {
		t.Fatal(err)
	}
	good := first.Page.NextToken
	at, mark, _ := strings.Cut(good, "-")
	for token, want := range map[string]codes.Code{
		good: 0, "zzzzz.0-" + mark: 0 /* a place that is there, or not, in what the key may read anyway */, "1z141z3.3w5e11264sgsf-" + mark: 0,
		at: codes.InvalidArgument, "x": codes.InvalidArgument, "100": codes.InvalidArgument, "-1.0-" + mark: codes.InvalidArgument, "zzzzzzzz.0-" + mark: codes.InvalidArgument,
		at + "-" + mark + "0": codes.InvalidArgument, at + "-0123456789abcdef" + mark[16:]: codes.Aborted, strings.Repeat("9", 100_000): codes.InvalidArgument, "\x00-": codes.InvalidArgument,
	} {
		if _, err := r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: "user", Page: &common.PaginationRequest{Token: token}}); status.Code(err) != want {
			t.Errorf("%.40q: %v, want %v", token, err, want)
		}
	}
	_, err = r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: "group", Page: &common.PaginationRequest{Token: good}})
	s.is("another type's token", err, codes.InvalidArgument, "another request")
	_, err = r.GetRelations(ctx, &reader.GetRelationsRequest{Page: &common.PaginationRequest{Token: good}})
	s.is("another method's token", err, codes.InvalidArgument, "another request")
	if _, err := s.writer().SetObject(s.as("writer"), setObject("user", "new", "")); err != nil {
		t.Fatal(err)
	}
	_, err = r.GetObjects(ctx, &reader.GetObjectsRequest{ObjectType: "user", Page: &common.PaginationRequest{Token: good}})
	s.is("a token of what was", err, codes.Aborted, "begin again")
}

// TestGraph lists subjects and objects.
func TestGraph(t *testing.T) {
	s := newService(t, "file: people", "")
	s.people(somePeople...)
	s.start()
	ctx := s.as("reader")
	for _, test := range []struct {
		in     *reader.GetGraphRequest
		want   string
		code   codes.Code
		saying string
	}{
		{&reader.GetGraphRequest{ObjectType: "doc", ObjectId: "1", Relation: "can_read", SubjectType: "user"}, "user:ann user:bob", 0, ""},
		{&reader.GetGraphRequest{ObjectType: "doc", Relation: "can_read", SubjectType: "user", SubjectId: "ann"}, "doc:1 doc:2 doc:public", 0, ""},
		{&reader.GetGraphRequest{ObjectType: "doc", ObjectId: "2", Relation: "can_read", SubjectType: "user"}, "user:ann user:bob", 0, ""},
		{&reader.GetGraphRequest{ObjectType: "doc", ObjectId: "1", Relation: "viewer", SubjectType: "group", SubjectRelation: "member"}, "group:all group:eng", 0, ""},
		{&reader.GetGraphRequest{ObjectType: "doc", ObjectId: "public", Relation: "viewer", SubjectType: "user"}, "user:*", 0, ""},
		{&reader.GetGraphRequest{ObjectType: "doc", ObjectId: "x", Relation: "viewer", SubjectType: "user"}, "", 0, ""},
		{&reader.GetGraphRequest{ObjectType: "doc", Relation: "can_read", SubjectType: "user"}, "", codes.InvalidArgument, "one of"},
		{&reader.GetGraphRequest{ObjectType: "dog", ObjectId: "1", Relation: "can_read", SubjectType: "user"}, "", codes.InvalidArgument, "dog"},
		{&reader.GetGraphRequest{ObjectType: "doc", ObjectId: "1", Relation: "x", SubjectType: "user"}, "", codes.InvalidArgument, "x"},
		{&reader.GetGraphRequest{}, "", codes.InvalidArgument, ""},
	} {
		got, err := s.reader().GetGraph(ctx, test.in)
		s.is(test.in.String(), err, test.code, test.saying)
		var names []string
		for _, o := range got.GetResults() {
			names = append(names, o.ObjectType+":"+o.ObjectId)
		}
		if strings.Join(names, " ") != test.want {
			t.Errorf("%v: %v", test.in, names)
		}
	}
	got, err := s.reader().GetGraph(ctx, &reader.GetGraphRequest{ObjectType: "doc", ObjectId: "1", Relation: "can_read", SubjectType: "user", Explain: true, Trace: true})
	if err != nil || len(got.Trace) != 2 || len(got.Explanation.AsMap()) != 2 || !strings.Contains(fmt.Sprint(got.Explanation.AsMap()["user:ann"]), "group:eng#member@user:ann") {
		t.Errorf("explained: %v, %v", got, err)
	}
}
