package doctor_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

// object is a hole in the objects of a cluster. testdata/envoygateway/holes.yaml says what the fields are; k8s/test has more of them, and sees each hole on the
// real things.
type object struct {
	ID    string
	Edits []string
	ByMan []string `yaml:"byMan"` // not nil: the doctor leaves it to a person
	Knows struct {
		Metadata    bool
		Credentials []string
	}
	Request, Dump, Unproven string
}

func TestIstio(t *testing.T) { kubernetes(t, "istio") }

func TestEnvoyGateway(t *testing.T) { kubernetes(t, "envoygateway") }

const ofAuthz = "match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.ext_authz}}}}}, "

func envoyFilter(match, patch string) string {
	return "kind: EnvoyFilter\nmetadata: {name: less, namespace: shop}\nspec: {configPatches: [{applyTo: HTTP_FILTER, " + match + "patch: " + patch + "}]}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar"
}

// TestIstioOtherFilters are patches that take away nothing that decides.
func TestIstioOtherFilters(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "istio", "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{
		envoyFilter(strings.Replace(ofAuthz, "http.ext_authz", "http.cors", 1), "{operation: REMOVE}"),
		envoyFilter(strings.Replace(ofAuthz, "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", 1), "{operation: REMOVE}"),
		envoyFilter(ofAuthz, "{operation: INSERT_BEFORE, value: {name: a}}"),
	} {
		if found := ids(examine(t, []byte(edit(t, string(text), []string{"kind: Sidecar", filter})), rules.Default())); len(found) > 0 {
			t.Errorf("%s: found %v", filter, found)
		}
	}
}

// TestWhoseProxy: a policy of the mesh's root namespace is for the workloads of every other one, and a policy with targetRefs for none.
func TestWhoseProxy(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "istio", "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	without := []string{"labels: {app: orders}\n", "labels: {app: orders, sidecar.istio.io/inject: \"false\"}\n"}
	for policy, found := range map[string]bool{
		"metadata: {name: all, namespace: istio-system}\nspec:\n":                                                                                true,
		"metadata: {name: all, namespace: elsewhere}\nspec:\n":                                                                                   false,
		"metadata: {name: gateway, namespace: shop}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]\n": false,
	} {
		edits := append([]string{"metadata: {name: orders, namespace: shop}\nspec:\n  selector: {matchLabels: {app: orders}}\n", policy}, without...)
		if got := ids(examine(t, []byte(edit(t, string(text), edits)), rules.Default())); slices.Contains(got, "injection-off") != found {
			t.Errorf("%s: found %v", policy, got)
		}
	}
}

// TestPortOfGatehouse excludes the port that Gatehouse's own container has for probes, and ports that look like it.
func TestPortOfGatehouse(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "istio", "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const (
		web     = "containers: [{name: web, ports: [{containerPort: 8000}]}]"
		sidecar = "initContainers: [{name: gatehouse, restartPolicy: Always, ports: [{name: gatehouse-admin, containerPort: 9192}]}]"
		beside  = "containers: [{name: web, ports: [{containerPort: 8000}]}, {name: gatehouse, ports: [{name: gatehouse-admin, containerPort: 9192}]}]"
	)
	for what, test := range map[string]struct {
		excluded, spec string
		reported       string
		kept           string // of the annotation, once it is mended
	}{
		"before the application":           {"9192", sidecar + ", " + web, "", ""},
		"beside the application":           {"9192", beside, "", ""},
		"with spaces":                      {" 9192 ,", beside, "", ""},
		"the application's port":           {"8000", beside, "ports 8000 ", ""},
		"the application's as well":        {"8000, 9192", beside, "ports 8000 ", `excludeInboundPorts: "9192"`},
		"all ports":                        {"*", beside, "ports * ", ""},
		"a range":                          {"9192-9193", beside, "ports 9192-9193 ", ""},
		"no containers":                    {"9192", "nodeName: a", "ports 9192 ", ""},
		"no Gatehouse":                     {"9192", "containers: [{name: web, ports: [{containerPort: 9192}]}]", "ports 9192 ", ""},
		"the application has its name":     {"9192", "containers: [{name: web, ports: [{name: gatehouse-admin, containerPort: 9192}]}]", "ports 9192 ", ""},
		"the application has it too":       {"9192", sidecar + ", containers: [{name: web, ports: [{containerPort: 8000}, {containerPort: 9192}]}]", "ports 9192 ", ""},
		"written in another way":           {"9192", sidecar + ", containers: [{name: web, ports: [{containerPort: 0x23e8}]}]", "ports 9192 ", ""},
		"another sidecar has it too":       {"9192", "initContainers: [{name: proxy, restartPolicy: Always, ports: [{containerPort: 9192}]}], " + beside, "ports 9192 ", ""},
		"another port of Gatehouse":        {"9191", strings.Replace(beside, "[{name: gatehouse-admin", "[{name: grpc, containerPort: 9191}, {name: gatehouse-admin", 1), "ports 9191 ", ""},
		"a Gatehouse that ends before it":  {"9192", strings.Replace(sidecar, "restartPolicy: Always, ", "", 1) + ", " + web, "ports 9192 ", ""},
		"a Gatehouse without that port":    {"9192", "containers: [{name: web}, {name: gatehouse}]", "ports 9192 ", ""},
		"a Gatehouse with an unnamed port": {"9192", "containers: [{name: web}, {name: gatehouse, ports: [{containerPort: 9192}]}]", "ports 9192 ", ""},
	} {
		t.Run(what, func(t *testing.T) {
			bad := []byte(edit(t, string(text), []string{"      annotations: {}", `      annotations: {traffic.sidecar.istio.io/excludeInboundPorts: "` + test.excluded + "\"}\n    spec: {" + test.spec + "}"}))
			r := examine(t, bad, rules.Default())
			if test.reported == "" {
				if len(r.Findings) > 0 {
					t.Errorf("found %v: %s", ids(r), r.Findings[0].Message)
				}
				return
			}
			if len(r.Findings) != 1 || r.Findings[0].ID != "port-excluded" || !strings.Contains(r.Findings[0].Message, test.reported) {
				t.Fatalf("found %+v", r.Findings)
			}
			mended, err := doctor.Mend([]doctor.Input{{Name: "k8s.yaml", Text: bad}}, rules.Default())
			if err != nil {
				t.Fatal(err)
			}
			if found := ids(examine(t, mended[0].Text, rules.Default())); len(found) > 0 || !strings.Contains(string(mended[0].Text), test.kept) ||
				test.kept == "" && strings.Contains(string(mended[0].Text), "excludeInboundPorts") {
				t.Errorf("mended, found %v in\n%s", found, mended[0].Text)
			}
		})
	}
}

