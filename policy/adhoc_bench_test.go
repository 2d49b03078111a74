package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// costlyQueries are those that take longest to compile of what is within the bounds: found by hand, and by some 80,000 random changes to these
// on three policies, of which the slower survived.
func costlyQueries() map[string]string {
	each := func(n int, separator, format string) string {
		var list []string
		for i := range n {
			list = append(list, strings.NewReplacer("#", fmt.Sprint(i), "@", fmt.Sprint(i+1)).Replace(format))
		}
		return strings.Join(list, separator)
	}
	return map[string]string{
		"types of types": "x0 = data.app; " + each(20, "; ", "x@ = [x#, x#]"),
		"unions":         "x0 = data.app; " + each(16, "; ", `x@ = {x#, {"a": x#}}[_]`),
		"all packages":   "x = {" + each(20, ", ", "data.app.p#") + "}[_]",
		"deep":           "x = " + strings.Repeat("{1: ", 30) + "data" + strings.Repeat("}", 30),
		"variables":      "x = data" + each(60, "", "[a#]"),
		"backwards":      each(22, "; ", "x# = count(x@)"),
		"comprehensions": "x = [1 | y = [1 | z = [1 | " + each(18, "; ", "q# = count(q@)") + "]]]",
	}
}

// broadPolicy has nearly as many terms as one query may reach, and types of which no two are alike.
func broadPolicy() tree {
	files := tree{}
	for p := range 20 {
		var b strings.Builder
		fmt.Fprintf(&b, "package app.p%d\n\n", p)
		for i := range 8 {
			fmt.Fprintf(&b, "r%[1]d := {\"a\": x, \"k%[1]d%[2]d\": [x, input.y, {\"z%[1]d\": x}]} if {\n\tsome x in input.z\n\tx > %[1]d\n}\n\n", i, p)
			fmt.Fprintf(&b, "f%[1]d(a) := {\"a\": a, \"l%[1]d%[2]d\": count(a)}\n\n", i, p)
			fmt.Fprintf(&b, "s%[1]d contains {\"m%[1]d%[2]d\": x} if some x in input.list\n\n", i, p)
		}
		files[fmt.Sprintf("p%d.rego", p)] = b.String()
	}
	return files
}

// BenchmarkAdHocCompile is what a client's query costs at most before it is evaluated.
func BenchmarkAdHocCompile(b *testing.B) {
	s := gatetest.Compile(b, policy.Config{}, "app", broadPolicy())
	for name, text := range costlyQueries() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := s.CompileHere(text); err != nil && strings.Contains(err.Error(), "more than") {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzAdHoc: no query brings the process down, and each is answered or refused.
func FuzzAdHoc(f *testing.F) {
	s := adHocSnapshot(f)
	for _, text := range costlyQueries() {
		f.Add(text)
	}
	for _, text := range []string{"x = data.app.allowed", "every k, v in data.app.roles { count(v) > 0 }", `upper("a") with upper as lower`, "$\"{input.a} b\"", "x = data", "walk(input, [p, v])"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := s.AdHoc(t.Context(), time.Minute, text, &policy.AdHocSlots{})
		if err == nil {
			_, err = q.Evaluate(t.Context(), 200*time.Millisecond, rego.Object(), policy.Facts{}, time.Now())
		}
		if errors.Is(err, policy.ErrEvaluation) && strings.Contains(err.Error(), "panic") {
			t.Error(err)
		}
	})
}
