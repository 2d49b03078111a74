package control_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/store"
)

// TestWrites: all or nothing, etags, idempotency keys, sources, and errors that say what to do.
func TestWrites(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	set := func(o *api.WriteOptions, objects ...*api.Object) *api.SetObjectsRequest {
		return &api.SetObjectsRequest{Environment: prod, Objects: objects, Options: o}
	}
	relate := func(r ...*api.Relation) *api.SetRelationsRequest {
		return &api.SetRelationsRequest{Environment: prod, Relations: r}
	}
	first := ask(t, c.SetObjects, set(nil, user("alice"), user("bob"), &api.Object{Type: "group", Id: "eng"}))
	if again := ask(t, c.SetObjects, set(nil, user("alice"))); again.GetRevision() != first.GetRevision() {
		t.Errorf("a write that changes nothing has revision %d", again.GetRevision())
	}
	ask(t, c.SetRelations, relate(member("eng", "alice")))

	refused(t, c.SetRelations, relate(member("eng", "bob"), member("eng", "nobody")), connect.CodeInvalidArgument, "change 2 (set group:eng#member@user:nobody): user:nobody")
	if l := ask(t, c.ListRelations, &api.ListRelationsRequest{Environment: prod}).GetRelations(); len(l) != 1 {
		t.Errorf("half of a refused write is there: %v", l)
	}
	refused(t, c.SetObjects, set(nil, &api.Object{Type: "car", Id: "1"}), connect.CodeInvalidArgument, "unknown type")
	refused(t, c.SetObjects, set(nil), connect.CodeInvalidArgument, "nothing to write")
	refused(t, c.SetObjects, set(nil, make([]*api.Object, store.MaxEdits+1)...), connect.CodeInvalidArgument, "1000 are possible")
	refused(t, c.SetRelations, relate(&api.Relation{ObjectType: "group", ObjectId: "eng", Relation: "member", SubjectType: "user", SubjectId: "bob", ExpiresAt: &timestamppb.Timestamp{Seconds: 5, Nanos: 1}}),
		connect.CodeInvalidArgument, "whole seconds")

	list := ask(t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, Type: "user", Id: "alice"}).GetObjects()
	etag := list[0].GetEtag()
	named := func(name, etag string) *api.Object {
		return &api.Object{Type: "user", Id: "alice", DisplayName: name, Etag: etag, Properties: &structpb.Struct{Fields: map[string]*structpb.Value{"level": structpb.NewNumberValue(3)}}}
	}
	ask(t, c.SetObjects, set(nil, named("Alice", etag)))
	refused(t, c.SetObjects, set(nil, named("Eve", etag)), connect.CodeAborted, "read it again")
	refused(t, c.SetObjects, set(nil, named("Eve", store.NoEtag)), connect.CodeAlreadyExists, "exists already")
	got := ask(t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, Type: "user", Id: "alice"}).GetObjects()[0]
	if got.GetDisplayName() != "Alice" || got.GetProperties().GetFields()["level"].GetNumberValue() != 3 {
		t.Errorf("alice is %v", got)
	}

	key := &api.WriteOptions{IdempotencyKey: "k1"}
	once := ask(t, c.SetObjects, set(key, user("carol")))
	ask(t, c.DeleteObjects, &api.DeleteObjectsRequest{Environment: prod, Objects: []*api.Ref{{Type: "user", Id: "carol"}}})
	if again := ask(t, c.SetObjects, set(key, user("carol"))); again.GetRevision() != once.GetRevision() {
		t.Errorf("the repeated write has revision %d, and had %d", again.GetRevision(), once.GetRevision())
	}
	if l := ask(t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, Id: "carol"}).GetObjects(); len(l) != 0 {
		t.Errorf("the repeated write was made again: %v", l)
	}
	refused(t, c.SetObjects, set(key, user("dave")), connect.CodeInvalidArgument, "new key")

	scim := &api.WriteOptions{Source: "scim"}
	ask(t, c.SetObjects, set(scim, user("erin")))
	refused(t, c.DeleteObjects, &api.DeleteObjectsRequest{Environment: prod, Objects: []*api.Ref{{Type: "user", Id: "erin"}}}, connect.CodeFailedPrecondition, `it is of "scim"`)
	ask(t, c.SetObjects, set(&api.WriteOptions{TakeOver: true}, user("erin")))
	ask(t, c.DeleteObjects, &api.DeleteObjectsRequest{Environment: prod, Objects: []*api.Ref{{Type: "user", Id: "erin"}}})

	changes := ask(t, c.ListChanges, &api.ListChangesRequest{Environment: prod, PageSize: 3}).GetChanges()
	if len(changes) != 3 || changes[0].GetChanges()[0] != "delete user:erin" || changes[0].GetActor() == "" {
		t.Errorf("changes: %v", changes)
	}
	for before, seen := uint64(0), changes[0].GetRevision()+1; ; {
		page := ask(t, c.ListChanges, &api.ListChangesRequest{Environment: prod, BeforeRevision: before, PageSize: 2})
		for _, x := range page.GetChanges() {
			if x.GetRevision() != seen-1 {
				t.Fatalf("revision %d follows %d", x.GetRevision(), seen)
			}
			seen = x.GetRevision()
		}
		if before = page.GetNextBeforeRevision(); before == 0 {
			if seen != 1 {
				t.Errorf("the log ends with revision %d", seen)
			}
			break
		}
	}
}