// client is where objects are put in front of.
const client = "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy"

func cors(target string) string {
	return "kind: SecurityPolicy\nmetadata: {name: cors, namespace: shop}\nspec: {targetRefs: [{kind: " + target + "}], cors: {}}\n" + client
}

func stream(kind string) string {
	return "kind: Other\n---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: " + kind + "\nmetadata: {name: raw, namespace: shop}\nspec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: orders, port: 8000}]}]}\n" + client
}

func patch(operation string) string {
	return "kind: EnvoyPatchPolicy\nmetadata: {name: patch, namespace: shop}\nspec: {jsonPatches: [{type: type.googleapis.com/envoy.config.listener.v3.Listener, name: x, operation: {" + operation + "}}]}\n" + client
}

// TestAskedAnyway are objects of which every request is decided, in ways that look like others that are not.
func TestAskedAnyway(t *testing.T) {
	const two = "listeners: [{name: http, protocol: HTTP, port: 8080}, {name: https, protocol: HTTPS, port: 8443}, {name: raw, protocol: TCP, port: 9000}]"
	for what, edits := range map[string][]string{
		"each listener by a policy's references": {"listeners: [{name: http, protocol: HTTP, port: 8080}]", two, "kind: Gateway, name: edge}]\n  extAuth",
			"kind: Gateway, name: edge, sectionName: http}, {kind: Gateway, name: edge, sectionName: https}]\n  extAuth"},
		"the route's own listener":   {"listeners: [{name: http, protocol: HTTP, port: 8080}]", two, "parentRefs: [{name: edge}]", "parentRefs: [{name: edge, sectionName: http}]", "name: edge}]\n  extAuth", "name: edge, sectionName: http}]\n  extAuth"},
		"a Service of a mesh":        {"parentRefs: [{name: edge}]", "parentRefs: [{name: edge}, {group: '', kind: Service, name: orders}]"},
		"a rule's policy is merged":  {"kind: ClientTrafficPolicy", strings.Replace(cors("HTTPRoute, name: orders, sectionName: all"), "cors: {}", "mergeType: JSONMerge, cors: {}", 1), "    - matches", "    - name: all\n      matches"},
		"a stream to something else": {"kind: ClientTrafficPolicy", strings.Replace(stream("TCPRoute"), "name: orders", "name: database", 1)},
		"a patch that adds":          {"kind: ClientTrafficPolicy", patch("op: add, path: /per_connection_buffer_limit_bytes, value: 32768")},
	} {
		text, err := os.ReadFile(filepath.Join("testdata", "envoygateway", "base.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if found := ids(examine(t, []byte(edit(t, string(text), edits)), rules.Default())); len(found) > 0 {
			t.Errorf("%s: found %v", what, found)
		}
	}
}

// TestConfigMap is an Envoy beside an application, whose configuration is in a ConfigMap.
func TestConfigMap(t *testing.T) {
	object := func(envoy string) []byte {
		return []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: orders}\ndata:\n  notes.txt: \"static_resources: [\"\n  envoy.yaml: |\n    " + strings.ReplaceAll(envoy, "\n", "\n    ") + "\n")
	}
	if r := examine(t, object(base(t)), rules.Default()); len(r.Findings) > 0 || r.Asking != 1 {
		t.Errorf("asked in %d places, found %v", r.Asking, ids(r))
	}
	for _, o := range []struct {
		id     string
		edits  []string
		mended bool
	}{
		{"no-ext-authz", []string{filterLines, ""}, false},
		{"failure-mode-allow", []string{"HERE filter", "failure_mode_allow: true"}, true},
	} {
		bad := object(edit(t, base(t), o.edits))
		if found := ids(examine(t, bad, rules.Default())); !slices.Equal(found, []string{o.id}) {
			t.Errorf("%s: found %v", o.id, found)
		}
		mended, err := doctor.Mend([]doctor.Input{{Name: "k8s.yaml", Text: bad}}, rules.Default())
		if err != nil {
			t.Fatal(err)
		}
		if found := ids(examine(t, mended[0].Text, rules.Default())); (len(found) == 0) != o.mended {
			t.Errorf("%s: mended, found %v", o.id, found)
		}
	}
}

