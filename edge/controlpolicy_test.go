package edge

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/bundles/tarball"
	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/control/judge"
)

func TestMain(m *testing.M) {
	judge.Main()
	os.Exit(m.Run())
}

// push pushes files as a bundle.
func (k *plane) push(t testing.TB, files map[string]string, tables ...*api.Table) (*api.PushRevisionResponse, error) {
	t.Helper()
	all := map[string][]byte{}
	for name, text := range files {
		all[name] = []byte(text)
	}
	var packed bytes.Buffer
	if err := tarball.Pack(&packed, all); err != nil {
		t.Fatal(err)
	}
	return k.Push(t.Context(), &api.PushRevisionRequest{Project: "default", Bundle: packed.Bytes(), Message: "because", Smoke: tables}, "policy")
}

func (k *plane) pushed(t testing.TB, files map[string]string) string {
	t.Helper()
	out, err := k.push(t, files)
	if err != nil {
		t.Fatal(err)
	}
	return out.GetRevision().GetDigest()
}

func (k *plane) promote(t testing.TB, digest string) {
	t.Helper()
	if _, err := cli.Ask(t.Context(), k.Policy.Promote, &api.PromoteRequest{Environment: control.DefaultEnvironment, Revision: digest, Message: "now"}); err != nil {
		t.Fatal(err)
	}
}

// edgeOf makes an edge of control, with its policy from there. more is the rest of its configuration.
func (k *plane) edgeOf(t *testing.T, more string) *place {
	t.Helper()
	enrollment, err := cli.Ask(t.Context(), k.Admin.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: control.DefaultEnvironment})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t, t.TempDir()}
	p.write("enroll.token", enrollment.GetToken())
	p.write("gatehouse.yaml", fmt.Sprintf("policy: {bundles: [{control: true}]}\nstate_dir: state\ncontrol: {url: \"https://%s\", pin: %s, enroll_token_file: enroll.token}\n%s", k.Addr(), k.Pin(), more))
	return p
}

const (
	allowAll = "package envoy.authz\n\ndefault allow := true\n"
	denyAll  = "package envoy.authz\n\ndefault allow := false\n"
)

// TestPolicyOfControl: a revision that is promoted is in force at every edge, with the directory from control or without
// one; a rollback too; what does not pass changes nothing; and without control an edge starts again and decides as before.
func TestPolicyOfControl(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, "")
	k := newPlane(p, filepath.Join(t.TempDir(), "control"), "127.0.0.1:0", "")
	stopped := false
	defer func() {
		if !stopped {
			k.stop()
		}
	}()
	a, b := k.edgeOf(t, "directory: {control: true}\n"), k.edgeOf(t, "")
	one, end := a.start()
	defer func() { end() }()
	two, endTwo := b.start()
	defer endTwo()
	a.eventuallyAnswers(one, "not_ready")
	b.eventuallyAnswers(two, "not_ready")

	first := k.pushed(t, map[string]string{"authz.rego": denyAll})
	second := k.pushed(t, map[string]string{"authz.rego": allowAll, "authz_test.rego": "package authz_test\n\ntest_all if data.envoy.authz.allow\n"})
	k.promote(t, first)
	a.eventuallyAnswers(one, "denied")
	b.eventuallyAnswers(two, "denied")
	k.promote(t, second)
	a.eventuallyAnswers(one, "allow")
	b.eventuallyAnswers(two, "allow")

	// A bad one is refused, with file and line, and changes nothing.
	_, err := k.push(t, map[string]string{"authz.rego": "package envoy.authz\n\nallow if x\n"})
	if refused := (*cli.RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "policy/authz.rego:3: ") {
		t.Errorf("a policy that does not compile: %v", err)
	}
	_, err = k.push(t, map[string]string{"authz.rego": denyAll, "authz_test.rego": "package authz_test\n\ntest_all if data.envoy.authz.allow\n"})
	if err == nil || !strings.Contains(err.Error(), "policy/authz_test.rego:3: testing: ") {
		t.Errorf("a policy whose test fails: %v", err)
	}
	table := &api.Table{Name: "smoke.yaml", Text: []byte("tests:\n  - {name: all are in, allow: {GET: /orders}}\n")}
	_, err = k.push(t, map[string]string{"authz.rego": denyAll}, table)
	if err == nil || !strings.Contains(err.Error(), "smoke.yaml:2: smoke: all are in") {
		t.Errorf("a policy that does not hold the table: %v", err)
	}
	if out, err := k.push(t, map[string]string{"authz.rego": allowAll}, table); err != nil || out.GetRevision().GetSmoke() != 1 {
		t.Errorf("a policy that holds the table: %v, %v", out, err)
	}

	// Control knows what is in force where.
	is := func() error {
		out, err := cli.Ask(t.Context(), k.Policy.GetPolicy, &api.GetPolicyRequest{Environment: control.DefaultEnvironment})
		if err != nil {
			return err
		}
		for _, e := range out.GetEdges() {
			if !e.GetCurrent() || !strings.HasPrefix(second, e.GetRevision()) {
				return fmt.Errorf("%v", e)
			}
		}
		if len(out.GetEdges()) != 2 {
			return fmt.Errorf("%v", out)
		}
		return nil
	}
	a.eventually("both edges to be current at control", is)

	if _, err := cli.Ask(t.Context(), k.Policy.Rollback, &api.RollbackRequest{Environment: control.DefaultEnvironment, Message: "oh", Expected: second}); err != nil {
		t.Fatal(err)
	}
	a.eventuallyAnswers(one, "denied")
	b.eventuallyAnswers(two, "denied")
	k.promote(t, second)
	a.eventuallyAnswers(one, "allow")
	a.eventually("the bundle to be on disk", func() error {
		if s := one.Bundles().Status()[0]; s.Remote.NotKept || s.Revision != second[:12] {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// A reload goes on with it.
	cfg, found := b.read()
	if active, err := two.Reload(t.Context(), cfg, found); !active || err != nil {
		t.Fatal(err)
	}
	b.eventuallyAnswers(two, "allow")
	k.promote(t, first)
	b.eventuallyAnswers(two, "denied")
	a.eventuallyAnswers(one, "denied")
	k.promote(t, second)
	b.eventuallyAnswers(two, "allow")
	a.eventuallyAnswers(one, "allow")
	end()
	k.stop()
	stopped = true
	one, end = a.start()
	a.eventuallyAnswers(one, "allow")
	a.eventually("the status to say that it is the copy", func() error {
		if s := one.Bundles().Status()[0]; !s.Remote.FromDisk || s.Revision != second[:12] {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}
