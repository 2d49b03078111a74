package inject

import (
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// Label says at a namespace or a pod whether there is to be a sidecar: "true" or "false". A pod's goes before its namespace's.
	Label = "gatehouse.io/inject"

	prefix = "inject.gatehouse.io/"
	status = prefix + "status" // what the injector did
)

// wish is what one pod says about its sidecar. A field that is "" is not said.
type wish struct {
	image, config, envoyConfig              string
	policyConfigMap, policyImage, policyURL string
	cpu, memory                             string
	socket                                  []string // containers that get the socket
	drain                                   int      // seconds that the application's containers go on serving, by a hook that they get; 0: none
}

// wishes are the annotations that pods may have, without their prefix.
func wishes() []string {
	return []string{"config", "cpu", "drain", "envoy-config", "image", "memory", "policy-configmap", "policy-image", "policy-url", "socket"}
}

// longestDrain bounds how long a pod that leaves goes on serving.
const longestDrain = 10 * time.Minute

// leastMemory is what Gatehouse takes when it is idle, and some more.
const leastMemory = 64 << 20

var (
	imageRef = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9._]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
	quantity = regexp.MustCompile(`^([0-9]{1,12}(?:\.[0-9]{1,3})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$`)
)

// amount is a quantity of Kubernetes as a number.
func amount(s string) (float64, bool) {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, false
	}
	unit := map[string]float64{"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}[m[2]]
	return n * unit, !math.IsInf(n*unit, 0)
}

// readWish reads a pod's annotations. Everything that is wrong is said at once, in the words of whoever wrote the pod.
func readWish(annotations map[string]string, allowed []string, hasEnvoy bool) (w wish, problems []string) {
	say := func(name, format string, args ...any) {
		problems = append(problems, "annotation "+prefix+name+": "+fmt.Sprintf(format, args...))
	}
	names := make([]string, 0, len(annotations))
	for key := range annotations {
		if key == Label {
			problems = append(problems, Label+" is a label, and this pod has it as an annotation: move it to metadata.labels")
		}
		if strings.HasPrefix(key, prefix) && key != status {
			names = append(names, strings.TrimPrefix(key, prefix))
		}
	}
	slices.Sort(names)
	for _, name := range names {
		value := annotations[prefix+name]
		if !slices.Contains(wishes(), name) {
			say(name, "there is no such setting%s", meant(name, wishes()))
			continue
		}
		if !slices.Contains(allowed, name) {
			say(name, "pods may not say this here (the injector's value annotations)")
			continue
		}
		if why := w.set(name, value); why != "" {
			say(name, "%q %s", value[:min(len(value), 100)], why)
		}
	}
	from := []string{}
	for name, value := range map[string]string{"policy-configmap": w.policyConfigMap, "policy-image": w.policyImage, "policy-url": w.policyURL} {
		if value != "" {
			from = append(from, prefix+name)
		}
	}
	if len(from) > 1 {
		slices.Sort(from)
		problems = append(problems, strings.Join(from, " and ")+": the policy comes from one of them")
	}
	if w.envoyConfig != "" && !hasEnvoy {
		say("envoy-config", "the injector adds no Envoy here")
	}
	return w, problems
}

