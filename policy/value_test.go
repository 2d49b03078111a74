package policy_test

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"gatehouse/policy"

	"github.com/google/go-cmp/cmp"
)

func TestValuesToJSONAndBack(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `false`, `""`, `"é"`, `0`, `-1`, `12345678901234567890123`, `1.50`, `1e3`, `-0`, `[]`, `{}`,
		`[1,"a",[null]]`, `{"":1,"a":{"b":[{}]}}`,
	} {
		v := value(t, text)
		x, err := policy.JSON(v)
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
	member := func(key string, v policy.Value) policy.Member { return policy.Member{Key: key, Value: v} }
	many := []policy.Member{}
	for i := range 100 {
		many = append(many, member(strings.Repeat("k", i+1), policy.Int(int64(i))))
	}
	tests := []struct {
		name  string
		value policy.Value
		want  any
	}{
		{"an object", policy.Object(member("type", policy.String("x")), member("new", policy.Bool(true)), member("n", policy.Int(-5))),
			map[string]any{"type": "x", "new": true, "n": json.Number("-5")}},
		{"an absent member", policy.Object(member("a", nil), member("b", policy.Null())), map[string]any{"b": nil}},
		{"no members", policy.Object(), map[string]any{}},
		{"the last of one key", policy.Object(member("a", policy.Int(1)), member("b", policy.Int(2)), member("a", policy.Int(3))),
			map[string]any{"a": json.Number("3"), "b": json.Number("2")}},
		{"the last of one key of many", policy.Object(append(many, member("k", policy.String("last")))...), nil},
		{"an array", policy.Array(policy.Int(1), nil, policy.String("")), []any{json.Number("1"), nil, ""}},
		{"strings", policy.Strings([]string{"a", ""}), []any{"a", ""}},
		{"no strings", policy.Strings(nil), []any{}},
		{"a large integer", policy.Int(math.MinInt64), json.Number("-9223372036854775808")},
		{"an exact number", policy.Number("1.2300"), json.Number("1.2300")},
		{"what is no number", policy.Number("0x10"), nil},
		{"nothing", nil, nil},
	}
	for _, test := range tests {
		got, err := policy.JSON(test.value)
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
		if v, err := policy.FromJSON(x); err == nil {
			t.Errorf("%.40v became %.40v", x, v)
		}
	}
	if v, err := policy.FromJSON(map[string]any{"f": 1.5, "i": 1e21, "n": 7, "s": []string{"a"}}); err != nil {
		t.Errorf("%v, %v", v, err)
	}
}

// A key that comes twice is one key, to the policy as well.
func TestRepeatedKeyIsOneKey(t *testing.T) {
	twice := policy.Object(policy.Member{Key: "a", Value: policy.Int(1)}, policy.Member{Key: "a", Value: policy.Int(2)})
	d, err := compile(t, module("allow if [k | some k, _ in input] == [\"a\"]")).Decide(context.Background(), twice, noon)
	if err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}
