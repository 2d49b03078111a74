package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/trial"
	"gatehouse/trial/node"
)

// decide has a request decided under ./gatehouse.yaml and its decision logged, and puts the decision's id into the environment:
// decide NAME log METHOD PATH [SUBJECT ROLE [BODY]].
func decide(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: decide NAME log METHOD PATH [SUBJECT ROLE [BODY]]")
	}
	a := &trial.Request{Method: args[2], Path: args[3], Headers: gate.Headers{{Name: "x-api-key", Value: "sesame-open"}}}
	if len(args) > 5 {
		a.As = &identity.Identity{Type: identity.TypeJWT, Identity: args[4], Subject: args[4], Issuer: "https://login.example.com",
			Roles: strings.Split(args[5], ","), Claims: map[string]any{"sub": args[4], "team": "blue"}, Authenticated: true}
	}
	if len(args) > 6 {
		a.Body = args[6]
	}
	id, err := logDecision(a, ts.MkAbs("gatehouse.yaml"), ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Setenv(args[0], id)
}

func logDecision(a *trial.Request, from, file string) (id string, err error) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	t, err := node.New(ctx, config.Source{File: from}, nil, func(*config.Config) {}, func(string) {})
	if err != nil {
		return "", err
	}
	defer t.Close()
	cfg := edge.LogConfig(t.Config, nil, nil)
	cfg.File = file
	log, err := decisionlog.New(cfg)
	if err != nil {
		return "", err
	}
	settings := *t.Gate.View().Settings
	settings.Log = log
	if err := t.Gate.Publish(ctx, func(v *gate.View) { v.Settings = &settings }); err != nil {
		return "", err
	}
	answer := t.Gate.Check(ctx, a.Gate())
	stop()
	return answer.DecisionID, log.Run(ctx)
}

const explainRecord = `{"decision_id":"WANTED","timestamp":"2026-03-01T10:00:00Z","path":"envoy/authz/allow","identity":{"authenticated":false},` +
	`"request":{"method":"GET","path":"/"},"outcome":"deny","reason":"no_route","status":403,"error":{"message":"no_route: the route table says nothing"}}` + "\n"

// TestExplainReadsLogs finds one decision among others, damage, long lines and gaps, compressed or not.
func TestExplainReadsLogs(t *testing.T) {
	long := `{"decision_id":"LONG","x":"` + strings.Repeat("a", 16<<20) + "\"}\n"
	noise := strings.Repeat(`{"decision_id":"other","outcome":"allow"}`+"\n", 1000) + `{"gap":{"dropped":3}}` + "\n"
	for name, content := range map[string]string{
		"alone":            explainRecord,
		"without an end":   strings.TrimSuffix(explainRecord, "\n"),
		"among others":     noise + explainRecord + noise,
		"behind long ones": long + explainRecord,
		"behind damage":    `{"decision_id":"WANTED","timest` + "\n" + explainRecord,
	} {
		for _, compress := range []bool{false, true} {
			file := filepath.Join(t.TempDir(), "log")
			text := []byte(content)
			if compress {
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				_, _ = z.Write(text)
				_ = z.Close()
				text = b.Bytes()
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), []string{"explain", "WANTED", "--log", file, "--bundle", "nowhere"}, &stdout, &stderr)
			if code != 0 || !strings.Contains(stdout.String(), "the policy was not asked: no_route: the route table says nothing") {
				t.Errorf("%s, compressed %v: exit code %d\n%s%s", name, compress, code, &stdout, &stderr)
			}
			stderr.Reset()
			if code := run(t.Context(), []string{"explain", "NOWHERE", "--log", file, "--bundle", "nowhere"}, &stdout, &stderr); code != 1 ||
				!strings.Contains(stderr.String(), `"NOWHERE" is not in`) {
				t.Errorf("%s: exit code %d for what is not there\n%s", name, code, &stderr)
			}
		}
	}
}
