package gate_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/gate/recorded"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// people is a directory: vera is in dev, which is in eng, which has the role writer; and she is a viewer herself. twin belongs to two users.
func people(t testing.TB, more ...directory.Change) *directory.Snapshot {
	t.Helper()
	object := func(typ, id, properties string) directory.Change {
		o := &directory.Object{Ref: directory.Ref{Type: typ, ID: id}, DisplayName: strings.ToUpper(id)}
		if properties != "" {
			o.Properties = []byte(properties)
		}
		return directory.Change{SetObject: o}
	}
	changes := []directory.Change{
		object("user", "v1", `{"department":"sales","level":3,"boss":false,"teams":["a,b","c"],"address":{"city":"Wien"},"token":"s3cret","odd":"a\u0000b"}`),
		object("user", "u2", ""), object("identity", "vera", ""), object("identity", "vera@example.com", ""), object("identity", "twin", ""),
		object("group", "dev", ""), object("group", "eng", ""), object("role", "writer", ""), object("role", "viewer", ""),
		relate("identity:vera#identifier@user:v1"), relate("user:v1#identifier@identity:vera@example.com"),
		relate("identity:twin#identifier@user:v1"), relate("identity:twin#identifier@user:u2"),
		relate("group:dev#member@user:v1"), relate("group:eng#member@group:dev#member"), relate("role:writer#member@group:eng#member"),
		relate("role:viewer#member@user:v1"),
	}
	s, err := directory.New(directory.DefaultManifest(), directory.Limits{}).Apply(append(changes, more...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// relate is a relation as text: object#relation@subject.
func relate(text string) directory.Change {
	object, rest, _ := strings.Cut(text, "#")
	relation, rest, _ := strings.Cut(rest, "@")
	subject, subjectRelation, _ := strings.Cut(rest, "#")
	ref := func(s string) directory.Ref {
		typ, id, _ := strings.Cut(s, ":")
		return directory.Ref{Type: typ, ID: id}
	}
	return directory.Change{SetRelation: &directory.Relation{Object: ref(object), Relation: relation, Subject: ref(subject), SubjectRelation: subjectRelation}}
}

func withDirectory(s *directory.Snapshot) gate.Part { return func(v *gate.View) { v.Directory = s } }

func as(req *gate.Request, id *identity.Identity) *gate.Request { req.As = id; return req }

func caller(subject string) *identity.Identity {
	id := vera()
	id.Subject, id.Identity, id.Email = subject, subject, ""
	return id
}

const tellUser = `package envoy.authz
allow := {"allowed": true, "dynamic_metadata": {"user": object.get(input, "user", "absent")}}`

// TestUser has callers found in the directory, in each way that settings know, or not.
func TestUser(t *testing.T) {
	const all = `{"id":"v1","display_name":"V1","properties":{"department":"sales","level":3,"boss":false,"teams":["a,b","c"],"address":{"city":"Wien"},` +
		`"token":"s3cret","odd":"a\u0000b"},"roles":["viewer","writer"],"groups":["dev","eng"]}`
	claims := vera()
	claims.Claims = map[string]any{"employee": "vera", "number": json.Number("7")}
	for name, test := range map[string]struct {
		users gate.Users
		who   *identity.Identity
		want  string // JSON; or the reason
	}{
		"subject":               {gate.Users{}, vera(), all},
		"e-mail, the other way": {gate.Users{Email: true}, vera(), all},
		"no e-mail":             {gate.Users{Email: true}, caller("vera"), `"absent"`},
		"claim":                 {gate.Users{Claim: "employee"}, claims, all},
		"claim is no string":    {gate.Users{Claim: "number"}, claims, `"absent"`},
		"claim is absent":       {gate.Users{Claim: "employee"}, vera(), `"absent"`},
		"by id":                 {gate.Users{ByID: true}, caller("v1"), all},
		"by id, no such":        {gate.Users{ByID: true}, caller("vera"), `"absent"`},
		"an identity is no id":  {gate.Users{}, caller("v1"), `"absent"`},
		"few":                   {gate.Users{ByID: true}, caller("u2"), `{"id":"u2","display_name":"U2","roles":[],"groups":[]}`},
		"issuer":                {gate.Users{Issuers: []string{"https://login.example.com"}}, vera(), all},
		"another issuer":        {gate.Users{Issuers: []string{"https://other.example.com"}}, vera(), `"absent"`},
		"unknown":               {gate.Users{}, caller("nobody"), `"absent"`},
		"unknown is denied":     {gate.Users{DenyUnknown: true}, caller("nobody"), "unknown_user"},
		"known is not":          {gate.Users{DenyUnknown: true}, vera(), all},
		"two users":             {gate.Users{}, caller("twin"), "unavailable"},
		"two users, denied too": {gate.Users{DenyUnknown: true}, caller("twin"), "unavailable"},
		"anonymous":             {gate.Users{DenyUnknown: true}, &identity.Identity{Type: identity.TypeNone}, `"absent"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings()
			s.Users = &test.users
			g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, tellUser)), withDirectory(people(t)))
			for range 2 { // the second time it is remembered
				a := g.Check(t.Context(), as(get("/"), test.who))
				if !a.Allow {
					if a.Reason.String() != test.want {
						t.Fatalf("denied: %v: %v", a.Reason, a.Diagnostics.Cause)
					}
					continue
				}
				got, err := json.Marshal(a.Metadata["user"])
				if err != nil {
					t.Fatal(err)
				}
				compareJSON(t, string(got), test.want)
			}
		})
	}
}

// TestNoDirectory: with a configured directory, nothing is decided before it is loaded.
func TestNoDirectory(t *testing.T) {
	s := settings()
	s.Users = &gate.Users{}
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, allowAll)))
	check := func(want gate.Reason) {
		t.Helper()
		a := g.Check(t.Context(), get("/"))
		if a.Reason != want || a.Allow != (want == gate.None) || (g.View().Ready() == nil) != a.Allow {
			t.Errorf("%v %v, ready: %v", a.Allow, a.Reason, g.View().Ready())
		}
	}
	check(gate.NotReady)
	for snapshot, want := range map[*directory.Snapshot]gate.Reason{people(t): gate.None, nil: gate.NotReady} {
		if err := g.Publish(t.Context(), withDirectory(snapshot)); err != nil {
			t.Fatal(err)
		}
		check(want)
	}
}

// TestUserLimits holds that a question that costs too much is a denial, where somebody reads its answer.
func TestUserLimits(t *testing.T) {
	for rego, want := range map[string]gate.Reason{
		`allow if not "writer" in input.user.roles`: gate.Unavailable,
		`allow if not "eng" in input.user.groups`:   gate.Unavailable,
		`allow if input.user.id == "v1"`:            gate.None,
		`allow if input.identity.authenticated`:     gate.None,
	} {
		s := settings()
		s.Users = &gate.Users{}
		tight := people(t).WithLimits(directory.Limits{Depth: 1, Work: 1})
		g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, "package envoy.authz\n"+rego)), withDirectory(tight))
		if a := g.Check(t.Context(), as(get("/"), vera())); a.Reason != want {
			t.Errorf("%s: %v: %v", rego, a.Reason, a.Diagnostics.Cause)
		}
	}
}

// TestPublishDirectory: each request uses the published directory, and nothing else of the View is rebuilt.
func TestPublishDirectory(t *testing.T) {
	s := settings()
	s.Users = &gate.Users{}
	before := people(t)
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, "package envoy.authz\nallow if \"admin\" in input.user.roles")), withDirectory(before))
	first := g.View()
	ask := func(want bool) {
		t.Helper()
		for range 3 {
			if a := g.Check(t.Context(), as(get("/"), vera())); a.Allow != want {
				t.Errorf("%v: %v", a.Allow, a.Diagnostics.Cause)
			}
		}
	}
	ask(false)
	changes := []directory.Change{{SetObject: &directory.Object{Ref: directory.Ref{Type: "role", ID: "admin"}}}, relate("role:admin#member@group:eng#member")}
	after, err := before.Apply(changes)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		snapshot := []*directory.Snapshot{after, before}[i%2]
		if err := g.Publish(t.Context(), withDirectory(snapshot)); err != nil {
			t.Fatal(err)
		}
		ask(snapshot == after)
	}
	if last := g.View(); !last.Shares(first) || !last.SameMemo(first) {
		t.Error("rules or memo were made anew")
	}
}

// TestUserExpires has a relation end between two requests.
func TestUserExpires(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := settings()
	s.Users = &gate.Users{}
	guest := relate("role:writer#member@user:u2")
	guest.SetRelation.Expires = now.Add(time.Minute)
	g := gatetest.Start(t, gate.Config{Clock: func() time.Time { return now }},
		gatetest.With(t, s, compile(t, "package envoy.authz\nallow if \"writer\" in input.user.roles")), withDirectory(people(t, guest,
			directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "identity", ID: "u"}}}, relate("identity:u#identifier@user:u2"))))
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {59 * time.Second, true}, {60 * time.Second, false}, {time.Hour, false}} {
		now = time.Unix(1_800_000_000, 0).Add(test.after)
		if a := g.Check(t.Context(), as(get("/"), caller("u"))); a.Allow != test.want {
			t.Errorf("after %s: %v", test.after, a.Allow)
		}
	}
}

// TestUserHeaders checks the headers with the caller's directory user.
func TestUserHeaders(t *testing.T) {
	for name, test := range map[string]struct {
		headers gate.IdentityHeaders
		who     *identity.Identity
		want    map[string]string
		reason  gate.Reason
	}{
		"token":     {gate.IdentityHeaders{Roles: "x-auth-roles", Groups: "x-auth-groups"}, vera(), map[string]string{"x-auth-roles": "viewer,a%2Cb", "x-auth-groups": "north"}, gate.None},
		"directory": {gate.IdentityHeaders{Roles: "x-auth-roles", RolesFrom: gate.FromDirectory}, vera(), map[string]string{"x-auth-roles": "viewer,writer"}, gate.None},
		"both": {gate.IdentityHeaders{Roles: "x-auth-roles", Groups: "x-auth-groups", RolesFrom: gate.FromBoth, GroupsFrom: gate.FromBoth}, vera(),
			map[string]string{"x-auth-roles": "viewer,a%2Cb,writer", "x-auth-groups": "north,dev,eng"}, gate.None},
		"unknown, directory": {gate.IdentityHeaders{Roles: "x-auth-roles", RolesFrom: gate.FromDirectory}, caller("nobody"), map[string]string{}, gate.None},
		"unknown, both":      {gate.IdentityHeaders{Roles: "x-auth-roles", RolesFrom: gate.FromBoth}, caller("nobody"), map[string]string{"x-auth-roles": "viewer,a%2Cb"}, gate.None},
		"properties": {gate.IdentityHeaders{Properties: []gate.PropertyHeader{{Name: "x-dept", Property: "department"}, {Name: "x-level", Property: "level"}, {Name: "x-boss", Property: "boss"},
			{Name: "x-teams", Property: "teams"}, {Name: "x-none", Property: "none"}}}, vera(),
			map[string]string{"x-dept": "sales", "x-level": "3", "x-boss": "false", "x-teams": "a%2Cb,c"}, gate.None},
		"an object":          {gate.IdentityHeaders{Properties: []gate.PropertyHeader{{Name: "x-address", Property: "address"}}}, vera(), nil, gate.PolicyError},
		"a control":          {gate.IdentityHeaders{Properties: []gate.PropertyHeader{{Name: "x-odd", Property: "odd"}}}, vera(), nil, gate.PolicyError},
		"unknown properties": {gate.IdentityHeaders{Properties: []gate.PropertyHeader{{Name: "x-dept", Property: "department"}}}, caller("nobody"), map[string]string{}, gate.None},
		"two users":          {gate.IdentityHeaders{Properties: []gate.PropertyHeader{{Name: "x-dept", Property: "department"}}}, caller("twin"), nil, gate.Unavailable},
		"anonymous":          {gate.IdentityHeaders{Properties: []gate.PropertyHeader{{Name: "x-dept", Property: "department"}}}, &identity.Identity{Type: identity.TypeNone}, map[string]string{}, gate.None},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings()
			s.Users, s.Headers = &gate.Users{}, test.headers
			g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, allowAll)), withDirectory(people(t)))
			req := get("/")
			for _, header := range test.headers.Names() {
				for _, spelling := range []string{header, strings.ReplaceAll(header, "-", "_")} {
					req.Headers = append(req.Headers, gate.Header{Name: spelling, Value: "forged"})
				}
			}
			a := g.Check(t.Context(), as(req, test.who))
			if a.Reason != test.reason {
				t.Fatalf("%v: %v", a.Reason, a.Diagnostics.Cause)
			}
			if test.want == nil {
				return
			}
			got := sees(req, a)
			for _, header := range test.headers.Names() {
				if is := strings.Join(got[header], "|"); is != test.want[header] {
					t.Errorf("%s is %q: must be %q", header, is, test.want[header])
				}
			}
		})
	}
}

// TestUserHeadersAreChecked has names that cannot be.
func TestUserHeadersAreChecked(t *testing.T) {
	for want, headers := range map[string]gate.IdentityHeaders{
		"lower-case":            {Properties: []gate.PropertyHeader{{Name: "X-Dept", Property: "a"}}},
		"both":                  {Roles: "x-a", Properties: []gate.PropertyHeader{{Name: "x-a", Property: "a"}}},
		"credentials":           {Properties: []gate.PropertyHeader{{Name: "cookie", Property: "a"}}},
		"the name of a propert": {Properties: []gate.PropertyHeader{{Name: "x-a"}}},
	} {
		s := settings()
		s.Headers, s.Users = headers, &gate.Users{}
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
	s := settings()
	s.Headers.RolesFrom = gate.FromDirectory
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "there is no directory") {
		t.Error(err)
	}
}

// TestFactsOnRecord has what a policy asked of the directory in the log, also of a remembered decision and of a denial.
func TestFactsOnRecord(t *testing.T) {
	log, written := gatetest.Log(t)
	s := settings()
	s.Log = log
	yes := answers(func() rego.Value { return rego.Bool(true) })
	rego := "package envoy.authz\nallow if {\n\tds.check({\"object_id\": input.parsed_path[0]})\n\tinput.parsed_path[0] != \"secret\"\n}"
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compile(t, rego)), func(v *gate.View) { v.Facts = policy.Facts{Directory: yes, Version: 1} })
	for _, path := range []string{"/doc", "/doc", "/secret"} {
		if a := g.Check(t.Context(), get(path)); a.Allow != (path == "/doc") {
			t.Errorf("%s: %v: %v", path, a.Reason, a.Diagnostics.Cause)
		}
	}
	text := written()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, id := range []string{"doc", "doc", "secret"} {
		if want := `"facts":[{"answer":true,"question":{"ds.check":{"object_id":"` + id + `"}}}]`; len(lines) != 3 || !strings.Contains(lines[i], want) {
			t.Errorf("%s\nlacks %s", lines[i], want)
		}
	}
}

// TestUserOnRecord replays a logged decision: the recorded user counts, whatever the current directory has.
func TestUserOnRecord(t *testing.T) {
	log, written := gatetest.Log(t)
	s := settings()
	s.Users, s.Log = &gate.Users{}, log
	snapshot := people(t)
	rego := compile(t, "package envoy.authz\nallow if \"writer\" in input.user.roles\nallow if input.user.properties.token == 1")
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, rego), withDirectory(snapshot))
	if a := g.Check(t.Context(), as(get("/"), vera())); !a.Allow {
		t.Fatal(a.Diagnostics.Cause)
	}
	text := written()
	var line struct {
		Directory struct {
			Revision uint64
			Digest   string
		}
		Digests struct{ Directory string }
		Masked  []string
		Input   map[string]any
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&line); err != nil {
		t.Fatal(err)
	}
	if line.Directory.Revision != snapshot.Revision() || line.Directory.Digest != snapshot.Digest() || line.Digests.Directory != snapshot.Digest() {
		t.Errorf("directory is %+v %+v", line.Directory, line.Digests)
	}
	if masked := fmt.Sprint(line.Masked); !strings.Contains(masked, "/input/user/properties/token") || strings.Contains(text, "s3cret") {
		t.Errorf("masked is %s", masked)
	}
	req, err := recorded.Request(line.Input)
	if err != nil {
		t.Fatal(err)
	}
	s.Log = nil
	today := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, rego), withDirectory(directory.New(directory.DefaultManifest(), directory.Limits{})))
	if a := today.Check(t.Context(), req); !a.Allow || req.User == nil || req.User.Groups != nil {
		t.Errorf("%v: %v, user %+v", a.Reason, a.Diagnostics.Cause, req.User)
	}
}
