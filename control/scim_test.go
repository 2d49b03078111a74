package control_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/control/api"
)

// provider is an identity provider that pushes to control.
type provider struct {
	t     testing.TB
	base  string
	token string
	http  *http.Client
}

func (s *served) provider(name string, scopes ...string) *provider {
	s.t.Helper()
	if scopes == nil {
		scopes = []string{"scim:" + prod}
	}
	token := ask(s.t, s.with(s.admin).CreateToken, &api.CreateTokenRequest{Name: name, Scopes: scopes}).GetText()
	return &provider{s.t, s.url() + "/scim/v2/" + prod, token, &http.Client{Transport: transport(s.t, s.AuthorityFile(), nil, nil)}}
}

// do makes a request, and returns status and body.
func (p *provider) do(method, path, body string, headers ...string) (int, map[string]any) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.base+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+p.token)
	r.Header.Set("Content-Type", "application/scim+json")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := p.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	var out map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			p.t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return a.StatusCode, out
}

// ok makes a request that must be answered with a status.
func (p *provider) ok(status int, method, path, body string, headers ...string) map[string]any {
	p.t.Helper()
	got, out := p.do(method, path, body, headers...)
	if got != status {
		p.t.Fatalf("%s %s %s: %d, not %d: %v", method, path, body, got, status, out)
	}
	return out
}

// refused makes a request that must be refused with a status, and a text in its detail.
func (p *provider) refused(status int, text, method, path, body string, headers ...string) {
	p.t.Helper()
	out := p.ok(status, method, path, body, headers...)
	detail, _ := out["detail"].(string)
	if !strings.Contains(detail, text) || out["status"] != fmt.Sprint(status) {
		p.t.Errorf("%s %s: %v; want %q", method, path, out, text)
	}
}

func (p *provider) user(name, more string) string {
	p.t.Helper()
	out := p.ok(201, "POST", "/Users", fmt.Sprintf(`{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":%q%s}`, name, more))
	return out["id"].(string)
}

func (p *provider) group(name string, members ...string) string {
	p.t.Helper()
	list := []map[string]string{}
	for _, m := range members {
		list = append(list, map[string]string{"value": m})
	}
	text, _ := json.Marshal(list)
	out := p.ok(201, "POST", "/Groups", fmt.Sprintf(`{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"],"displayName":%q,"members":%s}`, name, text))
	return out["id"].(string)
}

// patch makes a PATCH of operations.
func (p *provider) patch(path, operations string) map[string]any {
	p.t.Helper()
	return p.ok(200, "PATCH", path, patchOf(operations))
}

func patchOf(operations string) string {
	return `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[` + operations + `]}`
}

// content is everything in the directory, as text: objects with display name, properties and source; relations.
func (s *served) content() (list []string) {
	s.t.Helper()
	c := s.with(s.admin)
	for _, o := range ask(s.t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, PageSize: 1000}).GetObjects() {
		line := fmt.Sprintf("%s:%s (%s)", o.GetType(), o.GetId(), o.GetSource())
		if o.GetDisplayName() != "" {
			line += " " + o.GetDisplayName()
		}
		if o.GetProperties() != nil {
			text, _ := protojson.Marshal(o.GetProperties())
			var plain bytes.Buffer
			_ = json.Compact(&plain, text)
			line += " " + plain.String()
		}
		list = append(list, line)
	}
	for _, r := range ask(s.t, c.ListRelations, &api.ListRelationsRequest{Environment: prod, PageSize: 1000}).GetRelations() {
		line := fmt.Sprintf("%s:%s#%s@%s:%s", r.GetObjectType(), r.GetObjectId(), r.GetRelation(), r.GetSubjectType(), r.GetSubjectId())
		if r.GetSubjectRelation() != "" {
			line += "#" + r.GetSubjectRelation()
		}
		list = append(list, line)
	}
	return list
}

