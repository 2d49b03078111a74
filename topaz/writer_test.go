package topaz_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/topaz/pb/common"
	"gatehouse/topaz/pb/exporter"
	"gatehouse/topaz/pb/importer"
	"gatehouse/topaz/pb/model"
	"gatehouse/topaz/pb/reader"
	"gatehouse/topaz/pb/writer"
)

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func setObject(typ, id, etag string) *writer.SetObjectRequest {
	return &writer.SetObjectRequest{Object: &common.Object{Type: typ, Id: id, Etag: etag}}
}

func setRelation(text string) *writer.SetRelationRequest {
	return &writer.SetRelationRequest{Relation: relation(text)}
}

func deleteRelation(text string) *writer.DeleteRelationRequest {
	x := relation(text)
	return &writer.DeleteRelationRequest{ObjectType: x.ObjectType, ObjectId: x.ObjectId, Relation: x.Relation, SubjectType: x.SubjectType, SubjectId: x.SubjectId, SubjectRelation: x.SubjectRelation}
}

// newWritable is a service that owns its directory, which begins with some people.
func newWritable(t *testing.T) *service {
	s := newService(t, "writable: true, file: people", "")
	s.people(somePeople...)
	return s.start()
}

// TestWriter writes one thing after the other, and asks each time.
func TestWriter(t *testing.T) {
	s := newWritable(t)
	ctx, w, r := s.as("writer"), s.writer(), s.reader()
	reads := func(subject string) bool {
		t.Helper()
		got, err := r.Check(ctx, ask("doc:2", "can_read", subject))
		if err != nil {
			t.Fatal(err)
		}
		return got.Check
	}
	properties, err := structpb.NewStruct(map[string]any{"b": 1, "a": []any{"x", true, nil}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := w.SetObject(ctx, &writer.SetObjectRequest{Object: &common.Object{Type: "user", Id: "zoe", DisplayName: "Zoë", Properties: properties}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.GetObject(ctx, &reader.GetObjectRequest{ObjectType: "user", ObjectId: "zoe"})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "zoe", got.Result, set.Result)
	equal(t, "zoe", got.Result, &common.Object{Type: "user", Id: "zoe", DisplayName: "Zoë", Properties: properties}, "etag")
	if reads("user:zoe") {
		t.Fatal("zoe reads already")
	}
	for range 2 { // again it is the same
		if x, err := w.SetRelation(ctx, setRelation("doc:2#editor@user:zoe")); err != nil || x.Result.Etag == "" || !reads("user:zoe") {
			t.Fatalf("%v, %v", x, err)
		}
	}
	for range 2 {
		if _, err := w.DeleteRelation(ctx, deleteRelation("doc:2#editor@user:zoe")); err != nil || reads("user:zoe") {
			t.Fatal(err)
		}
	}
	// A client that sets a relation that expires does not make it last for ever.
	if _, err := w.SetRelation(ctx, setRelation("doc:2#viewer@user:bob")); err != nil || !reads("user:bob") {
		t.Fatal(err)
	}
	if _, err := w.SetRelation(ctx, setRelation("doc:2#viewer@user:eve")); err != nil || !reads("user:eve") { // that had expired
		t.Fatal(err)
	}
	_, err = w.DeleteObject(ctx, &writer.DeleteObjectRequest{ObjectType: "user", ObjectId: "ann"})
	s.is("ann has relations", err, codes.InvalidArgument, "with_relations")
	if _, err := w.DeleteObject(ctx, &writer.DeleteObjectRequest{ObjectType: "user", ObjectId: "ann", WithRelations: true}); err != nil || reads("user:ann") {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.DeleteObject(ctx, &writer.DeleteObjectRequest{ObjectType: "user", ObjectId: "zoe"}); err != nil {
			t.Fatal(err)
		}
	}
	s.stop()
	s.start() // another process finds all of it
	if reads("user:ann") || !reads("user:eve") {
		t.Error("after a restart it is another directory")
	}
	for name, test := range map[string]struct {
		write  func() error
		code   codes.Code
		saying string
	}{
		"unknown type":      {func() error { _, err := w.SetObject(ctx, setObject("dog", "1", "")); return err }, codes.InvalidArgument, "dog"},
		"everyone":          {func() error { _, err := w.SetObject(ctx, setObject("user", "*", "")); return err }, codes.InvalidArgument, `"*"`},
		"no id":             {func() error { _, err := w.SetObject(ctx, setObject("user", "", "")); return err }, codes.InvalidArgument, "give type and id"},
		"nothing":           {func() error { _, err := w.SetObject(ctx, &writer.SetObjectRequest{}); return err }, codes.InvalidArgument, "give type and id"},
		"long id":           {func() error { _, err := w.SetObject(ctx, setObject("user", strings.Repeat("x", 2000), "")); return err }, codes.InvalidArgument, "1024"},
		"control character": {func() error { _, err := w.SetObject(ctx, setObject("user", "a\nb", "")); return err }, codes.InvalidArgument, "control"},
		"unknown relation":  {func() error { _, err := w.SetRelation(ctx, setRelation("doc:1#x@user:bob")); return err }, codes.InvalidArgument, "x"},
		"not allowed":       {func() error { _, err := w.SetRelation(ctx, setRelation("doc:1#editor@user:*")); return err }, codes.InvalidArgument, "manifest"},
		"no such subject":   {func() error { _, err := w.SetRelation(ctx, setRelation("doc:1#editor@user:ghost")); return err }, codes.NotFound, "user:ghost"},
		"no such object":    {func() error { _, err := w.SetRelation(ctx, setRelation("doc:x#editor@user:bob")); return err }, codes.NotFound, "doc:x"},
		"half a relation":   {func() error { _, err := w.SetRelation(ctx, setRelation("doc:x#editor@user:")); return err }, codes.InvalidArgument, "subject_id"},
		"no relation":       {func() error { _, err := w.DeleteRelation(ctx, &writer.DeleteRelationRequest{}); return err }, codes.InvalidArgument, "subject_id"},
		"no object":         {func() error { _, err := w.DeleteObject(ctx, &writer.DeleteObjectRequest{}); return err }, codes.InvalidArgument, "give both"},
		"unknown to delete": {func() error { _, err := w.DeleteRelation(ctx, deleteRelation("dog:1#x@user:bob")); return err }, codes.InvalidArgument, "dog"},
		"a reader's key":    {func() error { _, err := w.SetObject(s.as("reader"), setObject("user", "x", "")); return err }, codes.PermissionDenied, "scope write"},
		"act-as is another": {func() error { _, err := w.SetObject(s.as("app"), setObject("user", "x", "")); return err }, codes.PermissionDenied, "scope write"},
		"large properties": {func() error {
			p, _ := structpb.NewStruct(map[string]any{"x": strings.Repeat("x", 300<<10)})
			_, err := w.SetObject(ctx, &writer.SetObjectRequest{Object: &common.Object{Type: "user", Id: "x", Properties: p}})
			return err
		}, codes.InvalidArgument, "properties"},
	} {
		w, r = s.writer(), s.reader()
		s.is(name, test.write(), test.code, test.saying)
	}
}

// TestEtags: a write that names another etag than what is there has is refused, as Topaz refuses it.
func TestEtags(t *testing.T) {
	s := newWritable(t)
	w, r := s.writer(), s.reader()
	ctx := s.as("writer")
	one, err := r.GetObject(ctx, &reader.GetObjectRequest{ObjectType: "user", ObjectId: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	first := one.Result.Etag
	change := func(name, etag string, headers ...string) error {
		_, err := w.SetObject(s.as("writer", headers...), &writer.SetObjectRequest{Object: &common.Object{Type: "user", Id: "ann", DisplayName: name, Etag: etag}})
		return err
	}
	s.is("the etag that is", change("A", first), 0, "")
	s.is("the one before", change("B", first), codes.FailedPrecondition, "user:ann")
	s.is("the one before, by header", change("B", "", "if-match", first), codes.FailedPrecondition, "user:ann")
	s.is("none", change("C", ""), 0, "")
	_, err = w.SetObject(ctx, setObject("user", "new", first))
	s.is("what is not there is added", err, 0, "")
	_, err = w.DeleteObject(s.as("writer", "if-match", first), &writer.DeleteObjectRequest{ObjectType: "user", ObjectId: "ann", WithRelations: true})
	s.is("deleting with the one before", err, codes.FailedPrecondition, "user:ann")
	_, err = w.DeleteRelation(s.as("writer", "if-match", first), deleteRelation("group:eng#member@user:ann"))
	s.is("deleting a relation with another's", err, codes.FailedPrecondition, "group:eng")
	_, err = w.SetRelation(s.as("writer", "if-match", first), setRelation("group:eng#member@user:ann"))
	s.is("setting a relation with another's", err, codes.FailedPrecondition, "group:eng")
	x, err := w.SetRelation(ctx, setRelation("group:eng#member@user:ann"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.DeleteRelation(s.as("writer", "if-match", x.Result.Etag), deleteRelation("group:eng#member@user:ann"))
	s.is("deleting a relation with its own", err, 0, "")
}

// TestManifest gets, sets and deletes the manifest.
func TestManifest(t *testing.T) {
	s := newWritable(t)
	m := s.model()
	get := func(headers ...string) (etag, text string) {
		t.Helper()
		parts, err := all(m.GetManifest(s.as("reader", headers...), &model.GetManifestRequest{}))
		if err != nil || len(parts) == 0 || parts[0].GetMetadata() == nil {
			t.Fatalf("%v, %v", parts, err)
		}
		for _, p := range parts[1:] {
			if len(p.GetBody().GetData()) > 64<<10 {
				t.Errorf("a part of %d bytes", len(p.GetBody().Data))
			}
			text += string(p.GetBody().GetData())
		}
		return parts[0].GetMetadata().Etag, text
	}
	set := func(text string, headers ...string) error {
		stream, err := m.SetManifest(s.as("writer", headers...))
		if err != nil {
			return err
		}
		for len(text) > 0 {
			n := min(len(text), 64<<10)
			if stream.Send(&model.SetManifestRequest{Msg: &model.SetManifestRequest_Body{Body: &model.Body{Data: []byte(text[:n])}}}) != nil {
				break // the answer says why
			}
			text = text[n:]
		}
		_, err = stream.CloseAndRecv()
		return err
	}
	etag, text := get()
	if text != manifest || etag == "" {
		t.Fatalf("%q: %s", etag, text)
	}
	if again, body := get("if-none-match", etag); again != etag || body != "" {
		t.Errorf("what the client has: %q, %q", again, body)
	}
	if _, body := get("if-none-match", "other"); body != manifest {
		t.Errorf("what the client does not have: %q", body)
	}
	large := manifest + strings.Repeat("# a long comment\n", 10_000)
	s.is("a large one", set(large, "if-match", etag), 0, "")
	if now, text := get(); text != large || now == etag {
		t.Errorf("%d bytes, %q", len(text), now)
	}
	s.is("a stale etag", set(manifest, "if-match", etag), codes.FailedPrecondition, "etag")
	s.is("no manifest", set("x: y"), codes.InvalidArgument, "manifest")
	s.is("a wrong one", set(strings.Replace(manifest, "parent->owner", "parent->nobody", 1)), codes.InvalidArgument, "manifest:")
	s.is("too large", set(strings.Repeat("#\n", 1<<20)), codes.InvalidArgument, "more than")
	s.is("nothing", set(""), codes.InvalidArgument, "manifest")
	small := strings.Replace(manifest, "      editor: user\n", "", 1)
	small = strings.Replace(small, "viewer | editor", "viewer", 1)
	s.is("one that orphans", set(small), codes.InvalidArgument, "doc:2#editor@user:ann")
	s.is("force that is none", set(small, "gatehouse-force", "yes"), codes.InvalidArgument, "gatehouse-force")
	s.is("with force", set(small, "gatehouse-force", "true"), 0, "")
	if _, err := s.reader().Check(s.as("reader"), ask("doc:2", "editor", "user:ann")); err == nil {
		t.Error("editor is still there")
	}
	_, err := m.DeleteManifest(s.as("writer"), &model.DeleteManifestRequest{})
	s.is("deleting what data needs", err, codes.InvalidArgument, "doc")
	_, err = m.DeleteManifest(s.as("writer", "gatehouse-force", "true"), &model.DeleteManifestRequest{})
	s.is("deleting by force", err, 0, "")
	if _, text := get(); !strings.Contains(text, "resource") {
		t.Errorf("the default is %s", text)
	}
	stream, err := m.SetManifest(s.as("reader"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.CloseAndRecv()
	s.is("a reader's key", err, codes.PermissionDenied, "scope write")
	_, err = m.DeleteManifest(s.as("app"), &model.DeleteManifestRequest{})
	s.is("another key", err, codes.PermissionDenied, "scope write")
}

// imported sends messages and gives the statuses and the last counters.
func (s *service) imported(key string, in ...*importer.ImportRequest) (statuses []*importer.ImportStatus, last *importer.ImportResponse, err error) {
	s.Helper()
	stream, err := s.importer().Import(s.as(key))
	if err != nil {
		s.Fatal(err)
	}
	sent := make(chan struct{})
	go func() { // goroutine: of a test, which a panic may end
		defer close(sent)
		for _, m := range in {
			if stream.Send(m) != nil {
				return // what is received says why
			}
		}
		_ = stream.CloseSend()
	}()
	defer func() { <-sent }()
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return statuses, last, nil
		}
		if err != nil {
			return statuses, last, err
		}
		if out.GetStatus() != nil {
			statuses = append(statuses, out.GetStatus())
		}
		last = out
	}
}

func object(op importer.Opcode, name string) *importer.ImportRequest {
	typ, id, _ := strings.Cut(name, ":")
	return &importer.ImportRequest{OpCode: op, Msg: &importer.ImportRequest_Object{Object: &common.Object{Type: typ, Id: id, Etag: "another system's"}}}
}

func related(op importer.Opcode, text string) *importer.ImportRequest {
	return &importer.ImportRequest{OpCode: op, Msg: &importer.ImportRequest_Relation{Relation: relation(text)}}
}

const (
	set  = importer.Opcode_OPCODE_SET
	del  = importer.Opcode_OPCODE_DELETE
	with = importer.Opcode_OPCODE_DELETE_WITH_RELATIONS
)

// TestImporter imports good and bad changes mixed: the good ones are made, each bad one is told.
func TestImporter(t *testing.T) {
	s := newWritable(t)
	in := []*importer.ImportRequest{
		object(set, "user:zoe"), related(set, "doc:2#editor@user:zoe"), object(set, "user:yan"), related(set, "doc:2#viewer@user:bob"),
		object(set, "dog:1"), related(set, "doc:2#editor@user:ghost"), object(0, "user:x"), related(with, "doc:2#editor@user:zoe"), {OpCode: set}, object(set, "user:"),
		object(del, "user:zoe"), related(del, "doc:2#editor@user:zoe"), object(del, "user:zoe"), object(with, "user:ann"), object(del, "user:nobody"), object(set, "user:*"),
	}
	statuses, last, err := s.imported("writer", in...)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "counters", last, &importer.ImportResponse{Object: &importer.ImportCounter{Recv: 11, Set: 2, Delete: 3, Error: 6, Type: "object"},
		Relation: &importer.ImportCounter{Recv: 5, Set: 2, Delete: 1, Error: 2, Type: "relation"}})
	said := map[string]bool{}
	for _, is := range statuses {
		said[codes.Code(is.Code).String()+" "+is.Msg] = true
		if is.Req == nil {
			t.Errorf("%v", is)
		}
	}
	if len(statuses) != 8 {
		t.Errorf("%d statuses: %v", len(statuses), said)
	}
	for _, want := range []string{"dog", "user:ghost", "op_code", "neither", "give type and id", "user:zoe has relations", `"*"`} {
		found := false
		for text := range said {
			found = found || strings.Contains(text, want)
		}
		if !found {
			t.Errorf("nothing says %q: %v", want, said)
		}
	}
	var names []string
	out, err := s.reader().GetObjects(s.as("reader"), &reader.GetObjectsRequest{ObjectType: "user"})
	for _, o := range out.GetResults() {
		names = append(names, o.Id)
	}
	if got := strings.Join(names, " "); err != nil || len(names) != 3 || strings.Contains(got, "zoe") || strings.Contains(got, "ann") {
		t.Errorf("users are %s, %v", got, err)
	}

	in = nil
	for i := range 2500 { // more than two batches
		in = append(in, object(set, fmt.Sprintf("user:%d", i)), related(set, fmt.Sprintf("group:eng#member@user:%d", i)))
	}
	if _, last, err = s.imported("writer", in...); err != nil || last.Object.Set != 2500 || last.Relation.Set != 2500 {
		t.Errorf("%v, %v", last, err)
	}
	if _, last, err = s.imported("writer"); err != nil || last.Object.Recv != 0 {
		t.Errorf("nothing: %v, %v", last, err)
	}
	_, _, err = s.imported("reader", in...)
	s.is("a reader's key", err, codes.PermissionDenied, "scope write")
	s.stop()
	if raw := s.start(); raw != nil {
		stats, err := all(s.exporter().Export(s.as("reader"), &exporter.ExportRequest{Options: uint32(exporter.Option_OPTION_STATS)}))
		if err != nil || stats[0].GetStats().AsMap()["objects"] != 2500.0+3+2+1+3 {
			t.Errorf("after a restart: %v, %v", stats, err)
		}
	}
}

// TestReadOnly: a node that reads its directory refuses to change it, with a code that Aserto's SDKs show.
func TestReadOnly(t *testing.T) {
	s := newService(t, "file: people", "")
	s.people(somePeople...)
	s.start()
	_, err := s.writer().SetObject(s.as("writer"), setObject("user", "x", ""))
	s.is("SetObject", err, codes.Unimplemented, "directory.file")
	_, err = s.writer().DeleteRelation(s.as("writer"), deleteRelation("group:eng#member@user:ann"))
	s.is("DeleteRelation", err, codes.Unimplemented, "directory.writable")
	_, err = s.model().DeleteManifest(s.as("writer"), &model.DeleteManifestRequest{})
	s.is("DeleteManifest", err, codes.Unimplemented, "directory.file")
	_, _, err = s.imported("writer", object(set, "user:x"))
	s.is("Import", err, codes.Unimplemented, "directory.file")
}

// TestImportAfterItsKey: a stream that is open does not write when its key is there no more.
func TestImportAfterItsKey(t *testing.T) {
	s := newWritable(t)
	before := string(mustRead(t, filepath.Join(s.dir, "keys.yaml")))
	s.newKey("leaver", "write")
	await := func(want codes.Code) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
			_, err := s.writer().SetObject(s.as("leaver"), &writer.SetObjectRequest{Object: &common.Object{Type: "user", Id: "here"}})
			if status.Code(err) == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%v, want %v", err, want)
			}
		}
	}
	await(codes.OK)
	stream, err := s.importer().Import(s.as("leaver"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(object(set, "user:early")); err != nil {
		t.Fatal(err)
	}
	s.write("keys.yaml", before)
	await(codes.Unauthenticated)
	if err := stream.Send(object(set, "user:late")); err != nil {
		t.Fatal(err)
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	if _, err := s.reader().GetObject(s.as("reader"), &reader.GetObjectRequest{ObjectType: "user", ObjectId: "late"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}
