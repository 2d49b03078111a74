package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/envoy/generate"
)

// TestEnvoyCutsNoStream holds what every envoy.yaml that we hand out says about time, errors and bodies: nothing ends a stream that
// moves or an upload that is slow, a client that trickles its headers is still cut, Gatehouse that is down is a 503, and the policy gets a
// body's bytes as they are.
func TestEnvoyCutsNoStream(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/envoy.yaml")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, "what is generated") {
		text, err := generate.Default("app").YAML()
		if file != "what is generated" {
			text, err = os.ReadFile(file)
		}
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := yaml.Unmarshal(text, &doc); err != nil {
			t.Fatal(file, err)
		}
		seen := map[string][]any{}
		collect(doc, "", seen)
		atLeast := func(key string, least time.Duration) {
			t.Helper()
			if len(seen[key]) != 1 {
				t.Errorf("%s: %s is there %d times", file, key, len(seen[key]))
				return
			}
			text, _ := seen[key][0].(string)
			if d, err := time.ParseDuration(text); err != nil || d != 0 && d < least {
				t.Errorf("%s: %s is %v", file, key, seen[key][0])
			}
		}
		atLeast("request_timeout", time.Hour)
		atLeast("stream_idle_timeout", 5*time.Minute)
		for _, v := range seen["route/timeout"] {
			if v != "0s" {
				t.Errorf("%s: a route has timeout %v, which cuts streams", file, v)
			}
		}
		for key, want := range map[string]string{"request_headers_timeout": "10s", "status_on_error/code": "ServiceUnavailable", "failure_mode_allow": "false",
			"with_request_body/pack_as_bytes": "true", "with_request_body/allow_partial_message": "true"} {
			if got := seen[key]; len(got) != 1 || strings.TrimSpace(toText(got[0])) != want {
				t.Errorf("%s: %s is %v, want %s", file, key, got, want)
			}
		}
		if len(seen["route/timeout"]) == 0 || len(seen["upgrade_configs"]) > 0 {
			t.Errorf("%s: routes %v, upgrades %v", file, seen["route/timeout"], seen["upgrade_configs"])
		}
	}
}

func toText(v any) string {
	text, _ := yaml.Marshal(v)
	return string(text)
}

// collect lists values by their key, and by the key above it and theirs.
func collect(doc any, above string, into map[string][]any) {
	switch v := doc.(type) {
	case map[string]any:
		for key, value := range v {
			into[key] = append(into[key], value)
			into[above+"/"+key] = append(into[above+"/"+key], value)
			collect(value, key, into)
		}
	case []any:
		for _, value := range v {
			collect(value, above, into)
		}
	}
}
