package edge

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
)

// TestStagedRollout: a revision reaches one edge first; it is held by itself when it denies more than the one before, and
// goes back when it is ended; one that stays within its bounds reaches all.
func TestStagedRollout(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, "")
	k := newPlane(p, filepath.Join(t.TempDir(), "control"), "127.0.0.1:0", "")
	defer func() { k.stop() }()
	first := k.pushed(t, map[string]string{"authz.rego": allowAll})
	k.promote(t, first)
	var nodes []*Node
	for range 2 {
		at := k.edgeOf(t, "")
		n, end := at.start()
		defer end()
		at.eventuallyAnswers(n, "allow")
		nodes = append(nodes, n)
	}
	ask := func(n int) (answers string) {
		for _, one := range nodes {
			last := ""
			for range n {
				last = answer(one)
			}
			answers += last + " "
		}
		return answers
	}
	is := func() *api.GetPolicyResponse {
		out, err := cli.Ask(t.Context(), k.Policy.GetPolicy, &api.GetPolicyRequest{Environment: control.DefaultEnvironment})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	begin := func(digest string) {
		t.Helper()
		if _, err := cli.Ask(t.Context(), k.Policy.Promote, &api.PromoteRequest{Environment: control.DefaultEnvironment, Revision: digest, Stages: []string{"1", "all"}, Message: "step by step"}); err != nil {
			t.Fatal(err)
		}
	}
	change := func(action string) {
		t.Helper()
		if _, err := cli.Ask(t.Context(), k.Policy.ChangeRollout, &api.ChangeRolloutRequest{Environment: control.DefaultEnvironment, Action: action}); err != nil {
			t.Fatal(err)
		}
	}
	p.eventually("both edges to be connected", func() error {
		if n := len(is().GetEdges()); n != 2 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	ask(300) // what is compared with

	p.eventually("the counts to have come", func() error { ask(10); return nil })
	begin(k.pushed(t, map[string]string{"authz.rego": denyAll}))
	p.eventually("one edge alone to have it", func() error {
		if got := ask(1); got != "allow denied " && got != "denied allow " {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	p.eventually("it to be held", func() error {
		ask(20)
		if r := is().GetRollout(); r.GetState() != "held" || !strings.Contains(r.GetReason(), "it denies 100.0 %") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	var shown strings.Builder
	if err := k.Rollout(t.Context(), &shown, control.DefaultEnvironment, "show", "", false); err != nil || len(is().GetRollout().GetEdges()) != 1 ||
		!strings.Contains(shown.String(), "edges of the stage: "+is().GetRollout().GetEdges()[0]+"\nresume goes on, next takes the next stage, abort gives them "+first[:12]+" again\n") {
		t.Errorf("%v\n%s", err, shown.String())
	}
	if got := ask(1); got == "denied denied " {
		t.Error("it reached both edges")
	}
	change("abort")
	p.eventually("both to be back", func() error {
		if got := ask(1); got != "allow allow " {
			return fmt.Errorf("%s", got)
		}
		return nil
	})

	good := k.pushed(t, map[string]string{"authz.rego": allowAll + "# better\n", "data.json": "{}"})
	begin(good)
	p.eventually("one edge to have it", func() error {
		n := 0
		for _, e := range is().GetEdges() {
			if strings.HasPrefix(good, e.GetRevision()) {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%d edges", n)
		}
		return nil
	})
	change("next")
	p.eventually("both to have it, promoted", func() error {
		out := is()
		for _, e := range out.GetEdges() {
			if !strings.HasPrefix(good, e.GetRevision()) || !e.GetCurrent() {
				return fmt.Errorf("%v", e)
			}
		}
		if out.GetRollout() != nil || out.GetPromotion().GetRevision().GetDigest() != good || out.GetPromotion().GetMessage() != "step by step" {
			return fmt.Errorf("%v", out)
		}
		return nil
	})
}
