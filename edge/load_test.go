package edge_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse/config"
	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/read"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/input"
)

// made names the parts that a View is made of, as an entry does.
type made struct{ policy, routes, keys string }

// loaded is a node whose files and configuration change under load.
type loaded struct {
	t      *testing.T
	dir    string
	public string // the key that the token is signed with
	node   *edge.Node
	cancel atomic.Pointer[context.CancelFunc] // of the reload that is to fail

	mu        sync.Mutex // guards what follows
	published map[made]bool
	now       made
	changed   chan struct{} // closed when something is published
}

// TestNodeUnderLoad changes everything that a node decides by (policy, route table, keys, configuration) while requests come, with reloads that
// fail among it. Each request is allowed by the parts of one View, as the policy saw them, and leaves one entry that says so.
func TestNodeUnderLoad(t *testing.T) {
	before := goleak.IgnoreCurrent()
	n := &loaded{t: t, dir: t.TempDir(), published: map[made]bool{}, changed: make(chan struct{})}
	token := n.begin()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.node.Run(ctx); err != nil {
			t.Errorf("the node: %v", err)
		}
	})
	<-n.node.Ready()

	var asking sync.WaitGroup
	var seen [4]map[string]string // what the policy said it is, by the decision's id
	askUntil, end := context.WithCancel(t.Context())
	for i := range seen {
		seen[i] = map[string]string{}
		asking.Go(func() { n.ask(askUntil, token, seen[i]) })
	}
	for round := 1; round <= 3; round++ {
		n.change(round)
	}
	end()
	asking.Wait()
	stop()
	running.Wait()
	goleak.VerifyNone(t, before)
	n.checkLog(seen[:])
}

// begin writes the first configuration and makes a node of it. The token verifies with all later keys.
func (n *loaded) begin() (token string) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + encode(fmt.Appendf(nil, `{"iss":"https://a","aud":"a","sub":"ann","exp":%d}`, time.Now().Add(time.Hour).Unix()))
	n.public = encode(public)
	n.policy(0)
	n.routes(0)
	n.keys(0)
	cfg, doc := n.configuration(0, "routes.yaml")
	n.node, err = edge.New(n.t.Context(), edge.Config{Config: cfg, Found: doc.Problems(), Smoke: n.smoke, Gate: gate.Config{OnPublish: n.onPublish}})
	if err != nil {
		n.t.Fatal(err)
	}
	return signed + "." + encode(ed25519.Sign(private, []byte(signed)))
}

// smoke cancels the reload that is to fail: all is made by then, and nothing published.
func (n *loaded) smoke(*config.Config) (func(context.Context, *gate.Gate) error, error) {
	return func(context.Context, *gate.Gate) error {
		if cancel := n.cancel.Swap(nil); cancel != nil {
			(*cancel)()
		}
		return nil
	}, nil
}

func (n *loaded) onPublish(v *gate.View) {
	if v.Policy == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = made{v.Policy.Revision(), v.Routes[""].Digest(), v.Keys.Digest()}
	n.published[n.now] = true
	close(n.changed)
	n.changed = make(chan struct{})
}

// change makes one round of changes under load.
func (n *loaded) change(round int) {
	was := n.active()
	n.policy(round)
	n.await("the policy", func(m made) bool { return m.policy != was.policy })
	n.routes(round)
	n.await("the route table", func(m made) bool { return m.routes != was.routes })
	n.keys(round)
	n.await("the keys", func(m made) bool { return m.keys != was.keys })

	was = n.active()
	if _, err := n.reload(n.t.Context(), round, "foreign.yaml"); err == nil || !strings.Contains(err.Error(), "foreign") {
		n.t.Errorf("a reload with routes that the policy has no rule for: %v", err)
	}
	ctx, cancel := context.WithCancel(n.t.Context())
	n.cancel.Store(&cancel)
	if active, err := n.reload(ctx, round, "routes.yaml"); active || !errors.Is(err, context.Canceled) || n.cancel.Load() != nil {
		n.t.Errorf("a reload that is cancelled before it is published: %v, %v", active, err)
	}
	cancel()
	if is := n.active(); is != was {
		n.t.Errorf("%v is active after reloads that failed, %v was", is, was)
	}
	n.policy(round + 100) // found by the reload, or by who watches, whoever is first
	if active, err := n.reload(n.t.Context(), round, "routes.yaml"); err != nil || !active {
		n.t.Errorf("a reload: %v, %v", active, err)
	}
	n.await("the reloaded policy", func(m made) bool { return m.policy != was.policy })
}

