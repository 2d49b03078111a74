package yamltext_test

import (
	"testing"

	"go.yaml.in/yaml/v3"

	"gatehouse/yamltext"
)

// TestError has the line of each kind of error of the library.
func TestError(t *testing.T) {
	for text, want := range map[string]string{
		"a: [":             "f.yaml:1: did not find expected node content: a [ or { that is not closed, or a comma too many?",
		"a: 1\nb: [\n":     "f.yaml:2: did not find expected node content: a [ or { that is not closed, or a comma too many?",
		"a:\n\t- b\n":      "f.yaml:2: found character that cannot start any token: a tab? Indent with spaces. Text that begins with @, ` or % stands in quotes",
		"@":                "f.yaml:1: found character that cannot start any token: a tab? Indent with spaces. Text that begins with @, ` or % stands in quotes",
		"a: 1\nb: x\n":     "f.yaml:2: cannot unmarshal !!str `x` into int",
		"- *nowhere\n":     "f.yaml:1: unknown anchor 'nowhere' referenced",
		"a: 1\nb: 2\na: 3": "f.yaml:3: mapping key \"a\" already defined at line 1",
	} {
		var out map[string]int
		err := yaml.Unmarshal([]byte(text), &out)
		if err == nil {
			t.Fatalf("%q is YAML", text)
		}
		if got := yamltext.Error("f.yaml", err).Error(); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
