package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzConfig reads any text as gatehouse.yaml: nothing panics, and each problem names the file and, where it is about a
// key, a line.
func FuzzConfig(f *testing.F) {
	f.Add(FullExample)
	f.Add(AppsExample)
	f.Add("listen: {grpc: [x], admin: [y]}\nidentity: {jwt: {issuer: 1}}\ndry_run: [1]\n")
	f.Add("a: &x [*x]\nb: ${HOME}\n? {c: d}\n: e\n--- \n")
	scripts, err := filepath.Glob("../cmd/gatehouse/testdata/script/config_*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg := Default()
		doc, err := DecodeYAML("gatehouse.yaml", []byte(text), cfg)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "gatehouse.yaml:") {
				t.Fatalf("error without its file: %v", err)
			}
			return
		}
		cfg.complete(doc)
		for _, e := range doc.Errs {
			if !strings.HasPrefix(e.Error(), "gatehouse.yaml:") {
				t.Errorf("problem without its place: %v", e)
			}
		}
	})
}
