//go:build full

package test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

const tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"

// injectorServer is a kube-apiserver whose pods get tokens as in a cluster, with the namespaces of the test.
func injectorServer(t *testing.T) (*rest.Config, client.Client) {
	t.Helper()
	env := &envtest.Environment{BinaryAssetsDirectory: os.Getenv("GATEHOUSE_K8S_BIN")}
	env.ControlPlane.GetAPIServer().Configure().Set("advertise-address", "192.0.2.1").Set("endpoint-reconciler-type", "none").Disable("disable-admission-plugins")
	cfg, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg.QPS, cfg.Burst = 1000, 1000
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, label := range map[string]string{"gatehouse": "true", "shop": "true", "other": "", "odd": "yes", "kube-system": "true", "no": "false"} {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
		if label != "" {
			n.Labels["gatehouse.io/inject"] = label
		}
		if err := c.Patch(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": toAny(n.Labels)}}},
			client.Apply, client.FieldOwner("test"), client.ForceOwnership); err != nil { //nolint:staticcheck // of unstructured objects
			t.Fatal(err)
		}
		if err := c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: name}}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	return cfg, c
}

func toAny(m map[string]string) map[string]any {
	out := map[string]any{}
	for key, value := range m {
		out[key] = value
	}
	return out
}

// balancer is a Service of the injector's: a connection goes to a replica that says that it is ready.
type balancer struct {
	net.Listener
	mu       sync.Mutex
	replicas []*injectorReplica
	next     int
}

type injectorReplica struct {
	webhook, admin int
	process        *exec.Cmd
	ready          atomic.Bool
	log            string
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l}
	var wait sync.WaitGroup
	t.Cleanup(func() { l.Close(); wait.Wait() })
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { b.forward(c) })
		}
	})
	return b
}

func (b *balancer) forward(c net.Conn) {
	defer c.Close()
	b.mu.Lock()
	var to *injectorReplica
	for range b.replicas {
		b.next++
		if r := b.replicas[b.next%len(b.replicas)]; r.ready.Load() {
			to = r
			break
		}
	}
	b.mu.Unlock()
	if to == nil {
		return
	}
	up, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", to.webhook))
	if err != nil {
		return
	}
	defer up.Close()
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(up, c); done <- struct{}{} }()
	go func() { _, _ = io.Copy(c, up); done <- struct{}{} }()
	<-done
}

// injectors runs replicas of the installed injector, as its ServiceAccount, with certificates that live for seconds.
type injectors struct {
	t        *testing.T
	dir      string
	settings map[string]any
	balancer *balancer
	hook     *unstructured.Unstructured // as it was installed
}

func (i *injectors) start() *injectorReplica {
	i.t.Helper()
	r := &injectorReplica{webhook: free(i.t), admin: free(i.t)}
	s := map[string]any{}
	for key, value := range i.settings {
		s[key] = value
	}
	s["listen"], s["admin"] = fmt.Sprint("127.0.0.1:", r.webhook), fmt.Sprint("127.0.0.1:", r.admin)
	text, err := yaml.Marshal(s)
	if err != nil {
		i.t.Fatal(err)
	}
	file := filepath.Join(i.dir, fmt.Sprint("injector-", r.webhook, ".yaml"))
	write(i.t, file, string(text))
	r.process = process(i.t, i.dir, gatehouse, "k8s", "inject", "--config", file)
	until(i.t, fmt.Sprintf("http://127.0.0.1:%d/readyz", r.admin), nil, 200)
	r.ready.Store(true)
	i.balancer.mu.Lock()
	i.balancer.replicas = append(i.balancer.replicas, r)
	i.balancer.mu.Unlock()
	return r
}

// stop ends a replica as Kubernetes does: it is told to leave, and gets no new connection once it is seen not to be ready.
func (i *injectors) stop(r *injectorReplica) {
	i.t.Helper()
	if err := r.process.Process.Signal(syscall.SIGTERM); err != nil {
		i.t.Fatal(err)
	}
	until(i.t, fmt.Sprintf("http://127.0.0.1:%d/readyz", r.admin), nil, 503)
	r.ready.Store(false)
	_, _ = r.process.Process.Wait()
}

// restricted is a pod that the restricted Pod Security Standard takes.
func restricted(namespace string, change func(*corev1.Pod)) *corev1.Pod {
	yes, no := true, false
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Namespace: namespace}, Spec: corev1.PodSpec{
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: "RuntimeDefault"}},
		Containers: []corev1.Container{{Name: "web", Image: "orders:1.4", Ports: []corev1.ContainerPort{{ContainerPort: 8000}},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}}}}
	if change != nil {
		change(p)
	}
	return p
}

