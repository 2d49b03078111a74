package gate_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/gate/recorded"
	"gatehouse/input"
)

// TestFieldIsOnePlace adds a field to the table of the input, and nothing else: policies get it, those that read a part of it only that part;
// the memo knows it; the log keeps it, masked; and a request is made of it again. Its values stand in for what another attribute of
// requests would hold.
func TestFieldIsOnePlace(t *testing.T) {
	schema, err := input.Standard().With(
		input.Field{Path: "account.id", Text: func(in *input.Input) *string { return &in.Fragment }, Number: 901},
		input.Field{Path: "account.attributes", Object: func(in *input.Input) *map[string]any { return &in.RouteMetadata }, Number: 902},
	)
	if err != nil {
		t.Fatal(err)
	}
	const rego = `package envoy.authz

allow := {"allowed": input.account.attributes.level > 1, "dynamic_metadata": {"id": input.account.id}}`
	whole := strings.Replace(rego, "input.account.id}", "input.account.id, \"account\": input.account}", 1)
	for name, test := range map[string]struct {
		rego  string
		plain bool
		given string
	}{
		"partial": {rego, false, ""},
		"whole":   {whole, false, `{"id":"ann","attributes":{"level":2,"token":"s3cret"}}`},
		"plain":   {whole, true, `{"id":"ann","attributes":{"level":2,"token":"s3cret"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "decisions.log")
			log, err := decisionlog.New(decisionlog.Config{File: file, Schema: schema, Plain: test.plain})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error)
			go func() { ended <- log.Run(ctx) }()
			s := settings()
			s.Log, s.Plain = log, test.plain
			g := gatetest.Start(t, gate.Config{Registerer: prometheus.NewRegistry(), Schema: schema}, gatetest.With(t, s, compile(t, test.rego)))
			ask := func(id string, level int) gate.Answer {
				req := get("/")
				req.Fragment, req.RouteMetadata = id, map[string]any{"level": json.Number(string(rune('0' + level))), "token": "s3cret"}
				return g.Check(ctx, req)
			}
			answer := ask("ann", 2)
			if !answer.Allow || answer.Metadata["id"] != "ann" {
				t.Errorf("%v %v", answer.Reason, answer.Metadata)
			}
			if test.given != "" {
				is, err := json.Marshal(answer.Metadata["account"])
				if err != nil {
					t.Fatal(err)
				}
				compareJSON(t, string(is), test.given)
			}
			if again := ask("ann", 2); !again.Allow {
				t.Error("the same request is not allowed")
			}
			if other := ask("bob", 2); other.Metadata["id"] != "bob" {
				t.Errorf("another user gets the decision about %v", other.Metadata["id"])
			}
			if other := ask("ann", 1); other.Allow {
				t.Error("the same user with less is allowed")
			}
			cancel()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			var first, second struct {
				Memo   bool
				Input  map[string]any
				Masked []string
			}
			if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(lines[1]), &second); err != nil {
				t.Fatal(err)
			}
			if len(lines) != 4 || first.Memo || second.Memo == test.plain {
				t.Errorf("%d lines, the second remembered: %v", len(lines), second.Memo)
			}
			logged, err := json.Marshal(first.Input["account"])
			if err != nil {
				t.Fatal(err)
			}
			compareJSON(t, string(logged), `{"id":"ann","attributes":{"level":2,"token":"[redacted]"}}`)
			if masked := strings.Join(first.Masked, " "); !strings.Contains(masked, "/input/account/attributes/token") {
				t.Errorf("masked is %s", masked)
			}

			attributes := first.Input["attributes"].(map[string]any) // these hold the values as well
			delete(attributes, "routeMetadataContext")
			delete(attributes["request"].(map[string]any)["http"].(map[string]any), "fragment")
			req, err := recorded.RequestOf(schema, first.Input)
			if err != nil {
				t.Fatal(err)
			}
			if req.Fragment != "ann" || req.RouteMetadata["token"] != "[redacted]" {
				t.Errorf("read back: %q %v", req.Fragment, req.RouteMetadata)
			}
		})
	}
}

func compareJSON(t *testing.T, got, want string) {
	t.Helper()
	var is, must any
	if err := json.Unmarshal([]byte(got), &is); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &must); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(must, is); diff != "" {
		t.Error(diff)
	}
}
