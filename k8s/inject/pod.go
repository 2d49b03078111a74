package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What can become of a pod. The reasons below are the closed list of the metric's label.
const (
	injected = "injected"
	skipped  = "skipped"
	refused  = "refused"
	failed   = "error"
)

const (
	reasonNone       = ""
	reasonAgain      = "already_injected"
	reasonLabel      = "label"
	reasonNamespace  = "namespace"
	reasonMirror     = "mirror_pod"
	reasonAnnotation = "annotation"
	reasonName       = "name_taken"
	reasonPort       = "port_taken"
	reasonHost       = "host_network"
	reasonWindows    = "windows"
	reasonChanged    = "changed_sidecar"
	reasonGrace      = "grace_period"
	reasonRequest    = "bad_request"
	reasonBusy       = "busy"
	reasonPanic      = "panic"
)

// operation is one of a JSON Patch (RFC 6902). There is no other than add: nothing of the pod's is taken away.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// verdict is what becomes of a pod. The zero value is none, and is answered as a failure.
type verdict struct {
	result, reason string
	message        string // why not, for whoever made the pod
	warnings       []string
	patch          []operation
}

func refusal(reason, format string, args ...any) verdict {
	return verdict{result: refused, reason: reason, message: fmt.Sprintf(format, args...)}
}

// pod is what is read of one.
type pod struct {
	bare     bool         // without metadata
	Metadata *podMetadata `json:"metadata"`
	Spec     struct {
		InitContainers []object `json:"initContainers"`
		Containers     []object `json:"containers"`
		Volumes        []object `json:"volumes"`
		PullSecrets    []object `json:"imagePullSecrets"`
		HostNetwork    bool     `json:"hostNetwork"`
		RestartPolicy  string   `json:"restartPolicy"`
		Grace          *float64 `json:"terminationGracePeriodSeconds"`
		OS             struct {
			Name string `json:"name"`
		} `json:"os"`
	} `json:"spec"`
}

type podMetadata struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func readPod(raw []byte) (*pod, error) {
	p := &pod{}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("reading the pod: %w", err)
	}
	if len(p.Spec.Containers) == 0 {
		return nil, errors.New("reading the pod: it has no containers")
	}
	if p.Metadata == nil {
		p.bare, p.Metadata = true, &podMetadata{}
	}
	return p, nil
}

// container is that of a name, of either list.
func (p *pod) container(name string) object {
	if c := named(p.Spec.Containers, name); c != nil {
		return c
	}
	return named(p.Spec.InitContainers, name)
}

// settings are what a verdict depends on. They are immutable: a change of injector.yaml makes others.
type settings struct {
	*Config
	native bool // sidecars are native ones
}

const mirrorAnnotation = "kubernetes.io/config.mirror"

// judge says what becomes of a pod that is about to be created.
func (s *settings) judge(namespace string, p *pod) verdict {
	switch value := p.Metadata.Labels[Label]; {
	case value != "" && value != "true" && value != "false":
		return refusal(reasonLabel, "the pod's label %s is %q: it says \"true\" or \"false\"", Label, value)
	case namespace == "kube-system" || namespace == s.Namespace || slices.Contains(s.Exclude, namespace):
		return verdict{result: skipped, reason: reasonNamespace}
	case value == "false":
		return verdict{result: skipped, reason: reasonLabel}
	case p.Metadata.Annotations[mirrorAnnotation] != "":
		return verdict{result: skipped, reason: reasonMirror, warnings: []string{"a static pod gets no sidecar from the injector: put it into the file on the node"}}
	}
	w, problems := readWish(p.Metadata.Annotations, s.Annotations, named(s.Pod.Containers, envoyName) != nil)
	if len(problems) > 0 {
		return refusal(reasonAnnotation, "%s", strings.Join(problems, "; "))
	}
	if grace := p.grace(); float64(w.drain) >= grace {
		return refusal(reasonGrace, "annotation %sdrain: the pod has %g seconds to end (terminationGracePeriodSeconds), which has to be more than %d", prefix, grace, w.drain)
	}
	t := s.Pod.made(w, s.native, s.DrainDelay.String())
	if p.Metadata.Annotations[status] != "" && p.container(sidecarName) != nil {
		return s.again(p, &t, w)
	}
	return s.first(p, &t, w)
}

