package convert_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/directory"
	"gatehouse/directory/convert"
	"gatehouse/directory/format"
)

func ldif(text string) (*convert.Result, error) {
	return convert.LDIF("in", strings.NewReader(text), convert.LDIFOptions{})
}

func table(text string) (*convert.Result, error) {
	return convert.CSV("in", strings.NewReader(text), convert.CSVOptions{})
}

func keycloak(text string) (*convert.Result, error) {
	return convert.Keycloak([]convert.File{{Name: "in", Text: []byte(text)}}, convert.KeycloakOptions{})
}

// converted is a file of testdata, written as a folder and loaded again.
func converted(t *testing.T, name string, read func(string) (*convert.Result, error)) (*convert.Result, *directory.Snapshot) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	r, err := read(string(text))
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "deep", "out")
	if err := r.WriteFolder(out, false); err != nil {
		t.Fatal(err)
	}
	s, err := format.Load(context.Background(), out, format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Digest() != r.Snapshot.Digest() {
		t.Error("the folder holds something else")
	}
	for _, file := range []string{format.ObjectsFile, format.RelationsFile} {
		text, err := os.ReadFile(filepath.Join(out, file))
		if err != nil || strings.Contains(string(text), "hunter2") || strings.Contains(string(text), "foobarbaz") || strings.Contains(string(text), "SSHA") {
			t.Errorf("%s: %v, or a password is in it", file, err)
		}
	}
	return r, s
}

func holds(t *testing.T, s *directory.Snapshot, yes, no []string) {
	t.Helper()
	for want, questions := range map[bool][]string{true: yes, false: no} {
		for _, text := range questions {
			q, err := format.ParseQuestion(text)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Check(q, time.Now()); err != nil || got != want {
				t.Errorf("%s: %v, %v", text, got, err)
			}
		}
	}
}

func object(t *testing.T, s *directory.Snapshot, typ, id, want string) {
	t.Helper()
	o, ok := s.Object(directory.Ref{Type: typ, ID: id})
	if got := string(format.AppendObject(nil, o)); !ok || got != want {
		t.Errorf("%s:%s is %s, not\n%s", typ, id, got, want)
	}
}

