package edge

import (
	"fmt"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
)

// TestEdgesThatRolloutsWaitFor: an edge with its policy from elsewhere is in no rollout, and no promotion waits for it; one that
// takes control's policy is, before it has one. That changes with the edge's configuration.
func TestEdgesThatRolloutsWaitFor(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, "")
	k := newPlane(p, filepath.Join(t.TempDir(), "control"), "127.0.0.1:0", "")
	defer func() { k.stop() }()
	other := k.edgeOf(t, "")
	other.write("own/authz.rego", allowAll)
	config := func(bundle string) {
		other.write("gatehouse.yaml", fmt.Sprintf("policy: {bundles: [%s]}\nstate_dir: state\ndirectory: {control: true}\ncontrol: {url: \"https://%s\", pin: %s, enroll_token_file: enroll.token}\n", bundle, k.Addr(), k.Pin()))
	}
	config("{path: own}")
	n, end := other.start()
	defer end()
	connected := func(want int) {
		t.Helper()
		p.eventually("the edges to be connected", func() error {
			out, err := cli.Ask(t.Context(), k.Admin.ListEdges, &api.ListEdgesRequest{})
			if err != nil {
				return err
			}
			is := 0
			for _, e := range out.GetEdges() {
				if e.GetConnected() {
					is++
				}
			}
			if is != want {
				return fmt.Errorf("%d", is)
			}
			return nil
		})
	}
	waitedFor := func() int {
		t.Helper()
		out, err := cli.Ask(t.Context(), k.Policy.GetPolicy, &api.GetPolicyRequest{Environment: control.DefaultEnvironment})
		if err != nil {
			t.Fatal(err)
		}
		return len(out.GetEdges())
	}
	connected(1)
	if got := waitedFor(); got != 0 {
		t.Errorf("an edge with a policy of its own is waited for: %d", got)
	}
	k.promote(t, k.pushed(t, map[string]string{"authz.rego": denyAll}))
	next := k.pushed(t, map[string]string{"authz.rego": allowAll})
	staged := &api.PromoteRequest{Environment: control.DefaultEnvironment, Revision: next, Stages: []string{"1", "all"}}
	if _, err := cli.Ask(t.Context(), k.Policy.Promote, staged); err == nil {
		t.Error("a rollout began with an edge that does not take the policy")
	}

	// One that takes it and cannot: it is counted.
	follower := k.edgeOf(t, "")
	follower.write("gatehouse.yaml", fmt.Sprintf("policy: {bundles: [{control: true}], decision: not/there}\nstate_dir: state\ncontrol: {url: \"https://%s\", pin: %s, enroll_token_file: enroll.token}\n", k.Addr(), k.Pin()))
	_, endFollower := follower.start()
	defer endFollower()
	connected(2)
	if got := waitedFor(); got != 1 {
		t.Errorf("%d edges are waited for, and one takes the policy", got)
	}

	config("{control: true}")
	cfg, found := other.read()
	if _, err := n.Reload(t.Context(), cfg, found); err != nil {
		t.Fatal(err)
	}
	p.eventually("both to be waited for", func() error {
		if got := waitedFor(); got != 2 {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}
