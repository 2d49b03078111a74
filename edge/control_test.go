package edge

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/directory/format"
)

// plane is a control plane that serves, with a client.
type plane struct {
	*control.Server
	*cli.Client
	dir  string
	stop func()
}

func newPlane(p *place, dir, listen, token string) *plane {
	p.Helper()
	s, err := control.New(p.Context(), control.Config{Dir: dir, Listen: listen})
	if err != nil {
		p.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if token == "" {
		token = s.AdminToken()
	}
	c, err := cli.Connect(cli.Access{URL: "https://" + s.Addr().String(), Pin: s.Pin(), Token: token})
	if err != nil {
		p.Fatal(err)
	}
	return &plane{Server: s, Client: c, dir: dir, stop: func() {
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			p.Error(err)
		}
	}}
}

func (k *plane) admins(p *place, is bool) {
	p.Helper()
	r, err := format.ParseRelation("role:admin#member@user:ann")
	if err != nil {
		p.Fatal(err)
	}
	if is {
		_, err = cli.Ask(p.Context(), k.Directory.SetRelations, &api.SetRelationsRequest{Environment: control.DefaultEnvironment, Relations: []*api.Relation{cli.Relation(r)}})
	} else {
		_, err = cli.Ask(p.Context(), k.Directory.DeleteRelations, &api.DeleteRelationsRequest{Environment: control.DefaultEnvironment, Relations: []*api.Relation{cli.Relation(r)}})
	}
	if err != nil {
		p.Fatal(err)
	}
}

// TestControl: an edge decides by what control has, through reloads, and by its own copy while control is away and after a
// restart; with max_age it ends that, until control is back.
func TestControl(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, "")
	k := newPlane(p, filepath.Join(t.TempDir(), "control"), "127.0.0.1:0", "")
	token := k.AdminToken()
	people, err := format.Load(t.Context(), filepath.Join(p.dir, "people"), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Import(t.Context(), people, cli.Import{Environment: control.DefaultEnvironment, Manifest: true}, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	enrollment, err := cli.Ask(t.Context(), k.Admin.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: control.DefaultEnvironment})
	if err != nil {
		t.Fatal(err)
	}
	p.write("enroll.token", enrollment.GetToken())
	const text = "policy: {bundles: [{path: policy}]}\nstate_dir: state\ndirectory: {control: true%s}\ncontrol: {url: \"https://%s\", pin: %s, enroll_token_file: enroll.token}\n"
	configure := func(more string) { p.write("gatehouse.yaml", fmt.Sprintf(text, more, k.Addr(), k.Pin())) }
	configure("")
	n, end := p.start()
	defer func() { end() }()
	p.eventuallyAnswers(n, "denied")
	k.admins(p, true)
	p.eventuallyAnswers(n, "allow")
	reload := func() error {
		cfg, found := p.read()
		_, err := n.Reload(t.Context(), cfg, found)
		return err
	}
	configure(", limits: {depth: 50}")
	if err := reload(); err != nil || answer(n) != "allow" {
		t.Fatalf("%s, %v", answer(n), err)
	}
	k.admins(p, false)
	p.eventuallyAnswers(n, "denied")
	k.admins(p, true)
	p.eventuallyAnswers(n, "allow")
	is := n.Directory()
	if is.Control == nil || !is.Control.Connected || is.Control.Environment != control.DefaultEnvironment || len(n.Degraded().Directory) > 0 {
		t.Errorf("status %+v, degraded %v", is.Control, n.Degraded().Directory)
	}

	// Control goes, and the edge is started again.
	address := k.Addr().String()
	k.stop()
	p.eventuallyStatus(n, "control to be away", func(s *DirectoryStatus) bool { return !s.Control.Connected && s.Error != "" })
	if d := n.Degraded().Directory; answer(n) != "allow" || len(d) != 1 || !strings.Contains(d[0], "control does not confirm it since") {
		t.Errorf("%s, degraded %v", answer(n), d)
	}
	end()
	n, end = p.start()
	if s := n.Directory(); answer(n) != "allow" || !s.Copy || s.Digest != is.Digest || s.Revision != is.Revision {
		t.Fatalf("after a restart: %s, %+v", answer(n), *s)
	}

	// Without control it counts for max_age.
	configure(", max_age: 1ms, after_max_age: deny")
	if err := reload(); err != nil {
		t.Fatal(err)
	}
	p.eventuallyAnswers(n, "not_ready")
	configure(", max_age: 1h, after_max_age: deny")
	k = newPlane(p, k.dir, address, token)
	defer func() { k.stop() }()
	if err := reload(); err != nil {
		t.Fatal(err)
	}
	p.eventuallyAnswers(n, "allow")
	p.eventuallyStatus(n, "control to confirm it", func(s *DirectoryStatus) bool { return s.Control.Connected && !s.Expired && s.Error == "" })

	// Another source of the directory, and back.
	p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}]}\nstate_dir: state\ndirectory: {file: people}\n")
	if err := reload(); err != nil || answer(n) != "denied" {
		t.Fatalf("%s, %v", answer(n), err)
	}
	configure("")
	if err := reload(); err != nil || answer(n) != "allow" {
		t.Fatalf("%s, %v", answer(n), err)
	}
}

// TestControlConfig: contradictions are refused, each at its line.
func TestControlConfig(t *testing.T) {
	const plain = "policy: {bundles: [{path: policy}]}\n"
	for name, c := range map[string]struct{ text, want string }{
		"two sources":    {"state_dir: s\ndirectory: {control: true, file: people}\ncontrol: {url: \"https://c:1\", ca: ca.pem}\n", "gatehouse.yaml:3: directory.file: leave it out"},
		"written too":    {"state_dir: s\ndirectory: {control: true, writable: true}\ncontrol: {url: \"https://c:1\", ca: ca.pem}\n", "gatehouse.yaml:3: directory.writable: leave it out"},
		"no control":     {"state_dir: s\ndirectory: {control: true}\n", "control.url: required"},
		"unused":         {"control: {url: \"https://c:1\"}\n", "gatehouse.yaml:2: control.url: nothing is taken from control"},
		"plain http":     {"state_dir: s\ndirectory: {control: true}\ncontrol: {url: \"http://c:1\", ca: ca.pem}\n", "gatehouse.yaml:4: control.url: \"http://c:1\": give https"},
		"no trust":       {"state_dir: s\ndirectory: {control: true}\ncontrol: {url: \"https://c:1\"}\n", "control.pin: give it, or control.ca"},
		"a short pin":    {"state_dir: s\ndirectory: {control: true}\ncontrol: {url: \"https://c:1\", pin: abcd}\n", "gatehouse.yaml:4: control.pin: \"abcd\" is no SHA-256"},
		"no state":       {"directory: {control: true}\ncontrol: {url: \"https://c:1\", ca: ca.pem}\n", "gatehouse.yaml:2: directory.control: set state_dir"},
		"never too old":  {"state_dir: s\ndirectory: {control: true, after_max_age: deny}\ncontrol: {url: \"https://c:1\", ca: ca.pem}\n", "set directory.max_age"},
		"nothing to ask": {"directory: {max_age: 1h}\n", "directory.file: required: without it, writable or control"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, "")
			p.write("gatehouse.yaml", plain+c.text)
			cfg, found := p.read()
			_, err := New(t.Context(), Config{Config: cfg, Found: found})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want %s", err, c.want)
			}
		})
	}
}