// TestManifest: orphans are listed and stay, and with force they go, at the edge too.
func TestManifest(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user("alice"), {Type: "group", Id: "eng"}, {Type: "role", Id: "r"}}})
	ask(t, c.SetRelations, &api.SetRelationsRequest{Environment: prod, Relations: []*api.Relation{member("eng", "alice")}})
	e := follows(t, s.url(), s.Pin(), t.TempDir(), s.enrollment(prod, "one"))
	const users = "model: {version: 3}\ntypes:\n  user: {}\n  group:\n    relations:\n      member: user\n"
	was := ask(t, c.GetManifest, &api.GetManifestRequest{Environment: prod})
	q := &api.SetManifestRequest{Environment: prod, Manifest: users, Etag: was.GetEtag()}
	out := ask(t, c.SetManifest, q)
	if out.GetRevision() != 0 || out.GetOrphansTotal() != 1 || out.GetOrphans()[0] != "role:r" {
		t.Fatalf("got %v", out)
	}
	q.Force = true
	out = ask(t, c.SetManifest, q)
	if out.GetRevision() == 0 || out.GetOrphansTotal() != 1 {
		t.Fatalf("got %v", out)
	}
	refused(t, c.SetManifest, q, connect.CodeAborted, "read it again")
	refused(t, c.SetManifest, &api.SetManifestRequest{Environment: prod, Manifest: "types: ["}, connect.CodeInvalidArgument, "not a manifest")
	e.has(out.GetRevision())
	if n := e.snapshot().Stats().Objects; n != 2 {
		t.Errorf("%d objects at the edge", n)
	}
	s.stop()
	serve(t, s.dir, "") // reads what is stored, and compares digests
}

// TestScopes: a token may do what its scopes say, in its environments, as long as it is valid.
func TestScopes(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	ask(t, c.CreateEnvironment, &api.CreateEnvironmentRequest{Name: "shop/dev"})
	refused(t, c.CreateEnvironment, &api.CreateEnvironmentRequest{Name: "shop/dev"}, connect.CodeAlreadyExists, "exists")
	refused(t, c.CreateEnvironment, &api.CreateEnvironmentRequest{Name: "Shop"}, connect.CodeInvalidArgument, "project/environment")
	token := func(scopes ...string) clients {
		return s.with(ask(t, c.CreateToken, &api.CreateTokenRequest{Name: "t", Scopes: scopes}).GetText())
	}
	read, write := token("read:shop/dev"), token("write:shop/dev")
	ask(t, write.SetObjects, &api.SetObjectsRequest{Objects: []*api.Object{user("alice")}}) // its only environment
	ask(t, read.ListObjects, &api.ListObjectsRequest{Environment: "shop/dev"})
	ask(t, write.ListObjects, &api.ListObjectsRequest{Environment: "shop/dev"})
	refused(t, read.SetObjects, &api.SetObjectsRequest{Objects: []*api.Object{user("bob")}}, connect.CodePermissionDenied, "write:shop/dev")
	refused(t, write.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user("bob")}}, connect.CodePermissionDenied, "write:default/prod")
	refused(t, write.ListObjects, &api.ListObjectsRequest{Environment: "no/where"}, connect.CodePermissionDenied, "may not read")
	refused(t, write.CreateToken, &api.CreateTokenRequest{Name: "t", Scopes: []string{"admin"}}, connect.CodePermissionDenied, "admin")
	refused(t, c.CreateToken, &api.CreateTokenRequest{Name: "t", Scopes: []string{"write:no/where"}}, connect.CodeInvalidArgument, "not found")
	refused(t, s.with("ghc_0000000000000000_x").ListObjects, &api.ListObjectsRequest{}, connect.CodeUnauthenticated, "unknown, expired or revoked")
	refused(t, s.with("").ListObjects, &api.ListObjectsRequest{}, connect.CodeUnauthenticated, "token")
	for _, x := range ask(t, c.ListTokens, &api.ListTokensRequest{}).GetTokens() {
		if len(x.GetScopes()) == 1 && x.GetScopes()[0] == "read:shop/dev" {
			ask(t, c.RevokeToken, &api.RevokeTokenRequest{Id: x.GetId()})
		}
	}
	refused(t, read.ListObjects, &api.ListObjectsRequest{}, connect.CodeUnauthenticated, "revoked")
	s.said("a request was refused")
	// Whoever floods control with bad tokens is cut short, and keeps nobody out.
	bad := s.with("ghc_0000000000000000_x")
	await(t, "the flood to be cut short", func() bool {
		_, err := bad.ListObjects(t.Context(), connect.NewRequest(&api.ListObjectsRequest{}))
		return connect.CodeOf(err) == connect.CodeResourceExhausted
	})
	// gRPC, on the same port.
	grpc := s.with(s.admin, connect.WithGRPC())
	if n := len(ask(t, grpc.ListObjects, &api.ListObjectsRequest{Environment: "shop/dev"}).GetObjects()); n != 1 {
		t.Errorf("%d objects by gRPC", n)
	}
}

