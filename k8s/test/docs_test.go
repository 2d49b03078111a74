package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPages runs the commands of the pages in the example's folder, and reads what they made.
func TestPages(t *testing.T) {
	for _, page := range []string{"kubernetes.md", "kubernetes-injector.md", "istio.md", "envoy-gateway.md"} {
		text, err := os.ReadFile(filepath.Join(root, "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		dir, ran := example(t), 0
		for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				words, file, _ := strings.Cut(strings.TrimSpace(line), " > ")
				out := command(t, dir, strings.Fields(words)[1:]...)
				if ran++; file != "" && len(objects(t, out)) == 0 {
					t.Errorf("%s: %s makes nothing", page, line)
				}
			}
		}
		if ran == 0 {
			t.Errorf("%s has no commands", page)
		}
	}
}
