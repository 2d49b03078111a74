package control_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"gatehouse/bundles/tarball"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/control/policies"
)

const allowAll, denyAll = "package envoy.authz\n\ndefault allow := true\n", "package envoy.authz\n\ndefault allow := false\n"

func packed(t testing.TB, files map[string]string) []byte {
	t.Helper()
	all := map[string][]byte{}
	for name, text := range files {
		all[name] = []byte(text)
	}
	var out bytes.Buffer
	if err := tarball.Pack(&out, all); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (c clients) push(t testing.TB, files map[string]string) *api.Revision {
	t.Helper()
	return ask(t, c.PushRevision, &api.PushRevisionRequest{Project: "default", Bundle: packed(t, files), Message: "why"}).GetRevision()
}

// get asks for a bundle.
func get(ctx context.Context, c http.RoundTripper, url string, header ...string) (status int, tag string, body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := c.RoundTrip(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header.Get("ETag"), body, err
}

// TestRevisions: what is pushed is kept once, signed and named by its files; an environment is moved by whoever knows what it
// is at; all of it is on record, and there after a restart.
func TestRevisions(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, "")
	c := s.with(s.admin)
	one := c.push(t, map[string]string{"authz.rego": denyAll})
	two := c.push(t, map[string]string{"authz.rego": allowAll, "data.json": `{"limit": 3}`})
	again := ask(t, c.PushRevision, &api.PushRevisionRequest{Project: "default", Bundle: packed(t, map[string]string{"authz.rego": denyAll, ".manifest": `{"revision": "mine"}`})})
	if !again.GetExisted() || again.GetRevision().GetArchive() != one.GetArchive() || len(one.GetDigest()) != 64 {
		t.Errorf("the same files again: %v, and before %v", again, one)
	}
	if files, err := os.ReadDir(filepath.Join(dir, policies.Folder)); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	refused(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: one.GetDigest(), Expected: two.GetDigest()}, connect.CodeAborted, "points at nothing")
	refused(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: "0123456789ab"}, connect.CodeNotFound, "not found")
	refused(t, c.Rollback, &api.RollbackRequest{Environment: prod}, connect.CodeInvalidArgument, "nothing was promoted")
	ask(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: one.GetDigest()[:8], Expected: "none", Message: "first"})
	ask(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: two.GetDigest(), Expected: one.GetDigest(), Message: "second"})
	refused(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: one.GetDigest(), Expected: one.GetDigest()}, connect.CodeAborted, two.GetDigest()+": it was changed meanwhile: look at gatehouse control history, and repeat with --expected REVISION")
	if out := ask(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: two.GetDigest()}); out.GetChanged() {
		t.Error("the same promotion counts again")
	}
	back := ask(t, c.Rollback, &api.RollbackRequest{Environment: prod, Message: "back"}).GetPromotion()
	if back.GetRevision().GetDigest() != one.GetDigest() || back.GetPrevious() != two.GetDigest() || back.GetSequence() != 3 {
		t.Errorf("%v", back)
	}
	refused(t, c.Rollback, &api.RollbackRequest{Environment: prod}, connect.CodeInvalidArgument, "had no revision before")
	diff := ask(t, c.DiffRevisions, &api.DiffRevisionsRequest{Project: "default", Before: "prod", After: two.GetDigest()[:12]})
	if len(diff.GetRules()) != 1 || diff.GetRules()[0].GetPath() != "data.envoy.authz.allow" || len(diff.GetData()) != 1 || len(diff.GetFiles()) != 2 {
		t.Errorf("%v", diff)
	}
	admin := s.admin
	s.stop()
	s = serve(t, dir, "")
	c = s.with(admin)
	is := ask(t, c.GetPolicy, &api.GetPolicyRequest{Environment: prod}).GetPromotion()
	if is.GetSequence() != 3 || is.GetAction() != "rollback" || is.GetRevision().GetDigest() != one.GetDigest() {
		t.Errorf("after a restart: %v", is)
	}
	var history, record []string
	for _, p := range ask(t, c.ListPromotions, &api.ListPromotionsRequest{Environment: prod}).GetPromotions() {
		history = append(history, p.GetAction()+" "+p.GetMessage())
	}
	if text := strings.Join(history, ", "); text != "rollback back, promote second, promote first" {
		t.Error(text)
	}
	for _, a := range ask(t, c.ListAudit, &api.ListAuditRequest{}).GetEntries() {
		record = append(record, fmt.Sprint(a.GetAction(), " ", a.GetSubject(), " ", a.GetRefused(), " ", strings.HasPrefix(a.GetActor(), "first admin ("), " ", a.GetPeer() != ""))
	}
	want := "rollback default/prod false true true, promote default/prod false true true, promote default/prod false true true, push default false true true, push default false true true, push default false true true"
	if text := strings.Join(record, ", "); text != want {
		t.Error(text)
	}
	list := ask(t, c.ListRevisions, &api.ListRevisionsRequest{Project: "default", PageSize: 1})
	if r := list.GetRevisions(); len(r) != 1 || r[0].GetDigest() != two.GetDigest() || list.GetNextPageToken() == "" {
		t.Errorf("%v", list)
	}
	list = ask(t, c.ListRevisions, &api.ListRevisionsRequest{Project: "default", PageToken: list.GetNextPageToken()})
	if r := list.GetRevisions(); len(r) != 1 || r[0].GetDigest() != one.GetDigest() || len(r[0].GetEnvironments()) != 1 {
		t.Errorf("%v", list)
	}

	// A file that was damaged is neither served nor promoted.
	file := filepath.Join(dir, policies.Folder, two.GetArchive()+".tar.gz")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: two.GetDigest()}, connect.CodeInternal, "damaged")
}

