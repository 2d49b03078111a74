package control_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/control/api"
	"gatehouse/control/cli"
)

// TestSync: what a source owns follows its files, deletions included; not what others own, and not where the file was cut.
func TestSync(t *testing.T) {
	s := serve(t, t.TempDir(), "")
	k, err := cli.Connect(cli.Access{URL: s.url(), CA: s.AuthorityFile(), Token: s.admin})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	dir := t.TempDir()
	sync := func(with cli.Sync, objects, relations string) (string, error) {
		t.Helper()
		text := "objects:\n" + objects + "relations:\n" + relations
		if err := os.WriteFile(filepath.Join(dir, "directory.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		with.Environment, with.Source, with.Delete = prod, "hr", 10
		var out bytes.Buffer
		err := k.SyncFile(t.Context(), &out, dir, with)
		return out.String(), err
	}
	says := func(want, objects, relations string) {
		t.Helper()
		if got, err := sync(cli.Sync{}, objects, relations); err != nil || !strings.Contains(got, want) {
			t.Errorf("%q %v; want %q", got, err, want)
		}
	}
	c := s.with(s.admin)
	ask(t, c.SetObjects, &api.SetObjectsRequest{Environment: prod, Objects: []*api.Object{{Type: "group", Id: "app"}}})
	const first = "  - user:ann\n  - {type: user, id: bob, properties: {level: 3}}\n  - group:eng\n"
	says("made: 3 objects and 1 relation set, 0 objects and 0 relations deleted", first, "  - group:eng#member@user:ann\n")
	says("source hr is as the file is", first, "  - group:eng#member@user:ann\n")
	dry, err := sync(cli.Sync{DryRun: true}, "  - user:ann\n  - group:eng\n", "  []\n")
	if err != nil || !strings.Contains(dry, "would be made: 0 objects and 0 relations set, 1 object and 1 relation deleted\n- user:bob\n- group:eng#member@user:ann\n") {
		t.Errorf("%q %v", dry, err)
	}
	s.has("group:app (api)", "user:ann (hr)", `user:bob (hr) {"level":3}`, "group:eng (hr)", "group:eng#member@user:ann")
	says("1 object and 1 relation set, 0 objects and 1 relation deleted", strings.Replace(first, "3", "4", 1), "  - group:eng#member@user:bob\n")
	says("0 objects and 0 relations set, 1 object and 1 relation deleted", "  - user:ann\n  - group:eng\n", "  []\n")
	s.has("group:app (api)", "user:ann (hr)", "group:eng (hr)")

	many := "  - user:ann\n  - group:eng\n" + strings.Repeat("  - user:u#\n", 60)
	for i := range 60 {
		many = strings.Replace(many, "u#", "u"+string(rune('0'+i/10))+string(rune('0'+i%10)), 1)
	}
	says("60 objects and 0 relations set", many, "  []\n")
	if _, err := sync(cli.Sync{}, "  - user:ann\n", "  []\n"); err == nil || !strings.Contains(err.Error(), "61 of the source's 62 objects, 98 %") || !strings.Contains(err.Error(), "--max-delete 99") {
		t.Errorf("a file that was cut: %v", err)
	}
	if _, err := sync(cli.Sync{}, "  - group:app\n"+many, "  []\n"); err == nil || !strings.Contains(err.Error(), `it is of "api"`) {
		t.Errorf("what another source owns: %v", err)
	}
	if n := len(s.content()); n != 63 {
		t.Errorf("%d objects", n)
	}
}
