package migrate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// quote writes a string as a double-quoted YAML scalar: JSON's strings are among those.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}

// yamlWriter writes the result section by section.
type yamlWriter struct {
	strings.Builder
	findings []Finding
}

// comment writes a text as comment lines of at most about 110 characters.
func (w *yamlWriter) comment(indent, text string) {
	const width = 110
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, text)
	line := indent + "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width && len(line) > len(indent)+1 {
			w.WriteString(line + "\n")
			line = indent + "#  "
		}
		line += " " + word
	}
	w.WriteString(line + "\n")
}

// about writes the findings of one section as comments.
func (w *yamlWriter) about(indent, section string) {
	for _, f := range w.findings {
		if f.section == section {
			w.comment(indent, f.String())
		}
		if f.section == section && f.entry != "" {
			w.line("%s#   %s", indent, f.entry)
		}
	}
}

// has reports whether there is anything to say about a section.
func (w *yamlWriter) has(section string) bool {
	return slices.ContainsFunc(w.findings, func(f Finding) bool { return f.section == section })
}

func (w *yamlWriter) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

func (m *migration) render() string {
	w := &yamlWriter{findings: m.findings}
	w.comment("", "Made by gatehouse migrate from "+m.file+". docs/config.md explains every key.")
	w.line("")
	w.line("listen:")
	w.about("  ", "listen")
	w.line("  grpc: [%s]", quote(m.grpc))
	w.line(`  admin: "127.0.0.1:9192"   # read-only: /healthz /readyz /metrics /status`)
	w.line("")
	m.renderServices(w)
	m.renderPolicy(w)
	w.line("")
	w.comment("", "Paths are read, and headers set, as opa-envoy-plugin does it. Without compat, paths that proxies and frameworks read "+
		"differently (/a/../b, //, %2F and the like) are refused before the policy sees them, and no policy can be led astray by "+
		"them. Turn it off once the policy relies on none of these forms; see docs/security.md.")
	w.line("paths: {compat: true}")
	w.line("")
	w.about("", "limits")
	w.line("limits: {message: %s}   # opa-envoy-plugin's grpc-max-recv-msg-size; a larger request is denied with 413", m.message)
	m.renderOptional(w)
	if w.has("") {
		w.line("")
		w.comment("", "The rest of "+m.file+":")
		w.about("", "")
	}
	return w.String()
}

func (m *migration) renderPolicy(w *yamlWriter) {
	w.line("policy:")
	w.line("  decision: %s", quote(m.decision))
	w.line("  timeout: 100ms   # the default; opa-envoy-plugin evaluates without a limit of its own")
	if m.protos != "" {
		w.line("  protos: %s", quote(m.relative(m.protos)))
	}
	w.about("  ", "policy")
	if m.cache != "" {
		w.line("  capabilities: {http_send: {cache: %s}}", m.cache)
	}
	if len(m.bundles)+len(m.fetched) == 0 {
		w.comment("  ", "No policy directory is known yet: name one here, or start with --bundle DIR.")
		w.comment("  ", `bundles: [{name: app, path: ./policy}]`)
		return
	}
	w.line("  bundles:")
	for _, b := range m.bundles {
		if signing := m.signed[b.name]; signing != "" {
			w.line("    - {name: %s, path: %s, %s}", quote(b.name), quote(m.relative(b.path)), signing)
			continue
		}
		w.line("    - {name: %s, path: %s}", quote(b.name), quote(m.relative(b.path)))
	}
	for _, b := range m.fetched {
		w.line("    - name: %s", quote(b.name))
		for _, line := range b.lines {
			w.line("      %s", line)
		}
	}
}

func (m *migration) renderOptional(w *yamlWriter) {
	if m.dryRun != "" {
		w.line("")
		w.line("dry_run: %s", m.dryRun)
	}
	if m.traces != nil || w.has("traces") {
		w.line("")
		w.about("", "traces")
	}
	if m.traces != nil {
		w.line("traces: {otlp: %s, insecure: %t, ratio: %g}", quote(m.traces.otlp), m.traces.insecure, m.traces.ratio)
	}
	if m.status != nil || w.has("status") {
		w.line("")
		w.about("", "status")
	}
	if m.status != nil {
		w.line("status:")
		for _, line := range m.status {
			w.line("  %s", line)
		}
		m.renderLabels(w)
	}
	if m.log == "" && m.sink == nil && len(m.labels) == 0 && !w.has("decision_log") {
		return
	}
	w.line("")
	w.about("", "decision_log")
	w.line("decision_log:")
	if m.sink == nil {
		w.line("  file: %s   # - is standard output; empty is no log", quote(m.log))
	} else {
		w.line("  sinks:")
		if m.log != "" {
			w.line("    - {file: %s}", quote(m.log))
		}
		w.line("    - opa: {%s}", strings.Join(m.sink, ", "))
	}
	m.renderLabels(w)
}

func (m *migration) renderLabels(w *yamlWriter) {
	if len(m.labels) > 0 {
		w.line("  labels:")
	}
	for _, l := range m.labels {
		w.line("    %s: %s", quote(l.name), quote(l.value))
	}
}

// renderServices writes what is fetched from and sent to, and where that is kept.
func (m *migration) renderServices(w *yamlWriter) {
	if m.persist || m.stateDir != "" {
		w.comment("", "What must outlive a restart: bundles that were fetched, and decisions that are not sent yet.")
		w.line("state_dir: %s", quote(m.relative(cmp.Or(m.stateDir, filepath.Join(m.dir, "state")))))
		w.line("")
	}
	var used []*service
	for _, name := range m.serviceNames {
		if s := m.services[name]; s.used {
			used = append(used, s)
		}
	}
	if len(used) == 0 && !w.has("services") {
		return
	}
	w.about("", "services")
	if len(used) > 0 {
		w.line("services:")
	}
	for _, s := range used {
		w.line("  - name: %s", quote(s.setting.name()))
		for _, line := range s.lines {
			w.line("%s", line)
		}
	}
	w.line("")
}