// first adds the sidecar to a pod that has none.
func (s *settings) first(p *pod, t *Template, w wish) verdict {
	if v := s.hindrance(p, t); v.result != "" {
		return v
	}
	annotations, v := p.annotate(t)
	if v.result != "" {
		return v
	}
	mark, err := json.Marshal(map[string]string{"image": text(t.Containers[0], "image"), "sidecar": s.kind()})
	if err != nil {
		return verdict{result: failed, message: err.Error()}
	}
	annotations = append(annotations, operation{"add", "/metadata/annotations/" + pointer(status), string(mark)})
	out := verdict{result: injected}
	if p.bare {
		out.patch = append(out.patch, operation{"add", "/metadata", object{}})
	}
	if p.Metadata.Annotations == nil {
		out.patch = append(out.patch, operation{"add", "/metadata/annotations", object{}})
	}
	out.patch = append(out.patch, annotations...)
	out.patch = append(out.patch, p.mounts(t)...) // before the containers move
	out.patch = append(out.patch, p.hooks(t, w)...)
	if s.native {
		out.patch = append(out.patch, insert("/spec/initContainers", p.Spec.InitContainers == nil, t.Containers, true)...)
	} else {
		out.patch = append(out.patch, insert("/spec/containers", false, t.Containers, false)...)
	}
	out.patch = append(out.patch, insert("/spec/volumes", p.Spec.Volumes == nil, t.Volumes, false)...)
	for k, secret := range slices.DeleteFunc(slices.Clone(t.PullSecrets), func(o object) bool { return named(p.Spec.PullSecrets, text(o, "name")) != nil }) {
		out.patch = append(out.patch, insert("/spec/imagePullSecrets", k == 0 && p.Spec.PullSecrets == nil, []object{secret}, false)...)
	}
	out.warnings = s.warn(p, t, w)
	return out
}

// again looks at a pod that was injected: by an earlier call for the same pod, or because it is a copy of one. Others may have changed the
// image and the resources; what keeps the sidecar apart from the application must be as we made it.
func (s *settings) again(p *pod, t *Template, w wish) verdict {
	for _, ours := range t.Containers {
		name := text(ours, "name")
		theirs := p.container(name)
		if theirs == nil {
			return refusal(reasonChanged, "the pod says that it was injected (%s) and has no container %q: leave that annotation and the containers of the injector out", status, name)
		}
		if lost := differs(ours, theirs); lost != "" {
			return refusal(reasonChanged, "the container %q is not as the injector makes it (%s): leave it and the annotation %s out, or set the label %s to \"false\"", name, lost, status, Label)
		}
	}
	for _, v := range t.Volumes {
		if named(p.Spec.Volumes, text(v, "name")) == nil {
			return refusal(reasonChanged, "the pod says that it was injected (%s) and has no volume %q: leave that annotation and the containers of the injector out", status, text(v, "name"))
		}
	}
	out := verdict{result: skipped, reason: reasonAgain, patch: append(p.mounts(t), p.hooks(t, w)...)}
	if len(out.patch) > 0 {
		out = verdict{result: injected, reason: reasonAgain, patch: out.patch}
	}
	if have, want := text(p.container(sidecarName), "image"), text(t.Containers[0], "image"); have != want {
		out.warnings = append(out.warnings, fmt.Sprintf("the sidecar's image is %s, and the injector would take %s", have, want))
	}
	out.warnings = append(out.warnings, absent(p, t, w)...)
	return out
}

