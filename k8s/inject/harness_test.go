package inject

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is as much of an API server as the injector asks: the version and two objects with optimistic concurrency. The real one is in k8s/test.
type cluster struct {
	*httptest.Server
	mu      sync.Mutex
	version string // 1.MINOR
	objects map[string]object
	writes  map[string]int
	down    bool
	ca      string // a file
	token   string
}

const (
	secretPath  = "/api/v1/namespaces/gatehouse/secrets/gatehouse-injector"
	webhookPath = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/gatehouse-injector"
)

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{version: "36", writes: map[string]int{}, objects: map[string]object{
		secretPath:  {"metadata": object{"name": "gatehouse-injector", "resourceVersion": "1"}, "kept": "as it is"},
		webhookPath: {"metadata": object{"resourceVersion": "1"}, "webhooks": []any{object{"clientConfig": object{}, "kept": 1.0}, object{"clientConfig": object{}}}},
	}}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	dir := t.TempDir()
	c.ca, c.token = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	write(t, c.ca, string(pemOf(c.Certificate())))
	write(t, c.token, "secret-token")
	return c
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := func(code int, o object) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(o)
	}
	have, there := c.objects[r.URL.Path]
	switch {
	case c.down:
		answer(503, object{"message": "down"})
	case r.Header.Get("Authorization") != "Bearer secret-token":
		answer(401, object{"message": "Unauthorized"})
	case r.URL.Path == "/version":
		answer(200, object{"major": "1", "minor": c.version, "gitVersion": "v1." + c.version})
	case !there:
		answer(404, object{"message": r.URL.Path + " not found"})
	case r.Method == "GET":
		answer(200, have)
	case r.Method == "PUT":
		var o object
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			answer(400, object{"message": err.Error()})
			return
		}
		version := have["metadata"].(object)["resourceVersion"].(string)
		if o["metadata"].(object)["resourceVersion"] != version {
			answer(409, object{"message": "the object has been modified"})
			return
		}
		n, _ := strconv.Atoi(version)
		o["metadata"].(object)["resourceVersion"] = strconv.Itoa(n + 1)
		c.objects[r.URL.Path] = o
		c.writes[r.URL.Path]++
		answer(200, o)
	default:
		answer(405, object{})
	}
}

// trusted is what the API server verifies webhooks with.
func (c *cluster) trusted(t *testing.T) *x509.CertPool {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	pool := x509.NewCertPool()
	var first string
	for k, w := range each(c.objects[webhookPath], "webhooks") {
		bundle := text(w["clientConfig"].(object), "caBundle")
		if k == 0 {
			first = bundle
		} else if bundle != first {
			t.Error("two webhooks trust in different things")
		}
	}
	raw, err := base64.StdEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(raw)
	return pool
}

// example is a template with all kinds of things in it.
const example = `
namespace: gatehouse
names: [gatehouse-injector.gatehouse.svc, 127.0.0.1]
secret: gatehouse-injector
webhook: gatehouse-injector
listen: 127.0.0.1:0
admin: 127.0.0.1:0
drain_delay: 1ms
exclude: [istio-system]
pod:
  containers:
    - name: gatehouse
      image: gatehouse:1
      args: [serve, --config, /etc/gatehouse/gatehouse.yaml]
      ports: [{name: gatehouse-admin, containerPort: 9192}]
      resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 256Mi}}
      securityContext: {privileged: false, runAsNonRoot: true, runAsUser: 65532, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: gatehouse-config, mountPath: /etc/gatehouse, readOnly: true}, {name: gatehouse-socket, mountPath: /run/gatehouse}]
      restartPolicy: Always
    - name: envoy
      image: envoy:1
      ports: [{containerPort: 8080}]
      volumeMounts: [{name: envoy-config, mountPath: /etc/envoy}]
      restartPolicy: Always
  volumes:
    - name: gatehouse-config
      projected:
        sources:
          - configMap: {name: gatehouse-config, items: [{key: gatehouse.yaml, path: gatehouse.yaml}]}
          - configMap: {name: gatehouse-policy}
          - secret: {name: gatehouse-secrets}
    - {name: gatehouse-socket, emptyDir: {}}
    - {name: envoy-config, configMap: {name: gatehouse-envoy}}
  annotations: {example.com/fixed: "yes"}
  lists: {traffic.sidecar.istio.io/excludeInboundPorts: ["9192"]}
  mounts: [{container: istio-proxy, mount: {name: gatehouse-socket, mountPath: /run/gatehouse, readOnly: true}}]
  pull_secrets: [{name: registry}]
`

// settingsFile writes the example with changes over it.
func settingsFile(t *testing.T, c *cluster, change object) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "injector.yaml")
	rewrite(t, file, c, change)
	return file
}