func (s *served) has(want ...string) {
	s.t.Helper()
	got := s.content()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.t.Errorf("the directory has\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// hasPart compares what the provider says of a user.
func (s *served) hasPart(id, want string) {
	s.t.Helper()
	for _, line := range s.content() {
		if strings.HasPrefix(line, "user:"+id+" ") && !strings.HasSuffix(line, `{"scim":`+want+`}`) {
			s.t.Errorf("the user is %s, not %s", line, want)
		}
	}
}

// TestScimLife is a user's life: made, changed, put into groups, disabled, enabled, deleted; and its trace in the directory.
func TestScimLife(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	p := s.provider("okta")
	ann := p.user("Ann@example.com", `,"externalId":"00u1","name":{"givenName":"Ann","familyName":"Lee"},"emails":[{"value":"ann.lee@example.com","type":"work","primary":"True"}],
		"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"department":"sales","manager":"m1"},"password":"s3cret","unheard":1`)
	eng := p.group("eng", ann)
	all := p.group("all")
	p.patch("/Groups/"+all, `{"op":"add","path":"members","value":[{"value":"`+eng+`"}]}`)
	part := `"department":"sales","email":"ann.lee@example.com","external_id":"00u1","first_name":"Ann","last_name":"Lee","manager":"m1","user_name":"Ann@example.com"`
	rest := []string{
		"identity:00u1 (scim:okta)", "identity:Ann@example.com (scim:okta)", "identity:ann.lee@example.com (scim:okta)", "identity:ann@example.com (scim:okta)",
		"identity:00u1#identifier@user:Ann@example.com", "identity:Ann@example.com#identifier@user:Ann@example.com",
		"identity:ann.lee@example.com#identifier@user:Ann@example.com", "identity:ann@example.com#identifier@user:Ann@example.com",
		"group:eng (scim:okta) eng", "group:all (scim:okta) all", "group:eng#member@user:Ann@example.com", "group:all#member@group:eng#member",
	}
	s.has(append([]string{`user:Ann@example.com (scim:okta) Ann Lee {"scim":{` + part + `}}`}, rest...)...)

	got := p.ok(200, "GET", "/Users/"+ann, "")
	if got["password"] != nil || got["unheard"] != nil || got["active"] != true || len(got["groups"].([]any)) != 1 {
		t.Errorf("the user is %v", got)
	}
	p.patch("/Users/"+ann, `{"op":"Replace","path":"active","value":"False"}`) // as Entra sends it
	s.has(append([]string{`user:Ann@example.com (scim:okta) Ann Lee {"scim":{` + strings.Replace(part, `"email"`, `"disabled":true,"email"`, 1) + `}}`}, rest...)...)
	p.ok(200, "PUT", "/Users/"+ann, `{"userName":"Ann@example.com","displayName":"Ann Lee"}`) // who does not say so enables nobody
	p.patch("/Users/"+ann, `{"op":"remove","path":"active"}`)
	s.hasPart("Ann@example.com", `{"disabled":true,"user_name":"Ann@example.com"}`)
	p.ok(200, "PUT", "/Users/"+ann, `{"userName":"Ann@example.com","externalId":"00u1","name":{"givenName":"Ann","familyName":"Lee"},"emails":[{"value":"ann.lee@example.com"}],
		"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"department":"sales","manager":"m1"}}`)
	p.patch("/Users/"+ann, `{"op":"replace","value":{"active":true}}`) // as Okta sends it
	s.has(append([]string{`user:Ann@example.com (scim:okta) Ann Lee {"scim":{` + part + `}}`}, rest...)...)

	changes := ask(t, s.with(s.admin).ListChanges, &api.ListChangesRequest{Environment: prod, PageSize: 2}).GetChanges()
	if c := changes[0]; c.GetSource() != "scim:okta" || !strings.HasPrefix(c.GetActor(), "okta (") || !slices.Equal(c.GetChanges(), []string{"set user:Ann@example.com"}) {
		t.Errorf("on record is %v", c)
	}

	// What the application says about her goes with her: nothing of a user who is gone stays.
	c := s.with(s.admin)
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{{Type: "role", Id: "boss"}}})
	ask(t, c.SetRelations, &api.SetRelationsRequest{Environment: prod, Relations: []*api.Relation{{ObjectType: "role", ObjectId: "boss", Relation: "member", SubjectType: "user", SubjectId: "Ann@example.com"}}})
	p.ok(204, "DELETE", "/Users/"+ann, "")
	s.has("role:boss (api)", "group:eng (scim:okta) eng", "group:all (scim:okta) all", "group:all#member@group:eng#member")
	p.refused(404, "User", "GET", "/Users/"+ann, "")
	p.refused(404, "User", "DELETE", "/Users/"+ann, "")
	if g := p.ok(200, "GET", "/Groups/"+eng, ""); g["members"] != nil {
		t.Errorf("the group is %v", g)
	}
	p.ok(204, "DELETE", "/Groups/"+all, "")
	p.ok(204, "DELETE", "/Groups/"+eng, "")
	s.has("role:boss (api)")
}

