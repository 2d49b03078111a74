// Package k8s is Gatehouse in Kubernetes: the objects for its modes (a sidecar beside each Envoy, or a service that all of them ask) and for
// those who ask (Istio, Envoy Gateway, an Envoy of one's own), and the values that follow from a gatehouse.yaml.
//
// The Helm chart in chart/ is the one source of every object: Helm renders it for those who use Helm, and Render for those who do not. Tests
// in k8s/test, a module of its own, hold that both render the same and that real API servers, Istio and Envoys take it.
//
// It may import packages config and envoy/generate, and nothing of Kubernetes or Helm: the objects are text.
package k8s

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

//go:embed all:chart
var chart embed.FS

// Release is what Helm knows of an installation.
type Release struct{ Name, Namespace string }

// Values are those of the chart. A key that is missing has the chart's default.
type Values map[string]any

// Render makes the chart's objects, as YAML documents.
func Render(r Release, given Values) ([]byte, error) {
	values, err := complete(given)
	if err != nil {
		return nil, err
	}
	set, names, err := templates()
	if err != nil {
		return nil, err
	}
	data, err := renderData(r, values)
	if err != nil {
		return nil, err
	}
	var docs []string
	for _, name := range names {
		var out strings.Builder
		if err := set.ExecuteTemplate(&out, name, data); err != nil {
			return nil, templateError(err)
		}
		for doc := range strings.SplitSeq("\n"+strings.ReplaceAll(out.String(), "<no value>", ""), "\n---") {
			if !blank(doc) {
				docs = append(docs, strings.Trim(doc, "\n")+"\n")
			}
		}
	}
	return []byte(strings.Join(docs, "---\n")), nil
}

// MeshConfig is the part of Istio's own values that names Gatehouse, which no other chart can set.
func MeshConfig(r Release, given Values) ([]byte, error) {
	text, err := part(r, given, "gatehouse.meshConfig")
	return []byte(text + "\n"), err
}

// part is what one of the chart's named templates makes.
func part(r Release, given Values, name string) (string, error) {
	values, err := complete(given)
	if err != nil {
		return "", err
	}
	set, _, err := templates()
	if err != nil {
		return "", err
	}
	data, err := renderData(r, values)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := set.ExecuteTemplate(&out, name, data); err != nil {
		return "", templateError(err)
	}
	return strings.TrimSpace(out.String()), nil
}

// templateError is what a template says by fail, or the whole error where that is a fault of ours.
func templateError(err error) error {
	if said, ok := errors.AsType[failure](err); ok {
		return said
	}
	return fmt.Errorf("rendering the chart: %w", err)
}

// blank says whether a document has comments and white space alone.
func blank(doc string) bool {
	for line := range strings.SplitSeq(doc, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// renderData is what templates see as Helm gives it.
func renderData(r Release, values map[string]any) (map[string]any, error) {
	text, err := chart.ReadFile("chart/Chart.yaml")
	if err != nil {
		return nil, err
	}
	var about struct {
		AppVersion string `yaml:"appVersion"`
	}
	if err := yaml.Unmarshal(text, &about); err != nil {
		return nil, err
	}
	return map[string]any{"Values": values, "Chart": map[string]any{"AppVersion": about.AppVersion},
		"Release": map[string]any{"Name": r.Name, "Namespace": r.Namespace}}, nil
}

// templates are the chart's, parsed, and the names of those that make objects.
func templates() (*template.Template, []string, error) {
	set := template.New("chart")
	set.Funcs(functions(set))
	files, err := fs.Glob(chart, "chart/templates/*")
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for _, file := range files {
		text, err := chart.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		if _, err := set.New(file).Parse(string(text)); err != nil {
			return nil, nil, fmt.Errorf("parsing the chart: %w", err)
		}
		if base := path.Base(file); !strings.HasPrefix(base, "_") && strings.HasSuffix(base, ".yaml") {
			names = append(names, file)
		}
	}
	slices.Sort(names)
	return set, names, nil
}

// complete is the chart's values with those that are given, checked by the chart's schema.
func complete(given Values) (map[string]any, error) {
	text, err := chart.ReadFile("chart/values.yaml")
	if err != nil {
		return nil, err
	}
	values, err := ParseValues("values.yaml", text)
	if err != nil {
		return nil, err
	}
	overlay(values, given)
	schema, err := chart.ReadFile("chart/values.schema.json")
	if err != nil {
		return nil, err
	}
	var s valueSchema
	if err := json.Unmarshal(schema, &s); err != nil {
		return nil, fmt.Errorf("the chart's schema: %w", err)
	}
	if problems := s.check("", map[string]any(values)); len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return values, nil
}

// ParseValues reads values from YAML. The file's name is for errors.
func ParseValues(file string, text []byte) (Values, error) {
	values := map[string]any{}
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return values, nil
}

// Overlay puts values over these, as Helm does with several files of values: mappings are merged, null takes a key away.
func (v Values) Overlay(over Values) { overlay(v, over) }

func overlay(under, over map[string]any) {
	for key, value := range over {
		if value == nil {
			delete(under, key)
			continue
		}
		below, isMap := value.(map[string]any)
		if was, ok := under[key].(map[string]any); ok && isMap {
			overlay(was, below)
			continue
		}
		if isMap {
			value = copied(below)
		}
		under[key] = value
	}
}

// YAML is the values as a file for Helm.
func (v Values) YAML() ([]byte, error) { return yamlText(map[string]any(v)) }
