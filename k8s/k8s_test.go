package k8s

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"gatehouse/config"
)

// tree writes files below a folder of the test's own.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// orders is a configuration with something of everything that has to get into a pod.
func orders() map[string]string {
	return map[string]string{
		"gatehouse.yaml": `listen: {grpc: ["127.0.0.1:9191"], admin: "127.0.0.1:9192", max_connections: 2048}
state_dir: .gatehouse
identity:
  jwt: [{issuer: "https://login.example.com", audiences: [orders], keys: {file: keys/jwks.json}}]
  introspection: [{url: "https://login.example.com/introspect", client_id: gatehouse, client_secret_file: client-secret}]
headers: {subject: x-auth-subject, email: X-Auth-Email}
routes: {file: routes.yaml}
denials: {templates: {"403": {content_type: text/html, file: pages/403.html}}}
policy: {root: orders, timeout: 200ms, bundles: [{name: orders, path: ./policy}]}
decision_log: {file: decisions.log}
`,
		"keys/jwks.json":            `{"keys": []}`,
		"client-secret":             "hunter2",
		"routes.yaml":               "framework: flask\nroutes:\n  - route: GET /orders/<id>\n",
		"pages/403.html":            "<p>No.</p>\n",
		"policy/GET/orders/id.rego": "package orders.GET.orders.__id\n\nallowed := true\n",
		"policy/.manifest":          `{"roots": ["orders"]}`,
		"policy/.hidden":            "no",
	}
}