// set takes one annotation, and says what is wrong with it.
func (w *wish) set(name, value string) string {
	configMap := func(into *string) string {
		if !dnsName(value) {
			return "is no name of a ConfigMap (in the pod's namespace)"
		}
		*into = value
		return ""
	}
	switch name {
	case "config":
		return configMap(&w.config)
	case "envoy-config":
		return configMap(&w.envoyConfig)
	case "policy-configmap":
		return configMap(&w.policyConfigMap)
	case "image", "policy-image":
		if len(value) > 512 || !imageRef.MatchString(value) {
			return "is no reference of an image, such as registry.example.com/gatehouse:1.2.3"
		}
		if name == "image" {
			w.image = value
		} else {
			w.policyImage = value
		}
	case "policy-url":
		u, err := url.Parse(value)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || len(value) > 2048 || strings.ContainsAny(value, " $") {
			return "is no https URL of a bundle, without user and password"
		}
		w.policyURL = value
	case "cpu":
		n, ok := amount(value)
		if !ok || n < 0.01 || n > 64 {
			return "is no amount of CPU from 10m to 64, such as 250m"
		}
		w.cpu = value
	case "memory":
		n, ok := amount(value)
		if !ok || n < leastMemory || n > 64<<30 {
			return "is no amount of memory from 64Mi to 64Gi, such as 256Mi"
		}
		w.memory = value
	case "drain":
		d, err := time.ParseDuration(value)
		if err != nil || d < time.Second || d > longestDrain || d%time.Second != 0 {
			return "is no time from 1s to 10m in whole seconds, such as 15s"
		}
		w.drain = int(d / time.Second)
	case "socket":
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.TrimSpace(name); !dnsLabel.MatchString(name) {
				return "is no list of containers, such as envoy,proxy"
			}
			w.socket = append(w.socket, name)
		}
	}
	return ""
}

const policyFolder = "/etc/gatehouse-policy"

// policy is what gatehouse serve --policy takes, "" where the configuration says it.
func (w *wish) policy() string {
	switch {
	case w.policyImage != "":
		return "oci://" + w.policyImage
	case w.policyConfigMap != "":
		return policyFolder
	}
	return w.policyURL
}

// apply changes what is injected to a pod's wishes.
func (w *wish) apply(t *Template) {
	g := t.Containers[0]
	if w.image != "" {
		g["image"] = w.image
	}
	if from := w.policy(); from != "" {
		g["args"] = append(list(g, "args"), "--policy", from)
	}
	if w.policyConfigMap != "" { // beside /etc/gatehouse: nothing can be mounted into a volume that is read-only
		g["volumeMounts"] = append(list(g, "volumeMounts"), object{"name": "gatehouse-policy", "mountPath": policyFolder, "readOnly": true})
		t.Volumes = append(t.Volumes, object{"name": "gatehouse-policy", "configMap": object{"name": w.policyConfigMap, "defaultMode": 0o444}})
	}
	if w.cpu != "" || w.memory != "" {
		resources, _ := g["resources"].(object)
		if resources == nil {
			resources = object{}
		}
		amount := func(kind, what, value string) {
			of, _ := resources[kind].(object)
			if of == nil {
				of = object{}
			}
			if value != "" {
				of[what] = value
			}
			if len(of) > 0 {
				resources[kind] = of
			}
		}
		amount("requests", "cpu", w.cpu)
		amount("requests", "memory", w.memory)
		amount("limits", "memory", w.memory)
		g["resources"] = resources
	}
	if v := named(t.Volumes, configName); v != nil {
		w.sources(v)
	}
	if e := named(t.Volumes, "envoy-config"); e != nil && w.envoyConfig != "" {
		if m, ok := e["configMap"].(object); ok {
			m["name"] = w.envoyConfig
		}
	}
	for _, name := range w.socket {
		t.Mounts = append(t.Mounts, Mount{Container: name, Mount: object{"name": socketName, "mountPath": "/run/gatehouse", "readOnly": true}})
	}
}

// sources changes where the files in /etc/gatehouse come from. The first ConfigMap of the template is gatehouse.yaml's, one more the policy's.
func (w *wish) sources(volume object) {
	projected, _ := volume["projected"].(object)
	if projected == nil {
		return
	}
	var out []any
	for i, s := range each(projected, "sources") {
		_, isMap := s["configMap"].(object)
		switch {
		case i == 0 && isMap && w.config != "":
			out = append(out, object{"configMap": object{"name": w.config}}) // all of its keys
		case i > 0 && isMap && (w.policy() != ""):
			// the policy's, which comes from elsewhere
		case i > 0 && w.config != "":
			for _, kind := range []string{"configMap", "secret"} {
				if below, ok := s[kind].(object); ok {
					below["optional"] = true // that configuration may not need them
				}
			}
			out = append(out, s)
		default:
			out = append(out, s)
		}
	}
	projected["sources"] = out
}