// TestScimParts: what the provider and the application say of a user stand beside each other; neither erases the other's, and
// above all the application cannot enable whom the provider disabled.
func TestScimParts(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	p := s.provider("okta")
	c := s.with(s.admin)
	ann := p.user("ann", `,"displayName":"Ann","active":false`)
	set := func(o *api.WriteOptions, name string, properties map[string]any) *api.SetObjectsRequest {
		of, err := structpb.NewStruct(properties)
		if err != nil {
			t.Fatal(err)
		}
		return &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{{Type: "user", Id: "ann", DisplayName: name, Properties: of}}, Options: o}
	}
	rest := []string{"identity:ann (scim:okta)", "identity:ann#identifier@user:ann"}
	has := func(properties string) {
		t.Helper()
		s.has(append(rest, "user:ann (scim:okta) Ann "+properties)...)
	}
	const disabled = `"scim":{"disabled":true,"user_name":"ann"}`
	has("{" + disabled + "}")
	ask(t, c.SetObjects, set(nil, "", nil))
	has("{" + disabled + "}")
	ask(t, c.SetObjects, set(nil, "Eve", map[string]any{"level": 3, "scim": map[string]any{"disabled": false}}))
	has(`{"level":3,` + disabled + "}")
	ask(t, c.SetObjects, set(&api.WriteOptions{TakeOver: true}, "", map[string]any{"level": 4, "scim": nil}))
	has(`{"level":4,` + disabled + "}")
	refused(t, c.SetObjects, set(&api.WriteOptions{Source: "crm"}, "", nil), connect.CodeFailedPrecondition, `its properties are of "api"`)
	refused(t, c.SetObjects, set(&api.WriteOptions{Source: "scim:okta"}, "", nil), connect.CodeInvalidArgument, "SCIM server alone")
	gone := &api.DeleteObjectsRequest{Environment: prod, Objects: []*api.Ref{{Type: "user", Id: "ann"}}}
	refused(t, c.DeleteObjects, gone, connect.CodeFailedPrecondition, "delete or deactivate him there")
	gone.Options = &api.WriteOptions{TakeOver: true}
	refused(t, c.DeleteObjects, gone, connect.CodeFailedPrecondition, "delete or deactivate him there")

	p.patch("/Users/"+ann, `{"op":"replace","path":"title","value":"CEO"},{"op":"replace","path":"active","value":true}`)
	has(`{"level":4,"scim":{"title":"CEO","user_name":"ann"}}`)
	ask(t, c.SetObjects, set(nil, "", map[string]any{"disabled": true})) // the application's own
	p.patch("/Users/"+ann, `{"op":"replace","path":"active","value":true}`)
	has(`{"disabled":true,"scim":{"title":"CEO","user_name":"ann"}}`)

	s.stop() // the same after a restart
	s = serve(t, s.dir, "")
	_, err := s.with(p.token).SetObjects(t.Context(), connect.NewRequest(set(nil, "", nil)))
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a provider's token writes through the API: %v", err)
	}
}