// TestInjector installs the injector on a kube-apiserver, which asks it about pods: by labels, through renewals of all its certificates
// and restarts of its replicas, and while it is down.
func TestInjector(t *testing.T) {
	cfg, c := injectorServer(t)
	ctx := t.Context()
	i := install(t, cfg, c, "injector")

	create := func(p *corev1.Pod) error { return c.Create(ctx, p, client.FieldValidation("Strict")) }
	down := func(t *testing.T) {
		t.Helper()
		if err := create(restricted("shop", nil)); err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			t.Errorf("without the injector a pod that is to have a sidecar is there, or: %v", err)
		}
		for _, namespace := range []string{"other", "gatehouse", "kube-system", "no"} {
			if err := create(restricted(namespace, nil)); err != nil {
				t.Errorf("without the injector %s has no pods: %v", namespace, err)
			}
		}
		if err := create(restricted("shop", label("false"))); err != nil {
			t.Error(err)
		}
	}
	t.Run("not there yet", down)
	first := i.start()
	second := i.start()

	t.Run("labels", func(t *testing.T) {
		for _, tc := range []struct {
			namespace, label string
			sidecar          bool
			message          string
		}{
			{"shop", "", true, ""}, {"shop", "true", true, ""}, {"shop", "false", false, ""}, {"other", "", false, ""}, {"other", "true", true, ""}, {"no", "", false, ""}, {"no", "true", true, ""},
			{"gatehouse", "true", false, ""}, {"kube-system", "true", false, ""},
			{"shop", "maybe", false, `the pod's label gatehouse.io/inject is "maybe"`}, {"other", "maybe", false, `the pod's label gatehouse.io/inject is "maybe"`},
			{"odd", "", false, `the label gatehouse.io/inject of namespace "odd" says neither "true" nor "false"`}, {"odd", "true", true, ""}, {"odd", "false", false, ""},
		} {
			p := restricted(tc.namespace, label(tc.label))
			err := create(p)
			if tc.message != "" {
				if err == nil || !strings.Contains(err.Error(), tc.message) {
					t.Errorf("%s, %s: got %v, want %q", tc.namespace, tc.label, err, tc.message)
				}
				continue
			}
			if err != nil || sidecar(p) != tc.sidecar {
				t.Errorf("%s, %s: sidecar %v, want %v: %v", tc.namespace, tc.label, sidecar(p), tc.sidecar, err)
			}
		}
	})
	t.Run("what is injected", func(t *testing.T) {
		p := restricted("shop", func(p *corev1.Pod) {
			p.Annotations = map[string]string{"inject.gatehouse.io/memory": "300Mi", "inject.gatehouse.io/drain": "15s"}
		})
		if err := create(p); err != nil {
			t.Fatal(err)
		}
		if l := p.Spec.Containers[0].Lifecycle; l == nil || l.PreStop == nil || l.PreStop.Sleep == nil || l.PreStop.Sleep.Seconds != 15 {
			t.Errorf("the application ends at once: %+v", l)
		}
		g := p.Spec.InitContainers[0]
		if g.RestartPolicy == nil || *g.RestartPolicy != "Always" || g.Resources.Limits.Memory().String() != "300Mi" {
			t.Errorf("%+v", g)
		}
		at := func(c corev1.Container) (volumes []string) {
			for _, m := range c.VolumeMounts {
				if m.MountPath == tokenPath {
					volumes = append(volumes, m.Name)
				}
			}
			return volumes
		}
		if got := at(g); !slices.Equal(got, []string{"gatehouse-no-token"}) {
			t.Error("the sidecar has the pod's token:", got)
		}
		if got := at(p.Spec.Containers[0]); len(got) != 1 || !strings.HasPrefix(got[0], "kube-api-access-") {
			t.Error("the application has not its token:", got)
		}
		// A copy of it is taken as it is.
		again := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "copy-", Namespace: "shop", Annotations: p.Annotations}, Spec: *p.Spec.DeepCopy()}
		if err := create(again); err != nil || len(again.Spec.InitContainers) != 1 || len(again.Spec.Volumes) != len(p.Spec.Volumes) {
			t.Errorf("%v %+v", err, again.Spec)
		}
		for message, change := range map[string]func(*corev1.Pod){
			`annotation inject.gatehouse.io/cpu: \"many\" is no amount of CPU`: func(p *corev1.Pod) { p.Annotations = map[string]string{"inject.gatehouse.io/cpu": "many"} },
			`has a container \"gatehouse\" of its own`:                         func(p *corev1.Pod) { p.Spec.Containers[0].Name = "gatehouse" },
		} {
			if err := create(restricted("shop", change)); err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(message, `\"`, `"`)) {
				t.Errorf("got %v, want %s", err, message)
			}
		}
	})
	t.Run("another webhook", func(t *testing.T) {
		another(t, c)
		p := restricted("shop", func(p *corev1.Pod) { p.Labels = map[string]string{"mesh": "yes"} })
		if err := create(p); err != nil {
			t.Fatal(err)
		}
		k := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == "istio-proxy" })
		if k < 0 || len(p.Spec.InitContainers) != 1 || !slices.ContainsFunc(p.Spec.Containers[k].VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "gatehouse-socket" }) {
			t.Errorf("%+v", p.Spec)
		}
		if got := p.Annotations["seen"]; got != "9192" {
			t.Errorf("the other webhook saw the port %q", got)
		}
	})
	t.Run("rights", func(t *testing.T) { rights(t, cfg, i) })
	t.Run("renewals and restarts", func(t *testing.T) {
		stop, made := make(chan struct{}), atomic.Int64{}
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					p := restricted("shop", nil)
					if err := c.Create(ctx, p, client.DryRunAll); err != nil || !sidecar(p) {
						t.Errorf("%s: a pod is refused or without sidecar: %v", time.Now().Format(time.TimeOnly), err)
						return
					}
					made.Add(1)
				}
			})
		}
		signers := map[string]bool{}
		begin := time.Now()
		for len(signers) < 3 && !t.Failed() {
			if time.Since(begin) > 3*time.Minute {
				t.Fatalf("%d authorities in three minutes", len(signers))
			}
			signers[signer(t, c)] = true
			if len(signers) == 2 && first != nil {
				third := i.start()
				i.stop(first)
				first = nil
				_ = third
				apply(t, c, i.hook.DeepCopy()) // installed again: the authorities in it stay
			}
			time.Sleep(100 * time.Millisecond)
		}
		close(stop)
		wait.Wait()
		t.Logf("%d pods, %d authorities, %s", made.Load(), len(signers), time.Since(begin).Round(time.Second))
	})
	for _, r := range i.balancer.replicas {
		if r.ready.Load() {
			i.stop(r)
		}
	}
	_ = second
	t.Run("down", down)
}

