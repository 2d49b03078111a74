package edge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/identity"
)

const (
	someObjects   = `{"type":"user","id":"ann"}` + "\n" + `{"type":"identity","id":"a1"}` + "\n" + `{"type":"role","id":"admin"}` + "\n"
	someRelations = `{"object_type":"identity","object_id":"a1","relation":"identifier","subject_type":"user","subject_id":"ann"}` + "\n"
	annIsAdmin    = `{"object_type":"role","object_id":"admin","relation":"member","subject_type":"user","subject_id":"ann"}` + "\n"
)

// place is a folder with a configuration whose policy lets admins in.
type place struct {
	*testing.T
	dir string
}

func newPlace(t *testing.T, directory string) *place {
	p := &place{t, t.TempDir()}
	p.write("policy/authz.rego", "package envoy.authz\n\ndefault allow := false\n\nallow if \"admin\" in input.user.roles\n")
	p.write("people/objects.jsonl", someObjects)
	p.write("people/relations.jsonl", someRelations)
	p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}]}\ndirectory: {file: people"+directory+"}\n")
	return p
}

func (p *place) write(name, text string) {
	p.Helper()
	file := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		p.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		p.Fatal(err)
	}
}

func (p *place) read() (*config.Config, *config.Problems) {
	p.Helper()
	cfg, doc, err := config.Source{File: filepath.Join(p.dir, "gatehouse.yaml")}.Read()
	if err != nil {
		p.Fatal(err)
	}
	return cfg, doc.Problems()
}

// start runs a node until end is called.
func (p *place) start() (n *Node, end func()) {
	p.Helper()
	cfg, found := p.read()
	n, err := New(p.Context(), Config{Config: cfg, Found: found})
	if err != nil {
		p.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			p.Error(err)
		}
	})
	<-n.Ready()
	end = sync.OnceFunc(func() { cancel(); running.Wait() })
	p.Cleanup(end)
	return n, end
}

// answer is what ann gets: "allow", or the reason for the denial.
func answer(n *Node) string {
	req := &gate.Request{Method: "GET", Path: "/", As: &identity.Identity{Type: identity.TypeJWT, Subject: "a1", Identity: "a1", Authenticated: true}}
	if a := n.Gate().Check(context.Background(), req); !a.Allow {
		return a.Reason.String()
	}
	return "allow"
}

// eventually retries until there is no error.
func (p *place) eventually(what string, ask func() error) {
	p.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	p.Fatalf("%s: %v", what, err)
}

func (p *place) eventuallyAnswers(n *Node, want string) {
	p.Helper()
	p.eventually("waiting for "+want, func() error {
		if is := answer(n); is != want {
			return errors.New(is)
		}
		return nil
	})
}

func (p *place) eventuallyStatus(n *Node, what string, is func(*DirectoryStatus) bool) {
	p.Helper()
	p.eventually(what, func() error {
		if s := n.Directory(); !is(s) {
			return fmt.Errorf("%+v", *s)
		}
		return nil
	})
}

func failing(s *DirectoryStatus) bool { return s.Error != "" }

func good(s *DirectoryStatus) bool { return s.Error == "" && s.Loaded }

// TestDirectoryFollowsItsFiles edits files while a node runs: good content is used, otherwise the previous one stays.
func TestDirectoryFollowsItsFiles(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, "")
	n, end := p.start()
	defer end()
	if is := answer(n); is != "denied" {
		t.Fatalf("ann is no admin yet: %s", is)
	}
	revision := n.Directory().Revision
	p.write("people/relations.jsonl", someRelations+annIsAdmin)
	p.eventuallyAnswers(n, "allow")
	if is := n.Directory(); is.Revision != revision+1 || is.Objects != 3 || is.Relations != 2 || len(n.Degraded().Directory) > 0 {
		t.Errorf("%+v", *is)
	}

	p.write("people/relations.jsonl", someRelations+"{\n")
	p.eventuallyStatus(n, "waiting for the problem", failing)
	if is, degraded := answer(n), fmt.Sprint(n.Degraded().Directory); is != "allow" || !strings.Contains(degraded, "relations.jsonl:2") {
		t.Errorf("%s, degraded %s", is, degraded)
	}
	if err := os.RemoveAll(filepath.Join(p.dir, "people")); err != nil {
		t.Fatal(err)
	}
	p.eventuallyStatus(n, "waiting for another problem", func(s *DirectoryStatus) bool { return !strings.Contains(s.Error, "relations.jsonl:2") })
	if is := answer(n); is != "allow" {
		t.Errorf("without files: %s", is)
	}
	p.write("people/objects.jsonl", someObjects)
	p.write("people/relations.jsonl", annIsAdmin+someRelations) // in another order, which is the same
	p.eventuallyStatus(n, "waiting for the files", good)
	if is := n.Directory(); is.Revision != revision+1 || answer(n) != "allow" {
		t.Errorf("%+v", *is)
	}
	p.write("people/relations.jsonl", someRelations)
	p.eventuallyAnswers(n, "denied")
	if is := n.Directory(); is.Revision != revision+2 {
		t.Errorf("%+v", *is)
	}
}

