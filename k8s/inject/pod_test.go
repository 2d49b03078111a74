package inject

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

// parsed is a pod as the API server would send it.
func parsed(t *testing.T, text string) object {
	t.Helper()
	var o object
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return cloned(o)
}

// at is the value at a path, such as spec.initContainers.0.image.
func at(doc any, path string) any {
	for key := range strings.SplitSeq(path, ".") {
		key = strings.ReplaceAll(key, "|", ".")
		switch d := doc.(type) {
		case object:
			doc = d[key]
		case []any:
			var n int
			if _, err := fmt.Sscan(key, &n); err != nil || n >= len(d) {
				return nil
			}
			doc = d[n]
		default:
			return nil
		}
	}
	return doc
}

// TestPods puts pods to the webhook, and looks at what the patch makes of them.
func TestPods(t *testing.T) {
	const web = `spec: {containers: [{name: web, image: web:1}]}`
	c := newCluster(t)
	i := map[string]*running{native: start(t, c, nil), plain: start(t, c, object{"sidecar": plain, "drain_delay": "2s"}),
		"few": start(t, c, object{"annotations": []any{"cpu"}})}
	for name, tc := range map[string]struct {
		pod       string
		namespace string // default: shop
		by        string // default: native
		path      string
		want      map[string]any // places in the patched pod
		result    string         // default: injected
		message   string
		warning   string
	}{
		"nothing but a container": {pod: web, want: map[string]any{"spec.initContainers.0.name": "gatehouse", "spec.initContainers.0.restartPolicy": "Always",
			"spec.initContainers.0.env.0.value": "0s", "spec.initContainers.1.name": "envoy", "spec.containers.1": nil, "spec.volumes.2.name": "envoy-config",
			"metadata.annotations.example|com/fixed": "yes", "metadata.annotations.traffic|sidecar|istio|io/excludeInboundPorts": "9192",
			"metadata.annotations.inject|gatehouse|io/status": `{"image":"gatehouse:1","sidecar":"native"}`, "spec.imagePullSecrets.0.name": "registry"}},
		"before the pod's own": {pod: `{metadata: {annotations: {a: b, traffic.sidecar.istio.io/excludeInboundPorts: "9000, 9001"}}, spec: {containers: [{name: web}], initContainers: [{name: migrate}],
			volumes: [{name: data}], imagePullSecrets: [{name: mine}]}}`,
			want: map[string]any{"spec.initContainers.0.name": "gatehouse", "spec.initContainers.1.name": "envoy", "spec.initContainers.2.name": "migrate", "spec.volumes.0.name": "data",
				"spec.imagePullSecrets.0.name": "mine", "spec.imagePullSecrets.1.name": "registry",
				"metadata.annotations.a": "b", "metadata.annotations.traffic|sidecar|istio|io/excludeInboundPorts": "9000,9001,9192"}},
		"plain": {by: plain, pod: `spec: {containers: [{name: web}], initContainers: [{name: migrate}]}`, want: map[string]any{"spec.containers.0.name": "web",
			"spec.containers.1.name": "gatehouse", "spec.containers.1.restartPolicy": nil, "spec.containers.1.env.0.value": "2s", "spec.containers.2.name": "envoy", "spec.initContainers.1": nil}},
		"plain in a Job":   {by: plain, pod: `spec: {restartPolicy: Never, containers: [{name: web}]}`, warning: "a Job does not complete"},
		"native in a Job":  {pod: `spec: {restartPolicy: Never, containers: [{name: web}]}`},
		"plain and hasty":  {by: plain, pod: `spec: {terminationGracePeriodSeconds: 2, containers: [{name: web}]}`, warning: "not more than the 2s"},
		"Istio's proxy":    {pod: `spec: {containers: [{name: web}, {name: istio-proxy}]}`, want: map[string]any{"spec.containers.1.volumeMounts.0.mountPath": "/run/gatehouse"}, warning: "Istio's proxy was in the pod before"},
		"Istio's, native":  {pod: `spec: {initContainers: [{name: istio-proxy, volumeMounts: [{name: x, mountPath: /x}]}], containers: [{name: web}]}`, want: map[string]any{"spec.initContainers.2.volumeMounts.1.mountPath": "/run/gatehouse"}, warning: "Istio's proxy was in the pod before"},
		"the pod's label":  {pod: `{metadata: {labels: {gatehouse.io/inject: "false"}}, ` + web + `}`, result: skipped},
		"and another word": {pod: `{metadata: {labels: {gatehouse.io/inject: "yes"}}, ` + web + `}`, result: refused, message: `the pod's label gatehouse.io/inject is "yes": it says "true" or "false"`},
		"as an annotation": {pod: `{metadata: {annotations: {gatehouse.io/inject: "false"}}, ` + web + `}`, result: refused, message: "is a label"},
		"kube-system":      {namespace: "kube-system", pod: web, result: skipped},
		"its own":          {namespace: "gatehouse", pod: web, result: skipped},
		"excluded":         {namespace: "istio-system", pod: web, result: skipped},
		"a static pod":     {pod: `{metadata: {annotations: {kubernetes.io/config.mirror: x}}, ` + web + `}`, result: skipped, warning: "static pod"},
		"the node's network": {pod: `spec: {hostNetwork: true, containers: [{name: web}]}`, result: refused,
			message: `the label gatehouse.io/inject: "false" at the pod leaves it without a sidecar`},
		"Windows":                {pod: `spec: {os: {name: windows}, containers: [{name: web}]}`, result: refused, message: "for Linux"},
		"a container's name":     {pod: `spec: {containers: [{name: gatehouse, image: other}]}`, result: refused, message: `a container "gatehouse" of its own`},
		"an init one's":          {pod: `spec: {containers: [{name: web}], initContainers: [{name: envoy}]}`, result: refused, message: `a container "envoy" of its own`},
		"a volume's":             {pod: `spec: {containers: [{name: web}], volumes: [{name: gatehouse-socket}]}`, result: refused, message: `a volume "gatehouse-socket" of its own`},
		"a port":                 {pod: `spec: {containers: [{name: web, ports: [{containerPort: 9192}]}]}`, result: refused, message: `the container "web" has port 9192`},
		"an annotation of ours":  {pod: `{metadata: {annotations: {example.com/fixed: "no"}}, ` + web + `}`, result: refused, message: `needs "yes", and the pod says "no"`},
		"no containers":          {pod: `spec: {}`, result: refused, message: "it has no containers"},
		"the namespace's label":  {path: pathLabel, pod: web, result: refused, message: `namespace "shop" says neither "true" nor "false"`},
		"an unknown annotation":  {pod: `{metadata: {annotations: {inject.gatehouse.io/imgae: x}}, ` + web + `}`, result: refused, message: "inject.gatehouse.io/imgae: there is no such setting; image is meant?"},
		"one that is not for it": {by: "few", pod: `{metadata: {annotations: {inject.gatehouse.io/image: "x:1"}}, ` + web + `}`, result: refused, message: "pods may not say this here"},
		"several problems": {pod: `{metadata: {annotations: {inject.gatehouse.io/cpu: lots, inject.gatehouse.io/memory: 1Mi}}, ` + web + `}`, result: refused,
			message: `annotation inject.gatehouse.io/cpu: "lots" is no amount of CPU from 10m to 64, such as 250m; annotation inject.gatehouse.io/memory: "1Mi" is no amount`},
		"resources": {pod: `{metadata: {annotations: {inject.gatehouse.io/cpu: 250m, inject.gatehouse.io/memory: 512Mi}}, ` + web + `}`,
			want: map[string]any{"spec.initContainers.0.resources.requests.cpu": "250m", "spec.initContainers.0.resources.requests.memory": "512Mi", "spec.initContainers.0.resources.limits.memory": "512Mi",
				"spec.initContainers.0.resources.limits.cpu": nil}},
		"an image": {pod: `{metadata: {annotations: {inject.gatehouse.io/image: "registry.example.com:5000/a/gatehouse:1.2"}}, ` + web + `}`,
			want: map[string]any{"spec.initContainers.0.image": "registry.example.com:5000/a/gatehouse:1.2"}},
		"no image": {pod: `{metadata: {annotations: {inject.gatehouse.io/image: "a b"}}, ` + web + `}`, result: refused, message: "is no reference of an image"},
		"a configuration": {pod: `{metadata: {annotations: {inject.gatehouse.io/config: orders}}, ` + web + `}`, want: map[string]any{
			"spec.volumes.0.projected.sources.0.configMap": object{"name": "orders"}, "spec.volumes.0.projected.sources.1.configMap.optional": true, "spec.volumes.0.projected.sources.2.secret.optional": true}},
		"no configuration": {pod: `{metadata: {annotations: {inject.gatehouse.io/config: ../x}}, ` + web + `}`, result: refused, message: "is no name of a ConfigMap"},
		"a policy's image": {pod: `{metadata: {annotations: {inject.gatehouse.io/policy-image: "ghcr.io/acme/policy:v1"}}, ` + web + `}`, want: map[string]any{
			"spec.initContainers.0.args.3": "--policy", "spec.initContainers.0.args.4": "oci://ghcr.io/acme/policy:v1", "spec.volumes.0.projected.sources.1.secret.name": "gatehouse-secrets"}},
		"a policy's server":    {pod: `{metadata: {annotations: {inject.gatehouse.io/policy-url: "https://bundles.example.com/orders"}}, ` + web + `}`, want: map[string]any{"spec.initContainers.0.args.4": "https://bundles.example.com/orders"}},
		"without TLS":          {pod: `{metadata: {annotations: {inject.gatehouse.io/policy-url: "http://bundles.example.com/orders"}}, ` + web + `}`, result: refused, message: "is no https URL"},
		"with a variable":      {pod: `{metadata: {annotations: {inject.gatehouse.io/policy-url: "https://b.example.com/$(TOKEN)"}}, ` + web + `}`, result: refused, message: "is no https URL"},
		"a policy's ConfigMap": {pod: `{metadata: {annotations: {inject.gatehouse.io/policy-configmap: rules}}, ` + web + `}`, want: map[string]any{"spec.initContainers.0.args.4": "/etc/gatehouse-policy", "spec.volumes.3.configMap.name": "rules", "spec.initContainers.0.volumeMounts.2.mountPath": "/etc/gatehouse-policy"}},
		"two policies": {pod: `{metadata: {annotations: {inject.gatehouse.io/policy-configmap: rules, inject.gatehouse.io/policy-image: "a:1"}}, ` + web + `}`, result: refused,
			message: "inject.gatehouse.io/policy-configmap and inject.gatehouse.io/policy-image: the policy comes from one of them"},
		"Envoy's configuration": {pod: `{metadata: {annotations: {inject.gatehouse.io/envoy-config: mine}}, ` + web + `}`, want: map[string]any{"spec.volumes.2.configMap.name": "mine"}},
		"the socket":            {pod: `{metadata: {annotations: {inject.gatehouse.io/socket: "web"}}, ` + web + `}`, want: map[string]any{"spec.containers.0.volumeMounts.0.name": "gatehouse-socket"}},
		"the socket of nobody":  {pod: `{metadata: {annotations: {inject.gatehouse.io/socket: "proxy"}}, ` + web + `}`, warning: `the pod has no container "proxy" so far`},
		"a drain": {pod: `{metadata: {annotations: {inject.gatehouse.io/drain: 15s}}, spec: {containers: [{name: web}, {name: own, lifecycle: {preStop: {exec: {command: [a]}}}},
			{name: begins, lifecycle: {postStart: {exec: {command: [b]}}}}, {name: istio-proxy}]}}`, warning: "Istio's proxy was in the pod before",
			want: map[string]any{"spec.containers.0.lifecycle": object{"preStop": object{"sleep": object{"seconds": 15.0}}}, "spec.containers.1.lifecycle": object{"preStop": object{"exec": object{"command": []any{"a"}}}},
				"spec.containers.2.lifecycle.preStop.sleep.seconds": 15.0, "spec.containers.2.lifecycle.postStart.exec.command.0": "b", "spec.containers.3.lifecycle": nil,
				"spec.initContainers.0.lifecycle": nil}},
		"a plain drain":     {by: plain, pod: `{metadata: {annotations: {inject.gatehouse.io/drain: 1m}}, spec: {terminationGracePeriodSeconds: 90, containers: [{name: web}]}}`, want: map[string]any{"spec.containers.0.lifecycle.preStop.sleep.seconds": 60.0, "spec.containers.1.lifecycle": nil}},
		"no drain":          {pod: web, want: map[string]any{"spec.containers.0.lifecycle": nil}},
		"a drain too long":  {pod: `{metadata: {annotations: {inject.gatehouse.io/drain: 30s}}, ` + web + `}`, result: refused, message: "the pod has 30 seconds to end (terminationGracePeriodSeconds), which has to be more than 30"},
		"a drain of a part": {pod: `{metadata: {annotations: {inject.gatehouse.io/drain: 1500ms}}, ` + web + `}`, result: refused, message: "is no time from 1s to 10m in whole seconds"},
		"another volume there": {pod: `{metadata: {annotations: {inject.gatehouse.io/socket: web}}, spec: {containers: [{name: web, volumeMounts: [{name: mine, mountPath: /run/gatehouse}]}]}}`,
			want: map[string]any{"spec.containers.0.volumeMounts.1": nil}, warning: `the container "web" has another volume at /run/gatehouse`},
		"a mark without containers": {pod: `{metadata: {annotations: {inject.gatehouse.io/status: x}}, ` + web + `}`, want: map[string]any{"spec.initContainers.0.name": "gatehouse"}},
		"a mark and another container": {pod: `{metadata: {annotations: {inject.gatehouse.io/status: x}}, spec: {containers: [{name: gatehouse, args: [sleep]}]}}`, result: refused,
			message: `the container "gatehouse" is not as the injector makes it (args)`},
	} {
		t.Run(name, func(t *testing.T) {
			who, namespace, path, result := i[native], "shop", pathInject, injected
			for into, value := range map[*string]string{&namespace: tc.namespace, &path: tc.path, &result: tc.result} {
				if value != "" {
					*into = value
				}
			}
			if tc.by != "" {
				who = i[tc.by]
			}
			pod := parsed(t, tc.pod)
			got := who.review(path, namespace, pod)
			if got.audit["result"] != result || got.allowed != (result != refused) || !strings.Contains(got.message, tc.message) {
				t.Fatalf("%+v", got)
			}
			if tc.message != "" && !strings.HasPrefix(got.message, "gatehouse: ") {
				t.Errorf("%q does not say who refuses", got.message)
			}
			if !strings.Contains(strings.Join(got.warnings, "\n"), tc.warning) || tc.warning == "" && len(got.warnings) > 0 {
				t.Errorf("warnings %q, want %q", got.warnings, tc.warning)
			}
			for path, want := range tc.want {
				if diff := cmp.Diff(want, at(got.pod, path)); diff != "" {
					t.Errorf("%s: -want +got\n%s", path, diff)
				}
			}
			if result == skipped && !cmp.Equal(pod, got.pod) {
				t.Errorf("a pod that is left alone was changed: %s", cmp.Diff(pod, got.pod))
			}
		})
	}
}

