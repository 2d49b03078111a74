// Package test tries what gatehouse k8s generate and the chart make on the real things: Istio's control plane in this process, Helm's library, a
// kube-apiserver with etcd, and Envoy itself. It is a module of its own, so that none of them is a dependency of Gatehouse.
package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const root = "../.."

// gatehouse is the binary under test; venv has Envoy and the example application.
var gatehouse, venv string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gatehouse-k8s-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	gatehouse = filepath.Join(dir, "gatehouse")
	build := exec.Command("go", "build", "-o", gatehouse, "./cmd/gatehouse")
	build.Dir, build.Stdout, build.Stderr = root, os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fail(fmt.Errorf("building gatehouse: %w", err))
	}
	if venv, err = filepath.Abs(filepath.Join(root, ".venv")); err != nil {
		return fail(err)
	}
	if _, err := os.Stat(filepath.Join(venv, "bin/envoy")); err != nil {
		return fail(errors.New("no .venv with Envoy: make test-k8s makes it"))
	}
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// command runs a command of Gatehouse's and gives what it prints.
func command(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), gatehouse, args...)
	var out, problems bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = dir, &out, &problems
	if err := c.Run(); err != nil {
		t.Fatalf("gatehouse %s: %v\n%s", strings.Join(args, " "), err, &problems)
	}
	return out.Bytes()
}

// object is one of Kubernetes'.
type object map[string]any

func (o object) kind() string { s, _ := o["kind"].(string); return s }
func (o object) meta() map[string]any {
	m, _ := o["metadata"].(map[string]any)
	return m
}
func (o object) name() string { return fmt.Sprint(o.kind(), " ", o.meta()["name"]) }

// objects reads YAML documents; what is comments alone is none.
func objects(t *testing.T, text []byte) (found []object) {
	t.Helper()
	for _, doc := range strings.Split("\n"+string(text), "\n---") {
		o := object{}
		if err := yaml.Unmarshal([]byte(doc+"\n"), &o); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if len(o) > 0 {
			found = append(found, o)
		}
	}
	return found
}

func text(t *testing.T, found []object) string {
	t.Helper()
	var docs []string
	for _, o := range found {
		doc, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(doc))
	}
	return strings.Join(docs, "---\n")
}

// example copies the example of Flask, which is not changed, and makes its issuer's keys.
func example(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "examples/flask-orders"))); err != nil {
		t.Fatal(err)
	}
	token(t, dir, "nobody")
	return dir
}

// token signs one as the example's issuer.
func token(t *testing.T, dir, subject string, roles ...string) string {
	t.Helper()
	args := []string{"token", "mint", "--config", "gatehouse.yaml", "--sub", subject}
	if len(roles) > 0 {
		args = append(args, "--role", roles[0])
	}
	return strings.TrimSpace(string(command(t, dir, args...)))
}

// pod lays out the files of the ConfigMaps as the kubelet does: a folder with a time in its name, ..data that leads to it, and links for
// what is at the top. Calling it again swaps them.
func pod(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	data, err := os.MkdirTemp(dir, "..2026_")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	top := map[string]bool{}
	for name, text := range files {
		path := filepath.Join(data, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(name, "/")
		top[first] = true
	}
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	next := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(data), next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	for name := range top {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	if old != "" {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			t.Fatal(err)
		}
	}
}

// mounted are the files that the volume gatehouse-config would have: by the projection that the pod's template says.
func mounted(t *testing.T, all []object) map[string]string {
	t.Helper()
	maps := map[string]map[string]any{}
	var sources []any
	for _, o := range all {
		if o.kind() == "ConfigMap" {
			maps[fmt.Sprint(o.meta()["name"])], _ = o["data"].(map[string]any)
		}
		find(map[string]any(o), "projected", func(v any) { sources = v.(map[string]any)["sources"].([]any) })
	}
	files := map[string]string{}
	for _, s := range sources {
		c, ok := s.(map[string]any)["configMap"].(map[string]any)
		if !ok {
			continue
		}
		for _, item := range c["items"].([]any) {
			i := item.(map[string]any)
			value, ok := maps[fmt.Sprint(c["name"])][fmt.Sprint(i["key"])].(string)
			if !ok {
				t.Fatalf("%v has no key %v", c["name"], i["key"])
			}
			files[fmt.Sprint(i["path"])] = value
		}
	}
	return files
}

func find(v any, key string, f func(any)) {
	switch v := v.(type) {
	case map[string]any:
		for name, below := range v {
			if name == key {
				f(below)
			}
			find(below, key, f)
		}
	case []any:
		for _, below := range v {
			find(below, key, f)
		}
	}
}

// free is a port that nobody has.
func free(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// process runs until its test ends. What it wrote is shown where the test failed.
func process(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(name, args...)
	out, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	c.Dir, c.Stdout, c.Stderr = dir, out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		done := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		done.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(out.Name())
			t.Logf("%s:\n%s", filepath.Base(name), text[max(0, len(text)-6000):])
		}
	})
	return c
}

// answer is what a client got.
type answer struct {
	status int
	body   string
	header http.Header
}

func call(ctx context.Context, method, url string, header map[string]string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return answer{}, err
	}
	return send(r, header)
}

// post sends JSON.
func post(ctx context.Context, url, body string, header map[string]string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	return send(r, header)
}

func send(r *http.Request, header map[string]string) (answer, error) {
	for name, value := range header {
		r.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, strings.TrimSpace(string(body)), res.Header}, err
}

// until asks until the status is that.
func until(t *testing.T, url string, header map[string]string, status int) answer {
	t.Helper()
	var last answer
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if last, err = call(t.Context(), "GET", url, header); err == nil && last.status == status {
			return last
		}
	}
	t.Fatalf("%s: %v %+v, want %d", url, err, last, status)
	return last
}

// local is the configuration in the pod with addresses of this machine in the place of the pod's.
func local(t *testing.T, files map[string]string, change map[string]any) map[string]string {
	t.Helper()
	c := map[string]any{}
	if err := yaml.Unmarshal([]byte(files["gatehouse.yaml"]), &c); err != nil {
		t.Fatal(err)
	}
	listen := c["listen"].(map[string]any)
	maps.Copy(listen, change)
	c["state_dir"] = t.TempDir()
	listen["control"] = "unix:" + filepath.Join(t.TempDir(), "c.sock")
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	files["gatehouse.yaml"] = string(text)
	return files
}

func without(all []object, kinds ...string) []object {
	return slices.DeleteFunc(slices.Clone(all), func(o object) bool { return slices.Contains(kinds, o.kind()) })
}

func only(all []object, kinds ...string) []object {
	return slices.DeleteFunc(slices.Clone(all), func(o object) bool { return !slices.Contains(kinds, o.kind()) })
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
