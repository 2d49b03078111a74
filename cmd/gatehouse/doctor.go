package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"gatehouse/config"
)

// Bounds of an Envoy configuration that is looked at: bytes, and values with what aliases repeat.
const (
	maxEnvoyConfig = 16 << 20
	maxEnvoyValues = 2_000_000
	maxEnvoyDepth  = 200
)

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor ENVOY.yaml",
		Short: "Look for what is wrong in an Envoy configuration",
		Long: `Looks at each ext_authz filter in an Envoy configuration, in YAML or JSON, and prints what makes it let requests through that were not
decided, or decide about another body than the application gets, each with file and line. Nothing is started or changed. A note is no
mistake. It knows what the file says, not what Envoy fetches.

Exit code: 0 nothing was found, 1 something was, 2 it could not look.`,
		Example: `  gatehouse doctor envoy.yaml`,
		Args:    arguments("gatehouse doctor envoy.yaml", 1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := config.ReadUpTo(args[0], maxEnvoyConfig)
			if err != nil {
				return usageError{fmt.Errorf("reading the Envoy configuration: %w", err)}
			}
			found, err := examine(args[0], text)
			if err != nil {
				return usageError{err}
			}
			return found.print(c.OutOrStdout())
		},
	}
}

// symptom is one thing about a configuration.
type symptom struct {
	line int
	note bool // worth knowing, and no mistake
	text string
}

// diagnosis is what a doctor has to say about one file.
type diagnosis struct {
	file     string
	filters  int // of ext_authz
	symptoms []symptom
}

func (d *diagnosis) print(w io.Writer) error {
	slices.SortStableFunc(d.symptoms, func(a, b symptom) int { return cmp.Compare(a.line, b.line) })
	wrong := 0
	for _, f := range d.symptoms {
		text := f.text
		if f.note {
			text = "note: " + text
		} else {
			wrong++
		}
		fmt.Fprintf(w, "%s:%d: %s\n", d.file, f.line, text)
	}
	if d.filters == 0 {
		fmt.Fprintf(w, "%s: no ext_authz filter: nothing in this file asks Gatehouse\n", d.file)
		return errSaid
	}
	if wrong > 0 {
		return errSaid
	}
	fmt.Fprintf(w, "%s: nothing wrong with %d ext_authz filter(s)\n", d.file, d.filters)
	return nil
}

// examine looks at every ext_authz filter and every route's settings of one. An error is for a file that is no YAML and no JSON.
func examine(file string, text []byte) (*diagnosis, error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) {
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" ")) // which YAML does not take; in JSON they are never within a string
	}
	e := examiner{diagnosis: diagnosis{file: file}}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var root yaml.Node
		err := d.Decode(&root)
		if errors.Is(err, io.EOF) {
			return &e.diagnosis, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if e.look(&root, 0); e.values > maxEnvoyValues {
			return nil, fmt.Errorf("%s: more than %d values", file, maxEnvoyValues)
		}
	}
}

// examiner walks a configuration.
type examiner struct {
	diagnosis
	values int
}

const extAuthz = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"

func (e *examiner) look(n *yaml.Node, depth int) {
	if e.values++; e.values > maxEnvoyValues || depth > maxEnvoyDepth {
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
			e.filters++
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
	f := symptom{line, note, fmt.Sprintf(format, args...)}
	if !slices.Contains(e.symptoms, f) { // what an alias repeats is said once
		e.symptoms = append(e.symptoms, f)
	}
}

func (e *examiner) filter(line int, config *yaml.Node) {
	if open := member(config, "failure_mode_allow"); isTrue(open) {
		e.found(open.Line, false, "failure_mode_allow: true lets every request through while Gatehouse does not answer; set it to false")
	}
	overHTTP := member(config, "http_service") != nil
	if !overHTTP && member(config, "grpc_service") == nil {
		e.found(line, false, "the ext_authz filter has no grpc_service and no http_service: it asks nobody")
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
