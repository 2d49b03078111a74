package k8s

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/config"
)

// maxConfigMap is what Kubernetes takes as one ConfigMap, with room for what is around the texts.
const maxConfigMap = 1<<20 - 32<<10

// kind says how the file that a key names gets into the pod.
type kind int

const (
	watched kind = iota // in the ConfigMap; Gatehouse sees a change by itself
	atStart             // likewise, but read at the start alone: a change rolls the pods
	secret              // in the Secret, which is not made here
	policy              // a bundle: a folder, in a ConfigMap of its own
)

// files are the keys that name files which the pod needs, as paths with [] for lists and * for any key.
var files = []struct {
	key  string
	kind kind
}{
	{"routes.file", watched}, {"apps[].routes.file", watched}, {"directory.file", watched}, {"directory.manifest", watched},
	{"identity.jwt[].keys.file", watched}, {"identity.api_keys.file", secret},
	{"identity.introspection[].client_secret_file", secret}, {"identity.introspection[].private_key_file", secret},
	{"services[].ca", watched}, {"services[].cert", watched}, {"services[].key", secret}, {"services[].bearer_file", secret},
	{"services[].oauth2.client_secret_file", secret}, {"headers.jwt.key_file", secret},
	{"policy.protos", watched}, {"policy.smoke[]", atStart}, {"policy.bundles[].path", policy},
	{"policy.shadow.bundles[].path", policy}, {"policy.shadow.bundles[].credential_file", secret}, {"policy.shadow.bundles[].signing.keys[].file", watched},
	{"policy.bundles[].credential_file", secret}, {"policy.bundles[].signing.keys[].file", watched},
	{"denials.templates.*.file", atStart}, {"control.ca", atStart},
	{"listen.directory.keys", secret}, {"listen.directory.tls.cert", secret}, {"listen.directory.tls.key", secret}, {"listen.directory.tls.client_ca", secret},
}

// decided are the keys that the pod decides: what a configuration says of them is left out.
var decided = []string{"state_dir", "listen.grpc", "listen.admin", "listen.control", "listen.socket", "listen.tls", "listen.drain_delay", "listen.drain_timeout",
	"control.enroll_token_file", "control.name"}

// FromConfig reads a configuration, and the files and folders beside it that it names, as values of the chart. secretName is the Secret that
// is to hold what must not be in a ConfigMap; the files are in values secrets.files, and made into it by whoever installs.
func FromConfig(file, secretName string) (Values, error) {
	c, doc, err := config.Source{File: file}.Read()
	if err != nil {
		return nil, err
	}
	if err := withoutVariables(doc.Errs); err != nil {
		return nil, err
	}
	text, err := config.ReadBounded(file)
	if err != nil {
		return nil, err
	}
	raw := map[string]any{}
	if err := yaml.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, key := range decided {
		drop(raw, strings.Split(key, "."))
	}
	r := collector{dir: filepath.Dir(file), name: file, secretName: secretName, took: map[string]string{},
		files: map[string]any{}, start: map[string]any{}, policy: map[string]any{}}
	for _, f := range files {
		if err := r.each(raw, strings.Split(strings.ReplaceAll(f.key, "[]", ".[]"), "."), f.kind); err != nil {
			return nil, err
		}
	}
	logToStdout(raw)
	if err := r.fit(); err != nil {
		return nil, err
	}
	v := Values{"config": raw, "identityHeaders": identityHeaders(c)}
	if raw["control"] != nil { // every pod is an edge of its own: values.yaml says why
		v["state"], v["autoscaling"] = map[string]any{"kind": "pvc"}, map[string]any{"enabled": false}
	}
	if len(r.files) > 0 {
		v["files"] = r.files
	}
	if len(r.start) > 0 {
		v["startFiles"] = r.start
	}
	if len(r.policy) > 0 {
		v["policy"] = map[string]any{"files": r.policy}
	}
	if len(r.secrets) > 0 {
		v["secrets"] = map[string]any{"name": secretName, "files": r.secrets}
	}
	if limit := time.Duration(c.Policy.Timeout); limit > 150*time.Millisecond {
		v["timeout"] = (limit + 150*time.Millisecond).Round(time.Millisecond).String() // Envoy waits for longer than the policy may take
	}
	return v, nil
}

var notSet = regexp.MustCompile(`environment variable "[^"]*" is not set$`)

// withoutVariables are the problems but for variables that are not set here: they are for the pod.
func withoutVariables(problems []error) error {
	return errors.Join(slices.DeleteFunc(slices.Clone(problems), func(err error) bool { return notSet.MatchString(err.Error()) })...)
}

// identityHeaders are the headers that only Gatehouse may set.
func identityHeaders(c *config.Config) []any {
	h := c.Headers
	names := []any{}
	for _, name := range []string{h.Subject, h.Roles, h.Groups, h.Scopes, h.Email, h.JSON, h.JWT.Name} {
		if name != "" {
			names = append(names, strings.ToLower(name))
		}
	}
	more := []string{}
	for name := range h.Properties {
		more = append(more, strings.ToLower(name))
	}
	slices.Sort(more)
	for _, name := range more {
		names = append(names, name)
	}
	return names
}

func drop(m map[string]any, key []string) {
	for len(key) > 1 {
		below, ok := m[key[0]].(map[string]any)
		if !ok {
			return
		}
		m, key = below, key[1:]
	}
	delete(m, key[0])
}

