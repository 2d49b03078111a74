package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse/policy/bundle"
)

// lines renders a difference with one line per change.
func lines(d *bundle.Difference) string {
	var out []string
	for _, r := range d.Rules {
		out = append(out, strings.TrimSpace(fmt.Sprint(r.Change, " ", r.Path, " ", r.Before, " ", r.After)))
	}
	for _, c := range append(d.Data, d.Manifest...) {
		out = append(out, fmt.Sprintf("%s %s %s > %s", c.Change, c.Pointer, c.Before, c.After))
	}
	if d.MoreData > 0 {
		out = append(out, fmt.Sprintf("and %d", d.MoreData))
	}
	return strings.Join(out, "\n")
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		name          string
		before, after tree
		want          string
	}{
		{"nothing", module("allow := true\n"), module("allow := true\n"), ""},
		{"only the looks", module("allow if { input.a; input.b }\nx contains 1\n"),
			tree{"b.rego": "package authz\n\n# now with a reason\nx contains 1\n\nallow if {\n\tinput.a\n\tinput.b\n}\n"}, ""},
		{"a wildcard more above", module("a if input.x[_]\nb if input.y[_]\n"), module("c if input.z[_]\na if input.x[_]\nb if input.y[_]\n"),
			"added data.authz.c [] [authz.rego:2]"},
		{"a rule more", module("allow := true\n"), module("allow := true\n\ndeny := true\n"), "added data.authz.deny [] [authz.rego:4]"},
		{"a rule less", module("allow := true\ndeny := true\n"), module("deny := true\n"), "removed data.authz.allow [authz.rego:2] []"},
		{"another default", module("default allow := false\nallow if input.x\n"), module("default allow := true\nallow if input.x\n"),
			"changed data.authz.allow [authz.rego:2] [authz.rego:2]"},
		{"one of two definitions", module("allow if input.a\nallow if input.b\n"), module("allow if input.a\nallow if input.c\n"),
			"changed data.authz.allow [authz.rego:3] [authz.rego:3]"},
		{"a definition more", module("allow if input.a\n"), module("allow if input.a\nallow if input.b\n"), "changed data.authz.allow [] [authz.rego:3]"},
		{"a definition twice", module("p contains 1\n"), module("p contains 1\np contains 1\n"), "changed data.authz.p [] [authz.rego:3]"},
		{"another else", module("allow if input.a else := false\n"), module("allow if input.a else := true\n"), "changed data.authz.allow [authz.rego:2] [authz.rego:2]"},
		{"another import", module("import data.a as x\nallow if x.y\nb if input.x\n"), module("import data.b as x\nallow if x.y\nb if input.x\n"),
			"changed data.authz.allow [authz.rego:3] [authz.rego:3]"},
		{"another package", tree{"a.rego": "package a\nallow := true\n"}, tree{"a.rego": "package b\nallow := true\n"},
			"removed data.a.allow [a.rego:2] []\nadded data.b.allow [] [a.rego:2]"},
		{"other tests", module("allow := true\n"), tree{"authz.rego": "package authz\nallow := true\n", "authz_test.rego": "package authz\ntest_a if allow\n"}, ""},
		{"data", tree{"data.json": `{"a": {"x/y": 1, "gone": [1]}, "same": {"b": null}}`}, tree{"data.json": `{"a": {"x/y": 2, "new~": "v"}, "same": {"b": null}}`},
			`removed /a/gone [1] > ` + "\n" + `added /a/new~0  > "v"` + "\n" + `changed /a/x~1y 1 > 2`},
		{"lists", tree{"data.json": `{"a": [1, {"b": 2}, 3], "c": [1]}`}, tree{"data.json": `{"a": [1, {"b": 4}], "c": [1, 2]}`},
			"changed /a/1/b 2 > 4\nremoved /a/2 3 > \nadded /c/1  > 2"},
		{"another kind of value", tree{"data.json": `{"a": {}}`}, tree{"data.json": `{"a": []}`}, "changed /a {} > []"},
		{"the same number", tree{"data.json": `{"a": 1.0}`}, tree{"data.json": `{"a": 1}`}, ""},
		{"more than is shown", tree{"data.json": `{"a": [1, 2, 3, 4, 5]}`}, tree{"data.json": `{"a": [2, 3, 4, 5, 6]}`},
			"changed /a/0 1 > 2\nchanged /a/1 2 > 3\nchanged /a/2 3 > 4\nand 2"},
		{"the manifest", tree{".manifest": `{"roots": ["a"], "revision": "1"}`}, tree{".manifest": `{"roots": ["a", "b"], "revision": "2"}`},
			`changed /revision "1" > "2"` + "\n" + `changed /roots "a" > "a b"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := bundle.Diff(read(t, "app", tt.before), read(t, "app", tt.after), 3)
			if got := lines(d); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if d.Empty() != (tt.want == "") {
				t.Errorf("empty: %v", d.Empty())
			}
		})
	}
	long := bundle.Diff(read(t, "app", tree{}), read(t, "app", tree{"data.json": `{"a": "` + strings.Repeat("é", 200) + `"}`}), 3)
	if shown := long.Data[0].After; len(shown) > 83 || !strings.HasSuffix(shown, "...") {
		t.Errorf("a value of 400 bytes is shown as %s", shown)
	}
}
