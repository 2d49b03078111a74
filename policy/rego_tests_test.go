package policy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// shop may call a server, SERVER in its text.
const shop = "package shop\n\nallow if {\n\tinput.role == data.shop.role\n}\n\nremote := http.send({\"method\": \"GET\", \"url\": \"SERVER\", \"raise_error\": true}).status_code\n"

// runTests returns a line for each result: outcome, file:line, name, problem.
func runTests(t *testing.T, files tree, match string) string {
	t.Helper()
	tests, err := bundle.ReadTests("app", files.fs(), bundle.Limits{})
	if err != nil {
		return err.Error()
	}
	b := read(t, "app", files)
	cfg := policy.Config{Capabilities: policy.Capabilities{HTTPSend: []string{"127.0.0.1"}, HTTPSendPrivate: true}}
	results, err := policy.RunTests(context.Background(), cfg, []*bundle.Bundle{b}, []*bundle.Tests{tests}, regexp.MustCompile(match))
	if err != nil {
		return err.Error()
	}
	var lines []string
	for _, r := range results {
		outcome := "passed"
		if r.Failed {
			outcome = "failed"
		}
		if r.Skipped {
			outcome = "skipped"
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s:%d %s %s%s", outcome, r.File, r.Line, r.Name, r.Problem, r.Output)))
	}
	return strings.Join(lines, "\n")
}

func TestRegoTests(t *testing.T) {
	in := func(body string) tree {
		return tree{"shop.rego": shop, "data.json": `{"shop": {"role": "clerk"}}`, "deep/shop_test.rego": "package shop_test\n\nimport data.shop\n\n" + body}
	}
	for name, c := range map[string]struct {
		files tree
		match string
		want  string
	}{
		"passes, with the bundle's data": {in(`test_clerk if shop.allow with input as {"role": "clerk"}`), "",
			"passed app/deep/shop_test.rego:5 data.shop_test.test_clerk"},
		"fails, and says at which line": {in("test_boss if {\n\tinput_is_fine := true\n\tshop.allow with input as {\"role\": \"boss\"}\n}"), "",
			`failed app/deep/shop_test.rego:5 data.shop_test.test_boss it is not true: line 7: shop.allow with input as {"role": "boss"}`},
		"two of one name both count": {in("test_a if true\n\ntest_a if false"), "",
			"passed app/deep/shop_test.rego:5 data.shop_test.test_a\nfailed app/deep/shop_test.rego:7 data.shop_test.test_a#01 it is not true"},
		"cases of one test": {in(`test_roles[role] if { some role in ["clerk", "boss"]; shop.allow with input as {"role": role} }`), "",
			`failed app/deep/shop_test.rego:5 data.shop_test.test_roles it is not true: boss: line 5: shop.allow with input as {"role": role}`},
		"an error":            {in("test_a if f(1) == 1\n\nf(x) := 1\n\nf(x) := 2"), "", "failed app/deep/shop_test.rego:5 data.shop_test.test_a app/deep/shop_test.rego:9: eval_conflict_error: function data.shop_test.f produced conflicting values for the same inputs: 1 at app/deep/shop_test.rego:7 2 at app/deep/shop_test.rego:9"},
		"one that is to come": {in("todo_test_a if false"), "", "skipped app/deep/shop_test.rego:5 data.shop_test.todo_test_a"},
		"the ones chosen":     {in("test_a if true\n\ntest_b if false"), "test_a$", "passed app/deep/shop_test.rego:5 data.shop_test.test_a"},
		"what it printed":     {in(`test_a if { print("hello"); true }`), "", "passed app/deep/shop_test.rego:5 data.shop_test.test_a hello"},
		"the network stands in": {in(`test_a if shop.remote == 200 with http.send as {"status_code": 200}`), "",
			"passed app/deep/shop_test.rego:5 data.shop_test.test_a"},
		"a mistake in the test": {in("test_a if nothing.here"), "", `compiling bundle "app": deep/shop_test.rego:5: var nothing is unsafe: nothing gives it a value`},
		"no Rego at all":        {in("test_a if if"), "", `reading bundle "app": deep/shop_test.rego:5: unexpected if keyword`},
		"a test in the old Rego": {tree{"shop.rego": shop, "old_test.rego": "package old_test\n\ntest_a { true }\n"}, "",
			"passed app/old_test.rego:3 data.old_test.test_a"},
		"the directory is undefined": {in(`test_a if not ds.check({"a": 1})`), "", "passed app/deep/shop_test.rego:5 data.shop_test.test_a"},
		"none":                       {tree{"shop.rego": shop}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if have := runTests(t, c.files, c.match); have != c.want {
				t.Errorf("have %s\nwant %s", have, c.want)
			}
		})
	}
}

func TestRegoTestsAreBounded(t *testing.T) {
	files := tree{"a_test.rego": "package a\n", "b_test.rego": "package b\n"}
	for _, limits := range []bundle.Limits{{Files: 1}, {File: 5}, {Total: 12}} {
		if _, err := bundle.ReadTests("app", files.fs(), limits); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%+v: %v", limits, err)
		}
	}
}

// TestRegoTestsDoNotCallOut has a server that would respond, and that the policy may call when it decides.
func TestRegoTestsDoNotCallOut(t *testing.T) {
	called := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called <- struct{}{} }))
	defer server.Close()
	files := tree{"shop.rego": strings.ReplaceAll(shop, "SERVER", server.URL), "shop_test.rego": "package shop_test\n\ntest_a if data.shop.remote == 200\n"}
	if have := runTests(t, files, ""); !strings.HasPrefix(have, "failed ") {
		t.Error(have)
	}
	select {
	case <-called:
		t.Error("a test called a server")
	default:
	}
}