// differs names the first field in which a container is less than ours.
func differs(ours, theirs object) string {
	for _, key := range []string{"args", "command", "restartPolicy", "lifecycle"} {
		if !same(ours[key], theirs[key]) {
			return key
		}
	}
	if !holds(ours["securityContext"], theirs["securityContext"]) {
		return "securityContext"
	}
	for _, m := range each(ours, "volumeMounts") {
		if !slices.ContainsFunc(each(theirs, "volumeMounts"), func(o object) bool { return holds(m, o) }) {
			return "volumeMounts, " + text(m, "mountPath")
		}
	}
	return ""
}

func same(a, b any) bool { return holds(a, b) && holds(b, a) }

// holds says whether everything of a is in b. Kubernetes adds defaults.
func holds(a, b any) bool {
	switch a := a.(type) {
	case object:
		o, ok := b.(object)
		for key, value := range a {
			if !ok || !holds(value, o[key]) {
				return false
			}
		}
		return true
	case []any:
		l, _ := b.([]any)
		if len(l) != len(a) {
			return false
		}
		for i := range a {
			if !holds(a[i], l[i]) {
				return false
			}
		}
		return true
	case bool:
		have, _ := b.(bool) // false and left out are the same
		return a == have
	}
	return a == b
}

// hindrance is why a pod cannot get the sidecar, as a refusal; nothing where it can.
func (s *settings) hindrance(p *pod, t *Template) verdict {
	without := fmt.Sprintf("the label %s: \"false\" at the pod leaves it without a sidecar", Label)
	if p.Spec.HostNetwork {
		return refusal(reasonHost, "a pod with hostNetwork shares the node's ports with others and cannot have a sidecar; %s", without)
	}
	if p.Spec.OS.Name == "windows" {
		return refusal(reasonWindows, "the sidecar is for Linux; %s", without)
	}
	for _, c := range t.Containers {
		if name := text(c, "name"); p.container(name) != nil {
			return refusal(reasonName, "the pod has a container %q of its own, which is not the injector's: give it another name; or %s", name, without)
		}
		for _, port := range each(c, "ports") {
			if owner := p.port(port["containerPort"]); owner != "" {
				return refusal(reasonPort, "the container %q has port %v, which the sidecar's container %q needs; %s", owner, port["containerPort"], text(c, "name"), without)
			}
		}
	}
	for _, v := range t.Volumes {
		if name := text(v, "name"); named(p.Spec.Volumes, name) != nil {
			return refusal(reasonName, "the pod has a volume %q of its own, which is not the injector's: give it another name; or %s", name, without)
		}
	}
	return verdict{}
}

// port is the container that has a port while the pod serves.
func (p *pod) port(number any) string {
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		for _, port := range each(c, "ports") {
			if port["containerPort"] == number {
				return text(c, "name")
			}
		}
	}
	return ""
}

// annotate adds the template's annotations, and gives a refusal where the pod says something else.
func (p *pod) annotate(t *Template) (ops []operation, v verdict) {
	for _, key := range sorted(t.Annotations) {
		have, there := p.Metadata.Annotations[key]
		if there && have != t.Annotations[key] {
			return nil, refusal(reasonAnnotation, "annotation %s: the sidecar needs %q, and the pod says %q", key, t.Annotations[key], have)
		}
		if !there {
			ops = append(ops, operation{"add", "/metadata/annotations/" + pointer(key), t.Annotations[key]})
		}
	}
	for _, key := range sorted(t.Lists) {
		have := []string{}
		for word := range strings.SplitSeq(p.Metadata.Annotations[key], ",") {
			if word = strings.TrimSpace(word); word != "" {
				have = append(have, word)
			}
		}
		all := slices.Clone(have)
		for _, word := range t.Lists[key] {
			if !slices.Contains(all, word) {
				all = append(all, word)
			}
		}
		if len(all) > len(have) {
			ops = append(ops, operation{"add", "/metadata/annotations/" + pointer(key), strings.Join(all, ",")})
		}
	}
	return ops, verdict{}
}