func (n *loaded) reload(ctx context.Context, round int, table string) (active bool, err error) {
	cfg, doc := n.configuration(round, table)
	return n.node.Reload(ctx, cfg, doc.Problems())
}

func (n *loaded) active() made {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *loaded) await(what string, is func(made) bool) {
	timeout := time.After(time.Minute)
	for {
		n.mu.Lock()
		now, changed := n.now, n.changed
		n.mu.Unlock()
		if is(now) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			n.t.Fatalf("%s: %v is active", what, now)
		}
	}
}

// ask sends one request after the other.
func (n *loaded) ask(ctx context.Context, token string, seen map[string]string) {
	for ctx.Err() == nil {
		answer := n.node.Gate().Check(n.t.Context(), &gate.Request{Method: "GET", Host: "a", Path: "/orders/17", Scheme: "https",
			Headers: []input.Header{{Name: "authorization", Value: "Bearer " + token}}})
		if !answer.Allow || answer.Reason != gate.None {
			n.t.Errorf("%+v", answer)
			return
		}
		for _, h := range answer.Set {
			if h.Name == "x-policy" {
				seen[answer.DecisionID] = h.Value
			}
		}
	}
}

// checkLog finds the single log entry of each answer.
func (n *loaded) checkLog(seen []map[string]string) {
	log, err := read.OpenReader(filepath.Join(n.dir, "decisions.log"), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	names := map[string]string{} // revision of the policy and digest of the routes, by what the policy and the route call themselves
	answers := map[string]string{}
	for _, some := range seen {
		for id, policy := range some {
			answers[id] = policy
		}
	}
	all, parts := len(answers), map[made]int{}
	for {
		line, err := log.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		var e events.Event
		if err == nil {
			err = e.Parse(line)
		}
		if err != nil || e.Gap.Recorded {
			n.t.Fatalf("%v: %s", err, line)
		}
		id := e.DecisionID.Decode()
		policy, ok := answers[id]
		delete(answers, id)
		is := made{e.Revision.Decode(), e.Digests.Routes.Decode(), e.Digests.Keys.Decode()}
		parts[is]++
		for name, digest := range map[string]string{policy: is.policy, e.Route.Decode(): is.routes} {
			if was := names[name]; was != "" && was != digest {
				n.t.Errorf("%s was %s before: %s", name, was, line)
			}
			names[name] = digest
		}
		if !ok || !n.published[is] {
			n.t.Errorf("answered by %q (known: %v), by what was never published, or not in one piece: %s", policy, ok, line)
		}
	}
	if len(answers) > 0 {
		n.t.Errorf("%d of %d decisions are not in the log", len(answers), all)
	}
	n.t.Logf("%d decisions by %d Views of %d", all, len(parts), len(n.published))
}

func (n *loaded) write(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		n.t.Fatal(err)
	}
}

// policy writes a policy that reports its number.
func (n *loaded) policy(version int) {
	n.write("policy/authz.rego", fmt.Sprintf(`package authz.GET.orders.__id

allowed := {"allowed": input.identity.subject == "ann", "headers": {"x-policy": "v%d"}}
`, version))
}

func (n *loaded) routes(version int) {
	n.write("routes.yaml", fmt.Sprintf("framework: flask\nroutes:\n  - {route: 'GET /orders/<int:id>', name: r%d}\n", version))
}

// keys writes a key set with the token's key and an unused one.
func (n *loaded) keys(version int) {
	key := func(id, x string) string { return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, id, x) }
	n.write("keys.json", `{"keys": [`+key("k", n.public)+`, `+key(fmt.Sprint("k", version), n.public)+`]}`)
}

// configuration writes gatehouse.yaml and reads it.
func (n *loaded) configuration(version int, table string) (*config.Config, *config.Document) {
	n.write("foreign.yaml", "framework: flask\nroutes:\n  - GET /foreign\n")
	n.write("gatehouse.yaml", fmt.Sprintf(`
state_dir: state
identity: {jwt: [{issuer: "https://a", audiences: [a], keys: {file: keys.json}}]}
routes: {file: %s}
policy: {bundles: [{path: policy, name: policy}], root: authz, strict_routes: true, timeout: 2s}
decision_log: {file: decisions.log, labels: {configuration: "%d"}}
`, table, min(version, 1))) // the first reload takes another log, those that follow keep it
	cfg, doc, err := config.Source{File: filepath.Join(n.dir, "gatehouse.yaml")}.Read()
	if err != nil {
		n.t.Fatal(err)
	}
	return cfg, doc
}
