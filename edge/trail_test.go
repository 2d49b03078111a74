package edge

import (
	"errors"
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

// decided is what control has of an environment.
func (k *plane) decided(p *place, environment string, f *api.DecisionFilter) []*api.Decision {
	p.Helper()
	out, err := cli.Ask(p.Context(), k.Trail.SearchDecisions, &api.SearchDecisionsRequest{Environment: environment, Filter: f, PageSize: 1000, Entries: true})
	if err != nil {
		p.Fatal(err)
	}
	return out.GetDecisions()
}

// TestTrail: what two edges decide is at control, each decision once, also what they decide while control is away; an edge of
// another environment has its own.
func TestTrail(t *testing.T) {
	defer goleak.VerifyNone(t)
	all := newPlace(t, "")
	k := newPlane(all, filepath.Join(t.TempDir(), "control"), "127.0.0.1:0", "")
	token, address := k.AdminToken(), k.Addr().String()
	const other = "shop/staging"
	if _, err := cli.Ask(t.Context(), k.Admin.CreateEnvironment, &api.CreateEnvironmentRequest{Name: other}); err != nil {
		t.Fatal(err)
	}
	people, err := format.Load(t.Context(), filepath.Join(all.dir, "people"), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*Node
	var places []*place
	for i, environment := range []string{control.DefaultEnvironment, control.DefaultEnvironment, other} {
		if _, err := k.Import(t.Context(), people, cli.Import{Environment: environment, Manifest: true}, func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		enrollment, err := cli.Ask(t.Context(), k.Admin.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: environment, Name: fmt.Sprint("web-", i+1)})
		if err != nil {
			t.Fatal(err)
		}
		p := newPlace(t, "")
		p.write("enroll.token", enrollment.GetToken())
		p.write("gatehouse.yaml", fmt.Sprintf("policy: {bundles: [{path: policy}]}\nstate_dir: state\ndirectory: {control: true}\ncontrol: {url: \"https://%s\", pin: %s, enroll_token_file: enroll.token}\n"+
			"decision_log: {mask: [/request/path], sinks: [{control: {delay: 1ms}}]}\n", address, k.Pin()))
		n, end := p.start()
		defer end()
		p.eventuallyAnswers(n, "denied") // before it answers not_ready, which is on record too
		nodes, places = append(nodes, n), append(places, p)
	}
	denied := &api.DecisionFilter{Outcome: "deny", Reason: "denied"}
	count := func(environment string) int { return len(k.decided(all, environment, denied)) }
	arrive := func(environment string, n int) {
		t.Helper()
		all.eventually(fmt.Sprintf("waiting for %d decisions in %s", n, environment), func() error {
			if is := count(environment); is != n {
				return fmt.Errorf("%d", is)
			}
			return nil
		})
	}
	arrive(control.DefaultEnvironment, 2)
	arrive(other, 1)
	names := map[string]int{}
	for _, d := range k.decided(all, control.DefaultEnvironment, denied) {
		names[d.GetEdgeName()]++
		if !strings.Contains(d.GetEntry(), `"erased":["/request/path"]`) || d.GetPath() != "" {
			t.Errorf("a masked entry came as %s", d.GetEntry())
		}
	}
	if names["web-1"] != 1 || names["web-2"] != 1 {
		t.Errorf("edges %v", names)
	}
	if list := k.decided(all, control.DefaultEnvironment, &api.DecisionFilter{Edge: "web-2", Outcome: "deny", Reason: "denied"}); len(list) != 1 {
		t.Errorf("%d of web-2", len(list))
	}

	// Control goes. The edges decide, and send all of it when it is back.
	k.stop()
	for _, n := range nodes {
		for range 20 {
			if is := answer(n); is != "denied" {
				t.Fatal(is)
			}
		}
	}
	places[0].eventually("the sink to fail", func() error {
		if nodes[0].DecisionLog().Sinks[0].Error == "" {
			return errors.New("not yet")
		}
		return nil
	})
	k = newPlane(all, k.dir, address, token)
	defer func() { k.stop() }()
	arrive(control.DefaultEnvironment, 42)
	arrive(other, 21)
	seen := map[string]bool{}
	for _, d := range k.decided(all, control.DefaultEnvironment, nil) {
		if seen[d.GetId()] {
			t.Errorf("twice: %s", d.GetId())
		}
		seen[d.GetId()] = true
	}
	if n := nodes[0]; n.DecisionLog().Sinks[0].Name != "control" || !strings.HasSuffix(n.DecisionLog().Sinks[0].To, address+"/logs") {
		t.Errorf("status %+v", n.DecisionLog().Sinks)
	}

	// Who may see what.
	only, err := cli.Ask(t.Context(), k.Admin.CreateToken, &api.CreateTokenRequest{Name: "auditor", Scopes: []string{"audit:" + other}})
	if err != nil {
		t.Fatal(err)
	}
	writer, err := cli.Ask(t.Context(), k.Admin.CreateToken, &api.CreateTokenRequest{Name: "writer", Scopes: []string{"write:" + other, "read:" + other}})
	if err != nil {
		t.Fatal(err)
	}
	for text, may := range map[string]bool{only.GetText(): true, writer.GetText(): false} {
		c, err := cli.Connect(cli.Access{URL: "https://" + address, Pin: k.Pin(), Token: text})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for environment, allowed := range map[string]bool{other: may, control.DefaultEnvironment: false, "shop/none": false} {
			_, err := cli.Ask(t.Context(), c.Trail.SearchDecisions, &api.SearchDecisionsRequest{Environment: environment, Filter: &api.DecisionFilter{Text: "denied"}})
			if allowed != (err == nil) || err != nil && !strings.Contains(err.Error(), "it needs the scope audit:"+environment) {
				t.Errorf("%s: %v", environment, err)
			}
		}
	}
}