// mounts gives the containers of others what they need of the sidecar's volumes, once.
func (p *pod) mounts(t *Template) (ops []operation) {
	for _, l := range []struct {
		path       string
		containers []object
	}{{"/spec/initContainers", p.Spec.InitContainers}, {"/spec/containers", p.Spec.Containers}} {
		for i, c := range l.containers {
			have := each(c, "volumeMounts")
			none := len(have) == 0
			for _, m := range t.Mounts {
				if m.Container != text(c, "name") || slices.ContainsFunc(have, func(o object) bool { return o["mountPath"] == m.Mount["mountPath"] }) {
					continue
				}
				ops = append(ops, insert(fmt.Sprintf("%s/%d/volumeMounts", l.path, i), none, []object{m.Mount}, false)...)
				have, none = append(have, m.Mount), false
			}
		}
	}
	return ops
}

// defaultGrace is what Kubernetes gives a pod that does not say how many seconds it needs to end.
const defaultGrace = 30

func (p *pod) grace() float64 {
	if p.Spec.Grace == nil {
		return defaultGrace
	}
	return *p.Spec.Grace
}

// hooks has the application's containers go on serving for a while when the pod leaves, where they have no hook of their own and the pod asks for it. Istio's proxy
// knows by itself how long to stay.
func (p *pod) hooks(t *Template, w wish) (ops []operation) {
	for i, c := range p.Spec.Containers {
		if w.drain == 0 || text(c, "name") == "istio-proxy" || named(t.Containers, text(c, "name")) != nil {
			continue
		}
		hook := object{"sleep": object{"seconds": w.drain}}
		path := fmt.Sprintf("/spec/containers/%d/lifecycle", i)
		switch lifecycle, _ := c["lifecycle"].(object); {
		case lifecycle == nil:
			ops = append(ops, operation{"add", path, object{"preStop": hook}})
		case lifecycle["preStop"] == nil:
			ops = append(ops, operation{"add", path + "/preStop", hook})
		}
	}
	return ops
}

// warn is what whoever makes the pod should know.
func (s *settings) warn(p *pod, t *Template, w wish) []string {
	out := absent(p, t, w)
	if !s.native && p.Spec.RestartPolicy != "" && p.Spec.RestartPolicy != "Always" {
		out = append(out, "the sidecar is a plain container here and goes on running when the others have ended: a Job does not complete; the label "+Label+": \"false\" leaves it out")
	}
	if !s.native && p.Spec.Grace != nil && *p.Spec.Grace <= s.DrainDelay.Seconds() {
		out = append(out, fmt.Sprintf("terminationGracePeriodSeconds is not more than the %s that the sidecar goes on answering: requests that are under way then are cut off", s.DrainDelay))
	}
	if p.container("istio-proxy") != nil && len(t.Lists) > 0 {
		out = append(out, "Istio's proxy was in the pod before the sidecar, and does not know of its port: the webhook configuration's name must come before istio-sidecar-injector")
	}
	return out
}

// absent are the containers that are to have the socket and do not get it.
func absent(p *pod, t *Template, w wish) (out []string) {
	for _, name := range w.socket {
		if p.container(name) == nil {
			out = append(out, fmt.Sprintf("annotation %ssocket: the pod has no container %q so far", prefix, name))
		}
	}
	for _, m := range t.Mounts {
		for _, have := range each(p.container(m.Container), "volumeMounts") {
			if have["mountPath"] == m.Mount["mountPath"] && have["name"] != m.Mount["name"] {
				out = append(out, fmt.Sprintf("the container %q has another volume at %v, and does not reach the sidecar", m.Container, have["mountPath"]))
			}
		}
	}
	return out
}

func (s *settings) kind() string {
	if s.native {
		return native
	}
	return plain
}

// insert adds to a list, which is made where there is none: before what is there, in order, or behind it.
func insert(path string, none bool, values []object, before bool) (ops []operation) {
	if none {
		return []operation{{"add", path, values}}
	}
	for i, v := range values {
		at := "-"
		if before {
			at = fmt.Sprint(i)
		}
		ops = append(ops, operation{"add", path + "/" + at, v})
	}
	return ops
}

// pointer is a key in a JSON Pointer (RFC 6901).
func pointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