// TestBadPush: what does not pass is refused with its places, and leaves nothing behind but an entry.
func TestBadPush(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, "")
	c := s.with(s.admin)
	push := func(bundle []byte, tables ...*api.Table) *connect.Request[api.PushRevisionRequest] {
		return connect.NewRequest(&api.PushRevisionRequest{Project: "default", Bundle: bundle, Smoke: tables})
	}
	for name, row := range map[string]struct {
		request *connect.Request[api.PushRevisionRequest]
		want    string
	}{
		"no bundle":       {push([]byte("hello")), "the archive is cut off"},
		"bad manifest":    {push(packed(t, map[string]string{".manifest": "[", "a.rego": allowAll})), ".manifest"},
		"does not parse":  {push(packed(t, map[string]string{"a/b.rego": "package envoy.authz\n\nallow :=\n"})), "a/b.rego:4"},
		"no decision":     {push(packed(t, map[string]string{"a.rego": "package other\n"})), `"envoy/authz/allow" is not defined`},
		"a test fails":    {push(packed(t, map[string]string{"a.rego": denyAll, "a_test.rego": "package t\n\ntest_x if data.envoy.authz.allow\n"})), "a_test.rego:3"},
		"a request fails": {push(packed(t, map[string]string{"a.rego": denyAll}), &api.Table{Name: "s.yaml", Text: []byte("tests:\n  - allow: {GET: /}\n")}), "s.yaml:2"},
		"a delta":         {push(packed(t, map[string]string{"patch.json": `{"data": []}`})), "delta"},
	} {
		_, err := c.PushRevision(t.Context(), row.request)
		about, ok := errors.AsType[*connect.Error](err)
		if !ok || about.Code() != connect.CodeInvalidArgument || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		value, err := about.Details()[0].Value()
		if failed, is := value.(*api.CheckFailure); err != nil || !is || len(failed.GetProblems()) == 0 {
			t.Errorf("%s: %v, %v", name, value, err)
		}
	}
	refused(t, c.PushRevision, &api.PushRevisionRequest{Project: "nobody", Bundle: packed(t, map[string]string{"a.rego": allowAll})}, connect.CodeNotFound, "project")
	if files, err := os.ReadDir(filepath.Join(dir, policies.Folder)); err != nil || len(files) != 0 {
		t.Errorf("%v, %v", files, err)
	}
	if n := len(ask(t, c.ListAudit, &api.ListAuditRequest{}).GetEntries()); n != 7 {
		t.Errorf("%d entries", n)
	}
}

