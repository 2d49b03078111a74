package trial

import (
	"os"
	"strings"
	"testing"
)

// TestTheTestingPageNamesEveryKey holds that docs/testing.md says what each key of a table is.
func TestTheTestingPageNamesEveryKey(t *testing.T) {
	page, err := os.ReadFile("../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range requestKeys {
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("the page does not say what %s is", key)
		}
	}
}

// FuzzTests holds that no table panics the reader, and that every problem has its line.
func FuzzTests(f *testing.F) {
	for _, text := range []string{"", "tests: [{allow: {GET: /}}]", "tests:\n- deny: {as: a, roles: [b], POST: /x, body: {a: [1, 2.5, null, true]}, status: 403}",
		"tests: [{deny: {GET: /, headers: {a: [b, c]}, expect_headers: {d: null}}}]", "tests: [{allow: {GET: /, claims: {<<: *a}}}]", "a: &a [*a]\ntests: [*a]"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tests, err := Read("t.yaml", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "t.yaml:") {
				t.Errorf("no place: %v", err)
			}
			return
		}
		for _, test := range tests {
			if test.Request.Method == "" || test.Request.Path == "" || test.Line == 0 || test.Name == "" {
				t.Errorf("%+v", test)
			}
		}
	})
}