// TestScimLink: a user whom the application wrote is linked only where that is said; deleted at the provider, he stays, disabled.
func TestScimLink(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{{Type: "user", Id: "ann", DisplayName: "A.", Properties: &structpb.Struct{Fields: map[string]*structpb.Value{"level": structpb.NewNumberValue(3)}}},
		{Type: "group", Id: "eng"}, {Type: "identity", Id: "bob"}}})
	plain := s.provider("okta")
	plain.refused(409, `"api"`, "POST", "/Users", `{"userName":"ann"}`)
	plain.refused(409, "not linked by its name", "POST", "/Groups", `{"displayName":"eng"}`)
	plain.refused(409, `identity:bob is of source "api"`, "POST", "/Users", `{"userName":"bob"}`)
	s.has(`user:ann (api) A. {"level":3}`, "group:eng (api)", "identity:bob (api)")

	p := s.provider("entra", "scim:"+prod, "scim-link:"+prod)
	p.refused(409, "not linked by its name", "POST", "/Groups", `{"displayName":"eng"}`)
	ann := p.user("ann", `,"displayName":"Ann"`)
	p.group("ops", ann)
	rest := []string{"group:eng (api)", "identity:bob (api)", "group:ops (scim:entra) ops"}
	s.has(append(rest, `user:ann (api) Ann {"level":3,"scim":{"user_name":"ann"}}`, "identity:ann (scim:entra)", "identity:ann#identifier@user:ann", "group:ops#member@user:ann")...)
	plain.refused(409, "userName", "POST", "/Users", `{"userName":"ANN"}`)
	plain.refused(404, "User", "GET", "/Users/"+ann, "")
	plain.patch("/Groups/"+plain.group("mine"), `{"op":"add","path":"members","value":[{"value":"`+ann+`"},{"value":"nobody"}]}`) // not theirs: passed over
	if l := plain.ok(200, "GET", "/Users", ""); l["totalResults"] != 0.0 {
		t.Errorf("another provider's users are listed: %v", l)
	}
	rest = append(rest, "group:mine (scim:okta) mine")
	p.ok(204, "DELETE", "/Users/"+ann, "")
	s.has(append(rest, `user:ann (api) Ann {"level":3,"scim":{"deleted":true,"disabled":true}}`)...)
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{{Type: "user", Id: "ann"}}})
	s.has(append(rest, `user:ann (api) {"scim":{"deleted":true,"disabled":true}}`)...)
	p.user("ann", "") // comes back
	s.has(append(rest, `user:ann (api) ann {"scim":{"user_name":"ann"}}`, "identity:ann (scim:entra)", "identity:ann#identifier@user:ann")...)
}

// TestScimIdentities: an identity names whose it is; of two users it names both, and so lets in neither; a userName is its
// user's alone; what another source wrote is left as it is.
func TestScimIdentities(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	p := s.provider("okta")
	identities := func(want ...string) {
		t.Helper()
		var got []string
		for _, line := range s.content() {
			if name, is := strings.CutPrefix(line, "identity:"); is && strings.Contains(line, "#") {
				got = append(got, strings.Replace(name, "#identifier@user:", " ", 1))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("identities are %q, not %q", got, want)
		}
	}
	ann := p.user("ann", `,"emails":[{"value":"x@example.com"}]`)
	bob := p.user("bob", `,"emails":[{"value":"x@example.com"},{"value":"ann"}]`)
	identities("ann ann", "bob bob", "x@example.com ann", "x@example.com bob")
	p.patch("/Users/"+bob, `{"op":"remove","path":"emails[value eq \"x@example.com\"]"}`)
	identities("ann ann", "bob bob", "x@example.com ann")
	p.patch("/Users/"+ann, `{"op":"replace","path":"userName","value":"anna"}`) // her object stays; her old name is bob's e-mail
	identities("anna ann", "ann bob", "bob bob", "x@example.com ann")
	p.refused(409, "had it before", "POST", "/Users", `{"userName":"ann"}`)
	p.refused(409, "exists", "PATCH", "/Users/"+bob, patchOf(`{"op":"replace","path":"userName","value":"ANNA"}`))
	p.ok(204, "DELETE", "/Users/"+ann, "")
	identities("ann bob", "bob bob")

	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{{Type: "identity", Id: "c@example.com"}, {Type: "user", Id: "carol"}}})
	ask(t, c.SetRelations, &api.SetRelationsRequest{Environment: prod, Relations: []*api.Relation{{ObjectType: "identity", ObjectId: "c@example.com", Relation: "identifier", SubjectType: "user", SubjectId: "carol"}}})
	dan := p.user("dan", `,"emails":[{"value":"c@example.com"}]`)
	identities("ann bob", "bob bob", "c@example.com carol", "dan dan")
	p.ok(204, "DELETE", "/Users/"+dan, "")
	identities("ann bob", "bob bob", "c@example.com carol")
}

