package lint_test

import (
	"testing"
	"testing/fstest"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/lint"
)

// TestReferences: a package clause and a reference to a package further down are no references to rules; a rule that is not there is one.
func TestReferences(t *testing.T) {
	deep := "package app.GET.a.__x\n\nallowed if input.x == 1\n"
	for root, want := range map[string]string{
		"package app.GET\n\nallowed if input.x == 1\n":                             "",
		"package app.GET\n\nallowed if data.app.GET.a.__x.allowed\n":               "",
		"package app.GET\n\nallowed if data.app.GET.a[input.x].allowed\n":          "",
		"package app.GET\n\nallowed if data.app.GET.b.__x.allowed\n":               "index.rego:3: b is no rule of package app.GET",
		"package app.GET\n\nallowed if data.app.GET.a.__x.alloved\n":               "index.rego:3: alloved is no rule of package app.GET.a.__x; did you mean allowed?",
		"package app.GET\n\nimport data.app.GET.a.__x\n\nallowed if __x.allowed\n": "",
	} {
		b, err := bundle.Read("app", fstest.MapFS{"index.rego": {Data: []byte(root)}, "a/__x.rego": {Data: []byte(deep)}}, bundle.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		found, err := lint.Lint(t.Context(), policy.Config{}, b, []*bundle.Bundle{b}, nil)
		if err != nil {
			t.Errorf("%s: %v", root, err)
		}
		got := ""
		for _, f := range found {
			got += f.String()
		}
		if want != "" {
			want += " [" + lint.Reference + "]"
		}
		if got != want {
			t.Errorf("%s\n got %q\nwant %q", root, got, want)
		}
	}
}