func values(t *testing.T, mode, whose string) (*Options, Values) {
	t.Helper()
	o := &Options{Release: Release{"gatehouse", "gatehouse"}, Mode: mode, For: whose, App: "orders", AppNamespace: "shop", AppPort: 8000}
	if mode == "sidecar" && whose == "envoy" {
		o.AppImage = "orders:1.4"
	}
	v, err := o.Values(filepath.Join(tree(t, orders()), "gatehouse.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return o, v
}

// TestObjects holds every object to the golden files, which are read in review: GATEHOUSE_RECORD=1 writes them anew.
func TestObjects(t *testing.T) {
	for _, mode := range []string{"service", "sidecar"} {
		for _, whose := range []string{"envoy", "istio", "envoy-gateway"} {
			t.Run(mode+" "+whose, func(t *testing.T) {
				o, v := values(t, mode, whose)
				got, err := o.Print("yaml", v)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, "testdata/"+mode+"-"+whose+".yaml", got)
				for _, doc := range documents(t, got) {
					kind, meta := doc["kind"], doc["metadata"].(map[string]any)
					if kind == "" || meta["name"] == "" || meta["namespace"] == "" {
						t.Errorf("%v has no name, kind or namespace", doc)
					}
				}
				if strings.Contains(string(got), "hunter2") || strings.Contains(string(got), ".hidden") {
					t.Error("what is secret or hidden is in the objects")
				}
			})
		}
	}
}

// TestInjector is the same for the injector, whose objects are in no mode's files.
func TestInjector(t *testing.T) {
	for _, whose := range []string{"envoy", "istio"} {
		o := &Options{Release: Release{"gatehouse", "gatehouse"}, Mode: "service", For: whose, App: "orders", AppNamespace: "shop", AppPort: 8000, Injector: true}
		v, err := o.Values(filepath.Join(tree(t, orders()), "gatehouse.yaml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := o.Print("yaml", v)
		if err != nil {
			t.Fatal(err)
		}
		_, injector, ok := strings.Cut(string(got), "app.kubernetes.io/name: gatehouse-injector")
		if !ok {
			t.Fatal("there is no injector")
		}
		golden(t, "testdata/injector-"+whose+".yaml", []byte("app.kubernetes.io/name: gatehouse-injector"+injector))
		v.Overlay(Values{"injector": map[string]any{"namespaces": []any{"shop", "billing"}}})
		got, err = o.Print("yaml", v)
		if err != nil {
			t.Fatal(err)
		}
		for _, namespace := range []string{"shop", "billing"} {
			if !strings.Contains(string(got), "name: gatehouse-policy\n  namespace: "+namespace+"\n") {
				t.Errorf("no policy in %s", namespace)
			}
		}
	}
}

// following is a configuration whose directory comes from a control plane, as gatehouse.yaml has it on a developer's machine.
func following() map[string]string {
	return map[string]string{
		"gatehouse.yaml": `state_dir: ./state
policy: {bundles: [{name: app, path: policy}]}
directory: {control: true, user: {by: id}}
control: {url: "https://control.example.com:8443/", ca: control/ca.pem, enroll_token_file: enroll.token, name: laptop}
`,
		"policy/policy.rego": "package envoy.authz\n\nallow if gatehouse.check(\"group:eng\", \"member\", concat(\":\", [\"user\", input.user.id]))\n",
		"control/ca.pem":     "-----BEGIN CERTIFICATE-----\n",
		"enroll.token":       "ghe_hunter2",
		"egress.yaml":        "networkPolicy: {egress: [{ports: [{port: 53, protocol: UDP}]}], control: [{podSelector: {matchLabels: {app: control}}}]}\n",
	}
}

// TestControl: pods that follow a control plane are edges with names and volumes of their own, and the token of the developer's machine stays there.
func TestControl(t *testing.T) {
	dir := tree(t, following())
	o := &Options{Release: Release{"gatehouse", "gatehouse"}, Mode: "service", For: "istio", App: "orders", AppNamespace: "shop", AppPort: 8000}
	v, err := o.Values(filepath.Join(dir, "gatehouse.yaml"), []string{filepath.Join(dir, "egress.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.Print("yaml", v)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/service-control.yaml", got)
	if strings.Contains(string(got), "hunter2") || strings.Contains(string(got), "laptop") {
		t.Error("what is this machine's own is in the objects")
	}
	want := "let the pods in at the control plane first (each token is for one pod, once):\n  gatehouse control enroll --edge gatehouse-0 --out gatehouse-0 --valid 24h\n" +
		"  gatehouse control enroll --edge gatehouse-1 --out gatehouse-1 --valid 24h\n" +
		"  kubectl create secret generic gatehouse-enroll -n gatehouse --from-file=gatehouse-0 --from-file=gatehouse-1"
	if hint, err := o.SecretHint(v); err != nil || hint != want {
		t.Errorf("%v %s", err, hint)
	}
	for want, change := range map[string]Values{
		"set mode to service":                  {"mode": "sidecar"},
		"set state.kind to pvc":                {"state": map[string]any{"kind": "emptyDir"}},
		"set autoscaling.enabled to false":     {"autoscaling": map[string]any{"enabled": true}},
		"control.secret: there is no such key": {"control": map[string]any{"secret": "a"}},
	} {
		again, err := o.Values(filepath.Join(dir, "gatehouse.yaml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		again.Overlay(change)
		if _, err := o.Print("yaml", again); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	v.Overlay(Values{"replicas": 1, "name": "edge", "control": map[string]any{"secretName": "tokens"}, "secrets": map[string]any{"name": "s", "files": []any{"a"}}})
	hint, err := o.SecretHint(v)
	if err != nil || !strings.Contains(hint, "--edge edge-0 ") || !strings.HasSuffix(hint, "secret generic tokens -n gatehouse --from-file=edge-0") || !strings.HasPrefix(hint, "make the Secret first:") {
		t.Errorf("%v %s", err, hint)
	}
}

// TestMounts: what the pods of a workload mount is made in their namespace.
func TestMounts(t *testing.T) {
	for _, mode := range []string{"service", "sidecar"} {
		for _, whose := range []string{"envoy", "istio"} {
			o, v := values(t, mode, whose)
			text, err := o.Print("yaml", v)
			if err != nil {
				t.Fatal(err)
			}
			made, used := map[string]bool{}, map[string]bool{}
			for _, doc := range documents(t, text) {
				meta := doc["metadata"].(map[string]any)
				if doc["kind"] == "ConfigMap" {
					made[fmt.Sprint(meta["namespace"], "/", meta["name"])] = true
				}
				if doc["kind"] == "Deployment" {
					pod := doc["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
					for _, volume := range pod["volumes"].([]any) {
						v := volume.(map[string]any)
						sources := []any{v}
						if p, ok := v["projected"].(map[string]any); ok {
							sources = p["sources"].([]any)
						}
						for _, s := range sources {
							if c, ok := s.(map[string]any)["configMap"].(map[string]any); ok {
								used[fmt.Sprint(meta["namespace"], "/", c["name"])] = true
							}
						}
					}
				}
			}
			for name := range used {
				if !made[name] {
					t.Errorf("%s %s: no ConfigMap %s is made, of %v", mode, whose, name, made)
				}
			}
		}
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if os.Getenv("GATEHOUSE_RECORD") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (GATEHOUSE_RECORD=1 writes it anew): -golden +made\n%s", file, diff)
	}
}

func documents(t *testing.T, text []byte) (docs []map[string]any) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(string(text))); ; {
		var doc map[string]any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return docs
		} else if err != nil {
			t.Fatal(err)
		}
		if doc != nil {
			docs = append(docs, doc)
		}
	}
}

// TestConfigInThePod holds that what is in the ConfigMap is a configuration without problems, with the files where it says.
func TestConfigInThePod(t *testing.T) {
	for _, mode := range []string{"service", "sidecar"} {
		o, v := values(t, mode, "envoy")
		text, err := o.Print("yaml", v)
		if err != nil {
			t.Fatal(err)
		}
		pod := map[string]string{}
		for _, doc := range documents(t, text) {
			data, _ := doc["data"].(map[string]any)
			for key, text := range data {
				pod[strings.ReplaceAll(key, "__", "/")] = text.(string)
			}
		}
		dir := tree(t, pod)
		c, doc, err := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}.Read()
		if err != nil || len(doc.Errs) > 0 {
			t.Fatal(err, doc.Errs)
		}
		if c.Routes.File != filepath.Join(dir, "routes.yaml") || c.DecisionLog.File != "-" || c.StateDir != "/var/lib/gatehouse" || c.Listen.MaxConnections != 2048 {
			t.Errorf("%+v", c)
		}
		if got := c.Identity.Introspection[0].ClientSecretFile; got != filepath.Join(dir, "secrets/client-secret") {
			t.Error(got)
		}
		if v["timeout"] != "350ms" {
			t.Error("Envoy waits for", v["timeout"])
		}
		namespace := map[string]string{"service": "gatehouse", "sidecar": "shop"}[mode]
		if hint, err := o.SecretHint(v); err != nil || !strings.Contains(hint, "gatehouse-secrets -n "+namespace+" --from-file=client-secret") {
			t.Error(hint, err)
		}
	}
}

// TestRolls holds that pods roll for what Gatehouse reads at its start alone, and for nothing that it watches.
func TestRolls(t *testing.T) {
	annotations := func(change map[string]string) string {
		files := orders()
		for name, text := range change {
			files[name] = text
		}
		o := &Options{Release: Release{"gatehouse", "gatehouse"}, Mode: "service", For: "istio", App: "orders", AppPort: 8000}
		v, err := o.Values(filepath.Join(tree(t, files), "gatehouse.yaml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := o.Print("yaml", v)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range documents(t, text) {
			if doc["kind"] == "Deployment" {
				template, err := yaml.Marshal(doc["spec"])
				if err != nil {
					t.Fatal(err)
				}
				return string(template)
			}
		}
		t.Fatal("no Deployment")
		return ""
	}
	before := annotations(nil)
	for name, rolls := range map[string]bool{"policy/GET/orders/id.rego": false, "routes.yaml": false, "keys/jwks.json": false, "client-secret": false,
		"pages/403.html": true, "gatehouse.yaml": true} {
		text := orders()[name] + "\n"
		if name == "gatehouse.yaml" {
			text = strings.Replace(text, "2048", "4096", 1)
		}
		if after := annotations(map[string]string{name: text}); (after != before) != rolls {
			t.Errorf("a change of %s: rolls is %v", name, after != before)
		}
	}
}

func TestWhatCannotBe(t *testing.T) {
	big := strings.Repeat("x", maxConfigMap+1)
	for name, tc := range map[string]struct {
		files  map[string]string
		values Values
		want   string
	}{
		"unknown key":          {values: Values{"replica": 3}, want: "values: replica: there is no such key; replicas is meant?"},
		"Envoy asks elsewhere": {values: Values{"envoy": map[string]any{"config": "{address: gatehouse.default.svc}"}}, want: "envoy.config does not ask gatehouse.gatehouse.svc, which is this installation: gatehouse k8s generate --namespace gatehouse"},
		"unknown mode":         {values: Values{"mode": "daemonset"}, want: `values: mode: "daemonset" is none of [service sidecar]`},
		"wrong type":           {values: Values{"replicas": "two"}, want: "values: replicas: two is no integer"},
		"too few":              {values: Values{"replicas": 0}, want: "values: replicas: 0 is less than 1"},
		"two policies":         {values: Values{"policy": map[string]any{"image": "ghcr.io/acme/policy:v1"}}, want: "policy.image, policy.url and policy.control stand for config.policy.bundles"},
		"policy of no control": {files: map[string]string{"gatehouse.yaml": "policy: {timeout: 100ms}\n"}, values: Values{"policy": map[string]any{"control": true}}, want: "config.control says where the control plane is"},
		"injector and service": {values: Values{"injector": map[string]any{"enabled": true}}, want: "set mode to sidecar"},
		"injector and Deployment": {values: Values{"mode": "sidecar", "app": map[string]any{"image": "a:1"}, "injector": map[string]any{"enabled": true}},
			want: "leave app.image out"},
		"injector in the application's namespace": {values: Values{"mode": "sidecar", "injector": map[string]any{"enabled": true}},
			want: "leaves the pods of its own namespace, gatehouse, alone"},
		"config's mistake": {files: map[string]string{"gatehouse.yaml": "polcy: {}\n"}, want: `gatehouse.yaml:1: unknown key "polcy"`},
		"a file is missing": {files: map[string]string{"gatehouse.yaml": "policy: {bundles: [{path: nowhere}]}\n"},
			want: "names a file that has to be in the pod"},
		"too large": {files: map[string]string{"policy/data.json": big}, want: "a ConfigMap takes 1 MiB"},
		"a tarball": {files: map[string]string{"gatehouse.yaml": "policy: {bundles: [{path: b.tar.gz}]}\n", "b.tar.gz": "x"}, want: "push it as an image"},
		"same name": {files: map[string]string{"gatehouse.yaml": "routes: {file: a/x.yaml}\ndirectory: {file: b/x.yaml}\npolicy: {bundles: [{path: policy}]}\n",
			"a/x.yaml": "", "b/x.yaml": ""}, want: "would both be x.yaml in the pod"},
		"same key": {files: map[string]string{"policy/GET__orders/id.rego": "package x\n"}, want: "would have the same key in the ConfigMap"},
		"odd name": {files: map[string]string{"policy/a b.rego": "package x\n"}, want: "takes names of letters"},
	} {
		t.Run(name, func(t *testing.T) {
			files := orders()
			for file, text := range tc.files {
				files[file] = text
			}
			o := &Options{Release: Release{"gatehouse", "gatehouse"}, Mode: "service", For: "envoy", App: "orders", AppPort: 8000}
			v, err := o.Values(filepath.Join(tree(t, files), "gatehouse.yaml"), nil)
			if err == nil {
				v.Overlay(tc.values)
				_, err = o.Print("yaml", v)
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestName: what the objects are called is what Envoy asks.
func TestName(t *testing.T) {
	dir := tree(t, orders())
	if err := os.WriteFile(filepath.Join(dir, "more.yaml"), []byte("name: edge\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := &Options{Release: Release{"gatehouse", "gatehouse"}, Mode: "service", For: "envoy", App: "orders", AppPort: 8000}
	v, err := o.Values(filepath.Join(dir, "gatehouse.yaml"), []string{filepath.Join(dir, "more.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.Print("yaml", v)
	if err != nil || !strings.Contains(string(text), "address: edge.gatehouse.svc") {
		t.Errorf("%v: Envoy does not ask edge", err)
	}
}

// TestImage: a reference of an image is taken apart at its tag or digest, not at the port of its registry.
func TestImage(t *testing.T) {
	for ref, want := range map[string]string{
		"gatehouse": "image: gatehouse:", "registry.example.com:5000/gatehouse": "image: registry.example.com:5000/gatehouse:",
		"registry.example.com:5000/gatehouse:1.2": "image: registry.example.com:5000/gatehouse:1.2", "a/b@sha256:0123": "image: a/b@sha256:0123",
	} {
		o := &Options{Release: Release{"gatehouse", "gatehouse"}, Mode: "service", For: "envoy", App: "orders", AppPort: 8000, Image: ref}
		v, err := o.Values(filepath.Join(tree(t, orders()), "gatehouse.yaml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := o.Print("yaml", v)
		if err != nil || !strings.Contains(strings.ReplaceAll(string(text), `"`, ""), want) {
			t.Errorf("%s: %v, no %s", ref, err, want)
		}
	}
}

// TestInputs holds that a change of a page whose commands k8s/test runs makes CI run them.
func TestInputs(t *testing.T) {
	job, err := os.ReadFile("../.ci/k8s")
	if err != nil {
		t.Fatal(err)
	}
	test, err := os.ReadFile("test/docs_test.go")
	if err != nil {
		t.Fatal(err)
	}
	pages := regexp.MustCompile(`"([a-z-]+\.md)"`).FindAllStringSubmatch(string(test), -1)
	if len(pages) == 0 {
		t.Fatal("k8s/test/docs_test.go names no pages")
	}
	for _, page := range pages {
		if !slices.Contains(strings.Fields(string(job)), "docs/"+page[1]) {
			t.Errorf(".ci/k8s does not run where docs/%s has changed", page[1])
		}
	}
}

// TestEveryFileIsTaken holds that a key of the configuration that names a file is in the table of files, or is known to need none in a pod.
func TestEveryFileIsTaken(t *testing.T) {
	elsewhere := []string{"state_dir", "listen.tls.cert", "listen.tls.key", "listen.tls.client_ca", "decision_log.file", "decision_log.sinks[].file",
		"decision_log.dir", "listen.control", "listen.directory.authzen.url", "control.enroll_token_file"}
	var walk func(typ reflect.Type, at string)
	walk = func(typ reflect.Type, at string) {
		switch typ.Kind() {
		case reflect.Pointer:
			walk(typ.Elem(), at)
		case reflect.Slice:
			walk(typ.Elem(), at+"[]")
		case reflect.Map:
			walk(typ.Elem(), at+".*")
		case reflect.Struct:
			for f := range typ.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
				if name == "" || name == "-" {
					continue
				}
				where := strings.TrimPrefix(at+"."+name, ".")
				isFile := f.Type.Kind() == reflect.String && (name == "file" || strings.HasSuffix(name, "_file") || slices.Contains([]string{"cert", "key", "ca", "client_ca",
					"protos", "manifest", "dir", "state_dir"}, name)) || where == "policy.bundles[].path" || where == "listen.directory.keys"
				known := slices.Contains(elsewhere, where) || slices.ContainsFunc(files, func(k struct {
					key  string
					kind kind
				},
				) bool {
					return k.key == where
				})
				if isFile && !known {
					t.Errorf("%s names a file: say in files how it gets into a pod", where)
				}
				walk(f.Type, where)
			}
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
}
