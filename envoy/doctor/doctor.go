// Package doctor knows what makes an Envoy configuration let requests through that were not decided. It imports nothing of ours.
package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gatehouse/yamltext"

	"go.yaml.in/yaml/v3"
)

// MaxFile bounds a configuration that is looked at, in bytes.
const MaxFile = 16 << 20

// Bounds of the values in it, with what aliases repeat.
const (
	maxValues = 2_000_000
	maxDepth  = 200
)

// Symptom is one thing about a configuration.
type Symptom struct {
	Line int
	Note bool // worth knowing, and no mistake
	Text string
}

// Diagnosis is what a doctor has to say about one file.
type Diagnosis struct {
	File     string
	Filters  int // of ext_authz
	Symptoms []Symptom
}

// Examine looks at every ext_authz filter and every route's settings of one. An error is for a file that is no YAML and no JSON.
func Examine(file string, text []byte) (*Diagnosis, error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) {
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" ")) // which YAML does not take; in JSON they are never within a string
	}
	e := examiner{Diagnosis: Diagnosis{File: file}}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var root yaml.Node
		err := d.Decode(&root)
		if errors.Is(err, io.EOF) {
			return &e.Diagnosis, nil
		}
		if err != nil {
			return nil, yamltext.Error(file, err)
		}
		if e.look(&root, 0); e.values > maxValues {
			return nil, fmt.Errorf("%s: more than %d values", file, maxValues)
		}
	}
}

// Examiner walks a configuration.
type examiner struct {
	Diagnosis
	values int
}

const extAuthz = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"

func (e *examiner) look(n *yaml.Node, depth int) {
	if e.values++; e.values > maxValues || depth > maxDepth {
		return
	}
	if n.Kind == yaml.AliasNode {
		e.look(n.Alias, depth+1)
		return
	}
	if n.Kind == yaml.MappingNode {
		kind, config := scalarOf(n, "@type"), n
		if at := strings.TrimPrefix(scalarOf(n, "type_url"), "type.googleapis.com/"); at != "" { // TypedStruct
			kind, config = at, follow(member(n, "value"))
		}
		switch kind = strings.TrimPrefix(kind, "type.googleapis.com/"); {
		case config == nil:
		case kind == extAuthz:
			e.Filters++
			e.filter(n.Line, config)
		case kind == extAuthz+"PerRoute":
			e.route(config)
		}
	}
	for _, below := range n.Content {
		e.look(below, depth+1)
	}
}

func (e *examiner) found(line int, note bool, format string, args ...any) {
	f := Symptom{line, note, fmt.Sprintf(format, args...)}
	if !slices.Contains(e.Symptoms, f) { // what an alias repeats is said once
		e.Symptoms = append(e.Symptoms, f)
	}
}

func (e *examiner) filter(line int, config *yaml.Node) {
	if open := member(config, "failure_mode_allow"); isTrue(open) {
		e.found(open.Line, false, "failure_mode_allow: true lets every request through while Gatehouse does not answer; set it to false")
	}
	overHTTP := member(config, "http_service") != nil
	if !overHTTP && member(config, "grpc_service") == nil {
		e.found(line, false, "the ext_authz filter has no grpc_service and no http_service: it asks no server")
	}
	if body := member(config, "with_request_body"); body != nil {
		e.body(body, overHTTP)
	}
	if rules := member(config, "decoder_header_mutation_rules"); rules != nil && !isTrue(member(rules, "disallow_is_error")) {
		e.found(rules.Line, false, "decoder_header_mutation_rules: what they disallow is dropped without a word, so that the application gets the client's identity headers and "+
			"query instead of those that the policy set; remove them, or add disallow_is_error: true")
	}
}

// route looks at what a route changes. That the filter asks over HTTP is not known here; with gRPC it matters, and otherwise it does no harm.
func (e *examiner) route(config *yaml.Node) {
	if settings := follow(member(config, "check_settings")); settings != nil {
		if body := member(settings, "with_request_body"); body != nil {
			e.body(body, member(settings, "http_service") != nil)
		}
	}
}

// body looks at with_request_body. Over HTTP Envoy sends bytes as they are.
func (e *examiner) body(n *yaml.Node, overHTTP bool) {
	body := follow(n)
	if !overHTTP && !isTrue(member(body, "pack_as_bytes")) {
		e.found(n.Line, false, "with_request_body without pack_as_bytes: Envoy replaces every byte that is not UTF-8, so that the policy may read another body than the "+
			"application; add pack_as_bytes: true")
	}
	if isTrue(member(body, "allow_partial_message")) {
		e.found(n.Line, true, "a body longer than max_request_bytes arrives cut: input.truncated_body is true then and input.parsed_body null, and a rule about the body must look")
	} else {
		e.found(n.Line, true, "a body longer than max_request_bytes is answered 413 by Envoy, uploads that no policy reads as well, unless allow_partial_message is true")
	}
}

// follow is what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// member is a field of a message: by its name or by that of protojson, also through a YAML merge.
func member(n *yaml.Node, name string) *yaml.Node {
	n = follow(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	if found := own(n, name); found != nil {
		return found
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if merged := follow(n.Content[i+1]); n.Content[i].Tag == "!!merge" && merged != n {
			for _, from := range append([]*yaml.Node{merged}, merged.Content...) {
				if from = follow(from); from.Kind == yaml.MappingNode {
					if found := own(from, name); found != nil {
						return found
					}
				}
			}
		}
	}
	return nil
}

// own is a field that stands in the mapping itself.
func own(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := n.Content[i].Value; key == name || key == camel(name) {
			return n.Content[i+1]
		}
	}
	return nil
}

func camel(name string) string {
	parts := strings.Split(name, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

func scalarOf(n *yaml.Node, name string) string {
	if v := follow(own(n, name)); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

func isTrue(n *yaml.Node) bool {
	n = follow(n)
	return n != nil && n.Kind == yaml.ScalarNode && strings.EqualFold(n.Value, "true")
}