// TestAgain holds that a pod that was injected stays as it is, also when the API server and other webhooks have added to it, and that what makes
// the sidecar another one is refused.
func TestAgain(t *testing.T) {
	i := start(t, newCluster(t), nil)
	pod := i.review(pathInject, "shop", parsed(t, `spec: {containers: [{name: web}]}`)).pod
	for name, tc := range map[string]struct {
		change func(gatehouse object, pod object)
		result string // default: skipped
		text   string
	}{
		"nothing": {change: func(object, object) {}},
		"defaults": {change: func(g, _ object) {
			g["terminationMessagePath"] = "/dev/log"
			g["securityContext"].(object)["procMount"] = "Default"
		}},
		"a token": {change: func(g, _ object) {
			g["volumeMounts"] = append(list(g, "volumeMounts"), object{"name": "kube-api-access", "mountPath": "/x"})
		}},
		"another mirror": {change: func(g, _ object) { g["image"] = "mirror/gatehouse:1" }, text: "the sidecar's image is mirror/gatehouse:1"},
		"resources":      {change: func(g, _ object) { g["resources"] = object{} }},
		"Istio after us": {change: func(_, p object) {
			p["spec"].(object)["containers"] = append(list(p["spec"].(object), "containers"), object{"name": "istio-proxy"})
		}, result: injected},
		"a privileged one": {change: func(g, _ object) { g["securityContext"].(object)["privileged"] = true }, result: refused, text: "(securityContext)"},
		"other arguments":  {change: func(g, _ object) { g["args"] = []any{"version"} }, result: refused, text: "(args)"},
		"a command":        {change: func(g, _ object) { g["command"] = []any{"sh"} }, result: refused, text: "(command)"},
		"no socket":        {change: func(g, _ object) { g["volumeMounts"] = list(g, "volumeMounts")[:1] }, result: refused, text: "(volumeMounts, /run/gatehouse)"},
		"no volume":        {change: func(_, p object) { delete(p["spec"].(object), "volumes") }, result: refused, text: `no volume "gatehouse-config"`},
		"one container gone": {change: func(_, p object) {
			p["spec"].(object)["initContainers"] = list(p["spec"].(object), "initContainers")[:1]
		}, result: refused,
			text: `no container "envoy"`},
	} {
		t.Run(name, func(t *testing.T) {
			changed := cloned(pod)
			tc.change(named(each(changed["spec"].(object), "initContainers"), "gatehouse"), changed)
			got := i.review(pathInject, "shop", changed)
			result := tc.result
			if result == "" {
				result = skipped
			}
			if got.audit["result"] != result || !strings.Contains(got.message+strings.Join(got.warnings, ""), tc.text) {
				t.Fatalf("%+v", got)
			}
			if result == skipped && !cmp.Equal(changed, got.pod) {
				t.Error(cmp.Diff(changed, got.pod))
			}
		})
	}
}