// TestScimForeignIdentities: what one provider's user is known by, another provider can neither take nor share, also while he is deactivated.
func TestScimForeignIdentities(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	okta, second := s.provider("okta"), s.provider("second")
	ann := okta.user("ann", `,"externalId":"oid-ann","emails":[{"value":"ann@corp.com"}]`)
	okta.patch("/Users/"+ann, `{"op":"Replace","path":"active","value":"False"}`)
	before := s.content()
	for _, name := range []string{"ann@corp.com", "oid-ann", "ann"} {
		second.refused(409, "", "POST", "/Users", `{"userName":"`+name+`"}`)
	}
	if now := s.content(); !slices.Equal(before, now) {
		t.Errorf("the directory was %q and is %q", before, now)
	}
	second.user("eve", `,"emails":[{"value":"ann@corp.com"}]`)
	now := s.content()
	if slices.Contains(now, "identity:ann@corp.com#identifier@user:eve") || !slices.Contains(now, "identity:ann@corp.com#identifier@user:ann") {
		t.Errorf("another provider's user shares the address: %q", now)
	}
}

// TestScimDeactivation: every way of saying that a user is not active counts, or is refused.
func TestScimDeactivation(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	p := s.provider("okta")
	const core = "urn:ietf:params:scim:schemas:core:2.0:User"
	for i, operations := range []string{
		`{"op":"replace","value":{"` + core + `":{"active":false}}}`,
		`{"op":"replace","path":"active","value":false},{"op":"remove","path":"active"}`,
		`{"op":"replace","path":"active","value":false},{"op":"replace","path":"active","value":null}`,
		`{"op":"replace","value":{"active":false}},{"op":"replace","value":{"active":null}}`,
	} {
		name := fmt.Sprint("u", i)
		p.patch("/Users/"+p.user(name, ""), operations)
		s.hasPart(name, `{"disabled":true,"user_name":"`+name+`"}`)
	}
	last := p.user("last", "")
	for _, operation := range []string{`{"op":"replace","value":{"active.value":false}}`, `{"op":"replace","value":{" active":false}}`, `{"op":"replace","value":{"` + core + `":{"active.x":false}}}`} {
		p.refused(400, "", "PATCH", "/Users/"+last, patchOf(operation))
	}
	p.refused(400, "attributes stand in the resource", "PUT", "/Users/"+last, `{"userName":"last","`+core+`":{"active":false}}`)
}