// TestRolesOfPolicies: each scope allows its own, and what is refused is on record.
func TestRolesOfPolicies(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	admin := s.with(s.admin)
	ask(t, admin.CreateEnvironment, &api.CreateEnvironmentRequest{Name: "shop/prod"})
	revision := admin.push(t, map[string]string{"authz.rego": denyAll})
	ask(t, admin.Promote, &api.PromoteRequest{Environment: prod, Revision: revision.GetDigest()})
	token := func(scope string) string {
		return ask(t, admin.CreateToken, &api.CreateTokenRequest{Name: scope, Scopes: []string{scope}}).GetText()
	}
	h := transport(t, s.AuthorityFile(), nil, nil)
	// First, as what one address is refused too often is neither told apart nor recorded any more.
	refused(t, s.with(token("push:default")).Promote, &api.PromoteRequest{Environment: prod, Revision: revision.GetDigest()}, connect.CodePermissionDenied, "promote:default/prod")
	found := false
	for _, a := range ask(t, admin.ListAudit, &api.ListAuditRequest{}).GetEntries() {
		found = found || a.GetRefused() && a.GetAction() == "promote" && strings.HasPrefix(a.GetActor(), "push:default (")
	}
	if !found {
		t.Error("a refused promotion is not on record")
	}
	if status, _, _, err := get(t.Context(), h, s.url()+"/bundles/"+prod); err != nil || status != http.StatusForbidden {
		t.Errorf("fetching without anything: %d, %v", status, err)
	}
	if status, _, _, err := get(t.Context(), h, s.url()+"/bundles/"+prod, "Authorization", "Bearer ghc_no"); err != nil || status != http.StatusUnauthorized {
		t.Errorf("fetching with a bad token: %d, %v", status, err)
	}
	for scope, may := range map[string]struct{ push, promote, list, fetch bool }{
		"push:default":         {true, false, true, false},
		"promote:default/prod": {false, true, true, true},
		"read:default/prod":    {false, false, true, true},
		"write:default/prod":   {}, // who writes the directory has to do with that alone
		"audit:default/prod":   {},
		"push:shop":            {},
		"promote:shop/prod":    {},
		"read:shop/prod":       {},
	} {
		text := token(scope)
		c := s.with(text)
		check := func(what string, want bool, err error) {
			t.Helper()
			if (err == nil) != want || err != nil && connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("%s with %s: %v", what, scope, err)
			}
		}
		_, err := c.PushRevision(t.Context(), connect.NewRequest(&api.PushRevisionRequest{Project: "default", Bundle: packed(t, map[string]string{"authz.rego": denyAll})}))
		check("push", may.push, err)
		_, err = c.Promote(t.Context(), connect.NewRequest(&api.PromoteRequest{Environment: prod, Revision: revision.GetDigest()}))
		check("promote", may.promote, err)
		_, err = c.ListRevisions(t.Context(), connect.NewRequest(&api.ListRevisionsRequest{Project: "default"}))
		check("list", may.list, err)
		_, err = c.ListAudit(t.Context(), connect.NewRequest(&api.ListAuditRequest{}))
		check("the audit log", false, err)
		_, err = c.GetPolicy(t.Context(), connect.NewRequest(&api.GetPolicyRequest{Environment: prod}))
		check("the policy of an environment", may.list, err)
		_, err = c.ListPromotions(t.Context(), connect.NewRequest(&api.ListPromotionsRequest{Environment: prod}))
		check("its history", may.list, err)
		status, _, _, err := get(t.Context(), h, s.url()+"/bundles/"+prod, "Authorization", "Bearer "+text)
		if err != nil || (status == http.StatusOK) != may.fetch || !may.fetch && status != http.StatusForbidden {
			t.Errorf("fetching with %s: %d, %v", scope, status, err)
		}
	}
}