// TestEnrolment: a token makes one edge, within its time; a revoked edge and an unknown one are refused; each gets its
// own environment alone.
func TestEnrolment(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	ask(t, c.CreateEnvironment, &api.CreateEnvironmentRequest{Name: "shop/dev"})
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user("alice")}})
	other := ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: "shop/dev", Objects: []*api.Object{user("bob")}})

	token := s.enrollment(prod, "one")
	dir := t.TempDir()
	one := follows(t, s.url(), s.Pin(), dir, token)
	one.has(2)
	failing := func(e *edge, text string) {
		t.Helper()
		await(t, "the edge to say "+text, func() bool { return contains(e.Status().Error, text) })
		if e.snapshot() != nil {
			t.Error("it got a directory")
		}
	}
	failing(follows(t, s.url(), s.Pin(), t.TempDir(), token), "was used already")
	failing(follows(t, s.url(), s.Pin(), t.TempDir(), ""), "control.enroll_token_file")
	failing(follows(t, s.url(), s.Pin(), t.TempDir(), "ghe_1"), "no enrolment token")
	failing(follows(t, s.url(), "00"+s.Pin()[2:], t.TempDir(), s.enrollment(prod, "")), "the pin")

	dev := follows(t, s.url(), s.Pin(), t.TempDir(), s.enrollment("shop/dev", "dev"))
	dev.has(other.GetRevision())
	for o := range dev.snapshot().Objects("") {
		if o.ID == "alice" {
			t.Error("an object of another environment")
		}
	}

	// A token made by another control is unknown here, and so is the certificate of its authority.
	elsewhere := serve(t, t.TempDir(), "")
	failing(follows(t, s.url(), s.Pin(), t.TempDir(), elsewhere.enrollment(prod, "")), "unknown")
	foreign := t.TempDir()
	first := follows(t, elsewhere.url(), elsewhere.Pin(), foreign, elsewhere.enrollment(prod, "foreign"))
	first.has(1)
	first.stop()
	forged := follows(t, s.url(), s.Pin(), foreign, "")
	await(t, "the forged certificate to be refused", func() bool { return forged.Status().Error != "not connected yet" })
	s.said("a TLS handshake was refused")
	if forged.snapshot().Revision() != 1 || forged.Status().Connected {
		t.Errorf("a certificate of another authority is accepted: %+v", forged.Status())
	}

	var id string
	for _, e := range ask(t, c.ListEdges, &api.ListEdgesRequest{Environment: prod}).GetEdges() {
		if e.GetName() == "one" {
			id = e.GetId()
			if !e.GetConnected() || e.GetRevision() != 2 || e.GetDegraded()[0] != "bundles: none" || e.GetVersion() != "test" {
				t.Errorf("the table says %v", e)
			}
		}
	}
	ask(t, c.RevokeEdge, &api.RevokeEdgeRequest{Id: id})
	await(t, "the edge to be revoked", func() bool { return contains(one.Status().Error, "revoked") })
	s.said("an edge was refused")
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user("carol")}})
	if one.snapshot().Revision() != 2 {
		t.Error("a revoked edge is served")
	}
	one.stop()
	follows(t, s.url(), s.Pin(), dir, s.enrollment(prod, "again")).has(3) // a new token lets it in again
}

// TestExpired: an enrolment token and a service token end with their time.
func TestExpired(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	d, err := store.Open(t.Context(), store.Config{Dir: dir, Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	e, err := d.CreateEnvironment(t.Context(), "a/b", "test")
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := d.CreateEnrollment(t.Context(), e, "x", time.Minute, "test")
	if err != nil {
		t.Fatal(err)
	}
	_, service, err := d.CreateToken(t.Context(), "x", []string{"admin"}, time.Minute, "test")
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Minute)
	if _, err := d.Enroll(t.Context(), token, []byte("key"), "x", "1", now); !errors.Is(err, store.ErrRefused) || !contains(err.Error(), "expired") {
		t.Errorf("got %v", err)
	}
	if _, err := d.Authenticate(t.Context(), service); !errors.Is(err, store.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// TestOneProcess: a second control on one folder is refused.
func TestOneProcess(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	if _, err := control.New(context.Background(), control.Config{Dir: s.dir, Listen: "127.0.0.1:0"}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("got %v", err)
	}
}
