package policy_test

import (
	"strings"
	"testing"

	"gatehouse/policy/bundle"
)

// TestOneDocumentInEachDataFile checks that only part of a multi-document file is never taken for all of it.
func TestOneDocumentInEachDataFile(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		line          string // of the second document; "" if there is only one
	}{
		"one":                       {"data.yaml", "a: 1\n", ""},
		"one with a start":          {"data.yaml", "---\na: 1\n", ""},
		"one with an end":           {"data.yaml", "a: 1\n...\n", ""},
		"one with a directive":      {"data.yaml", "%YAML 1.1\n---\na: 1\n", ""},
		"one that quotes a start":   {"data.yaml", "a: |\n  x\n  ---\n  y\n", ""},
		"one in another folder":     {"b/data.yml", "--- {a: 1}\n", ""},
		"two":                       {"data.yaml", "a: 1\n---\nb: 2\n", "data.yaml:2"},
		"two after a start":         {"data.yaml", "---\na: 1\n---\nb: 2\n", "data.yaml:3"},
		"two after an end":          {"data.yaml", "a: 1\n...\n---\nb: 2\n", "data.yaml:"},
		"two on one line":           {"data.yml", "a: 1\n--- {b: 2}\n", "data.yml:2"},
		"two with line feeds":       {"data.yml", "a: 1\r\n---\r\nb: 2\r\n", "data.yml:2"},
		"two with carriage returns": {"data.yml", "a: 1\r---\rb: 2\r", "data.yml:"},
		"the second is empty":       {"data.yml", "a: 1\n---\n", "data.yml:"},
		"the second is broken":      {"data.yml", "a: 1\n---\n}{\n", "data.yml:"},
		"two of JSON in YAML":       {"b/data.yaml", "{\"a\": 1}\n---\n{\"b\": 2}\n", "b/data.yaml:2"},
		"two of JSON":               {"data.json", "{\"a\": 1}\n{\"b\": 2}\n", "data.json:"},
		"JSON and a word":           {"b/data.json", "{\"a\": 1} x", "b/data.json:1"},
	} {
		_, err := bundle.Read("app", tree{c.file: c.content}.fs(), bundle.Limits{})
		switch {
		case c.line == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.line != "" && (err == nil || !strings.Contains(err.Error(), c.line)):
			t.Errorf("%s: want an error at %s, got %v", name, c.line, err)
		}
	}
}