// signer is the authority that signs what is served.
func signer(t *testing.T, c client.Client) string {
	t.Helper()
	s := &corev1.Secret{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "gatehouse", Name: "gatehouse-injector"}, s); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(s.Data["ca.crt"])
	if block == nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(block.Bytes)
}

func label(value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if value != "" {
			p.Labels = map[string]string{"gatehouse.io/inject": value}
		}
	}
}

func sidecar(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "gatehouse" })
}

// install applies what gatehouse k8s generate prints, strictly, with the webhook at an address of this machine.
func install(t *testing.T, cfg *rest.Config, c client.Client, args ...string) *injectors {
	t.Helper()
	b := newBalancer(t)
	i := &injectors{t: t, dir: t.TempDir(), balancer: b}
	for _, o := range objects(t, command(t, example(t), "k8s", "generate", "--injector", "--for", "istio", "--app", "orders", "--namespace", "gatehouse", "--app-namespace", "shop")) {
		if strings.Contains(fmt.Sprint(o["apiVersion"]), "istio.io/") {
			continue // those kinds are not in this server
		}
		u := &unstructured.Unstructured{Object: map[string]any(o)}
		switch o.kind() {
		case "MutatingWebhookConfiguration":
			for _, w := range o["webhooks"].([]any) {
				config := w.(map[string]any)["clientConfig"].(map[string]any)
				config["url"] = fmt.Sprintf("https://%s%s", b.Addr(), config["service"].(map[string]any)["path"])
				delete(config, "service")
			}
		case "ConfigMap":
			if data := o["data"].(map[string]any); o.meta()["name"] == "gatehouse-injector" {
				if err := yaml.Unmarshal([]byte(data["injector.yaml"].(string)), &i.settings); err != nil {
					t.Fatal(err)
				}
			}
		}
		if o.kind() == "MutatingWebhookConfiguration" {
			i.hook = u.DeepCopy()
		}
		apply(t, c, u)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "gatehouse-injector", Namespace: "gatehouse"}}
	token := &authenticationv1.TokenRequest{}
	if err := c.SubResource("token").Create(t.Context(), account, token); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(i.dir, "token"), token.Status.Token)
	write(t, filepath.Join(i.dir, "ca.crt"), string(cfg.CAData))
	i.settings["api"] = map[string]any{"server": "https://" + strings.TrimPrefix(cfg.Host, "https://"), "ca": filepath.Join(i.dir, "ca.crt"), "token": filepath.Join(i.dir, "token")}
	i.settings["names"] = append(i.settings["names"].([]any), "127.0.0.1")
	i.settings["drain_delay"] = "1s"
	i.settings["certificates"] = map[string]any{"serving": "12s", "authority": "24s", "settle": "1s", "poll": "500ms"}
	return i
}