// TestDirectoryVolume swaps the link of a Kubernetes volume.
func TestDirectoryVolume(t *testing.T) {
	p := newPlace(t, "")
	people := filepath.Join(p.dir, "people")
	if err := os.RemoveAll(people); err != nil {
		t.Fatal(err)
	}
	p.write("people/..1/objects.jsonl", someObjects)
	p.write("people/..1/relations.jsonl", someRelations)
	p.write("people/..2/objects.jsonl", someObjects)
	p.write("people/..2/relations.jsonl", someRelations+annIsAdmin)
	link := func(to, from string) {
		if err := os.Symlink(to, filepath.Join(people, from)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/objects.jsonl", "objects.jsonl")
	link("..data/relations.jsonl", "relations.jsonl")
	n, _ := p.start()
	if is := answer(n); is != "denied" {
		t.Fatal(is)
	}
	link("..2", "..data_new")
	if err := os.Rename(filepath.Join(people, "..data_new"), filepath.Join(people, "..data")); err != nil {
		t.Fatal(err)
	}
	p.eventuallyAnswers(n, "allow")
}

// TestDirectoryReload hands a directory over from one configuration to the next.
func TestDirectoryReload(t *testing.T) {
	p := newPlace(t, "")
	p.write("people/relations.jsonl", someRelations+annIsAdmin)
	n, _ := p.start()
	reload := func(want bool) {
		t.Helper()
		cfg, found := p.read()
		if active, err := n.Reload(t.Context(), cfg, found); active != want {
			t.Fatalf("active: %v: %v", active, err)
		}
	}
	revision := n.Directory().Revision
	reload(true)
	if is := answer(n); is != "allow" || n.Directory().Revision != revision {
		t.Errorf("%s %+v", is, *n.Directory())
	}
	p.write("people/relations.jsonl", "broken\n")
	p.eventuallyStatus(n, "waiting for the problem", failing)
	reload(true) // what was in use stays
	if is := answer(n); is != "allow" || n.Directory().Error == "" {
		t.Errorf("%s %+v", is, *n.Directory())
	}
	p.write("people/relations.jsonl", someRelations)
	p.eventuallyAnswers(n, "denied") // the new one follows
	for _, name := range []string{"objects", "relations"} {
		p.write("others/"+name+".jsonl", map[string]string{"objects": someObjects, "relations": "broken\n"}[name])
	}
	p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}]}\ndirectory: {file: others, user: {by: id}}\n")
	reload(false)
	if is := answer(n); is != "denied" {
		t.Error(is)
	}
	p.write("others/relations.jsonl", someRelations+annIsAdmin)
	p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}]}\ndirectory: {file: others}\n")
	reload(true)
	if is := answer(n); is != "allow" || n.Directory().Revision <= revision+1 {
		t.Errorf("%s %+v", is, *n.Directory())
	}
	p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}]}\n")
	reload(true)
	if is := answer(n); is != "denied" || n.Directory() != nil || n.Gate().View().Directory != nil {
		t.Errorf("without a directory: %s", is)
	}
}

