package authzen_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"gatehouse/authzen"
	"gatehouse/directory"
)

const docs = `model: {version: 3}
types:
  user: {relations: {identifier: identity}}
  identity: {relations: {identifier: user}}
  group: {relations: {member: user | group#member}}
  doc:
    relations: {parent: doc, owner: user, viewer: "user | user:* | group#member"}
    permissions:
      can_read: owner | viewer
      can_write: owner
      can_odd: owner - parent->can_odd
`

func library(t *testing.T) *directory.Snapshot {
	t.Helper()
	relations := []string{"doc:1#owner@user:alice", "doc:1#viewer@group:eng#member", "group:eng#member@user:bob", "doc:2#viewer@user:*",
		"doc:3#owner@user:bob", "doc:4", "doc:x#parent@doc:y", "doc:y#parent@doc:x", "doc:x#owner@user:alice", "doc:y#owner@user:alice",
		"identity:al#identifier@user:alice", "user:bob#identifier@identity:bo", "identity:bob#identifier@user:alice",
		"identity:twin#identifier@user:alice", "identity:twin#identifier@user:bob", "doc:deep#viewer@group:g0#member", "group:g9#member@user:carol"}
	for i := range 9 {
		relations = append(relations, fmt.Sprintf("group:g%d#member@group:g%d#member", i, i+1))
	}
	return snapshot(t, docs, directory.Limits{Depth: 6}, relations...)
}

func question(subject, action, resource string) string {
	ref := func(text string) string {
		typ, id, _ := strings.Cut(text, ":")
		out, _ := json.Marshal(map[string]string{"type": typ, "id": id})
		return string(out)
	}
	return fmt.Sprintf(`{"subject":%s,"action":{"name":%q},"resource":%s}`, ref(subject), action, ref(resource))
}

// TestEvaluation: the directory decides, a subject by id or by identity, and whatever goes wrong is a no.
func TestEvaluation(t *testing.T) {
	d := open(t, library(t), nil, authzen.Config{})
	const no = `{"decision":false}`
	tests := []struct{ subject, action, resource, want string }{
		{"user:alice", "can_write", "doc:1", `{"decision":true}`},
		{"user:alice", "owner", "doc:1", `{"decision":true}`},
		{"user:bob", "can_read", "doc:1", `{"decision":true}`},
		{"user:bob", "can_write", "doc:1", no},
		{"user:nobody", "can_read", "doc:1", no},
		{"user:nobody", "can_read", "doc:2", `{"decision":true}`},
		{"user:alice", "can_read", "doc:none", no},
		{"user:al", "can_write", "doc:1", `{"decision":true}`},
		{"user:bo", "can_write", "doc:3", `{"decision":true}`},
		{"user:bo", "can_write", "doc:1", no},
		{"user:bob", "can_write", "doc:1", no}, // an object: not the identity of that name, which is alice's
		{"identity:al", "can_write", "doc:1", no},
		{"user:*", "can_read", "doc:1", no},
		{"user:*", "can_read", "doc:2", `{"decision":true}`},
		{"user:alice", "can_read", "doc:*", no},
		{"user:alice", "can_fly", "doc:1", `{"decision":false,"context":{"reason":"unknown relation or permission"}}`},
		{"user:alice", "can_read", "planet:1", `{"decision":false,"context":{"reason":"unknown type"}}`},
		{"ghost:alice", "can_read", "doc:1", `{"decision":false,"context":{"reason":"unknown type"}}`},
		{"user:twin", "can_read", "doc:1", `{"decision":false,"context":{"error":{"message":"the identity belongs to more than one user","status":503}}}`},
		{"user:carol", "can_read", "doc:deep", `{"decision":false,"context":{"error":{"message":"the question needs more steps than directory.limits allow","status":503}}}`},
		{"user:alice", "can_odd", "doc:x", `{"decision":false,"context":{"error":{"message":"` + directory.ErrCircular.Error() + `","status":503}}}`},
	}
	for _, test := range tests {
		if status, got := d.ask(t, "/access/v1/evaluation", question(test.subject, test.action, test.resource)); status != http.StatusOK || got != test.want {
			t.Errorf("%s %s %s: %d %s, want %s", test.subject, test.action, test.resource, status, got, test.want)
		}
	}
	lines := d.logged(t)
	if len(lines) != len(tests) {
		t.Fatalf("%d entries in the log, want %d", len(lines), len(tests))
	}
	for i, test := range tests {
		outcome := "deny"
		if strings.Contains(test.want, "true") {
			outcome = "allow"
		}
		input, _ := lines[i]["input"].(map[string]any)
		body, _ := input["parsed_body"].(map[string]any)
		resource, _ := body["resource"].(map[string]any)
		if lines[i]["outcome"] != outcome || lines[i]["path"] != "directory" || fmt.Sprint(resource["type"], ":", resource["id"]) != test.resource {
			t.Errorf("the log says %v of %+v", lines[i], test)
		}
	}
	if facts := fmt.Sprint(lines[0]["facts"]); !strings.Contains(facts, "gatehouse.check:[doc:1 can_write user:alice]") {
		t.Errorf("facts: %s", facts)
	}
}

