package authzen_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"gatehouse/authzen"
	"gatehouse/directory"
)

const rule = `package authzen
decide := {"allowed": true, "dynamic_metadata": {"acr": "2", "who": input.user.id}} if input.subject.properties.role == "admin"
else := {"allowed": false, "reason": "archived"} if input.resource.properties.status == "archived"
else := true if { input.action.name == "delete"; input.action.properties.soft }
else := true if { input.identity.subject == "alice"; input.identity.authenticated; input.context.ip == "::1" }
else := false if input.action.name == "write"
text := "yes"
`

// TestPolicy: with a rule the policy decides, on the whole request.
func TestPolicy(t *testing.T) {
	people := library(t)
	const no = `{"decision":false}`
	for _, test := range []struct {
		decision, body, want string
		in                   *directory.Snapshot
	}{
		{"authzen/decide", `{"subject":{"type":"user","id":"al","properties":{"role":"admin"}},"action":{"name":"write"},"resource":{"type":"record","id":"1"}}`, `{"decision":true,"context":{"acr":"2","who":"alice"}}`, people},
		{"authzen/decide", `{"subject":{"type":"user","id":"alice"},"action":{"name":"write"},"resource":{"type":"record","id":"1","properties":{"status":"archived"}}}`, `{"decision":false,"context":{"reason":"archived"}}`, people},
		{"authzen/decide", `{"subject":{"type":"user","id":"bob"},"action":{"name":"delete","properties":{"soft":true}},"resource":{"type":"record","id":"1"}}`, `{"decision":true}`, people},
		{"authzen/decide", `{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"1"},"context":{"ip":"::1"}}`, `{"decision":true}`, people},
		{"authzen/decide", `{"subject":{"type":"group","id":"alice"},"action":{"name":"write"},"resource":{"type":"record","id":"1"},"context":{"ip":"::1"}}`, no, people},
		{"authzen/decide", `{"subject":{"type":"user","id":"bob"},"action":{"name":"write"},"resource":{"type":"record","id":"1"}}`, no, people},
		{"authzen/decide", `{"subject":{"type":"user","id":"bob"},"action":{"name":"fly"},"resource":{"type":"record","id":"1"}}`, `{"decision":false,"context":{"reason":"no_decision"}}`, people},
		{"authzen/decide", `{"subject":{"type":"user","id":"twin"},"action":{"name":"read"},"resource":{"type":"record","id":"1"},"context":{"ip":"::1"}}`,
			`{"decision":false,"context":{"error":{"message":"the identity belongs to more than one user","status":503}}}`, people},
		{"authzen/none", question("user:alice", "read", "record:1"), `{"decision":false,"context":{"reason":"no_decision"}}`, people},
		{"authzen/text", question("user:alice", "read", "record:1"), `{"decision":false,"context":{"error":{"message":"policy_error","status":500}}}`, people},
		{"authzen/decide", question("user:alice", "read", "record:1"), `{"decision":false,"context":{"error":{"message":"not_ready","status":503}}}`, nil},
	} {
		d := open(t, test.in, map[string]string{"rule.rego": rule}, authzen.Config{Decision: test.decision})
		if status, got := d.ask(t, "/access/v1/evaluation", test.body); status != http.StatusOK || got != test.want {
			t.Errorf("%s: %d %s, want %s", test.body, status, got, test.want)
		}
		if lines := d.logged(t); len(lines) != 1 || lines[0]["error"] == nil && lines[0]["path"] != test.decision {
			t.Errorf("%s: the log says %v", test.body, lines)
		}
	}
}

// TestPolicyClients: only keys that may act as users name the users that a policy decides about, and a policy is not searched.
func TestPolicyClients(t *testing.T) {
	d := open(t, library(t), map[string]string{"rule.rego": rule}, authzen.Config{Decision: "authzen/decide"})
	read := question("user:alice", "write", "record:1")
	for _, test := range []struct {
		path, key string
		status    int
	}{
		{"/access/v1/evaluation", "Bearer app", 200},
		{"/access/v1/evaluation", "basic reader", 403},
		{"/access/v1/evaluations", "basic reader", 403},
		{"/access/v1/search/subject", "Bearer app", 501},
		{"/access/v1/search/resource", "basic reader", 501},
		{"/access/v1/search/action", "Bearer app", 501},
	} {
		resp, got := d.send(t, "POST", test.path, read, map[string]string{"authorization": test.key, "content-type": "application/json"})
		if resp.StatusCode != test.status {
			t.Errorf("%s %s: %d %s", test.path, test.key, resp.StatusCode, got)
		}
	}
	lines := d.logged(t)
	if len(lines) != 1 {
		t.Errorf("%d entries in the log, want 1", len(lines))
	}
	byDirectory := open(t, library(t), nil, authzen.Config{})
	resp, got := byDirectory.send(t, "POST", "/access/v1/evaluation", question("user:alice", "can_write", "doc:1"), map[string]string{"authorization": "basic reader", "content-type": "application/json"})
	if resp.StatusCode != http.StatusOK || got != `{"decision":true}` {
		t.Errorf("the directory answers every key: %d %s", resp.StatusCode, got)
	}
}

// TestConfiguration: the metadata names the endpoints that there are, open to all.
func TestConfiguration(t *testing.T) {
	const path = "/.well-known/authzen-configuration"
	for _, test := range []struct {
		with   authzen.Config
		base   string
		search bool
	}{
		{authzen.Config{}, "", true},
		{authzen.Config{URL: "https://pdp.example.com"}, "https://pdp.example.com", true},
		{authzen.Config{Decision: "authzen/decide"}, "", false},
	} {
		d := open(t, library(t), nil, test.with)
		if test.base == "" {
			test.base = d.url
		}
		want := map[string]string{"policy_decision_point": test.base, "access_evaluation_endpoint": test.base + "/access/v1/evaluation",
			"access_evaluations_endpoint": test.base + "/access/v1/evaluations"}
		if test.search {
			for _, what := range []string{"subject", "resource", "action"} {
				want["search_"+what+"_endpoint"] = test.base + "/access/v1/search/" + what
			}
		}
		resp, text := d.send(t, "GET", path, "", nil)
		var got map[string]string
		if err := json.Unmarshal([]byte(text), &got); err != nil || resp.StatusCode != http.StatusOK || len(got) != len(want) || resp.Header.Get("content-type") != "application/json" {
			t.Errorf("%d %s (%v)", resp.StatusCode, text, err)
		}
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%s: %q, want %q", name, got[name], value)
			}
		}
	}
	for _, with := range []authzen.Config{{Decision: "a//b"}, {Decision: "/a"}, {URL: "http://pdp.example.com"}, {URL: "https://pdp.example.com/x"}, {URL: "https://"}, {URL: "https://a?b"}} {
		if _, err := authzen.New(with); err == nil {
			t.Errorf("%+v is taken", with)
		}
	}
}