// TestDirectoryRestart starts again where the files are broken: as before where a copy is kept, and not at all where none is.
func TestDirectoryRestart(t *testing.T) {
	for name, test := range map[string]struct {
		state, then string
		want        string
	}{
		"with a copy":     {"state_dir: state\n", "", "allow"},
		"without":         {"", "", "not_ready"},
		"of another file": {"state_dir: state\n", "others", "not_ready"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, "")
			p.write("people/relations.jsonl", someRelations+annIsAdmin)
			configure := func(file string) {
				p.write("gatehouse.yaml", test.state+"policy: {bundles: [{path: policy}]}\ndirectory: {file: "+file+"}\n")
			}
			configure("people")
			n, end := p.start()
			if is := answer(n); is != "allow" {
				t.Fatal(is)
			}
			before := *n.Directory()
			end()
			p.write("people/relations.jsonl", "broken\n")
			if test.then != "" {
				p.write("others/relations.jsonl", "broken\n")
				configure(test.then)
			}
			n, end = p.start()
			if is := answer(n); is != test.want || (n.Gate().View().Ready() == nil) != (test.want == "allow") {
				t.Fatalf("%s, ready: %v", is, n.Gate().View().Ready())
			}
			if is := n.Directory(); test.want == "allow" && (is.Revision != before.Revision || is.Digest != before.Digest || !is.Copy || is.Error == "") {
				t.Errorf("%+v", *is)
			}
			if len(n.Degraded().Directory) != 1 {
				t.Errorf("degraded: %q", n.Degraded().Directory)
			}
			file := "people/relations.jsonl"
			if test.then != "" {
				p.write("others/objects.jsonl", someObjects)
				file = "others/relations.jsonl"
			}
			p.write(file, someRelations+annIsAdmin)
			p.eventuallyStatus(n, "waiting for the files", good)
			p.eventuallyAnswers(n, "allow")
			end()
			p.write(file, someRelations)
			n, _ = p.start()
			if is := n.Directory(); answer(n) != "denied" || test.state != "" && test.then == "" && is.Revision != before.Revision+1 {
				t.Errorf("%+v", *is)
			}
		})
	}
}

// TestDirectoryMaxAge has a directory get too old, and be good again.
func TestDirectoryMaxAge(t *testing.T) {
	for after, want := range map[string]string{"serve": "allow", "deny": "not_ready"} {
		t.Run(after, func(t *testing.T) {
			p := newPlace(t, ", max_age: 1ms, after_max_age: "+after)
			p.write("people/relations.jsonl", someRelations+annIsAdmin)
			n, _ := p.start()
			if is := answer(n); is != "allow" {
				t.Fatal(is)
			}
			p.write("people/relations.jsonl", "broken\n")
			p.eventuallyStatus(n, "waiting for its age", func(s *DirectoryStatus) bool { return s.Expired })
			p.eventuallyAnswers(n, want)
			if len(n.Degraded().Directory) != 2 {
				t.Errorf("degraded: %q", n.Degraded().Directory)
			}
			p.write("people/relations.jsonl", someRelations+annIsAdmin)
			p.eventuallyStatus(n, "waiting for the files", func(s *DirectoryStatus) bool { return good(s) && !s.Expired })
			p.eventuallyAnswers(n, "allow")
		})
	}
}

// TestDirectorySection has what cannot be configured.
func TestDirectorySection(t *testing.T) {
	for text, want := range map[string]string{
		"directory: {user: {from: email}}":                                    "directory.file: required",
		"directory: {file: people, unknown_user: allow}":                      `directory.unknown_user: "allow" is neither absent nor deny`,
		"directory: {file: people, user: {from: name}}":                       `directory.user.from: "name" is neither subject nor email`,
		"directory: {file: people, user: {from: email, claim: c}}":            "directory.user.claim: leave out",
		"directory: {file: people, user: {by: name}}":                         `directory.user.by: "name" is neither identity nor id`,
		"directory: {file: people, after_max_age: deny}":                      "set directory.max_age",
		"directory: {file: people, limits: {depth: -1}}":                      "directory.limits.depth: -1",
		"directory: {file: people, usr: {}}":                                  `did you mean "user"`,
		"headers: {roles_from: directory}":                                    "headers.roles_from: there is no directory",
		"headers: {groups_from: all}":                                         `headers.groups_from: "all" is neither token, directory nor both`,
		"headers: {properties: {x-dept: dept}}":                               "headers.properties: there is no directory",
		"directory: {file: people}\nheaders: {properties: {X-Dept: dept}}":    "headers.properties",
		"directory: {file: people}\nheaders: {properties: {x-auth-roles: a}}": "are both",
	} {
		p := newPlace(t, "")
		p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}]}\n"+text+"\n")
		cfg, found := p.read()
		if _, err := New(t.Context(), Config{Config: cfg, Found: found}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "gatehouse.yaml:") {
			t.Errorf("%s: %v: want %q", text, err, want)
		}
	}
}