// TestBundleProtocol: an edge fetches its own environment's bundle and no other one; a request is held until there is
// something newer; a revoked edge gets nothing, even if its request was held when that happened.
func TestBundleProtocol(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	ask(t, c.CreateEnvironment, &api.CreateEnvironmentRequest{Name: "shop/prod"})
	one, two := c.push(t, map[string]string{"authz.rego": denyAll}), c.push(t, map[string]string{"authz.rego": allowAll})
	h, id := certified(t, s, "e")
	if status, _, body, err := get(t.Context(), h, s.url()+"/bundles/own"); err != nil || status != http.StatusNotFound || !strings.Contains(string(body), "nothing is promoted in default/prod yet") {
		t.Errorf("before anything is promoted: %d, %s, %v", status, body, err)
	}
	ask(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: one.GetDigest()})
	status, tag, body, err := get(t.Context(), h, s.url()+"/bundles/own")
	if err != nil || status != http.StatusOK || tag != `"`+one.GetArchive()+`"` {
		t.Fatalf("%d, %s, %v", status, tag, err)
	}
	if files, _, err := tarball.Unpack("b", bytes.NewReader(body), policies.Limits()); err != nil || files[".signatures.json"] == nil || !strings.Contains(string(files[".manifest"]), one.GetDigest()[:12]) {
		t.Errorf("%v, %v", files, err)
	}
	if status, _, body, err := get(t.Context(), h, s.url()+"/bundles/"+prod, "If-None-Match", tag); err != nil || status != http.StatusNotModified || len(body) > 0 {
		t.Errorf("with its ETag: %d, %d bytes, %v", status, len(body), err)
	}
	for _, other := range []string{"shop/prod", "no/where"} {
		if status, _, _, err := get(t.Context(), h, s.url()+"/bundles/"+other); err != nil || status != http.StatusForbidden {
			t.Errorf("%s: %d, %v", other, status, err)
		}
	}
	recorded := ask(t, c.ListAudit, &api.ListAuditRequest{PageSize: 1}).GetEntries()
	if len(recorded) != 1 || !recorded[0].GetRefused() || recorded[0].GetAction() != "fetch" || !strings.Contains(recorded[0].GetActor(), id) {
		t.Errorf("%v", recorded)
	}
	type held struct {
		status int
		tag    string
		err    error
	}
	hold := func(tag string) <-chan held {
		out := make(chan held, 1)
		go func() {
			status, tag, _, err := get(t.Context(), h, s.url()+"/bundles/own", "If-None-Match", tag, "Prefer", "modes=snapshot,delta;wait=60")
			out <- held{status, tag, err}
		}()
		return out
	}
	waiting := hold(tag)
	await(t, "the request to be held", func() bool { return s.Held() == 1 })
	ask(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: two.GetDigest()})
	if got := <-waiting; got.err != nil || got.status != http.StatusOK || got.tag != `"`+two.GetArchive()+`"` {
		t.Errorf("held: %+v", got)
	}
	waiting = hold(`"` + two.GetArchive() + `"`)
	await(t, "the request to be held", func() bool { return s.Held() == 1 })
	ask(t, c.RevokeEdge, &api.RevokeEdgeRequest{Id: id})
	ask(t, c.Promote, &api.PromoteRequest{Environment: prod, Revision: one.GetDigest()})
	if got := <-waiting; got.err != nil || got.status != http.StatusForbidden {
		t.Errorf("revoked while it was held: %+v", got)
	}
}

// certified is a client with an edge's certificate, and the edge's id.
func certified(t *testing.T, s *served, name string) (*http.Transport, string) {
	t.Helper()
	key, der := signingRequest(t)
	stranger := api.NewEdgeServiceClient(&http.Client{Transport: transport(t, s.AuthorityFile(), nil, nil)}, s.url())
	got, err := stranger.Enroll(t.Context(), connect.NewRequest(&api.EnrollRequest{Token: s.enrollment(prod, name), Request: der, Name: name, Version: "v"}))
	if err != nil {
		t.Fatal(err)
	}
	return transport(t, s.AuthorityFile(), &tls.Certificate{Certificate: [][]byte{got.Msg.GetCertificate()}, PrivateKey: key}, nil), got.Msg.GetEdge()
}

// TestEdgeOfBefore: an edge that does not say whether it takes the policy, as one of an older version, is waited for.
func TestEdgeOfBefore(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	follows(t, s.url(), s.Pin(), t.TempDir(), s.enrollment(prod, "old"))
	await(t, "the edge to be waited for", func() bool {
		return len(ask(t, s.with(s.admin).GetPolicy, &api.GetPolicyRequest{Environment: prod}).GetEdges()) == 1
	})
}

// TestEdgeByName: an edge is named by its id, or by a name that no other edge has.
func TestEdgeByName(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	k, err := cli.Connect(cli.Access{URL: s.url(), CA: s.AuthorityFile(), Token: s.admin})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	_, one := certified(t, s, "web-1")
	_, two := certified(t, s, "web-2")
	for name, want := range map[string]string{"web-1": one, one: one, "web-2": two, "nobody": "nobody"} {
		if id, err := k.EdgeID(t.Context(), name); err != nil || id != want {
			t.Errorf("%s is %s, %v; want %s", name, id, err, want)
		}
	}
	_, again := certified(t, s, "web-1")
	if id, err := k.EdgeID(t.Context(), "web-1"); err == nil || !strings.Contains(err.Error(), "2 edges are called web-1: give the id of one: ") {
		t.Errorf("%s, %v", id, err)
	}
	ask(t, s.with(s.admin).RevokeEdge, &api.RevokeEdgeRequest{Id: one})
	if id, err := k.EdgeID(t.Context(), "web-1"); err != nil || id != again {
		t.Errorf("with the other one revoked: %s, %v", id, err)
	}
	// What an enrolment prints names both of what may come from control.
	var notes strings.Builder
	if err := cli.HandOut(io.Discard, &notes, &api.CreateEnrollmentResponse{Token: "x"}, s.url(), "", false); err != nil || !strings.Contains(notes.String(), "directory: # or policy.bundles: [{control: true}], or both\n  control: true\n") {
		t.Errorf("%v, %s", err, notes.String())
	}
}