func rewrite(t *testing.T, file string, c *cluster, change object) {
	t.Helper()
	var all object
	if err := yaml.Unmarshal([]byte(example), &all); err != nil {
		t.Fatal(err)
	}
	all["api"] = object{"server": c.URL, "ca": c.ca, "token": c.token}
	maps.Copy(all, change)
	text, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file+".new", string(text))
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// running is an injector that runs until its test ends, and whoever asks it as the API server does.
type running struct {
	*Injector
	t      *testing.T
	client *http.Client
}

func start(t *testing.T, c *cluster, change object) *running {
	t.Helper()
	return startFile(t, c, settingsFile(t, c, change))
}

func startFile(t *testing.T, c *cluster, file string) *running {
	t.Helper()
	i, err := New(Options{File: file, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	out := &running{Injector: i, t: t}
	t.Cleanup(func() {
		if out.client != nil {
			out.client.CloseIdleConnections()
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	out.await("ok")
	out.client = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: c.trusted(t), ServerName: "gatehouse-injector.gatehouse.svc"}}}
	return out
}

// get asks the admin port.
func (r *running) get(path string) string {
	r.t.Helper()
	_, admin := r.Addresses()
	request, err := http.NewRequestWithContext(r.t.Context(), "GET", "http://"+admin.String()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// await asks until it is ready, or not ready for a reason.
func (r *running) await(text string) {
	r.t.Helper()
	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if last = r.get("/readyz"); strings.HasPrefix(last, text) {
			return
		}
	}
	r.t.Fatalf("readyz says %q, want %q", last, text)
}

func (r *running) post(path, kind string, body []byte) (int, []byte) {
	r.t.Helper()
	webhook, _ := r.Addresses()
	request, err := http.NewRequestWithContext(r.t.Context(), "POST", "https://"+webhook.String()+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", kind)
	response, err := r.client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	out, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, out
}

// reviewed is what became of a pod.
type reviewed struct {
	allowed  bool
	message  string
	warnings []string
	pod      object // patched
	audit    map[string]string
}

func (r *running) review(path, namespace string, pod object) reviewed {
	r.t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		r.t.Fatal(err)
	}
	body := fmt.Sprintf(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u1", "operation": "CREATE", "namespace": %q,
		"resource": {"group": "", "version": "v1", "resource": "pods"}, "userInfo": {"username": "x"}, "object": %s, "oldObject": null, "dryRun": false}}`, namespace, raw)
	code, answer := r.post(path, "application/json", []byte(body))
	var out review
	if err := json.Unmarshal(answer, &out); code != 200 || err != nil || out.Kind != "AdmissionReview" || out.APIVersion != "admission.k8s.io/v1" || out.Response.UID != "u1" {
		r.t.Fatalf("%d %v %s", code, err, answer)
	}
	v := reviewed{allowed: out.Response.Allowed, warnings: out.Response.Warnings, pod: cloned(pod), audit: out.Response.AuditAnnotations}
	if out.Response.Status != nil {
		v.message = out.Response.Status.Message
	}
	if (out.Response.PatchType == "JSONPatch") != (len(out.Response.Patch) > 0) || !v.allowed && len(out.Response.Patch) > 0 {
		r.t.Fatalf("%s", answer)
	}
	if len(out.Response.Patch) > 0 {
		var ops []operation
		if err := json.Unmarshal(out.Response.Patch, &ops); err != nil {
			r.t.Fatal(err)
		}
		for _, op := range ops {
			v.pod = patched(r.t, v.pod, op).(object)
		}
	}
	return v
}

// patched applies an operation, as RFC 6902 says of add.
func patched(t *testing.T, doc any, op operation) any {
	t.Helper()
	if op.Op != "add" {
		t.Fatalf("%+v: only add takes nothing away", op)
	}
	var at func(doc any, path []string) any
	at = func(doc any, path []string) any {
		key := strings.NewReplacer("~1", "/", "~0", "~").Replace(path[0])
		switch d := doc.(type) {
		case object:
			if len(path) == 1 {
				d[key] = op.Value
			} else {
				d[key] = at(d[key], path[1:])
			}
			return d
		case []any:
			if key == "-" && len(path) == 1 {
				return append(d, op.Value)
			}
			n, err := strconv.Atoi(key)
			if err != nil || n > len(d) || len(path) > 1 && n == len(d) {
				t.Fatalf("%s: there is no such place", op.Path)
			}
			if len(path) == 1 {
				return slices.Insert(d, n, op.Value)
			}
			d[n] = at(d[n], path[1:])
			return d
		}
		t.Fatalf("%s: there is no such place", op.Path)
		return nil
	}
	return at(doc, strings.Split(op.Path, "/")[1:])
}
