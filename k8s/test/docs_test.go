package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// helmInstall is how a page installs the chart, with values that a command before made.
var helmInstall = regexp.MustCompile(`(?m)helm install (\S+) k8s/chart .*?(?:-n|--namespace) (\S+) .*?-f (\S+)$`)

// TestPages runs the commands of the pages in the example's folder, and reads what they made. What is installed by Helm is rendered as the page says it.
func TestPages(t *testing.T) {
	for _, page := range []string{"kubernetes.md", "kubernetes-injector.md", "istio.md", "envoy-gateway.md"} {
		text, err := os.ReadFile(filepath.Join(root, "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		dir, ran, made := example(t), 0, map[string][]byte{}
		for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				words, file, _ := strings.Cut(strings.TrimSpace(line), " > ")
				out := command(t, dir, strings.Fields(words)[1:]...)
				made[file] = out
				if file != "" {
					write(t, filepath.Join(dir, file), string(out))
				}
				if ran++; file != "" && len(objects(t, out)) == 0 {
					t.Errorf("%s: %s makes nothing", page, line)
				}
			}
		}
		for _, by := range helmInstall.FindAllStringSubmatch(string(text), -1) {
			values, ok := made[by[3]]
			if !ok {
				t.Errorf("%s: nothing makes the %s that Helm installs", page, by[3])
				continue
			}
			renderIn(t, by[1], by[2], values)
		}
		if ran == 0 {
			t.Errorf("%s has no commands", page)
		}
	}
}
