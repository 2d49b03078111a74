package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/config"
	"gatehouse/trial"
)

// written is a folder with these files.
func written(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var shop = map[string]string{
	"gatehouse.yaml": "policy: {decision: shop/allow, bundles: [{name: p, path: p}], smoke: [smoke.yaml]}\n",
	"p/shop.rego":    "package shop\n\ndefault allow := false\n\nallow if input.attributes.request.http.path == \"/open\"\n",
	"q/shop.rego":    "package shop\n\ndefault allow := false\n",
	"smoke.yaml":     "tests:\n  - allow: {GET: /open}\n",
	"wrong.yaml":     "tests:\n  - deny: {GET: /open}\n",
}

// TestTry holds a configuration against tables of requests.
func TestTry(t *testing.T) {
	dir := written(t, shop)
	src := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}
	if err := Try(t.Context(), src, func(*config.Config) {}, filepath.Join(dir, "smoke.yaml")); err != nil {
		t.Error(err)
	}
	if err := Try(t.Context(), src, func(*config.Config) {}, filepath.Join(dir, "wrong.yaml")); err == nil {
		t.Error("a request that does not come out passes")
	}
}

// TestCompare tells the requests that two policies answer in another way.
func TestCompare(t *testing.T) {
	dir := written(t, shop)
	var nodes [2]*Node
	for i, folder := range []string{"p", "q"} {
		n, err := New(t.Context(), config.Source{File: filepath.Join(dir, "gatehouse.yaml")}, nil, func(c *config.Config) {
			if err := ReplaceBundle(c, "", filepath.Join(dir, folder)); err != nil {
				t.Error(err)
			}
		}, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		nodes[i] = n
	}
	tests, err := trial.Read("t.yaml", []byte("tests:\n  - allow: {GET: /open}\n  - deny: {GET: /shut}\n"))
	if err != nil {
		t.Fatal(err)
	}
	changes, err := Compare(t.Context(), nodes, tests)
	if err != nil || len(changes) != 1 || changes[0].Test.Request.Path != "/open" || !changes[0].Before.Allow || changes[0].After.Allow {
		t.Errorf("%+v, %v", changes, err)
	}
}

func TestReplaceBundle(t *testing.T) {
	for _, test := range []struct {
		names, name, want, problem string
	}{
		{"", "", "app=f", ""},
		{"a", "", "a=f", ""},
		{"a b", "b", "a= b=f", ""},
		{"a b", "", "a= b=", "a, b"},
		{"a", "c", "a=", "a"},
	} {
		var c config.Config
		for _, name := range strings.Fields(test.names) {
			c.Policy.Bundles = append(c.Policy.Bundles, config.Bundle{Name: name})
		}
		err := ReplaceBundle(&c, test.name, "f")
		var got []string
		for _, b := range c.Policy.Bundles {
			got = append(got, b.Name+"="+b.Path)
		}
		if strings.Join(got, " ") != test.want || (err != nil) != (test.problem != "") || err != nil && !strings.HasSuffix(err.Error(), ": "+test.problem) {
			t.Errorf("%+v: %v, %v", test, got, err)
		}
	}
}

// TestSmoke puts the requests of policy.smoke to a gate.
func TestSmoke(t *testing.T) {
	dir := written(t, shop)
	n, err := New(t.Context(), config.Source{File: filepath.Join(dir, "gatehouse.yaml")}, nil, func(*config.Config) {}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for file, want := range map[string]string{"smoke.yaml": "", "wrong.yaml": "GET /open", "nowhere.yaml": "policy.smoke: "} {
		c := *n.Config
		c.Policy.Smoke = []string{filepath.Join(dir, file)}
		put, err := ReadSmoke(&c)
		if err == nil {
			err = put(t.Context(), n.Gate)
		}
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
