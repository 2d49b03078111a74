package decisionlog_test

import (
	"slices"
	"strings"
	"testing"

	"gatehouse/decisionlog"
)

func TestSecrets(t *testing.T) {
	input := map[string]any{
		"attributes": map[string]any{"request": map[string]any{"http": map[string]any{
			"path":    "/a?access_token=first-secret",
			"headers": map[string]any{"x-tenant-key": "second-secret", "accept": "text/html", "x-other": "Bearer third-secret", "cookie": "abc"},
		}}},
		"parsed_query": map[string]any{"access_token": []any{"first-secret"}},
		"identity":     map[string]any{"subject": "ann", "claims": map[string]any{"sub": "ann"}},
	}
	paths, texts := decisionlog.Redact{Headers: []string{"X-Tenant-Key"}}.Secrets(input)
	places := map[string]bool{}
	for _, p := range paths {
		places[strings.Join(p, " ")] = true
	}
	for _, want := range []string{"identity claims", "attributes request http body", "attributes request http headers authorization",
		"attributes request http headers x-tenant-key", "attributes request http headers x-other", "parsed_query access_token"} {
		if !places[want] {
			t.Errorf("%q is not secret", want)
		}
	}
	if places["attributes request http headers accept"] || places["identity subject"] {
		t.Error("what is no secret counts as one")
	}
	for _, want := range []string{"second-secret", "Bearer third-secret"} {
		if !slices.Contains(texts, want) {
			t.Errorf("%q is not in %q", want, texts)
		}
	}
	if slices.Contains(texts, "abc") || slices.Contains(texts, "ann") {
		t.Errorf("texts are %q", texts)
	}
	if input["identity"].(map[string]any)["claims"] == nil {
		t.Error("the input was changed")
	}
}

// TestShown: what the log leaves out is left out elsewhere too, also by a log that records nothing, and by none.
func TestShown(t *testing.T) {
	silent, err := decisionlog.New(decisionlog.Config{Redact: decisionlog.Redact{Headers: []string{"x-tenant-key"}}})
	if err != nil {
		t.Fatal(err)
	}
	headers := []decisionlog.Header{{Name: "authorization", Value: "Bearer first-secret"}, {Name: "x-tenant-key", Value: "second-secret"}}
	for name, tt := range map[string]struct {
		shown  decisionlog.Shown
		tenant string
	}{
		"no log":               {(*decisionlog.Log)(nil).Shown("/a?access_token=third-secret", headers), "second-secret"},
		"a log without a sink": {silent.Shown("/a?access_token=third-secret", headers), "[redacted]"},
	} {
		if got := tt.shown.Text("it has first-secret and third-secret"); got != "it has [redacted] and [redacted]" {
			t.Errorf("%s: %s", name, got)
		}
		if got := tt.shown.Header("x-tenant-key", "second-secret"); got != tt.tenant {
			t.Errorf("%s: %s", name, got)
		}
	}
}