// TestIdempotent: of any pod, injecting twice is injecting once, and nothing of the pod's is lost or changed.
func TestIdempotent(t *testing.T) {
	c := newCluster(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	t.Log("seed", seed)
	for _, kind := range []string{native, plain} {
		i := start(t, c, object{"sidecar": kind})
		results := map[string]int{}
		for range 400 {
			pod := randomPod(r)
			once := i.review(pathInject, "shop", pod)
			results[once.audit["result"]]++
			if !once.allowed {
				continue
			}
			if lost := within(pod, once.pod, ""); lost != "" {
				t.Fatalf("%s is lost or changed:\n%v\n%v", lost, pod, once.pod)
			}
			twice := i.review(pathInject, "shop", once.pod)
			if diff := cmp.Diff(once.pod, twice.pod); !twice.allowed || diff != "" {
				t.Fatalf("%+v\n%s", twice, diff)
			}
		}
		if results[injected] < 100 || results[skipped] == 0 || results[refused] == 0 {
			t.Error("the pods are not of all kinds:", results)
		}
	}
}

func randomPod(r *rand.Rand) object {
	coin := func() bool { return r.IntN(2) == 0 }
	container := func(names ...string) object {
		c := object{"name": names[r.IntN(len(names))] + fmt.Sprint(r.IntN(100)), "image": "x", "unknownField": object{"deep": []any{1.0, nil, "~/x"}}}
		if r.IntN(30) == 0 {
			c["name"] = []string{"gatehouse", "envoy"}[r.IntN(2)]
		}
		if coin() {
			c["volumeMounts"] = []any{object{"name": "v0", "mountPath": "/v0"}}
		}
		if coin() {
			c["ports"] = []any{object{"containerPort": float64([]int{80, 8443, 9000, 9192}[min(3, r.IntN(12))])}}
		}
		return c
	}
	containers := []any{container("web", "app")}
	if r.IntN(4) == 0 {
		containers = append(containers, object{"name": "istio-proxy"})
	}
	spec := object{"containers": containers, "new": "field"}
	if coin() {
		spec["initContainers"] = []any{container("init")}
	}
	if coin() {
		spec["volumes"] = []any{object{"name": "v0"}}
	}
	meta := object{"generateName": "x-"}
	if coin() {
		meta["annotations"] = object{"a/b~c": "d"}
		for key, value := range map[string]string{"inject.gatehouse.io/cpu": "1", "inject.gatehouse.io/drain": "5s", "inject.gatehouse.io/policy-configmap": "p", "inject.gatehouse.io/config": "c", "inject.gatehouse.io/socket": "istio-proxy,nobody",
			"traffic.sidecar.istio.io/excludeInboundPorts": "1", "inject.gatehouse.io/status": "forged"} {
			if coin() {
				meta["annotations"].(object)[key] = value
			}
		}
	}
	if r.IntN(10) == 0 {
		meta["labels"] = object{Label: []string{"true", "false", "maybe"}[r.IntN(3)]}
	}
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": object{}}
}

// within names the first place of a pod that is not in another as it was. Lists may have grown; what is in them keeps its order.
func within(was, is any, at string) string {
	switch w := was.(type) {
	case object:
		o, ok := is.(object)
		if !ok {
			return at
		}
		for key, value := range w {
			if slices.Contains([]string{"traffic.sidecar.istio.io/excludeInboundPorts", "inject.gatehouse.io/status"}, key) {
				continue // a list in a string, and ours
			}
			if lost := within(value, o[key], at+"."+key); lost != "" {
				return lost
			}
		}
		return ""
	case []any:
		l, _ := is.([]any)
		next := 0
		for _, value := range w {
			for next < len(l) && within(value, l[next], "") != "" {
				next++
			}
			if next == len(l) {
				return at + "[]"
			}
			next++
		}
		return ""
	}
	if !cmp.Equal(was, is) {
		return at + "="
	}
	return ""
}

// TestDoctor holds injected pods against the doctor, in a mesh that asks Gatehouse: it finds nothing. It does find what an application's pod takes out of the
// mesh by itself.
func TestDoctor(t *testing.T) {
	mesh, err := os.ReadFile("../../doctor/testdata/istio/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t)
	for kind, i := range map[string]*running{native: start(t, c, nil), plain: start(t, c, object{"sidecar": plain, "drain_delay": "2s"})} {
		for excluded, want := range map[string]int{"": 0, "8000": 1} {
			pod := parsed(t, `{apiVersion: v1, kind: Pod, metadata: {name: orders-1, namespace: shop, labels: {app: orders}, annotations: {}}, spec: {containers: [{name: web, ports: [{containerPort: 8000}]}]}}`)
			if excluded != "" {
				pod["metadata"].(object)["annotations"].(object)["traffic.sidecar.istio.io/excludeInboundPorts"] = excluded
			}
			got := i.review(pathInject, "shop", pod)
			text, err := yaml.Marshal(got.pod)
			if err != nil {
				t.Fatal(err)
			}
			report, err := doctor.Examine([]doctor.Input{{Name: "mesh.yaml", Text: mesh}, {Name: "pod.yaml", Text: text}}, rules.Default())
			if err != nil {
				t.Fatal(err)
			}
			if got.audit["result"] != injected || len(report.Findings) != want {
				t.Errorf("%s, %q excluded: %s; found %+v in\n%s", kind, excluded, got.audit["result"], report.Findings, text)
			}
		}
	}
}