func apply(t *testing.T, c client.Client, u *unstructured.Unstructured) {
	t.Helper()
	if err := c.Patch(t.Context(), u, client.Apply, client.FieldOwner("kubectl"), client.ForceOwnership, //nolint:staticcheck // of unstructured objects
		&client.PatchOptions{Raw: &metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict}}); err != nil {
		t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
	}
}

// rights are the ServiceAccount's: two objects, and nothing beside them.
func rights(t *testing.T, cfg *rest.Config, i *injectors) {
	token, err := os.ReadFile(filepath.Join(i.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	mine := rest.AnonymousClientConfig(cfg)
	mine.BearerToken = string(token)
	c, err := client.New(mine, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	own := client.ObjectKey{Namespace: "gatehouse", Name: "gatehouse-injector"}
	if err := c.Get(ctx, own, &corev1.Secret{}); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another Secret":    c.Get(ctx, client.ObjectKey{Namespace: "gatehouse", Name: "gatehouse-secrets"}, &corev1.Secret{}),
		"all Secrets":       c.List(ctx, &corev1.SecretList{}, client.InNamespace("gatehouse")),
		"pods":              c.List(ctx, &corev1.PodList{}, client.InNamespace("shop")),
		"another webhook":   c.Get(ctx, client.ObjectKey{Name: "istio-sidecar-injector"}, &admissionv1.MutatingWebhookConfiguration{}),
		"deleting its own":  c.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: own.Namespace, Name: own.Name}}),
		"making a webhook":  c.Create(ctx, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "x"}}),
		"a ConfigMap":       c.Get(ctx, own, &corev1.ConfigMap{}),
		"validating others": c.List(ctx, &admissionv1.ValidatingWebhookConfigurationList{}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// another is a webhook that is asked after the injector and adds a proxy, as Istio's does.
func another(t *testing.T, c client.Client) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Request struct {
				UID    string
				Object corev1.Pod
			}
		}
		if err := errors.Join(json.NewDecoder(r.Body).Decode(&in)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		seen := in.Request.Object.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"]
		patch := fmt.Sprintf(`[{"op": "add", "path": "/metadata/annotations/seen", "value": %q}, {"op": "add", "path": "/spec/containers/-", "value": {"name": "istio-proxy", "image": "proxy:1",
			"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}}]`, seen)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
			"response": map[string]any{"uid": in.Request.UID, "allowed": true, "patchType": "JSONPatch", "patch": []byte(patch)}})
	}))
	t.Cleanup(s.Close)
	none, fail, url := admissionv1.SideEffectClassNone, admissionv1.Fail, s.URL
	hook := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "istio-sidecar-injector"}, Webhooks: []admissionv1.MutatingWebhook{{
		Name: "istio.example.com", SideEffects: &none, FailurePolicy: &fail, AdmissionReviewVersions: []string{"v1"},
		ClientConfig:   admissionv1.WebhookClientConfig{URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})},
		ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"mesh": "yes"}},
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"CREATE"},
			Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}}}
	if err := c.Create(t.Context(), hook); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(context.Background(), hook) })
	// The API server hears of it in its own time.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		p := restricted("other", func(p *corev1.Pod) {
			p.Labels, p.Annotations = map[string]string{"mesh": "yes"}, map[string]string{"a": "b"}
		})
		if err := c.Create(t.Context(), p, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		if len(p.Spec.Containers) == 2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the other webhook is not asked")
		}
	}
}
