package envoy_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

const (
	directoryObjects = `{"type":"user","id":"ann","display_name":"Ann","properties":{"department":"sales"}}
{"type":"identity","id":"a1"}
{"type":"group","id":"staff"}
{"type":"role","id":"editor"}
`
	directoryRelations = `{"object_type":"identity","object_id":"a1","relation":"identifier","subject_type":"user","subject_id":"ann"}
{"object_type":"group","object_id":"staff","relation":"member","subject_type":"user","subject_id":"ann"}
`
	staffAreEditors = `{"object_type":"role","object_id":"editor","relation":"member","subject_type":"group","subject_id":"staff","subject_relation":"member"}
`
	directoryPolicy = `package envoy.authz

default allow := false

allow if "editor" in input.user.roles
`
)

// TestDirectoryDecides adds a relation to the directory's file and takes it away again: each is in force within 200 ms, and the application is told
// what the directory says of the caller, whatever the client sends.
func TestDirectoryDecides(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(echoApp(t))); err != nil {
		t.Fatal(err)
	}
	amend(t, filepath.Join(dir, "gatehouse.yaml"), "headers:\n", "directory: {file: people}\nheaders:\n  roles_from: directory\n  properties: {x-auth-department: department}\n")
	var people string
	put := func(name, text string) {
		t.Helper()
		write(t, filepath.Join(people, "."+name), text)
		if err := os.Rename(filepath.Join(people, "."+name), filepath.Join(people, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, sandbox.Config{App: dir, Policy: func(policy string) error {
		people = filepath.Join(filepath.Dir(policy), "people")
		if err := os.MkdirAll(people, 0o755); err != nil {
			return err
		}
		put("objects.jsonl", directoryObjects)
		put("relations.jsonl", directoryRelations)
		return os.WriteFile(filepath.Join(policy, "authz.rego"), []byte(directoryPolicy), 0o644)
	}})
	call := sandbox.Call{Path: "/", Token: s.Token("a1", "forged-by-nobody"), Header: map[string][]string{"x-auth-department": {"board"}, "X_Auth_Roles": {"editor"}}}
	if answer := ask(t, s, call); answer.Status != 403 {
		t.Fatalf("before: %d %s", answer.Status, answer.Body)
	}
	slowest := time.Duration(0)
	for i := range 10 {
		relations, want := directoryRelations+staffAreEditors, 200
		if i%2 == 1 {
			relations, want = directoryRelations, 403
		}
		put("relations.jsonl", relations)
		written := time.Now()
		for ask(t, s, call).Status != want {
			if time.Since(written) > hangGuard {
				t.Fatalf("change %d is not in force after %v", i, hangGuard)
			}
		}
		slowest = max(slowest, time.Since(written))
		if want == 200 {
			if got := seen(t, s, call); got["X-Auth-Roles"] != "editor" || got["X-Auth-Department"] != "sales" {
				t.Errorf("the application sees %v", got)
			}
		}
	}
	t.Logf("slowest change of the directory was in force after %v", slowest)
	put("relations.jsonl", directoryRelations+"{\n")
	if answer := ask(t, s, call); answer.Status != 403 {
		t.Errorf("with a broken file: %d", answer.Status)
	}
}
