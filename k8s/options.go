package k8s

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"gatehouse/config"
	"gatehouse/envoy/generate"
)

// Options are what gatehouse.yaml does not say about an installation.
type Options struct {
	Release                     Release
	Mode, For                   string // as in the chart's values
	App, AppNamespace, AppImage string
	Image                       string // Gatehouse's; "": the chart's
	AppPort                     int
	Injector                    bool // adds the sidecars to pods as they are created; mode is sidecar then
}

// Values are those that follow from a configuration, with further files of values over them.
func (o *Options) Values(file string, more []string) (Values, error) {
	v, err := FromConfig(file, o.Release.Name+"-secrets")
	if err != nil {
		return nil, err
	}
	app := map[string]any{"name": o.App, "port": o.AppPort}
	if o.AppNamespace != "" {
		app["namespace"] = o.AppNamespace
	}
	if o.AppImage != "" {
		app["image"] = o.AppImage
	}
	v.Overlay(Values{"mode": o.Mode, "for": o.For, "app": app})
	if o.Injector {
		v.Overlay(Values{"mode": "sidecar", "injector": map[string]any{"enabled": true}})
	}
	if o.Image != "" {
		v.Overlay(Values{"image": imageValues(o.Image)})
	}
	for _, name := range more {
		text, err := config.ReadUpTo(name, maxConfigMap*4)
		if err != nil {
			return nil, fmt.Errorf("reading values: %w", err)
		}
		over, err := ParseValues(name, text)
		if err != nil {
			return nil, err
		}
		v.Overlay(over)
	}
	if err := o.envoy(file, v); err != nil {
		return nil, err
	}
	return v, nil
}

// imageValues takes a reference of an image apart, as the chart wants it.
func imageValues(ref string) map[string]any {
	if repository, digest, ok := strings.Cut(ref, "@"); ok {
		return map[string]any{"repository": repository, "digest": digest}
	}
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return map[string]any{"repository": ref[:i], "tag": ref[i+1:]}
	}
	return map[string]any{"repository": ref}
}

// envoy adds Envoy's configuration, unless the values have one.
func (o *Options) envoy(file string, v Values) error {
	all, err := complete(v)
	if err != nil {
		return err
	}
	given, tls := all["envoy"].(map[string]any), all["tls"].(map[string]any)
	if all["for"] != "envoy" || given["config"] != "" {
		return nil
	}
	c, _, err := config.Source{File: file}.Read()
	if err != nil {
		return err
	}
	app := all["app"].(map[string]any)
	c.Listen.HTTP, c.Listen.TLS, c.Listen.GRPC = nil, nil, []string{"unix:/run/gatehouse/gatehouse.sock"} // as the chart has it
	g, err := generate.FromConfig(c, fmt.Sprint(app["gatehouseApp"]))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	g.Listen, g.App = "0.0.0.0:8080", fmt.Sprintf("127.0.0.1:%d", app["port"])
	if all["mode"] == "service" {
		namespace := fmt.Sprint(app["namespace"])
		if namespace == "" {
			namespace = o.Release.Namespace
		}
		g.App = fmt.Sprintf("%s.%s.svc:%d", app["name"], namespace, app["port"])
		name, err := part(o.Release, v, "gatehouse.name")
		if err != nil {
			return err
		}
		g.Gatehouse = fmt.Sprintf("%s.%s.svc:9191", name, o.Release.Namespace)
		g.HealthChecks = true
		if tls["secretName"] != "" {
			g.GatehouseCA = "/etc/envoy/tls/ca.crt"
		}
		if tls["clientCA"] == true {
			g.GatehouseCert, g.GatehouseKey = "/etc/envoy/tls/tls.crt", "/etc/envoy/tls/tls.key"
		}
	}
	text, err := g.YAML()
	if err != nil {
		return err
	}
	v.Overlay(Values{"envoy": map[string]any{"config": string(text)}})
	return nil
}

// Print is the objects, the values or the mesh's part, as -o says.
func (o *Options) Print(output string, v Values) ([]byte, error) {
	switch output {
	case "yaml":
		text, err := Render(o.Release, v)
		if err != nil || v["for"] != "istio" {
			return text, err
		}
		mesh, err := MeshConfig(o.Release, v)
		note := "Istio's own configuration has to name Gatehouse (gatehouse k8s generate -o mesh prints it alone); until it does, the application's pods answer 403:\n\n"
		return append([]byte("# "+strings.ReplaceAll(strings.TrimSpace(note+string(mesh)), "\n", "\n# ")+"\n---\n"), text...), err
	case "values":
		return v.YAML()
	case "mesh":
		return MeshConfig(o.Release, v)
	}
	return nil, fmt.Errorf("-o %q is neither yaml, values nor mesh", output)
}

// SecretHint is the commands that make the Secrets which values name, one for each namespace that has to have it; "" where they name none.
func (o *Options) SecretHint(v Values) (string, error) {
	enroll, err := o.enrollHint(v)
	if err != nil {
		return "", err
	}
	s, ok := v["secrets"].(map[string]any)
	if !ok {
		return enroll, nil
	}
	text, err := part(o.Release, v, "gatehouse.podNamespaces")
	if err != nil {
		return "", err
	}
	var namespaces struct{ List []string }
	if err := json.Unmarshal([]byte(text), &namespaces); err != nil {
		return "", err
	}
	hint := "make the Secret first:"
	for _, namespace := range namespaces.List {
		hint += fmt.Sprintf("\n  kubectl create secret generic %v -n %s", s["name"], namespace)
		names, _ := s["files"].([]any)
		for _, name := range names {
			hint += " --from-file=" + path.Base(fmt.Sprint(name))
		}
	}
	return strings.TrimSpace(hint + "\n" + enroll), nil
}

// enrollHint is the commands that let the pods in at the control plane; "" where there is none.
func (o *Options) enrollHint(v Values) (string, error) {
	c, _ := v["config"].(map[string]any)
	if c["control"] == nil {
		return "", nil
	}
	name, err := part(o.Release, v, "gatehouse.name")
	if err != nil {
		return "", err
	}
	secret, err := part(o.Release, v, "gatehouse.enrollSecret")
	if err != nil {
		return "", err
	}
	all, err := complete(v)
	if err != nil {
		return "", err
	}
	replicas, err := wholeNumber(all["replicas"])
	if err != nil {
		return "", err
	}
	hint, files := "let the pods in at the control plane first (each token is for one pod, once):", ""
	for i := range replicas {
		pod := fmt.Sprintf("%s-%d", name, i)
		hint += fmt.Sprintf("\n  gatehouse control enroll --edge %s --out %s --valid 24h", pod, pod)
		files += " --from-file=" + pod
	}
	return hint + fmt.Sprintf("\n  kubectl create secret generic %s -n %s%s", secret, o.Release.Namespace, files), nil
}
