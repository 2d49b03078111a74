package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gatehouse/nearest"
)

// object is one of JSON's.
type object = map[string]any

// Template is what a pod gets. The chart renders it out of what makes its own sidecars.
type Template struct {
	Containers  []object            `yaml:"containers"`   // native sidecars, in the order of their start. The first one is gatehouse
	Volumes     []object            `yaml:"volumes"`      // theirs
	Annotations map[string]string   `yaml:"annotations"`  // a pod that says something else there is refused
	Lists       map[string][]string `yaml:"lists"`        // annotations that are lists, with commas, which these are added to
	Mounts      []Mount             `yaml:"mounts"`       // into containers that somebody else adds
	PullSecrets []object            `yaml:"pull_secrets"` // for the sidecar's image; of the pod's namespace
}

// Mount is a volume that another's container gets, where a pod has it.
type Mount struct {
	Container string `yaml:"container"`
	Mount     object `yaml:"mount"`
}

const (
	sidecarName = "gatehouse"
	envoyName   = "envoy"
	socketName  = "gatehouse-socket"
	configName  = "gatehouse-config"
)

var (
	dnsNames = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
)

func dnsName(s string) bool { return len(s) <= 253 && dnsNames.MatchString(s) }

// meant is the end of an error about a word that is not known.
func meant(word string, known []string) string {
	if w := nearest.Word(word, known, 4); w != "" {
		return "; " + w + " is meant?"
	}
	return ""
}

func text(o object, key string) string {
	s, _ := o[key].(string)
	return s
}

func list(o object, key string) []any {
	l, _ := o[key].([]any)
	return l
}

// each are the objects of a list.
func each(o object, key string) (out []object) {
	for _, v := range list(o, key) {
		if m, ok := v.(object); ok {
			out = append(out, m)
		}
	}
	return out
}

func named(l []object, name string) object {
	if i := slices.IndexFunc(l, func(o object) bool { return text(o, "name") == name }); i >= 0 {
		return l[i]
	}
	return nil
}

// cloned is a deep copy of what JSON can say.
func cloned[T any](v T) T {
	raw, err := json.Marshal(v)
	if err != nil {
		return v // it was read as JSON or YAML, and is checked by validate
	}
	var out T
	_ = json.Unmarshal(raw, &out)
	return out
}

// validate holds a template to what the injector relies on.
func (t *Template) validate() error {
	if _, err := json.Marshal(t); err != nil {
		return err
	}
	t.Containers, t.Volumes, t.Mounts, t.PullSecrets = cloned(t.Containers), cloned(t.Volumes), cloned(t.Mounts), cloned(t.PullSecrets) // as JSON has it: whole numbers are float64
	var errs []error
	if len(t.Containers) == 0 || text(t.Containers[0], "name") != sidecarName {
		errs = append(errs, errors.New("containers: the first one has to be called gatehouse"))
	}
	volumes := map[string]bool{}
	for i, v := range t.Volumes {
		if name := text(v, "name"); !dnsLabel.MatchString(name) || volumes[name] {
			errs = append(errs, fmt.Errorf("volumes[%d].name: %q is no name, or there twice", i, name))
		}
		volumes[text(v, "name")] = true
	}
	seen := map[string]bool{}
	for i, c := range t.Containers {
		name := text(c, "name")
		if !dnsLabel.MatchString(name) || seen[name] {
			errs = append(errs, fmt.Errorf("containers[%d].name: %q is no name, or there twice", i, name))
		}
		seen[name] = true
		if text(c, "image") == "" {
			errs = append(errs, fmt.Errorf("containers[%d].image is missing", i))
		}
		if text(c, "restartPolicy") != "Always" {
			errs = append(errs, fmt.Errorf("containers[%d].restartPolicy: a native sidecar has Always", i))
		}
		for _, m := range each(c, "volumeMounts") {
			if !volumes[text(m, "name")] {
				errs = append(errs, fmt.Errorf("containers[%d].volumeMounts: there is no volume %q", i, text(m, "name")))
			}
		}
	}
	for i, m := range t.Mounts {
		if m.Container == "" || !volumes[text(m.Mount, "name")] || text(m.Mount, "mountPath") == "" {
			errs = append(errs, fmt.Errorf("mounts[%d]: a container, and a mount of one of the volumes, are both needed", i))
		}
	}
	for key := range t.Annotations {
		if strings.HasPrefix(key, prefix) {
			errs = append(errs, fmt.Errorf("annotations: %s is for pods to say", key))
		}
	}
	return errors.Join(errs...)
}

// made is a template for one pod: with its wishes, as native sidecars or plain containers.
func (t *Template) made(w wish, nativeSidecar bool, drainDelay string) Template {
	out := Template{Containers: cloned(t.Containers), Volumes: cloned(t.Volumes), Annotations: t.Annotations, Lists: t.Lists, Mounts: slices.Clone(t.Mounts), PullSecrets: t.PullSecrets}
	delay := drainDelay
	if nativeSidecar {
		delay = "0s" // Kubernetes ends it after all that could ask
	}
	for i, c := range out.Containers {
		if !nativeSidecar {
			delete(c, "restartPolicy")
		}
		if i == 0 {
			c["env"] = append(list(c, "env"), object{"name": drainVariable, "value": delay})
		}
	}
	w.apply(&out)
	return out
}

// drainVariable is what gatehouse.yaml in the ConfigMap says for listen.drain_delay.
const drainVariable = "GATEHOUSE_DRAIN_DELAY"