// TestDirectoryDifference changes a little, and then the manifest: the status says what changed, and what did not change keeps its memory.
func TestDirectoryDifference(t *testing.T) {
	p := newPlace(t, "")
	n, _ := p.start()
	p.write("people/relations.jsonl", someRelations+annIsAdmin)
	p.eventuallyAnswers(n, "allow")
	change := n.Directory().Change
	if change == nil || change.What != "+1 relation" || len(change.Sample) != 1 || change.Sample[0] != "set role:admin#member@user:ann" || change.Revision != n.Directory().Revision {
		t.Errorf("%+v", change)
	}
	p.write("people/objects.jsonl", someObjects+`{"type":"user","id":"bob","display_name":"Bob"}`+"\n"+`{"type":"user","id":"eve"}`+"\n")
	p.eventuallyStatus(n, "waiting for bob", func(s *DirectoryStatus) bool { return s.Objects == 5 })
	if change = n.Directory().Change; change.What != "+2 objects" || len(change.Sample) != 2 {
		t.Errorf("%+v", change)
	}
	p.write("people/manifest.yaml", "model: {version: 3}\ntypes:\n  user: {}\n  identity: {relations: {identifier: user}}\n  role: {relations: {member: user}}\n  team: {}\n")
	p.eventuallyStatus(n, "waiting for the manifest", func(s *DirectoryStatus) bool { return strings.Contains(s.Change.What, "the manifest") })
	if is := n.Directory(); is.Relations != 2 || answer(n) != "allow" {
		t.Errorf("%+v", *is)
	}
}

// TestDirectoryBlocks has a load that does not come back: the node says so, what was in use stays or, past max_age, does not, and what comes at
// last is taken.
func TestDirectoryBlocks(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, ", max_age: 1ms, after_max_age: deny")
	cfg, _ := p.read()
	cfg.Directory.File = filepath.Join(p.dir, "people")
	s := newDirectorySource(cfg, zap.NewNop(), nil)
	come := make(chan struct{})
	blocks := false
	s.load = func(ctx context.Context, c directoryConfig) (*directory.Snapshot, error) {
		if blocks {
			<-come
		}
		return loadFiles(ctx, c)
	}
	if err := s.start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	blocks, s.lookWithin, s.loadWithin = true, time.Millisecond, time.Millisecond
	published := make(chan *directory.Snapshot, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx, func(next *directory.Snapshot) error { published <- next; return nil }) })
	p.write("people/relations.jsonl", someRelations+annIsAdmin)
	if next := <-published; next != nil {
		t.Error("what was in use is not withdrawn")
	}
	if is := s.status.Load(); !is.Expired || !strings.Contains(is.Error, "do not answer") || len(s.degraded()) != 2 {
		t.Errorf("%+v", is)
	}
	close(come)
	if next := <-published; next == nil || next.Stats().Relations != 2 {
		t.Error("what was loaded at last is not published")
	}
	p.eventually("waiting for the status", func() error {
		if is := s.status.Load(); is.Error != "" || is.Expired {
			return fmt.Errorf("%+v", is)
		}
		return nil
	})
	cancel()
	running.Wait()
}

// TestDirectoryBlocksAtStart: the first load blocks; the node starts without it and uses it once it is done.
func TestDirectoryBlocksAtStart(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, "")
	cfg, _ := p.read()
	cfg.Directory.File = filepath.Join(p.dir, "people")
	s := newDirectorySource(cfg, zap.NewNop(), nil)
	come := make(chan struct{})
	s.lookWithin, s.loadWithin = time.Millisecond, time.Millisecond
	s.load = func(ctx context.Context, c directoryConfig) (*directory.Snapshot, error) {
		<-come
		return loadFiles(ctx, c)
	}
	if err := s.start(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "do not answer") {
		t.Fatal(err)
	}
	if degraded := s.degraded(); len(degraded) != 1 || !strings.Contains(degraded[0], "nothing is decided without it") {
		t.Error(degraded)
	}
	ctx, cancel := context.WithCancel(t.Context())
	published := make(chan *directory.Snapshot, 10)
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx, func(next *directory.Snapshot) error { published <- next; return nil }) })
	close(come)
	if next := <-published; next.Stats().Objects != 3 {
		t.Error(next.Stats())
	}
	cancel()
	running.Wait()
}
