package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// TestSchemas holds every object to the schemas of the API server, and of the kinds of Istio, Envoy Gateway and the Gateway API: no field that they
// do not have, no value of another type, nothing required left out. What a kube-apiserver says beyond that is TestAPIServer's.
func TestSchemas(t *testing.T) {
	s := readSchemas(t)
	for name, bad := range map[string]string{
		"an unknown field": `{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, date: {}}`,
		"below":            `{apiVersion: apps/v1, kind: Deployment, spec: {selector: {}, template: {spec: {containers: [{name: x, livenesProbe: {}}]}}}}`,
		"another type":     `{apiVersion: apps/v1, kind: Deployment, spec: {replicas: two, selector: {}, template: {}}}`,
		"left out":         `{apiVersion: apps/v1, kind: Deployment, spec: {template: {}}}`,
		"of a CRD":         `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, spec: {action: CUSTOMS}}`,
		"one more":         `{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, spec: {extAuth: {failOpn: true}}}`,
		"an unknown kind":  `{apiVersion: apps/v1, kind: Deploymnt}`,
	} {
		if err := s.check(objects(t, []byte(bad))[0]); err == nil {
			t.Errorf("%s: %s is taken", name, bad)
		}
	}
	seen := map[string]bool{}
	all := func(t *testing.T, generated []object) {
		for _, o := range generated {
			if strings.HasPrefix(fmt.Sprint(o["apiVersion"]), "monitoring.coreos.com/") {
				continue // the operator's kinds are not in these modules
			}
			if err := s.check(whole(o)); err != nil {
				t.Errorf("%s: %v", o.name(), err)
			}
			seen[o.kind()] = true
		}
	}
	each(t, func(t *testing.T, _ []byte, generated []object) { all(t, generated) })
	for _, whose := range []string{"envoy", "istio"} {
		all(t, objects(t, command(t, example(t), "k8s", "generate", "--injector", "--for", whose, "-n", "gatehouse", "--app-namespace", "shop")))
	}
	for _, kind := range []string{"Deployment", "StatefulSet", "MutatingWebhookConfiguration", "ClusterRole", "EnvoyFilter", "SecurityPolicy", "HTTPRoute"} {
		if !seen[kind] {
			t.Errorf("no %s was looked at", kind)
		}
	}
}

// whole is an object, and a part of a Deployment that is there already with what the part leaves out.
func whole(o object) object {
	spec, _ := o["spec"].(map[string]any)
	if o.kind() == "Deployment" && spec["selector"] == nil {
		spec["selector"] = map[string]any{}
		spec["template"].(map[string]any)["spec"].(map[string]any)["containers"] = []any{map[string]any{"name": "web"}}
	}
	return o
}

// schemas are those of kinds, by group, version and kind.
type schemas map[string]*jsonschema.Schema

func (s schemas) check(o object) error {
	schema := s[fmt.Sprint(o["apiVersion"], " ", o.kind())]
	if schema == nil {
		return fmt.Errorf("there is no %v %s", o["apiVersion"], o.kind())
	}
	return schema.Validate(map[string]any(o))
}

// folder is that of a module in the cache.
func folder(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func readSchemas(t *testing.T) schemas {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4)
	places := map[string]string{}
	text, err := os.ReadFile(filepath.Join(folder(t, "k8s.io/kubernetes"), "api/openapi-spec/swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	var swagger struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(text, &swagger); err != nil {
		t.Fatal(err)
	}
	definitions := map[string]any{}
	for name, d := range swagger.Definitions {
		if strings.HasSuffix(name, ".IntOrString") {
			d = map[string]any{}
		}
		definitions[name] = namedOnly(d)
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			k := k.(map[string]any)
			version := strings.TrimPrefix(fmt.Sprint(k["group"], "/", k["version"]), "/")
			if len(kinds) == 1 { // those of all versions are for lists and deletions
				places[fmt.Sprint(version, " ", k["kind"])] = "kubernetes.json#/definitions/" + name
			}
		}
	}
	if err := c.AddResource("kubernetes.json", map[string]any{"definitions": definitions}); err != nil {
		t.Fatal(err)
	}
	gateway, istio := folder(t, "github.com/envoyproxy/gateway"), folder(t, "istio.io/istio")
	for _, pattern := range []string{gateway + "/charts/gateway-helm/charts/crds/crds/*.yaml", gateway + "/charts/gateway-helm/charts/crds/crds/generated/*.yaml", istio + "/manifests/charts/base/files/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
				readCRD(t, c, doc, places)
			}
		}
	}
	out := schemas{}
	for kind, place := range places {
		if out[kind], err = c.Compile(place); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	return out
}

func readCRD(t *testing.T, c *jsonschema.Compiler, doc string, places map[string]string) {
	t.Helper()
	var crd struct {
		Kind string
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(doc), &crd); err != nil || crd.Kind != "CustomResourceDefinition" {
		return // values, or a template
	}
	for _, v := range crd.Spec.Versions {
		properties, _ := v.Schema.OpenAPIV3Schema["properties"].(map[string]any)
		for _, key := range []string{"apiVersion", "kind", "metadata"} { // the API server's, in every kind
			if properties[key] == nil {
				properties[key] = map[string]any{}
			}
		}
		place := fmt.Sprintf("%s-%s-%s.json", crd.Spec.Group, v.Name, strings.ToLower(crd.Spec.Names.Kind))
		if err := c.AddResource(place, namedOnly(v.Schema.OpenAPIV3Schema)); err != nil {
			t.Fatal(err)
		}
		places[fmt.Sprintf("%s/%s %s", crd.Spec.Group, v.Name, crd.Spec.Names.Kind)] = place
	}
}

// namedOnly is a schema in which a field that is not named is a mistake, unless it says that it takes any. Patterns of another syntax are left out.
func namedOnly(schema map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range schema {
		switch v := value.(type) {
		case map[string]any:
			switch key {
			case "properties":
				below := map[string]any{}
				for name, p := range v {
					below[name] = namedOnly(p.(map[string]any))
				}
				out[key] = below
			case "items", "additionalProperties":
				out[key] = namedOnly(v)
			default:
				out[key] = v
			}
		case string:
			if _, err := regexp.Compile(v); key == "pattern" && err != nil {
				continue
			}
			out[key] = v
		default:
			if key != "default" && key != "format" && !strings.HasPrefix(key, "x-") {
				out[key] = v
			}
		}
	}
	_, has := out["properties"]
	if _, says := out["additionalProperties"]; has && !says && schema["x-kubernetes-preserve-unknown-fields"] != true {
		out["additionalProperties"] = false
	}
	if schema["x-kubernetes-int-or-string"] == true {
		delete(out, "type")
	}
	if schema["nullable"] == true {
		delete(out, "type")
	}
	return out
}