func left(t *testing.T, r *convert.Result, want ...string) {
	t.Helper()
	var got []string
	for _, l := range r.Left {
		got = append(got, l.Reason+": "+strings.Join(l.First, "; "))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("left out:\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLDIF(t *testing.T) {
	r, s := converted(t, "slapcat.ldif", ldif)
	holds(t, s, []string{
		"group:eng#member@user:alice", "group:eng#member@user:jsmith", "group:staff#member@user:alice", "group:shell#member@user:bob",
		"user:alice#manager@user:bob", "identity:alice@example.com#identifier@user:alice", "identity:jsmith#identifier@user:jsmith",
	}, []string{"group:eng#member@user:bob", "group:staff#member@user:bob", "group:shell#member@user:alice"})
	object(t, s, "user", "bob", `{"type":"user","id":"bob","display_name":"Böb Brown","properties":{"email":"bob@example.com","last_name":"Brown"}}`)
	left(t, r, "entries that are neither users nor groups: in:4 dc=example,dc=com",
		"memberships in primary groups (gidNumber, primaryGroupID), which no group lists: in:13 uid=alice,ou=people,dc=example,dc=com",
		"members of groups that are not in the file, or not taken from it: in:48 uid=gone,ou=people,dc=example,dc=com; in:49 cn=dummy; in:61 Bob")
}

func TestActiveDirectory(t *testing.T) {
	_, s := converted(t, "ad.ldif", ldif)
	holds(t, s, []string{
		"group:admins#member@user:eve", "group:Elsewhere#member@user:dana",
		"identity:dana@corp.example#identifier@user:dana", "identity:dana.doe@example.com#identifier@user:dana",
	}, []string{"group:admins#member@user:dana"}) // the group is listed: what it lists counts
	object(t, s, "user", "eve", `{"type":"user","id":"eve","display_name":"Eve Old","properties":{"disabled":true}}`)
}

func TestCSV(t *testing.T) {
	r, s := converted(t, "users.csv", table)
	holds(t, s, []string{
		"role:viewer#member@user:alice", "role:editor#member@user:alice", "group:eng#member@user:alice", "role:viewer#member@user:bob",
		"identity:auth0|2#identifier@user:bob", "identity:alice@example.com#identifier@user:alice",
	}, []string{"role:editor#member@user:bob"})
	object(t, s, "user", "alice", `{"type":"user","id":"alice","display_name":"Adams, Alice","properties":{"department":"sales","email":"alice@example.com"}}`)
	object(t, s, "user", "bob", `{"type":"user","id":"bob","display_name":"Bob \"B\" Brown","properties":{"disabled":true}}`)
	left(t, r, "columns with the name of a secret: in:2 password")
	r, err := convert.CSV("in", strings.NewReader("key,email\r\nd1,x\r\n"), convert.CSVOptions{Type: "resource", ID: "key"})
	if err != nil {
		t.Fatal(err)
	}
	object(t, r.Snapshot, "resource", "d1", `{"type":"resource","id":"d1","properties":{"email":"x"}}`)
}

func TestKeycloak(t *testing.T) {
	r, s := converted(t, "shop-realm.json", keycloak)
	holds(t, s, []string{
		"role:manager#member@user:alice", "role:viewer#member@user:alice", "role:orders:read#member@user:alice", // composites
		"role:viewer#member@user:bob", "role:urn%3Ashop:ship#member@user:bob", // of the group above
		"group:/eng/web#member@user:bob", "role:default-roles-shop#member@user:bob", "role:orders:read#member@user:service-account-batch",
		"identity:33333333-0000-0000-0000-000000000002#identifier@user:bob", "identity:bob#identifier@user:bob", "identity:alice@example.com#identifier@user:alice",
	}, []string{
		"group:/eng#member@user:bob", // members of a group below are none of the group
		"role:manager#member@user:bob", "role:viewer#member@user:service-account-batch", "identity:boss@example.com#identifier@user:bob",
	})
	object(t, s, "user", "alice", `{"type":"user","id":"alice","display_name":"Alice Adams","properties":{"department":"sales","email":"alice@example.com","first_name":"Alice","langs":["en","de"],"last_name":"Adams"}}`)
	object(t, s, "user", "bob", `{"type":"user","id":"bob","properties":{"disabled":true,"email":"boss@example.com"}}`)
	object(t, s, "user", "service-account-batch", `{"type":"user","id":"service-account-batch","properties":{"service_account":"batch"}}`)
	if len(r.Left) != 4 {
		t.Errorf("left out: %v", r.Left)
	}
	two := func(realm string) error {
		_, err := convert.Keycloak([]convert.File{{Name: "a", Text: []byte(`[{"realm":"a","users":[{"username":"x"}]},{"realm":"b","users":[{"username":"x"}]}]`)}},
			convert.KeycloakOptions{Realm: realm})
		return err
	}
	if err := two(""); err == nil || !strings.Contains(err.Error(), "name one with --realm") {
		t.Error(err)
	}
	if err := two("b"); err != nil {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	const alice = "dn: uid=alice,dc=x\nobjectClass: person\nuid: alice\nmail: a@x\n\n"
	for name, c := range map[string]struct {
		read       func(string) (*convert.Result, error)
		text, want string
	}{
		"ldif: one dn twice":         {ldif, alice + "dn: UID=Alice, DC=x\nobjectClass: person\nuid: b\n", "in:6: dn UID=Alice, DC=x is there twice: the first is user:alice"},
		"ldif: one id twice":         {ldif, alice + "dn: uid=alice,dc=y\nobjectClass: person\nuid: ALICE\n", "in:6: user:ALICE is there twice: the first is at in:1"},
		"ldif: one identity twice":   {ldif, alice + "dn: uid=bob,dc=x\nobjectClass: person\nuid: bob\nmail: A@x\n", "in:9: identity A@x of user bob is that of user alice at in:4 too"},
		"ldif: a file":               {ldif, "dn: uid=a,dc=x\njpegPhoto:< file:///etc/passwd\n", "in:2: jpegphoto is in another file"},
		"ldif: a change":             {ldif, "dn: uid=a,dc=x\nchangetype: modify\n", `in:2: changetype "modify"`},
		"ldif: base64":               {ldif, "dn: uid=a,dc=x\ncn:: %%%\n", "in:2: cn is not valid base64"},
		"ldif: dn":                   {ldif, "dn: nonsense\nobjectClass: person\n", `in:1: dn "nonsense"`},
		"ldif: no dn":                {ldif, "search: 2\nresult: 0 Success\n", `in:1: "search" where an entry begins`},
		"ldif: version":              {ldif, "version: 2\n", `in:1: version "2"`},
		"ldif: fold without a line":  {ldif, " x\n", "in:1: a line that begins with a space"},
		"ldif: empty":                {ldif, "# nothing\n", "in:1: empty"},
		"ldif: a part of a list":     {ldif, "dn: cn=g,dc=x\nobjectClass: group\nmember;range=0-1499: cn=a,dc=x\n", "in:3: member;range=0-1499 is a part of a list"},
		"ldif: bytes":                {ldif, "dn: uid=a,dc=x\nobjectClass: person\nuid:: /w==\n", "in:3: uid is not valid UTF-8"},
		"ldif: groups of one name":   {ldif, "dn: cn=g,dc=x\nobjectClass: groupOfNames\ncn: g\n\ndn: cn=g,dc=y\nobjectClass: groupOfNames\ncn: G\n", "in:5: group:G is there twice: the first is at in:1"},
		"ldif: memberOf of one name": {ldif, "dn: cn=g,dc=x\nobjectClass: groupOfNames\ncn: g\n\ndn: cn=a,dc=x\nobjectClass: person\nuid: a\nmemberOf: cn=g,dc=y\n", "in:8: group:g is there twice: the first is at in:1"},
		"csv: width":                 {table, "id,a\nx,1\ny\n", "in:3: the row has another number of columns"},
		"csv: quote":                 {table, "id,a\nx,\"1\ny,2\n", `in:3: extraneous or missing "`},
		"csv: no id":                 {table, "name\nx\n", `in:1: no column "id"; name it with --id-column`},
		"csv: separator":             {table, "id;name\nx;1\n", "columns are separated by commas"},
		"csv: columns":               {table, "id,a,a\n", `in:1: two columns are named "a"`},
		"csv: one id twice":          {table, "id\nx\n\nx\n", "in:4: user:x is there twice: the first is at in:2"},
		"csv: one identity twice":    {table, "id,email\nx,e\ny,e\n", "in:3: identity e of user y is that of user x at in:2 too"},
		"csv: bytes":                 {table, "id\n\xff\n", "in:2: column 1 is not valid UTF-8"},
		"csv: disabled":              {table, "id,disabled\nx,yes\n", `in:2: disabled is "yes"`},
		"csv: id":                    {table, "id\n*\n", `in:2: user:*: invalid`},
		"csv: a row without an end":  {table, "id\n\"" + strings.Repeat("x", 3<<20), "a row of more than"},
		"keycloak: one user twice":   {keycloak, "{\"realm\":\"a\",\"users\":[\n{\"username\":\"x\"},\n{\"username\":\"x\"}]}", "in:3: user:x is there twice: the first is at in:2"},
		"keycloak: one identity":     {keycloak, "{\"realm\":\"a\",\"users\":[\n{\"username\":\"x\",\"id\":\"1\"},\n{\"username\":\"1\"}]}", "in:3: identity 1 of user 1 is that of user x at in:2 too"},
		"keycloak: a name twice":     {keycloak, "{\"realm\":\"a\",\"users\":[\n{\"enabled\":false,\"enabled\":true}]}", `"enabled" is there twice`},
		"keycloak: roles alike":      {keycloak, `{"realm":"a","roles":{"realm":[{"name":"a:b"}]},"users":[{"username":"x","clientRoles":{"a":["b"]}}]}`, "role a:b is one of the realm and one of a client"},
		"keycloak: no such group":    {keycloak, `{"realm":"a","users":[{"username":"x","groups":["/g"]}]}`, `in:1: group "/g" of user x is not among the realm's groups`},
		"keycloak: cut":              {keycloak, "{\"realm\":\"a\",\n\"users\":[{\"username\":\"x\"", "the JSON ends before it is complete"},
		"keycloak: syntax":           {keycloak, "{\"realm\":\"a\",\n\"users\":[{,}]}", "in:2: invalid character"},
		"keycloak: type":             {keycloak, `{"realm":"a","users":[{"username":7}]}`, "in:1: username: "},
		"keycloak: no realm":         {keycloak, `{"users":[]}`, "a realm without a name"},
		"keycloak: deep groups":      {keycloak, `{"realm":"a","groups":[` + strings.Repeat(`{"name":"g","subGroups":[`, 70) + strings.Repeat("]}", 70) + "]}", "groups more than 64 deep"},
		"keycloak: two values":       {keycloak, `{"realm":"a"} {}`, "something behind"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.read(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestFolders(t *testing.T) {
	first, err := table("id\nx\n")
	if err != nil {
		t.Fatal(err)
	}
	second, err := table("id\ny\n")
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	if err := os.Mkdir(out, 0o755); err != nil { // an empty one
		t.Fatal(err)
	}
	if err := first.WriteFolder(out, false); err != nil {
		t.Fatal(err)
	}
	if err := second.WriteFolder(out, false); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Error(err)
	}
	if err := second.WriteFolder(out, true); err != nil {
		t.Fatal(err)
	}
	s, err := format.Load(context.Background(), out, format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Digest() != second.Snapshot.Digest() {
		t.Error("not replaced")
	}
	if err := os.WriteFile(filepath.Join(out, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := first.WriteFolder(out, true); err == nil || !strings.Contains(err.Error(), "README") {
		t.Error(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 1 {
		t.Errorf("left beside it: %v, %v", left, err)
	}
}

func FuzzLDIF(f *testing.F) {
	for _, name := range []string{"slapcat.ldif", "ad.ldif"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("dn:: \n # x\n y\nmember;range=1: \n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ldif(text)
		if (r == nil) == (err == nil) {
			t.Fatalf("%v, %v", r, err)
		}
		if r == nil {
			return
		}
		again, err := ldif(strings.ReplaceAll(text, "\n", "\r\n")) // ends of lines say nothing
		if err == nil && again.Snapshot.Digest() != r.Snapshot.Digest() {
			t.Error("another directory with CRLF")
		}
	})
}