func holes(t *testing.T, folder string) (objects []object) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", folder, "holes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &objects); err != nil {
		t.Fatal(err)
	}
	return objects
}

func kubernetes(t *testing.T, folder string) {
	text, err := os.ReadFile(filepath.Join("testdata", folder, "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if r := examine(t, text, rules.Default()); len(r.Findings) > 0 || r.Asking != 1 {
		t.Fatalf("the base: %+v", r.Findings)
	}
	for _, o := range holes(t, folder) {
		t.Run(o.ID, func(t *testing.T) {
			g := rules.Default()
			g.Metadata = o.Knows.Metadata
			if o.Knows.Credentials != nil {
				g.Credentials = o.Knows.Credentials
			}
			bad := []byte(edit(t, string(text), o.Edits))
			if found := ids(examine(t, bad, g)); !slices.Contains(found, o.ID) {
				t.Fatalf("found %v", found)
			}
			mended, err := doctor.Mend([]doctor.Input{{Name: "k8s.yaml", Text: bad}}, g, o.ID)
			if err != nil {
				t.Fatal(err)
			}
			if found := ids(examine(t, mended[0].Text, g)); slices.Contains(found, o.ID) != (o.ByMan != nil) {
				t.Errorf("mended, found %v in\n%s", found, mended[0].Text)
			}
		})
	}
}

// TestEveryRuleOfKubernetesIsProven holds the holes against the table: each finding has one, which a request or what the control plane makes of it shows, or
// that says why not.
func TestEveryRuleOfKubernetesIsProven(t *testing.T) {
	have := map[string]bool{}
	for _, folder := range []string{"istio", "envoygateway"} {
		for _, o := range holes(t, folder) {
			have[o.ID] = true
			if o.Request == "" && o.Dump == "" && o.Unproven == "" {
				t.Errorf("%s: %s is shown by nothing, and does not say why", folder, o.ID)
			}
		}
	}
	for _, part := range rules.Parts()[2:] {
		for _, r := range part.Rules {
			if !have[r.ID] {
				t.Errorf("%s has no hole", r.ID)
			}
		}
	}
}

// TestMeshValues reads a mesh's configuration as the values of Istio's charts have it, alone and with the objects that name it.
func TestMeshValues(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "istio", "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	configMap, objects, _ := strings.Cut(string(text), "---\n")
	_, mesh, _ := strings.Cut(configMap, "  mesh: |\n")
	values := "# for Istio's chart\nmeshConfig:\n" + strings.ReplaceAll("\n"+strings.TrimRight(mesh, "\n"), "\n    ", "\n  ")[1:] + "\n"
	for what, test := range map[string]struct {
		values, objects string
		asking          int
		found           []string
	}{
		"alone":            {values, "", 0, nil},
		"with the objects": {values, objects, 1, nil},
		"with a hole":      {strings.Replace(values, "failOpen: false", "failOpen: true", 1), objects, 1, []string{"failure-mode-allow"}},
		"of another mesh":  {strings.Replace(values, "name: gatehouse", "name: other", 1), objects, 1, []string{"unknown-provider"}},
	} {
		inputs := []doctor.Input{{Name: "values.yaml", Text: []byte(test.values)}}
		if test.objects != "" {
			inputs = append(inputs, doctor.Input{Name: "k8s.yaml", Text: []byte(test.objects)})
		}
		r, err := doctor.Examine(inputs, rules.Default())
		if err != nil {
			t.Fatal(err)
		}
		if found := ids(r); !slices.Equal(found, test.found) || r.Asking != test.asking {
			t.Errorf("%s: asked in %d places, found %v", what, r.Asking, found)
		}
		mended, err := doctor.Mend(inputs, rules.Default())
		if err != nil {
			t.Fatal(err)
		}
		if r, err = doctor.Examine(mended, rules.Default()); err != nil || len(r.Findings) > 0 {
			t.Errorf("%s, mended: %v %v in\n%s", what, err, ids(r), mended[0].Text)
		}
	}
}