// TestScimGroups: a group follows what the provider says of it, in one write; a membership that another source wrote is an error.
func TestScimGroups(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	c := s.with(s.admin)
	p := s.provider("okta")
	ann, bob := p.user("ann", ""), p.user("bob", "")
	eng := p.group("eng", ann)
	members := func(want ...string) {
		t.Helper()
		var got []string
		for _, line := range s.content() {
			if name, is := strings.CutPrefix(line, "group:eng#member@user:"); is {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("members are %q, not %q", got, want)
		}
	}
	members("ann")
	p.patch("/Groups/"+eng, `{"op":"Add","path":"members","value":[{"value":"`+bob+`"}]},{"op":"Remove","path":"members","value":[{"value":"`+ann+`"}]}`) // as Entra sends it
	members("bob")
	p.patch("/Groups/"+eng, `{"op":"replace","path":"members","value":[{"value":"`+ann+`"},{"value":"`+bob+`"}]}`)
	members("ann", "bob")
	p.patch("/Groups/"+eng, `{"op":"remove","path":"members[value eq \"`+ann+`\" or type eq \"Group\"]"}`)
	members("bob")
	if l := p.ok(200, "GET", `/Groups?filter=members.value+eq+"`+bob+`"&excludedAttributes=members`, ""); l["totalResults"] != 1.0 {
		t.Errorf("groups of bob: %v", l)
	}
	p.ok(200, "PUT", "/Groups/"+eng, `{"displayName":"engineers","members":[{"value":"`+ann+`"}]}`)
	members("ann")
	p.patch("/Groups/"+eng, `{"op":"replace","value":{"id":"`+eng+`","displayName":"Engineers"}}`) // as Okta renames
	if o := ask(t, c.ListObjects, &api.ListObjectsRequest{Environment: prod, Type: "group", Id: "eng"}).GetObjects(); len(o) != 1 || o[0].GetDisplayName() != "Engineers" {
		t.Errorf("the group is %v", o)
	}
	p.refused(409, "had it before", "POST", "/Groups", `{"displayName":"eng"}`)
	p.patch("/Groups/"+eng, `{"op":"remove","path":"members"}`)
	members()

	ask(t, c.SetRelations, &api.SetRelationsRequest{Environment: prod, Relations: []*api.Relation{member("eng", "ann")}})
	was := p.ok(200, "GET", "/Groups/"+eng, "")
	p.refused(409, `"api"`, "PATCH", "/Groups/"+eng, patchOf(`{"op":"add","path":"members","value":[{"value":"`+bob+`"},{"value":"`+ann+`"}]},{"op":"replace","path":"displayName","value":"E"}`))
	members("ann") // nothing of it
	if now := p.ok(200, "GET", "/Groups/"+eng, ""); fmt.Sprint(now) != fmt.Sprint(was) {
		t.Errorf("half of a refused PATCH is there: %v, before %v", now, was)
	}
}

// TestScimManyMembers: a group of more members than one write has is written whole, or not at all.
func TestScimManyMembers(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	p := s.provider("okta")
	const users = 120
	var ids []string
	for first := 0; first < users; first += users {
		var operations []string
		for i := first; i < first+users; i++ {
			operations = append(operations, fmt.Sprintf(`{"method":"POST","path":"/Users","bulkId":"u%d","data":{"userName":"user%d"}}`, i, i))
		}
		for _, o := range p.ok(200, "POST", "/Bulk", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],"Operations":[`+strings.Join(operations, ",")+`]}`)["Operations"].([]any) {
			location, _ := o.(map[string]any)["location"].(string)
			ids = append(ids, location[strings.LastIndexByte(location, '/')+1:])
		}
	}
	all := p.group("all", ids...)
	of := func() int {
		return len(ask(t, s.with(s.admin).ListRelations, &api.ListRelationsRequest{Environment: prod, ObjectType: "group", ObjectId: "all", PageSize: 1000}).GetRelations())
	}
	if g := p.ok(200, "GET", "/Groups/"+all, ""); len(g["members"].([]any)) != users || of() != users {
		t.Fatalf("%d members, %d relations on the first page", len(g["members"].([]any)), of())
	}
	c := s.with(s.admin)
	head := ask(t, c.GetManifest, &api.GetManifestRequest{Environment: prod}).GetRevision()
	ask(t, c.SetRelations, &api.SetRelationsRequest{Environment: prod, Options: &api.WriteOptions{TakeOver: true}, Relations: []*api.Relation{member("all", "user119")}})
	p.refused(409, `"api"`, "PATCH", "/Groups/"+all, patchOf(`{"op":"remove","path":"members"}`))
	if now := ask(t, c.GetManifest, &api.GetManifestRequest{Environment: prod}).GetRevision(); now != head+1 || of() != users {
		t.Errorf("half of a refused write is there: revision %d after %d", now, head)
	}
}

// TestScimProtocol: versions, lists, what is refused, and what is too much.
func TestScimProtocol(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	p := s.provider("okta")
	ann := p.user("ann", `,"displayName":"Ann","emails":[{"value":"a@example.com","type":"work"},{"value":"b@example.com"}]`)
	for i := range 5 {
		p.user(fmt.Sprint("user", i), fmt.Sprintf(`,"title":"T%d"`, i%2))
	}
	for query, want := range map[string]int{
		"": 6, `?filter=userName+eq+"ANN"`: 1, `?filter=title+eq+"t1"`: 2, `?filter=title+pr+and+not+(title+eq+"T1")`: 3, `?filter=emails[type+eq+"work"+and+value+co+"@example"]`: 1,
		`?filter=active+eq+"True"`: 6, `?filter=userName+sw+"user"+or+emails+pr`: 6, `?filter=meta.created+gt+"2001-01-01T00:00:00Z"`: 6, `?filter=externalId+eq+"x"`: 0,
		`?filter=userName+eq+"a\u006En"`: 1, `?filter=urn:ietf:params:scim:schemas:core:2.0:User:userName+eq+"ann"`: 1, `?filter=id+eq+"` + ann + `"`: 1,
	} {
		if l := p.ok(200, "GET", "/Users"+query, ""); l["totalResults"] != float64(want) {
			t.Errorf("%s: %v, not %d", query, l["totalResults"], want)
		}
	}
	page := p.ok(200, "GET", "/Users?startIndex=3&count=2&attributes=userName,emails.value", "")
	if l := page["Resources"].([]any); len(l) != 2 || fmt.Sprint(l[0].(map[string]any)["userName"], len(l[0].(map[string]any))) != "user13" || page["totalResults"] != 6.0 || page["startIndex"] != 3.0 {
		t.Errorf("the page is %v", page)
	}
	if l := p.ok(200, "POST", "/Users/.search", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:SearchRequest"],"filter":"title pr","count":0}`); l["totalResults"] != 5.0 || len(l["Resources"].([]any)) != 0 {
		t.Errorf("the search is %v", l)
	}
	p.ok(304, "GET", "/Users/"+ann, "", "If-None-Match", `W/"1"`)
	p.ok(200, "PATCH", "/Users/"+ann, patchOf(`{"op":"add","path":"emails[type eq \"home\"].value","value":"h@example.com"}`), "If-Match", `W/"1"`)
	p.refused(412, `W/"2"`, "PUT", "/Users/"+ann, `{"userName":"ann"}`, "If-Match", `W/"1"`)
	p.refused(412, `W/"2"`, "DELETE", "/Users/"+ann, "", "If-Match", `W/"1"`)

	for _, test := range []struct {
		status                   int
		text, method, path, body string
	}{
		{409, "exists", "POST", "/Users", `{"userName":"Ann"}`},
		{400, "userName is required", "POST", "/Users", `{}`},
		{400, "userName is required", "POST", "/Users", `{"userName":" "}`},
		{400, "active is no boolean", "POST", "/Users", `{"userName":"x","active":"maybe"}`},
		{400, "is there twice", "POST", "/Users", `{"userName":"x","username":"y"}`},
		{400, "is there twice", "POST", "/Users", `{"userName":"x","userName":"y"}`},
		{400, "no JSON object", "POST", "/Users", `{"userName":"x"} {}`},
		{400, "too deep", "POST", "/Users", `{"userName":"x","a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`},
		{400, "101 values", "POST", "/Users", `{"userName":"x","emails":[{"value":"a"}` + strings.Repeat(`,{"value":"a"}`, 100) + `]}`},
		{400, "two primary", "POST", "/Users", `{"userName":"x","emails":[{"value":"a","primary":true},{"value":"b","primary":true}]}`},
		{413, "4194304", "POST", "/Users", `{"userName":"` + strings.Repeat("x", 5<<20) + `"}`},
		{400, "schemas lacks", "POST", "/Users", `{"userName":"x","schemas":["urn:x"]}`},
		{400, "1024", "POST", "/Users", `{"userName":"` + strings.Repeat("x", 1100) + `"}`},
		{400, "cannot be read", "GET", "/Users?filter=userName", ""},
		{400, "no attribute", "GET", "/Users?filter=password+eq+%22x%22", ""},
		{400, "brackets", "GET", "/Users?filter=" + strings.Repeat("(", 30) + "title+pr" + strings.Repeat(")", 30), ""},
		{400, "4096", "GET", "/Users?filter=title+eq+%22" + strings.Repeat("x", 5000) + "%22", ""},
		{414, "too long", "GET", "/Users?filter=" + strings.Repeat("x", 9000), ""},
		{400, "Operations", "PATCH", "/Users/" + ann, patchOf("")},
		{413, "1001 operations", "PATCH", "/Users/" + ann, patchOf(`{"op":"add","value":{"title":"x"}}` + strings.Repeat(`,{"op":"add","value":{"title":"x"}}`, 1000))},
		{400, "read-only", "PATCH", "/Users/" + ann, patchOf(`{"op":"replace","path":"id","value":"x"}`)},
		{400, "read-only", "PATCH", "/Users/" + ann, patchOf(`{"op":"add","path":"groups","value":[{"value":"x"}]}`)},
		{400, "required", "PATCH", "/Users/" + ann, patchOf(`{"op":"remove","path":"userName"}`)},
		{400, "needs a path", "PATCH", "/Users/" + ann, patchOf(`{"op":"remove"}`)},
		{400, "no value of emails matches", "PATCH", "/Users/" + ann, patchOf(`{"op":"replace","path":"emails[type eq \"other\"].value","value":"x"}`)},
		{400, "no attribute", "PATCH", "/Users/" + ann, patchOf(`{"op":"replace","path":"nothing","value":"x"}`)},
		{400, "neither add", "PATCH", "/Users/" + ann, patchOf(`{"op":"move","path":"title","value":"x"}`)},
		{404, "no such address", "GET", "/Nothing", ""},
		{405, "PUT", "PUT", "/Users", "{}"},
		{501, "Users and Groups", "GET", "/Me", ""},
		{404, "User", "PATCH", "/Users/nobody", patchOf(`{"op":"add","value":{"title":"x"}}`)},
	} {
		p.refused(test.status, test.text, test.method, test.path, test.body)
	}
	if now := p.ok(200, "GET", "/Users/"+ann, ""); now["meta"].(map[string]any)["version"] != `W/"2"` {
		t.Errorf("a refused change was made: %v", now)
	}

	base := p.base
	p.base = s.url() + "/scim/v2/other/prod"
	p.refused(403, "scim:other/prod", "GET", "/Users", "")
	p.base = s.url() + "/scim/v2" // the token's only environment
	p.ok(200, "GET", "/Users/"+ann, "")
	p.base = base
	for token, status := range map[string]int{s.admin: 403, "ghc_x": 401, "": 401} {
		p.token = token
		p.ok(status, "GET", "/Users", "")
	}
}

