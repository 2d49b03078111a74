package server

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/config"
)

// TestAlertsNameMetricsThatExist: what alerts and dashboard read is in the metrics of a process that uses everything they look at, and each
// alert has its section in the runbook.
func TestAlertsNameMetricsThatExist(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/jwks":
			// The key of RFC 7517, appendix A.1.
			_, _ = io.WriteString(w, `{"keys": [{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "use": "sig", "kid": "1"}]}`)
		case "/bundle.tar":
			_, _ = w.Write(tarOf(t, map[string]string{".manifest": `{"roots": ["more"], "revision": "7"}`, "more.rego": "package more\n\nallow := false\n"}))
		}
	}))
	t.Cleanup(source.Close)
	text := scrape(t, `listen: {grpc: ["unix:gatehouse.sock"], admin: "127.0.0.1:0"}
state_dir: state
identity:
  jwt: [{issuer: "https://issuer.example.com", audiences: [a], keys: {url: "`+source.URL+`/jwks"}}]
policy:
  decision: app/allow
  bundles: [{name: app, path: policy}, {name: more, url: "`+source.URL+`/bundle.tar", max_age: 1h}]
directory: {file: people.yaml}
decision_log: {dir: spool, file: decisions.log}
`, map[string]string{"policy/.manifest": `{"roots": ["app"]}`, "policy/app.rego": "package app\n\ndefault allow := false\n", "people.yaml": "objects:\n  - {type: user, id: ann}\n"})
	exists := map[string]bool{"gatehouse_panics_total": true} // begins with the first panic
	for _, line := range strings.Split(text, "\n") {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(name, " ")
			exists[name] = true
			exists[name+"_bucket"] = kind == "histogram"
		}
	}
	control := read(t, filepath.Join(root, "edge/control.go"))
	name := regexp.MustCompile(`\bgatehouse_[a-z_]+\b`)
	for _, file := range []string{"packaging/prometheus/rules.yaml", "packaging/prometheus/rules_test.yaml", "packaging/grafana/gatehouse.json"} {
		text := read(t, filepath.Join(root, file))
		names := name.FindAllString(text, -1)
		if len(names) < 10 {
			t.Fatalf("%s names %d metrics", file, len(names))
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if strings.HasPrefix(name, "gatehouse_inject_") {
				continue // the injector's: TestAlerts of package k8s/inject
			}
			if strings.HasPrefix(name, "gatehouse_control_") && strings.Contains(control, `"`+name+`"`) {
				continue // only there where a control plane is followed
			}
			if !exists[name] {
				t.Errorf("%s names %s, which is not in /metrics", file, name)
			}
		}
	}
	rules, runbook := read(t, filepath.Join(root, "packaging/prometheus/rules.yaml")), read(t, filepath.Join(root, "docs/runbook.md"))
	alerts := regexp.MustCompile(`- alert: (\w+)\n(?s:.*?)runbook: (\S+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) != strings.Count(rules, "- alert:") || len(alerts) != strings.Count(runbook, "\n## ") {
		t.Errorf("%d alerts with a page, of %d; the runbook has %d sections", len(alerts), strings.Count(rules, "- alert:"), strings.Count(runbook, "\n## "))
	}
	for _, alert := range alerts {
		if want := "docs/runbook.md#" + strings.ToLower(alert[1]); alert[2] != want || !strings.Contains(runbook, "\n## "+alert[1]+"\n") {
			t.Errorf("%s: its page is %s, and the runbook has a section of its name: %v", alert[1], alert[2], strings.Contains(runbook, "\n## "+alert[1]+"\n"))
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// scrape runs a server in a folder of its own and returns its metrics.
func scrape(t *testing.T, settings string, files map[string]string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	files["gatehouse.yaml"] = settings
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New(t.Context(), Config{Source: config.Source{File: "gatehouse.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	get := func() string {
		answer, err := http.Get("http://" + s.admin.Addr().String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	text := get()
	// What bundles say of themselves comes a moment after they decide.
	for tries := 0; !strings.Contains(text, `gatehouse_bundle_pinned{bundle="app"}`) || !strings.Contains(text, `gatehouse_bundle_info{bundle="app"`); tries++ {
		if tries == 3000 {
			t.Fatalf("no bundle becomes active: %s", text)
		}
		time.Sleep(10 * time.Millisecond)
		text = get()
	}
	return text
}