// TestEvaluations: defaults, semantics, the order, and evaluations that cannot be made.
func TestEvaluations(t *testing.T) {
	d := open(t, library(t), nil, authzen.Config{})
	const defaults = `"subject":{"type":"user","id":"bob"},"action":{"name":"can_read"}`
	three := func(option string) string {
		if option != "" {
			option = `,"options":{"evaluations_semantic":"` + option + `"}`
		}
		return `{` + defaults + option + `,"evaluations":[{"resource":{"type":"doc","id":"1"}},{"resource":{"type":"doc","id":"4"}},{"resource":{"type":"doc","id":"2"}}]}`
	}
	const allow, deny = `{"decision":true}`, `{"decision":false}`
	missing := func(text string) string {
		return `{"decision":false,"context":{"error":{"message":"` + text + `","status":400}}}`
	}
	for name, test := range map[string]struct{ body, want string }{
		"all":         {three(""), allow + "," + deny + "," + allow},
		"execute_all": {three("execute_all"), allow + "," + deny + "," + allow},
		"first deny":  {three("deny_on_first_deny"), allow + "," + deny},
		"first allow": {three("permit_on_first_permit"), allow},
		"whole entities": {`{` + defaults + `,"resource":{"type":"doc","id":"4"},"evaluations":[{},{"subject":{"type":"user","id":"alice"},"action":{"name":"can_write"},` +
			`"resource":{"type":"doc","id":"1"}},{"resource":{"type":"doc"}}]}`, deny + "," + allow + "," + missing("resource.id: is missing")},
		"missing":      {`{` + defaults + `,"evaluations":[{"resource":{"type":"doc","id":"1"}},{}]}`, allow + "," + missing("resource: is missing")},
		"wrong":        {`{` + defaults + `,"evaluations":[{"resource":"doc:1"},{"resource":{"type":"doc","id":7}}]}`, missing("resource: must be an object") + "," + missing("resource.id: must be a string")},
		"wrong, first": {`{` + defaults + `,"options":{"evaluations_semantic":"deny_on_first_deny"},"evaluations":[{},{"resource":{"type":"doc","id":"1"}}]}`, missing("resource: is missing")},
		"unknown":      {`{` + defaults + `,"more":[],"options":{"other":1},"evaluations":[{"resource":{"type":"sun","id":"1","x":1},"y":2}]}`, `{"decision":false,"context":{"reason":"unknown type"}}`},
	} {
		if status, got := d.ask(t, "/access/v1/evaluations", test.body); status != http.StatusOK || got != `{"evaluations":[`+test.want+`]}` {
			t.Errorf("%s: %d %s, want %s", name, status, got, test.want)
		}
	}
	for _, rest := range []string{``, `,"evaluations":[]`} {
		body := strings.TrimSuffix(question("user:alice", "can_write", "doc:1"), "}") + rest + "}"
		if status, got := d.ask(t, "/access/v1/evaluations", body); status != http.StatusOK || got != allow {
			t.Errorf("%s: %d %s", body, status, got)
		}
	}
	many := func(n int, more string) string {
		return `{` + defaults + more + `,"resource":{"type":"doc","id":"4"},"evaluations":[{}` + strings.Repeat(",{}", n-1) + `]}`
	}
	if status, got := d.ask(t, "/access/v1/evaluations", many(1000, "")); status != http.StatusOK || strings.Count(got, deny) != 1000 {
		t.Errorf("1000: %d", status)
	}
	for want, body := range map[string]string{
		"evaluations: has 1001, more than 1000":                                 many(1001, ""),
		"evaluations: have more than 16777216 bytes, with the defaults in each": many(1000, `,"context":{"x":"`+strings.Repeat("x", 20_000)+`"}`),
		"evaluations: must be an array":                                         `{"evaluations":{}}`,
		"evaluations[0]: must be an object":                                     `{"evaluations":[1]}`,
		"subject: must be an object":                                            `{"subject":1,"evaluations":[{}]}`,
		"options: must be an object":                                            `{"options":1}`,
		"options.evaluations_semantic: must be a string":                        `{"options":{"evaluations_semantic":1}}`,
		"options.evaluations_semantic: is not one of execute_all, deny_on_first_deny and permit_on_first_permit": `{"options":{"evaluations_semantic":"any"}}`,
		"subject: is missing": `{"evaluations":[]}`,
	} {
		if status, got := d.ask(t, "/access/v1/evaluations", body); status != http.StatusBadRequest || got != want {
			t.Errorf("%.60s: %d %s, want %s", body, status, got, want)
		}
	}
}

