package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

const adHocPolicy = `package app

allowed if input.identity.subject == "ann"

roles := {"ann": ["viewer", "editor"], "bob": ["viewer"]}

names contains name if some name, _ in roles

has(who, role) if role in roles[who]

now := time.now_ns()

sent := http.send({"method": "GET", "url": "http://localhost/"})

lucky := rand.intn("x", 2)

can_read if ds.check({"object_type": "doc", "object_id": "1", "relation": "viewer", "subject_type": "user", "subject_id": input.identity.subject})

broken := [1 | some x in [1, 2]; x / (x - x)]

conflict := 1 if input.identity

conflict := 2 if input.identity
`

func adHocSnapshot(t testing.TB) *policy.Snapshot {
	t.Helper()
	return gatetest.Compile(t, policy.Config{Capabilities: policy.Capabilities{HTTPSend: []string{"localhost"}}}, "app", tree{"app.rego": adHocPolicy,
		"data.json": `{"deep": ` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`})
}

func ask(t testing.TB, s *policy.Snapshot, text string, facts policy.Facts) (policy.AdHocAnswer, error) {
	q, err := s.AdHoc(t.Context(), time.Minute, text, &policy.AdHocSlots{})
	if err != nil {
		return policy.AdHocAnswer{}, err
	}
	in, err := rego.FromJSON(map[string]any{"identity": map[string]any{"subject": "ann"}, "list": []any{json.Number("1"), json.Number("2")}})
	if err != nil {
		t.Fatal(err)
	}
	return q.Evaluate(t.Context(), time.Minute, in, facts, time.Unix(1700000000, 0))
}

// TestAdHoc: what a client's query finds, in the form of OPA's query API.
func TestAdHoc(t *testing.T) {
	s := adHocSnapshot(t)
	for text, want := range map[string]string{
		`x = data.app.allowed`:                          `[{"bindings": {"x": true}, "values": [true]}]`,
		`data.app.allowed`:                              `[{"values": [true]}]`,
		`data.app.allowed with input.identity as "eve"`: `[]`,
		`1 == 2`:                             `[{"values": [false]}]`,
		`x := 1; x > 2`:                      `[]`,
		`x := 1; x < 2`:                      `[{"bindings": {"x": 1}, "values": [true, true]}]`,
		`data.app.roles[who][_] == "editor"`: `[{"bindings": {"who": "ann"}, "values": [true]}]`,
		`some who in data.app.names; data.app.has(who, "viewer")`: `[{"bindings": {"who": "ann"}, "values": [true, true]}, {"bindings": {"who": "bob"}, "values": [true, true]}]`,
		"x := [y | some y in input.list; y > 1] # a comment":      `[{"bindings": {"x": [2]}, "values": [true]}]`,
		`x := data.app.now`:               `[{"bindings": {"x": 1700000000000000000}, "values": [true]}]`,
		`every x in input.list { x > 0 }`: `[{"values": [true]}]`,
		`upper("a")`:                      `[{"values": ["A"]}]`,
		`upper("a", x)`:                   `[{"bindings": {"x": "A"}, "values": [true]}]`,
		`upper("a") with upper as lower`:  `[{"values": ["a"]}]`,
	} {
		got, err := ask(t, s, text, policy.Facts{})
		if err != nil {
			if !strings.HasPrefix(err.Error(), want) || !errors.Is(err, policy.ErrQuery) {
				t.Errorf("%s: %v, want %s", text, err, want)
			}
			continue
		}
		list := []any{}
		for _, r := range got.Results {
			result := r.(map[string]any)
			values := []any{}
			for _, e := range result["expressions"].([]any) {
				values = append(values, e.(map[string]any)["value"])
				if text := e.(map[string]any)["text"]; text == "" {
					t.Errorf("%s: %v", text, e)
				}
			}
			delete(result, "expressions")
			result["values"] = values
			list = append(list, result)
		}
		text2, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decode(t, want), decode(t, string(text2))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func decode(t *testing.T, text string) (out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

// TestAdHocRefused: what is too large is refused before it is compiled, and what is not pure is not evaluated, whatever stands in its place.
func TestAdHocRefused(t *testing.T) {
	s := adHocSnapshot(t)
	for text, want := range map[string]string{
		"":                        "empty",
		"# only a comment":        "empty",
		"package x":               "expressions alone",
		"import data.app":         "expressions alone",
		"x = ":                    "1:",
		"x > 1":                   "unsafe",
		"x = 1 + \"a\"":           "1:",
		strings.Repeat(" ", 4097): "4097 bytes",
		"x = " + strings.Repeat("[", 100) + strings.Repeat("]", 100): "recursion",
		"x = [" + strings.Repeat("1,", 400) + "1]":                   "more than 300 terms",
		strings.Repeat("1 == 1; ", 25) + "true":                      "more than 24 expressions",
		"x = [1 | y = [1 | z = [1 | a = [1 | true]]]]":               "in one another",
		"x = [" + strings.Repeat("[1 | true],", 7) + "1]":            "more than 6 comprehensions",
		"true" + strings.Repeat(" with input.x as 1", 7):             "more than 6 with",
		`http.send({"method": "GET", "url": "http://localhost/"})`:   "http.send",
		`upper("a") with upper as http.send`:                         "http.send",
		`http.send({}) with http.send as upper`:                      "http.send",
		`count({"a"}) with count as rand.intn`:                       "rand.intn",
		`x = data.app.sent`:                                          "http.send",
		`x = data.app[y]`:                                            "it reaches ",
		`x = data`:                                                   "it reaches ",
		`x = data.app.lucky`:                                         "rand.intn",
		`opa.runtime()`:                                              "opa.runtime",
		`net.lookup_ip_addr("localhost")`:                            "net.lookup_ip_addr",
		`rego.parse_module("a", "package a")`:                        "rego.parse_module",
		`trace("x")`:                                                 "trace",
		`x = data.deep`:                                              "nested deeper",
		`x = numbers.range(1, 2000)[_]`:                              "more than 1000 results",
		`x = numbers.range(1, 500000)`:                               "bytes",
		`x = sprintf("%300000d", [1]); y = numbers.range(1, 5)[_]`:   "bytes",
		`x = base64.decode("/w==")`:                                  "UTF-8",
	} {
		if got, err := ask(t, s, text, policy.Facts{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, %v, want %q", text, got, err, want)
		} else if !errors.Is(err, policy.ErrQuery) {
			t.Errorf("%.100s: %v is no ErrQuery", text, err)
		}
	}
	for text, want := range map[string]string{`x = data.app.conflict`: "conflict", `data.app.can_read`: "directory"} {
		if _, err := ask(t, s, text, policy.Facts{}); !errors.Is(err, policy.ErrEvaluation) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	large := gatetest.Compile(t, policy.Config{}, "app", tree{"app.rego": "package app\n\nr1 := 1\n\nlist := [" + strings.Repeat("1,", 11_000) + "input]"})
	for text, refused := range map[string]bool{"x = data": true, "x = data.app[_]": true, "x = data.app.list": true, "x = data.app.list[3]": true, "x = data.app.r1": false} {
		if _, err := ask(t, large, text, policy.Facts{}); (err != nil) != refused || refused && !strings.Contains(err.Error(), "10000 terms") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestAdHocEnds: an evaluation ends at its deadline, a call with its context, and only so many queries are compiled at once.
func TestAdHocEnds(t *testing.T) {
	s := adHocSnapshot(t)
	q, err := s.AdHoc(t.Context(), time.Minute, `x = numbers.range(1, 100000)[_]; y = numbers.range(1, 100000)[_]; x + y < 0`, &policy.AdHocSlots{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = q.Evaluate(t.Context(), time.Millisecond, rego.Null(), policy.Facts{}, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = q.Evaluate(ended, time.Minute, rego.Null(), policy.Facts{}, time.Now()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var slots policy.AdHocSlots
	free := slots.Occupy()
	if _, err := s.AdHoc(t.Context(), time.Minute, "x = 1", &slots); !errors.Is(err, policy.ErrOverloaded) {
		t.Error(err)
	}
	free()
	for range 5 { // a slot is free again after each
		if _, err := s.AdHoc(t.Context(), time.Minute, "x = 1", &slots); err != nil {
			t.Error(err)
		}
	}
}
