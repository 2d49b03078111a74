package control_test

import (
	"testing"

	"gatehouse/control/api"
)

// TestPush: what is written is in force at every edge, from its first start on, and WaitApplied says so.
func TestPush(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	first := ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{user("alice"), {Type: "group", Id: "eng"}}})
	one := follows(t, s.url(), s.Pin(), t.TempDir(), s.enrollment(prod, "one"))
	two := follows(t, s.url(), s.Pin(), t.TempDir(), s.enrollment(prod, "two"))
	one.has(first.GetRevision())
	two.has(first.GetRevision())
	next := ask(t, c.SetRelations, &api.SetRelationsRequest{Environment: prod, Relations: []*api.Relation{member("eng", "alice")}})
	out := ask(t, c.WaitApplied, &api.WaitAppliedRequest{Environment: prod, Revision: next.GetRevision(), TimeoutMs: 30_000})
	if !out.GetApplied() || len(out.GetEdges()) != 2 {
		t.Fatalf("applied: %v", out)
	}
	one.has(next.GetRevision())
	if n := one.snapshot().Stats().Relations; n != 1 {
		t.Errorf("%d relations at the edge", n)
	}
	if a, b := one.snapshot().Digest(), two.snapshot().Digest(); a != b {
		t.Errorf("digests %s and %s", a, b)
	}
}
