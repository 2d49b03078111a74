package policy_test

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/policy/rego"
)

func TestValuesToJSONAndBack(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `false`, `""`, `"é"`, `0`, `-1`, `12345678901234567890123`, `1.50`, `1e3`, `-0`, `[]`, `{}`,
		`[1,"a",[null]]`, `{"":1,"a":{"b":[{}]}}`,
	} {
		v := value(t, text)
		x, err := rego.JSON(v)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, _ := json.Marshal(x); string(got) != text {
			t.Errorf("%s came back as %s", text, got)
		}
	}
}

func TestValuesBuiltByHand(t *testing.T) {
	member := func(key string, v rego.Value) rego.Member { return rego.Member{Key: key, Value: v} }
	many := []rego.Member{}
	for i := range 100 {
		many = append(many, member(strings.Repeat("k", i+1), rego.Int(int64(i))))
	}
	tests := []struct {
		name  string
		value rego.Value
		want  any
	}{
		{"an object", rego.Object(member("type", rego.String("x")), member("new", rego.Bool(true)), member("n", rego.Int(-5))),
			map[string]any{"type": "x", "new": true, "n": json.Number("-5")}},
		{"an absent member", rego.Object(member("a", nil), member("b", rego.Null())), map[string]any{"b": nil}},
		{"no members", rego.Object(), map[string]any{}},
		{"the last of one key", rego.Object(member("a", rego.Int(1)), member("b", rego.Int(2)), member("a", rego.Int(3))),
			map[string]any{"a": json.Number("3"), "b": json.Number("2")}},
		{"the last of one key of many", rego.Object(append(many, member("k", rego.String("last")))...), nil},
		{"an array", rego.Array(rego.Int(1), nil, rego.String("")), []any{json.Number("1"), nil, ""}},
		{"strings", rego.Strings([]string{"a", ""}), []any{"a", ""}},
		{"no strings", rego.Strings(nil), []any{}},
		{"a large integer", rego.Int(math.MinInt64), json.Number("-9223372036854775808")},
		{"an exact number", rego.Number("1.2300"), json.Number("1.2300")},
		{"what is no number", rego.Number("0x10"), nil},
		{"nothing", nil, nil},
	}
	for _, test := range tests {
		got, err := rego.JSON(test.value)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.name == "the last of one key of many" {
			if object := got.(map[string]any); len(object) != 100 || object["k"] != "last" {
				t.Errorf("%s: %d keys, k is %v", test.name, len(object), object["k"])
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestFromJSONRefuses(t *testing.T) {
	deep := any(nil)
	for range 2000 {
		deep = []any{deep}
	}
	for _, x := range []any{
		math.NaN(), math.Inf(1), json.Number(""), json.Number("1 "), json.Number("abc"), json.Number("+1"), json.Number("01"),
		json.Number("1e999999999"), json.Number(strings.Repeat("9", 2000)), json.Number("-"), json.Number("0x1"), json.Number("true"),
		struct{}{}, deep, map[string]any{"a": []any{make(chan int)}},
	} {
		if v, err := rego.FromJSON(x); err == nil {
			t.Errorf("%.40v became %.40v", x, v)
		}
	}
	if v, err := rego.FromJSON(map[string]any{"f": 1.5, "i": 1e21, "n": 7, "s": []string{"a"}}); err != nil {
		t.Errorf("%v, %v", v, err)
	}
}

// A duplicate key is one key, for the policy as well.
func TestRepeatedKeyIsOneKey(t *testing.T) {
	twice := rego.Object(rego.Member{Key: "a", Value: rego.Int(1)}, rego.Member{Key: "a", Value: rego.Int(2)})
	d, err := compile(t, module("allow if [k | some k, _ in input] == [\"a\"]")).Decide(context.Background(), twice, noon)
	if err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}
