// Package doctor finds what makes a proxy in front of Gatehouse decide less than it looks: in Envoy's configuration, in the objects of Istio, and in
// those of Envoy Gateway. It owns the reading of inputs, the report and its forms (text, JSON, SARIF), and mending. What there is to find is in
// doctor/rules, who finds it in doctor/envoyconf, doctor/istio and doctor/envoygateway, and who reads a cluster in doctor/cluster. Of ours it imports those, and package config, with whose
// settings the proxy's are compared.
package doctor

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse/doctor/envoyconf"
	"gatehouse/doctor/envoygateway"
	"gatehouse/doctor/istio"
	"gatehouse/doctor/rules"
	"gatehouse/doctor/tree"
)

// Input is a text to look at, and what it is called in findings.
type Input struct {
	Name string
	Text []byte
}

// Report is what was looked at and what was found.
type Report struct {
	Findings []rules.Finding
	Inputs   []string
	Asking   int // ext_authz filters, and objects that make the proxy ask

	texts []*tree.Text
}

// Examine looks at inputs together: files of one Envoy, or the objects of one cluster. Several bootstraps are several Envoys. An error is for what cannot be
// read, or what Envoy would not take.
func Examine(inputs []Input, g rules.Gatehouse) (*Report, error) {
	r := &Report{}
	var envoys [][]tree.Node
	var objects []tree.Node
	for _, in := range inputs {
		text, err := tree.Parse(in.Name, in.Text)
		if err != nil {
			return nil, err
		}
		r.Inputs, r.texts = append(r.Inputs, in.Name), append(r.texts, text)
		var envoy []tree.Node
		for _, doc := range text.Documents() {
			if found, ok := kubernetes(doc); ok {
				objects = append(objects, found...)
			} else {
				envoy = append(envoy, doc)
			}
		}
		if len(envoy) > 0 {
			envoys = append(envoys, envoy)
		}
	}
	if !slices.ContainsFunc(r.texts, func(t *tree.Text) bool { return len(t.Documents()) > 0 }) {
		return nil, fmt.Errorf("%s: there is nothing in it: give an Envoy configuration or Kubernetes objects", strings.Join(r.Inputs, ", "))
	}
	for _, o := range objects {
		envoys = append(envoys, mounted(o)...)
	}
	for _, docs := range mergeParts(envoys) {
		result, err := envoyconf.Examine(docs, g)
		if err != nil {
			return nil, err
		}
		r.Findings = append(r.Findings, result.Findings...)
		r.Asking += result.Filters
	}
	for _, examine := range []func([]tree.Node, rules.Gatehouse) ([]rules.Finding, int, error){istio.Examine, envoygateway.Examine} {
		findings, asking, err := examine(objects, g)
		if err != nil {
			return nil, err
		}
		r.Findings = append(r.Findings, findings...)
		r.Asking += asking
	}
	// A mesh's configuration alone asks nobody, and need not.
	if r.Asking == 0 && len(r.Findings) == 0 && slices.ContainsFunc(objects, func(o tree.Node) bool { return !istio.IsMesh(o) }) {
		r.Findings = append(r.Findings, rules.Of("no-ext-authz").At(objects[0], "no object here makes a proxy ask Gatehouse"))
	}
	r.Findings = rules.Sort(r.Findings)
	return r, nil
}

// mergeParts puts the pieces of one Envoy's configuration together. Where there are several whole ones, each text stands alone.
func mergeParts(texts [][]tree.Node) [][]tree.Node {
	whole := 0
	for _, docs := range texts {
		if slices.ContainsFunc(docs, envoyconf.IsComplete) {
			whole++
		}
	}
	if whole > 1 || len(texts) == 0 {
		return texts
	}
	return [][]tree.Node{slices.Concat(texts...)}
}

// kubernetes gives the objects of a document: itself, or the items of a list.
func kubernetes(doc tree.Node) ([]tree.Node, bool) {
	kind := doc.Get("kind").Text()
	if kind == "" || doc.Get("apiVersion").Text() == "" {
		// A mesh's configuration may stand alone.
		if istio.IsMesh(doc) {
			return []tree.Node{doc}, true
		}
		// Or in the values of Istio's charts.
		if mesh := doc.Get("meshConfig"); mesh.IsMap() && !envoyconf.IsComplete(doc) {
			return []tree.Node{mesh}, true
		}
		return nil, false
	}
	if items := doc.Get("items"); items.IsList() {
		return items.Items(), true
	}
	return []tree.Node{doc}, true
}

// mounted are the Envoy configurations in a ConfigMap, as they are with an Envoy beside an application. What else there is in it is no matter here.
func mounted(o tree.Node) (envoys [][]tree.Node) {
	if o.Get("kind").Text() != "ConfigMap" {
		return nil
	}
	for _, m := range o.Get("data").Members() {
		if !strings.Contains(m.Value.Text(), "static_resources") && !strings.Contains(m.Value.Text(), "dynamic_resources") {
			continue
		}
		if text, err := m.Value.Parse(); err == nil && slices.ContainsFunc(text.Documents(), envoyconf.IsComplete) {
			envoys = append(envoys, text.Documents())
		}
	}
	return envoys
}

// AtLeast is the report without what is less severe.
func (r *Report) AtLeast(s rules.Severity) *Report {
	c := *r
	c.Findings = slices.DeleteFunc(slices.Clone(r.Findings), func(f rules.Finding) bool { return !f.Severity.AtLeast(s) })
	return &c
}

// Wrong says whether anything but notes was found.
func (r *Report) Wrong() bool {
	return slices.ContainsFunc(r.Findings, func(f rules.Finding) bool { return f.Severity != rules.Note })
}

// rounds bounds how often mending makes the next thing visible.
const rounds = 5

// Mend is the inputs with everything mended for which that is known, or what has one of the ids. Comments stay, empty lines do not. A dump is not what an
// Envoy is configured with, so nothing is mended there.
func Mend(inputs []Input, g rules.Gatehouse, ids ...string) ([]Input, error) {
	for range rounds {
		report, err := Examine(inputs, g)
		if err != nil {
			return nil, err
		}
		changed := false
		for _, f := range report.Findings {
			if f.Fix != nil && (len(ids) == 0 || slices.Contains(ids, f.ID)) {
				f.Fix()
				changed = true
			}
		}
		if !changed {
			return inputs, nil
		}
		mended := make([]Input, len(inputs))
		for i, text := range report.texts {
			written, err := text.Write()
			if err != nil {
				return nil, err
			}
			mended[i] = Input{inputs[i].Name, written}
		}
		inputs = mended
	}
	return inputs, nil
}
