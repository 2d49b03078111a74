package edge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// TestDecisionLogPage: the page's configurations open a log, and its policy does what the page describes.
func TestDecisionLogPage(t *testing.T) {
	text, err := os.ReadFile("../docs/decisionlog.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]int{}
	for _, block := range strings.Split(string(text), "\n```")[1:] {
		language, body, _ := strings.Cut(block, "\n")
		switch blocks[language]++; language {
		case "yaml":
			opensLog(t, body)
		case "rego":
			rules := logRulesOf(t, body)
			ev, err := rules.Event([]byte(`{"app": "orders", "outcome": "deny", "request": {"path": "/healthz"}}`), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			masks, err := ev.Mask(t.Context())
			drop, dropErr := ev.Drop(t.Context())
			if list, _ := masks.([]any); len(list) != 2 || !drop || err != nil || dropErr != nil {
				t.Errorf("%v %v %v %v", masks, drop, err, dropErr)
			}
		}
	}
	if blocks["yaml"] != 2 || blocks["rego"] != 1 {
		t.Errorf("the page has %v", blocks)
	}
}

// opensLog opens the decision log of a configuration, in a separate folder.
func opensLog(t *testing.T, body string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "central.token"), "secret\n")
	write(t, filepath.Join(dir, "gatehouse.yaml"), strings.Replace(body, "/var/lib/gatehouse", "state", 1))
	cfg, doc, err := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}.Read()
	if err != nil || len(doc.Errs) > 0 {
		t.Fatalf("%v %v:\n%s", err, doc.Errs, body)
	}
	found := &config.Problems{Doc: doc}
	cfg.ValidateServices(found)
	s, err := newSink(LogConfig(cfg, zap.NewNop(), nil), sinkServers(cfg), nil)
	if err != nil || len(found.Errs) > 0 {
		t.Fatalf("%v %v:\n%s", err, found.Errs, body)
	}
	if s.log.Status().Sink == "" {
		t.Errorf("there is no log:\n%s", body)
	}
	s.discard(nil)
}

// logRulesOf compiles a policy about the decision log.
func logRulesOf(t *testing.T, rego string) *policy.LogRules {
	t.Helper()
	b, err := bundle.Read("log", fstest.MapFS{"log.rego": {Data: []byte(rego)}}, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(t.Context(), policy.Config{}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := s.LogRules()
	if err != nil || rules == nil {
		t.Fatal(rules, err)
	}
	return rules
}

// write makes a file, and the folders above it.
func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