// collector takes what a configuration names.
type collector struct {
	dir, name, secretName string
	took                  map[string]string // path in the pod -> path here
	files, start, policy  map[string]any
	secrets               []any
}

// each walks to the values at a key, and puts the path in the pod in the place of each.
func (r *collector) each(at any, key []string, k kind) error {
	switch node := at.(type) {
	case []any:
		if key[0] != "[]" {
			return nil
		}
		for i := range node {
			if len(key) > 1 {
				if err := r.each(node[i], key[1:], k); err != nil {
					return err
				}
			} else if here, ok := node[i].(string); ok {
				there, err := r.take(here, k)
				if err != nil {
					return err
				}
				node[i] = there
			}
		}
	case map[string]any:
		for name, below := range node {
			if name != key[0] && key[0] != "*" {
				continue
			}
			if len(key) > 1 {
				if err := r.each(below, key[1:], k); err != nil {
					return err
				}
			} else if here, ok := below.(string); ok && here != "" {
				there, err := r.take(here, k)
				if err != nil {
					return err
				}
				node[name] = there
			}
		}
	}
	return nil
}

// take gives the path in the pod, relative to gatehouse.yaml's. Absolute paths, and those of variables, are for volumes of the pod's own.
func (r *collector) take(here string, k kind) (string, error) {
	if filepath.IsAbs(here) || strings.Contains(here, "${") {
		return here, nil
	}
	from := filepath.Join(r.dir, filepath.FromSlash(here))
	if k == secret {
		name := filepath.Base(from)
		if err := r.place("secrets/"+name, from); err != nil {
			return "", err
		}
		if !slices.Contains(r.secrets, any(name)) {
			r.secrets = append(r.secrets, name)
		}
		return "secrets/" + name, nil
	}
	info, err := os.Stat(from)
	if err != nil {
		return "", fmt.Errorf("%s names a file that has to be in the pod, and is not here yet (the keys of a local issuer: gatehouse token mint makes them): %w", r.name, err)
	}
	into := r.files
	there := path.Base(filepath.ToSlash(from))
	switch {
	case k == atStart:
		into = r.start
	case k == policy && !info.IsDir():
		return "", fmt.Errorf("%s: a bundle that is a tarball does not go into a ConfigMap: push it as an image (gatehouse bundle push) or to a server, or name the folder", from)
	case k == policy && len(r.policy) == 0:
		into, there = r.policy, "policy"
	}
	if r.took[there] == from {
		return there, nil
	}
	if err := r.place(there, from); err != nil {
		return "", err
	}
	if !info.IsDir() {
		return there, r.read(into, there, from)
	}
	inside := there + "/"
	if k == policy && there == "policy" {
		inside = ""
	}
	return there, r.folder(into, inside, from)
}

// place notes what is at a path in the pod: two files of one name in different folders would be one there.
func (r *collector) place(there, from string) error {
	if was, taken := r.took[there]; taken && was != from {
		return fmt.Errorf("%s and %s would both be %s in the pod: rename one", was, from, there)
	}
	r.took[there] = from
	return nil
}

// folder takes the files of a folder and of those below it: what a bundle or a directory is read from.
func (r *collector) folder(into map[string]any, inside, from string) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && file != from && d.Name() != ".manifest" && d.Name() != ".signatures.json" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		return r.read(into, inside+filepath.ToSlash(rel), file)
	})
}

var configKey = regexp.MustCompile(`^[-._a-zA-Z0-9/]+$`)

func (r *collector) read(into map[string]any, there, from string) error {
	if !configKey.MatchString(there) {
		return fmt.Errorf("%s: a ConfigMap takes names of letters, digits, -, . and _ alone: rename the file, or push the policy as an image", from)
	}
	for other := range into {
		if other != there && strings.ReplaceAll(other, "/", "__") == strings.ReplaceAll(there, "/", "__") {
			return fmt.Errorf("%s and %s would have the same key in the ConfigMap: rename one, or push the policy as an image", other, there)
		}
	}
	text, err := config.ReadUpTo(from, maxConfigMap)
	if err != nil {
		return fmt.Errorf("%w\na ConfigMap takes 1 MiB: push the policy as an image, or have a server serve it", err)
	}
	into[there] = string(text)
	return nil
}

// fit holds the ConfigMaps to their size.
func (r *collector) fit() error {
	for what, maps := range map[string][]map[string]any{"files": {r.files, r.start}, "policy": {r.policy}} {
		size := 0
		for _, m := range maps {
			for name, text := range m {
				size += len(name) + len(text.(string))
			}
		}
		if size > maxConfigMap {
			return fmt.Errorf("%s: %s is %d bytes, and a ConfigMap takes 1 MiB: push it as an image (gatehouse bundle push), or have a server serve it", r.name, what, size)
		}
	}
	return nil
}

// logToStdout takes the decision log's own files to where a pod has them: standard output, and a folder of state_dir.
func logToStdout(raw map[string]any) {
	decisions, ok := raw["decision_log"].(map[string]any)
	if !ok {
		return
	}
	delete(decisions, "dir") // in state_dir
	onStdout := func(m map[string]any) {
		if file, ok := m["file"].(string); ok && !filepath.IsAbs(file) {
			m["file"] = "-"
		}
	}
	onStdout(decisions)
	sinks, _ := decisions["sinks"].([]any)
	for _, sink := range sinks {
		if m, ok := sink.(map[string]any); ok {
			onStdout(m)
		}
	}
}
