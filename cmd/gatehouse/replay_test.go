package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/gate/recorded"
	"gatehouse/identity"
	"gatehouse/replay"
	"gatehouse/report"
	"gatehouse/routes"
	"gatehouse/trial"
	"gatehouse/trial/node"
)

const ordersExample = "../../examples/flask-orders"

// ordersFolder is a copy of the example, with a route table where one is wanted.
func ordersFolder(t testing.TB, withRoutes bool) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"policy", "directory"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(ordersExample, name))); err != nil {
			t.Fatal(err)
		}
	}
	config, err := os.ReadFile(filepath.Join(ordersExample, "gatehouse.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(config)
	if withRoutes {
		text += "routes: {file: routes.yaml, unmatched: policy}\n"
		table := "framework: openapi\nroutes:\n  - {route: \"GET /orders\", name: orders.list}\n  - {route: \"ANY /orders/{id}\", name: orders.one}\n" +
			"  - {route: \"ANY /users/{user}/orders\", name: orders.own}\n"
		if err := os.WriteFile(filepath.Join(dir, "routes.yaml"), []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "gatehouse.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ordersRequest is one of the requests that the application has, with the headers that Envoy passes on: some two thousand of them
// differ for the policy.
func ordersRequest(i int) *gate.Request {
	people := []struct{ name, role string }{{"vera", "viewer"}, {"carl", "clerk"}, {"ada", "admin"}, {"alice", "customer"}, {"dave", "guest"}, {"", ""}}
	who, kind := people[i%len(people)], i/len(people)
	method, path, body := "GET", "/orders", ""
	switch order := strconv.Itoa(kind / 10 % 40); kind % 10 {
	case 0, 1, 2:
		path = "/orders/" + order + "?page=" + strconv.Itoa(i)
	case 3:
		method, path = "DELETE", "/orders/"+order
	case 4:
		method, path, body = "PUT", "/orders/"+order, fmt.Sprintf(`{"item":"lamp","amount":%d}`, kind%2000)
	case 5:
		path = "/users/" + people[kind/10%len(people)].name + "/orders"
	case 6:
		method, path, body = "POST", "/users/alice/orders", fmt.Sprintf(`{"item":"lamp","amount":%d}`, kind%1200)
	case 7:
		path = "/healthz"
	case 8:
		path = "/orders/../secret"
	}
	a := trial.Request{Method: method, Path: path, Host: "orders.example.com", Body: body}
	for n := range 14 {
		a.Headers = append(a.Headers, gate.Header{Name: "x-header-" + strconv.Itoa(n), Value: strings.Repeat("v", 20+n)})
	}
	a.Headers = append(a.Headers, gate.Header{Name: "authorization", Value: "Bearer secret-of-" + who.name}, gate.Header{Name: "x-request-id", Value: fmt.Sprintf("%032d", i)},
		gate.Header{Name: "user-agent", Value: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"})
	anonymous := identity.Anonymous()
	a.As = &anonymous
	if who.name != "" {
		a.As = &identity.Identity{Type: identity.TypeJWT, Identity: who.name, Subject: who.name, Issuer: "http://localhost/issuer",
			Roles: []string{who.role}, Claims: map[string]any{"sub": who.name}, Authenticated: true}
	}
	return a.Gate()
}

// record decides requests under a configuration, and returns the log of that with the answers.
func record(t testing.TB, file string, requests int, request func(int) *gate.Request) (log string, answers []gate.Answer) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	tr, err := node.New(ctx, config.Source{File: file}, nil, func(*config.Config) {}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	cfg := edge.LogConfig(tr.Config, nil, nil)
	cfg.File = filepath.Join(t.TempDir(), "decisions.log")
	l, err := decisionlog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	settings := *tr.Gate.View().Settings
	settings.Log, settings.Timeout = l, time.Minute // a busy machine is no timeout
	if err := tr.Gate.Publish(ctx, func(v *gate.View) { v.Settings = &settings }); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	logging, end := context.WithCancel(context.Background())
	go func() { done <- l.Run(logging) }()
	for i := range requests {
		if req := request(i); req != nil {
			answer := tr.Gate.Check(ctx, req)
			if requests <= 100_000 {
				answers = append(answers, answer)
			}
		}
	}
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return cfg.File, answers
}

// replayed is what gatehouse replay -o json prints.
type replayed struct {
	Replayed, Changed, Unexpected, Damaged int64
	OldDiffers                             int64 `json:"old_differs"`
	Changes                                []replay.Group
	NotReplayed                            []replay.Skipped `json:"not_replayed"`
}

func replayJSON(t *testing.T, want int, args ...string) (out replayed) {
	t.Helper()
	code, stdout, stderr := command(t, append([]string{"replay", "--format", "json"}, args...)...)
	if code != want {
		t.Fatalf("%q: exit code %d, want %d\n%s%s", args, code, want, stdout, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &out); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	return out
}

// TestReplayAgainstItself: the policy that made a log changes nothing of it, however it is named.
func TestReplayAgainstItself(t *testing.T) {
	for _, withRoutes := range []bool{false, true} {
		dir := ordersFolder(t, withRoutes)
		config, bundle := filepath.Join(dir, "gatehouse.yaml"), filepath.Join(dir, "policy")
		log, answers := record(t, config, 900, ordersRequest)
		stopped := int64(0)
		for _, a := range answers {
			if a.Reason == gate.BadRequest {
				stopped++
			}
		}
		for _, args := range [][]string{
			{"--bundle", bundle},
			{"--bundle", bundle, "--old", bundle},
			{"--config", config, "--answers"},
			{"--config", config, "--bundle", bundle, "--old", bundle, "--answers"},
		} {
			got := replayJSON(t, 0, append(args, "--log", log)...)
			if got.Replayed != int64(len(answers))-stopped || got.Changed != 0 || got.OldDiffers != 0 || got.Damaged != 0 || len(got.NotReplayed) != 1 ||
				got.NotReplayed[0].Count != stopped || got.NotReplayed[0].Reason != "the policy was not asked: bad_request" {
				t.Errorf("%q: %+v", args, got)
			}
		}
	}
}

// TestReplayShowsWhatAMutationChanges holds replays against the gate, which decides every request again under each changed policy.
func TestReplayShowsWhatAMutationChanges(t *testing.T) {
	const requests = 900
	before := ordersFolder(t, true)
	log, was := record(t, filepath.Join(before, "gatehouse.yaml"), requests, ordersRequest)
	for name, edit := range map[string][3]string{
		"stricter":            {"data.json", `"viewer": {"permissions": ["orders:read"]}`, `"viewer": {"permissions": []}`},
		"looser":              {"data.json", `"orders:read", "orders:create", "orders:update"], "limit": 1000}`, `"orders:read", "orders:create", "orders:update", "orders:delete"], "limit": 1000}`},
		"a limit":             {"data.json", `"limit": 1000}`, `"limit": 100}`},
		"another status":      {"orders.rego", `{"allowed": false, "reason": "log in first"}`, `{"allowed": false, "reason": "log in first", "http_status": 418}`},
		"a failure":           {"orders.rego", `allow := {"allowed": true} if {`, "allow := 5 if method == \"DELETE\"\n\nelse := {\"allowed\": true} if {"},
		"nothing for some":    {"orders.rego", "permission\n} else", "not permission\n} else := 1 if {\n\tinput.never\n}\n\nunused := 1 if {\n\tinput.never\n} else"},
		"the other way round": {"orders.rego", `reads if method in {"GET", "HEAD"}`, `reads if not method in {"GET", "HEAD"}`},
	} {
		t.Run(name, func(t *testing.T) {
			after := ordersFolder(t, true)
			file := filepath.Join(after, "policy", edit[0])
			text, err := os.ReadFile(file)
			if err != nil || strings.Count(string(text), edit[1]) != 1 {
				t.Fatalf("%q is not once in %s: %v", edit[1], file, err)
			}
			write(t, file, strings.Replace(string(text), edit[1], edit[2], 1))
			_, is := record(t, filepath.Join(after, "gatehouse.yaml"), requests, ordersRequest)
			want := map[string]int64{}
			for i := range was {
				if x, y := trial.VerdictLine(&was[i]), trial.VerdictLine(&is[i]); x != y {
					route := ordersRequest(i).Method + " (other)"
					if was[i].Diagnostics.Match.Outcome == routes.Matched {
						route = ordersRequest(i).Method + " " + was[i].Diagnostics.Match.Route.Template
					}
					want[route+": "+x+" -> "+y]++
				}
			}
			if len(want) == 0 {
				t.Fatal("the mutation changes nothing")
			}
			for _, args := range [][]string{
				{"--config", filepath.Join(before, "gatehouse.yaml"), "--bundle", filepath.Join(after, "policy")},
				{"--config", filepath.Join(before, "gatehouse.yaml"), "--bundle", filepath.Join(after, "policy"), "--old", filepath.Join(before, "policy")},
				{"--bundle", filepath.Join(after, "policy"), "--old", filepath.Join(before, "policy")},
			} {
				got := map[string]int64{}
				out := replayJSON(t, 1, append(args, "--log", log)...)
				for _, skipped := range out.NotReplayed { // without a configuration there is no directory: what is not on record cannot be asked
					if args[0] == "--bundle" && strings.Contains(skipped.Reason, "asks ds.check") {
						got["GET /orders/{id}: allow -> deny 403 denied"] += skipped.Count
					}
				}
				for _, g := range out.Changes {
					route := g.Route
					if strings.HasSuffix(route, "/healthz") {
						route = strings.TrimSuffix(route, "/healthz") + "(other)"
					}
					got[route+": "+g.From+" -> "+g.To] += g.Count
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%q (-gate +replay):\n%s", args, diff)
				}
			}
		})
	}
}

// TestReplayOfRulesByRoute: where each route has a rule of its own, one that is gone is a denial.
func TestReplayOfRulesByRoute(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gatehouse.yaml"), "policy: {root: shop, bundles: [{name: app, path: policy}]}\nroutes: {file: routes.yaml}\n")
	write(t, filepath.Join(dir, "routes.yaml"), "framework: flask\nroutes:\n  - {route: \"GET /orders/<id>\", name: show}\n  - {route: \"PUT /orders/<id>\", name: change}\n"+
		"  - {route: \"GET /v1.2/a-b\", name: odd}\n  - {route: \"GET /none\", name: none}\n")
	for name, rule := range map[string]string{"show": "shop.GET.orders.__id", "change": "shop.PUT.orders.__id", "odd": `shop.GET["v1.2"]["a-b"]`} {
		write(t, filepath.Join(dir, "policy", name+".rego"), "package "+rule+"\n\nallowed if input.attributes.request.http.method != \"PUT\"\n")
	}
	config, bundle := filepath.Join(dir, "gatehouse.yaml"), filepath.Join(dir, "policy")
	requests := []trial.Request{{Method: "GET", Path: "/orders/1"}, {Method: "HEAD", Path: "/orders/2"}, {Method: "PUT", Path: "/orders/3"}, {Method: "GET", Path: "/v1.2/a-b"},
		{Method: "GET", Path: "/none"}}
	log, _ := record(t, config, len(requests), func(i int) *gate.Request { return requests[i].Gate() })
	for _, args := range [][]string{{"--bundle", bundle}, {"--config", config}, {"--config", config, "--old", bundle}} {
		got := replayJSON(t, 0, append(args, "--log", log)...)
		if got.Replayed != 4 || got.Changed != 0 || len(got.NotReplayed) != 1 || got.NotReplayed[0].Reason != "the policy was not asked: no_decision" {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if err := os.Remove(filepath.Join(bundle, "odd.rego")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--bundle", bundle}, {"--config", config}} {
		got := replayJSON(t, 1, append(args, "--log", log)...)
		if len(got.Changes) != 1 || got.Changes[0].Route != "GET /v1.2/a-b" || got.Changes[0].To != "deny 403 no_decision" {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// TestReplayOfADryRun: what was let through is compared by its verdict.
func TestReplayOfADryRun(t *testing.T) {
	dir := ordersFolder(t, false)
	config := filepath.Join(dir, "gatehouse.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, config, string(text)+"dry_run: true\n")
	log, answers := record(t, config, 60, ordersRequest)
	if !answers[9].DryRun && !answers[3].DryRun {
		t.Fatal("nothing was denied")
	}
	if got := replayJSON(t, 0, "--log", log, "--config", config); got.Changed != 0 || got.Replayed < 50 {
		t.Errorf("%+v", got)
	}
}

// TestReplayOfConformanceCases: the recorded requests of the conformance suite, one rule for all of them.
func TestReplayOfConformanceCases(t *testing.T) {
	f, err := os.Open("../../extauthz/testdata/conformance/corpus.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var requests []*gate.Request
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var c struct {
			Request map[string]any `json:"request"`
		}
		d := json.NewDecoder(strings.NewReader(lines.Text()))
		d.UseNumber()
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		if req, err := recorded.Request(c.Request); err == nil {
			requests = append(requests, req)
		}
	}
	dir := t.TempDir()
	rego, err := os.ReadFile("../../extauthz/testdata/conformance/policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "policy", "policy.rego"), string(rego))
	config := filepath.Join(dir, "gatehouse.yaml")
	write(t, config, "policy: {decision: envoy/authz/allow, bundles: [{name: app, path: policy}]}\npaths: {compat: true}\n")
	log, answers := record(t, config, len(requests), func(i int) *gate.Request { return requests[i] })
	got := replayJSON(t, 0, "--log", log, "--config", config, "--partial")
	if got.Changed != 0 || got.Replayed < 50 || len(answers) != len(requests) {
		t.Errorf("%d requests: %+v", len(requests), got)
	}
}

// BenchmarkReplay replays a log of real decisions: GATEHOUSE_REPLAY_RECORDS of them, 20,000 by default. To a policy that reads
// the request's id no decision is like another.
func BenchmarkReplay(b *testing.B) {
	records := 20_000
	if n, err := strconv.Atoi(os.Getenv("GATEHOUSE_REPLAY_RECORDS")); err == nil {
		records = n
	}
	dir := ordersFolder(b, true)
	log, _ := record(b, filepath.Join(dir, "gatehouse.yaml"), records, ordersRequest)
	info, err := os.Stat(log)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"repeated", "new"} {
		rego := filepath.Join(dir, "policy", "orders.rego")
		text, err := os.ReadFile(rego)
		if err != nil {
			b.Fatal(err)
		}
		if name == "new" {
			text = append(text, "\ngranted if input.attributes.request.http.headers[\"x-request-id\"] == \"never\"\n"...)
		}
		if err := os.WriteFile(rego, text, 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(info.Size())
			var took time.Duration
			for b.Loop() {
				began := time.Now()
				if code := run(b.Context(), []string{"replay", "--log", log, "--bundle", filepath.Join(dir, "policy"), "--format", "json"}, io.Discard, io.Discard); code != 0 {
					b.Fatalf("exit code %d", code)
				}
				took += time.Since(began)
			}
			b.ReportMetric(float64(records*b.N)/took.Seconds(), "records/s")
			b.ReportMetric(float64(info.Size())/float64(records), "B/record")
		})
	}
}

// FuzzExpect reads arbitrary files of expected changes: each is read, or every error names the file.
func FuzzExpect(f *testing.F) {
	for _, seed := range []string{"expect:\n  - {route: GET /a, from: allow, to: deny 403 denied}\n", "expect: [{to: deny no_credential, role: x}]", "expect: [{from: deny 4}]", "a: b", "[", "expect: {}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := replay.ParseExpected("e.yaml", text)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "e.yaml:") && !strings.HasPrefix(line, "  ") {
					t.Errorf("%q: %v", text, err)
				}
			}
			return
		}
		for _, e := range list {
			if !replay.IsVerdict(e.From) || !replay.IsVerdict(e.To) || e.From+e.To == "" {
				t.Errorf("%q was taken as %+v", text, e)
			}
		}
	})
}

func TestProgressLine(t *testing.T) {
	for _, test := range []struct {
		events, bytes, total int64
		want                 string
	}{
		{1234567, 50, 100, "[###############...............]  50%  1,234,567 decisions, 617,283 a second, 2s left"},
		{10, 200, 100, "[##############################] 100%  10 decisions, 5 a second, 0s left"},
		{10, 1, 100, "[..............................]   1%  10 decisions, 5 a second"},
		{10, 1, 0, "10 decisions, 5 a second"},
	} {
		if got := report.Progress(test.events, test.bytes, test.total, 2*time.Second); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