// TestErrors: what is wrong with a request itself is an HTTP error with a message, and no decision.
func TestErrors(t *testing.T) {
	d := open(t, library(t), nil, authzen.Config{})
	good := question("user:alice", "can_write", "doc:1")
	const evaluation, bearer, jsonType = "/access/v1/evaluation", "Bearer app", "application/json"
	for name, test := range map[string]struct {
		method, path, body, key, kind string
		status                        int
		want                          string
	}{
		"good":              {"POST", evaluation, good, bearer, "application/json; charset=utf-8", 200, `{"decision":true}`},
		"no key":            {"POST", evaluation, good, "", jsonType, 401, "give one key: authorization: Bearer KEY"},
		"wrong key":         {"POST", evaluation, good, "Bearer other", jsonType, 401, "the key is not known, or not valid now"},
		"no key, no body":   {"POST", evaluation, "", "", "", 401, "give one key: authorization: Bearer KEY"},
		"get":               {"GET", evaluation, "", bearer, jsonType, 405, "the method must be POST"},
		"post":              {"POST", "/.well-known/authzen-configuration", "{}", bearer, jsonType, 405, "the method must be GET, HEAD"},
		"elsewhere":         {"POST", "/access/v1/evaluation/", good, bearer, jsonType, 404, "there is no such endpoint: /.well-known/authzen-configuration lists them"},
		"no type":           {"POST", evaluation, good, bearer, "", 400, "the content-type must be application/json"},
		"wrong type":        {"POST", evaluation, good, bearer, "text/plain", 400, "the content-type must be application/json"},
		"wrong charset":     {"POST", evaluation, good, bearer, "application/json; charset=latin1", 400, "the content-type must be application/json"},
		"empty":             {"POST", evaluation, "", bearer, jsonType, 400, "the body must be a JSON object"},
		"array":             {"POST", evaluation, "[]", bearer, jsonType, 400, "the body is not a json object, at byte 0"},
		"half":              {"POST", evaluation, good[:20], bearer, jsonType, 400, "the body is not valid json, at byte 20"},
		"behind it":         {"POST", evaluation, good + good, bearer, jsonType, 400, fmt.Sprintf("the body is not valid json, at byte %d", len(good)+1)},
		"twice":             {"POST", evaluation, `{"subject":{"type":"user","id":"bob","id":"alice"}}`, bearer, jsonType, 400, "the body has a json key twice, at byte 41"},
		"deep":              {"POST", evaluation, `{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, bearer, jsonType, 400, "the body is nested too deeply, at byte 36"},
		"large":             {"POST", evaluation, `{"a":"` + strings.Repeat("a", 1<<20) + `"}`, bearer, jsonType, 413, "the body has more than 1048576 bytes"},
		"no subject":        {"POST", evaluation, `{}`, bearer, jsonType, 400, "subject: is missing"},
		"text for subject":  {"POST", evaluation, `{"subject":"alice"}`, bearer, jsonType, 400, "subject: must be an object"},
		"no type of it":     {"POST", evaluation, `{"subject":{"id":"a"}}`, bearer, jsonType, 400, "subject.type: is missing"},
		"no id":             {"POST", evaluation, `{"subject":{"type":"user"}}`, bearer, jsonType, 400, "subject.id: is missing"},
		"null id":           {"POST", evaluation, `{"subject":{"type":"user","id":null}}`, bearer, jsonType, 400, "subject.id: must be a string"},
		"empty id":          {"POST", evaluation, `{"subject":{"type":"user","id":""}}`, bearer, jsonType, 400, "subject.id: is empty"},
		"long id":           {"POST", evaluation, `{"subject":{"type":"user","id":"` + strings.Repeat("a", 1025) + `"}}`, bearer, jsonType, 400, "subject.id: has more than 1024 bytes"},
		"no resource":       {"POST", evaluation, `{"subject":{"type":"user","id":"a"}}`, bearer, jsonType, 400, "resource: is missing"},
		"no action":         {"POST", evaluation, `{"subject":{"type":"user","id":"a"},"resource":{"type":"doc","id":"1"}}`, bearer, jsonType, 400, "action: is missing"},
		"number for action": {"POST", evaluation, strings.Replace(good, `"can_write"`, "7", 1), bearer, jsonType, 400, "action.name: must be a string"},
		"wrong properties":  {"POST", evaluation, strings.Replace(good, `"name"`, `"properties":[],"name"`, 1), bearer, jsonType, 400, "action.properties: must be an object"},
		"wrong context":     {"POST", evaluation, `{"context":[],` + good[1:], bearer, jsonType, 400, "context: must be an object"},
		"search, no id":     {"POST", "/access/v1/search/action", `{"subject":{"type":"user"}}`, bearer, jsonType, 400, "subject.id: is missing"},
		"search, no action": {"POST", "/access/v1/search/subject", `{"subject":{"type":"user"},"resource":{"type":"doc","id":"1"}}`, bearer, jsonType, 400, "action: is missing"},
	} {
		resp, got := d.send(t, test.method, test.path, test.body, map[string]string{"authorization": test.key, "content-type": test.kind, "x-request-id": name})
		if resp.StatusCode != test.status || got != test.want {
			t.Errorf("%s: %d %s, want %d %s", name, resp.StatusCode, got, test.status, test.want)
		}
		kind := "text/plain; charset=utf-8"
		if test.status == http.StatusOK {
			kind = jsonType
		}
		challenge := strings.HasPrefix(resp.Header.Get("www-authenticate"), "Bearer ")
		if resp.Header.Get("x-request-id") != name || resp.Header.Get("content-type") != kind || challenge != (test.status == 401) ||
			(resp.Header.Get("allow") != "") != (test.status == 405) {
			t.Errorf("%s: headers %v", name, resp.Header)
		}
	}
	if lines := d.logged(t); len(lines) != 1 {
		t.Errorf("%d entries in the log, want that of the good request alone", len(lines))
	}
}