// TestScimBulk: operations that refer to each other, in any order; one that fails; and where it ends.
func TestScimBulk(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	p := s.provider("okta")
	bulk := func(more, operations string) (status []string) {
		t.Helper()
		out := p.ok(200, "POST", "/Bulk", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],`+more+`"Operations":[`+operations+`]}`)
		for _, o := range out["Operations"].([]any) {
			status = append(status, o.(map[string]any)["status"].(string))
		}
		return status
	}
	const group = `{"method":"POST","path":"/Groups","bulkId":"g","data":{"displayName":"eng","members":[{"value":"bulkId:a"}]}}`
	const user = `{"method":"POST","path":"/Users","bulkId":"a","data":{"userName":"ann"}}`
	if got := bulk("", group+","+user+`,{"method":"PATCH","path":"/Users/bulkId:a","data":`+patchOf(`{"op":"add","value":{"title":"x"}}`)+`}`); !slices.Equal(got, []string{"201", "201", "200"}) {
		t.Errorf("the operations have %q", got)
	}
	if !slices.Contains(s.content(), "group:eng#member@user:ann") {
		t.Errorf("the directory has %q", s.content())
	}
	if got := bulk(`"failOnErrors":1,`, user+`,{"method":"POST","path":"/Users","bulkId":"b","data":{"userName":"bob"}}`); !slices.Equal(got, []string{"409"}) {
		t.Errorf("the operations have %q", got)
	}
	circle := func(id, other string) string {
		return `{"method":"POST","path":"/Groups","bulkId":"` + id + `","data":{"displayName":"` + id + `","members":[{"value":"bulkId:` + other + `"}]}}`
	}
	if got := bulk("", circle("x", "y")+","+circle("y", "x")); !slices.Equal(got, []string{"409", "409"}) {
		t.Errorf("the operations have %q", got)
	}
	p.refused(400, "no Operations", "POST", "/Bulk", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:BulkRequest"]}`)
	p.refused(413, "501 operations", "POST", "/Bulk", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],"Operations":[{}`+strings.Repeat(",{}", 500)+`]}`)
}
