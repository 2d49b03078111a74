package migrate

import (
	"cmp"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// rule says what becomes of one setting of OPA. In its key, * stands for any one name.
type rule struct {
	key   string
	apply func(*migration, setting)
}

// opaRules lists the settings of OPA and opa-envoy-plugin. The first rule that fits applies.
func opaRules() []rule {
	lost := func(section, advice string) func(*migration, setting) {
		return func(m *migration, s setting) { m.lost(s, section, advice) }
	}
	const plugin = "plugins.envoy_ext_authz_grpc."
	return []rule{
		{plugin + "addr", (*migration).takeAddress},
		{plugin + "path", (*migration).takePath},
		{plugin + "query", (*migration).takeQuery},
		{plugin + "dry-run", (*migration).takeDryRun},
		{plugin + "enable-reflection", (*migration).takeReflection},
		{plugin + "proto-descriptor", (*migration).takeDescriptor},
		{plugin + "skip-request-body-parse", (*migration).takeSkipBody},
		{plugin + "grpc-max-recv-msg-size", (*migration).takeReceiveSize},
		{plugin + "grpc-max-send-msg-size", lost("limits", "not needed: an answer is as large as what the policy puts into it")},
		{plugin + "enable-performance-metrics", lost("", "/metrics on the admin port always has gatehouse_decision_duration_seconds and "+
			"gatehouse_decisions_total, in place of grpc_request_duration_seconds and error_counter: adapt dashboards and alarms")},
		{plugin + "grpc-request-duration-seconds-buckets", lost("", "the buckets of gatehouse_decision_duration_seconds are fixed")},
		{"plugins.envoy_ext_authz_grpc.*", lost("", "not a setting that opa-envoy-plugin is known to have")},
		{"plugins.envoy_ext_proc_grpc", lost("", "Gatehouse answers ext_authz, not ext_proc: keep OPA for that filter")},
		{"plugins.*", lost("", "OPA's own Go plugins do not run here: keep OPA for what it did, or do it beside Gatehouse")},

		{"services.*", (*migration).takeService},
		{"bundles.*", (*migration).takeBundle},
		{"bundle", (*migration).takeOldBundle},

		{"decision_logs", func(m *migration, s setting) { m.logs = s }},
		{"labels.*", (*migration).takeLabel},

		{"default_decision", lost("", "of OPA's REST API, which is not here; policy.decision is what every request is decided by")},
		{"default_authorization_decision", lost("", "of OPA's REST API, which is not here; the admin port is read-only")},
		{"status", func(m *migration, s setting) { m.state = s }},
		{"discovery", lost("", "the configuration is this file; change it and send SIGHUP")},
		{"caching.inter_query_builtin_cache.max_size_bytes", (*migration).takeCache},
		{"caching.inter_query_builtin_cache.*", lost("policy", "what http.send keeps is bounded by its size alone: policy.capabilities.http_send.cache")},
		{"caching.inter_query_builtin_value_cache", lost("policy", "compiled patterns and schemas are kept within a bound of their own")},
		{"caching.*", lost("policy", "not a setting that OPA is known to have")},
		{"keys.*", (*migration).takeKey},
		{"distributed_tracing", (*migration).takeTracing},
		{"server", lost("", "of OPA's REST API, which is not here")},
		{"storage", lost("", "policy and data are kept in memory")},
		{"nd_builtin_cache", lost("", "results of non-deterministic built-ins are not logged; those that reach out of the process are off by default")},
		{"persistence_directory", (*migration).takePersistence},
	}
}

// match finds the first rule that fits a path: what it does, or whether it is for something below the path.
func match(rules []rule, at []string) (apply func(*migration, setting), below bool) {
	for _, r := range rules {
		segments := strings.Split(r.key, ".")
		if len(segments) < len(at) || !fits(segments, at) {
			continue
		}
		if len(segments) == len(at) {
			return r.apply, false
		}
		return nil, true
	}
	return nil, false
}

func fits(segments, at []string) bool {
	for i, name := range at {
		if segments[i] != "*" && segments[i] != name {
			return false
		}
	}
	return true
}

// scalar returns a setting's value, and false with a problem filed where it is no single value.
func (m *migration) scalar(s setting) (string, bool) {
	if s.node.Kind != yaml.ScalarNode {
		m.fail(s, "must be a single value")
		return "", false
	}
	return s.node.Value, true
}

// flag returns a setting that is true or false, as text, because it may be an environment variable.
func (m *migration) flag(s setting) (string, bool) {
	v, ok := m.scalar(s)
	if ok && v != "true" && v != "false" && !isVariable(v) {
		m.fail(s, "%q is neither true nor false", v)
		return "", false
	}
	return v, ok
}

// isVariable reports whether a value is one environment variable and nothing else.
func isVariable(v string) bool { return opaVariable.FindString(v) == v && v != "" }

// takeAddress turns ":9191", "grpc://host:port" and "unix:///path" into an address of ours.
func (m *migration) takeAddress(s setting) {
	address, ok := m.scalar(s)
	if !ok {
		return
	}
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		scheme, rest = "grpc", address
	}
	switch {
	case scheme == "unix" && strings.HasPrefix(rest, "@"):
		m.grpc = "127.0.0.1:9191"
		m.lost(s, "listen", "abstract sockets have no file mode and so no protection: use unix:/path.sock, or this loopback address, here and in Envoy")
	case scheme == "unix":
		m.grpc = "unix:" + m.relative(rest)
	case scheme != "grpc":
		m.fail(s, "%q: opa-envoy-plugin knows grpc:// and unix://", address)
	default:
		if err := checkAddress(rest); err != nil && !strings.Contains(rest, "${") {
			m.fail(s, "%q is not host:port", rest)
		}
		m.grpc = rest
	}
}

// checkAddress reports what serve would say of an address.
func checkAddress(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("%q: the socket's path is missing", address)
		}
		return nil
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return fmt.Errorf("%q is not host:port or unix:/path.sock", address)
	}
	return nil
}

func (m *migration) takePath(s setting) {
	if m.decisionTaken(s) {
		return
	}
	if v, ok := m.scalar(s); ok && v != "" {
		m.decision = strings.Trim(v, "/")
	}
}

// takeQuery turns the older form, a query, into a path where it is nothing but a reference.
func (m *migration) takeQuery(s setting) {
	v, ok := m.scalar(s)
	if m.decisionTaken(s) || !ok || v == "" {
		return
	}
	segments, ok := referencePath(v)
	if !ok {
		m.lost(s, "policy", fmt.Sprintf("%q is more than a reference into data: write a rule that gives its value, and name its path in policy.decision", v))
		return
	}
	m.decision = strings.Join(segments, "/")
}

// decisionTaken files a problem where path and query are both there: opa-envoy-plugin does not start then.
func (m *migration) decisionTaken(s setting) bool {
	if m.decisionFrom != "" {
		m.fail(s, "%s is there as well: only one of path and query may be", m.decisionFrom)
		return true
	}
	m.decisionFrom = s.name()
	return false
}

// referencePath returns the segments of a reference such as data.envoy["authz"].allow, without data.
func referencePath(query string) ([]string, bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(query), "data")
	var segments []string
	for ok && rest != "" {
		segment := ""
		switch {
		case strings.HasPrefix(rest, "."):
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			segment, rest = rest[1:end], rest[end:]
			ok = isName(segment)
		case strings.HasPrefix(rest, "[\""):
			quoted, err := strconv.QuotedPrefix(rest[1:])
			if err != nil || !strings.HasPrefix(rest[1+len(quoted):], "]") {
				return nil, false
			}
			rest = rest[len(quoted)+2:]
			segment, err = strconv.Unquote(quoted)
			ok = err == nil && segment != "" && !strings.Contains(segment, "/")
		default:
			ok = false
		}
		segments = append(segments, segment)
	}
	return segments, ok && len(segments) > 0
}

// isName reports whether a segment is one of Rego's names: letters, digits and underscores, no digit first.
func isName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

func (m *migration) takeDryRun(s setting) {
	if v, ok := m.flag(s); ok && v != "false" {
		m.dryRun = v
	}
}

func (m *migration) takeReflection(s setting) {
	if v, ok := m.flag(s); ok && v != "true" {
		m.note(s, "listen", "reflection is always on; it shows the services of the port, no data")
	}
}

func (m *migration) takeDescriptor(s setting) {
	if v, ok := m.scalar(s); ok {
		m.protos = v
	}
}

func (m *migration) takeSkipBody(s setting) {
	if v, ok := m.flag(s); ok && v != "false" {
		m.lost(s, "policy", "not needed: a body is parsed only where the policy reads input.parsed_body; a policy that does reads the body itself now")
	}
}

func (m *migration) takeReceiveSize(s setting) {
	v, ok := m.scalar(s)
	if !ok {
		return
	}
	if strings.Contains(v, "${") {
		m.lost(s, "limits", "a size needs its unit here: write the number, as in 4MiB")
		return
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 {
		m.fail(s, "%q is not a number of bytes", v)
		return
	}
	m.message = sizeText(n)
}

// takeCache takes over how much of http.send's answers is kept. Of no limit, which 0 is, there is none here.
func (m *migration) takeCache(s setting) {
	v, ok := m.scalar(s)
	if !ok {
		return
	}
	n, err := strconv.ParseInt(v, 10, 64)
	switch {
	case strings.Contains(v, "${"):
		m.lost(s, "policy", "a size needs its unit here: write the number, as in policy.capabilities.http_send.cache: 10MiB")
	case err != nil || n < 0:
		m.fail(s, "%q is not a number of bytes", v)
	case n == 0:
		m.lost(s, "policy", "there is always a limit: policy.capabilities.http_send.cache, 10MiB by default")
	default:
		m.cache = sizeText(n)
		m.note(s, "policy", "http.send does not exist here until policy.capabilities.http_send.hosts names whom it may call")
	}
}

// sizeText writes a number of bytes with the largest unit that leaves it whole.
func sizeText(n int64) string {
	switch {
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	default:
		return fmt.Sprintf("%dB", n)
	}
}

func (m *migration) takeBundle(s setting) {
	resource := scalarBelow(s.node, "resource")
	if path, ok := strings.CutPrefix(resource, "file://"); ok {
		m.takeLocalBundle(s, path)
		return
	}
	if resource == "" {
		resource = path.Join("bundles", s.name())
	}
	m.remote = append(m.remote, remoteBundle{setting: s, name: s.name(), service: scalarBelow(s.node, "service"), resource: resource})
}

// takeLocalBundle takes a bundle that is a directory over. What else its section says has no meaning for one.
func (m *migration) takeLocalBundle(s setting, path string) {
	name := m.addBundle(s.name(), path)
	m.localNames[s.name()] = name
	if name != s.name() {
		m.note(s, "policy", fmt.Sprintf("is called %q here", name))
	}
	s.each(func(c setting) {
		switch c.name() {
		case "resource", "service":
		case "signing":
			m.local = append(m.local, c)
		default:
			m.lost(c, "policy", "a path is watched, not polled, and nothing of it is kept elsewhere")
		}
	})
}

// isTarball reports whether a path is that of a bundle's tarball.
func isTarball(path string) bool {
	return strings.HasSuffix(path, ".tar.gz") || strings.HasSuffix(path, ".tar")
}

// takeOldBundle reads the form that OPA had before it knew several bundles.
func (m *migration) takeOldBundle(s setting) {
	name := scalarBelow(s.node, "name")
	prefix := "bundles"
	if child(s.node, "prefix") != nil {
		prefix = scalarBelow(s.node, "prefix")
	}
	m.remote = append(m.remote, remoteBundle{setting: s, name: name, service: scalarBelow(s.node, "service"), resource: path.Join(prefix, name)})
}

func (m *migration) takeConsole(s setting) {
	v, ok := m.flag(s)
	switch {
	case !ok || v == "false":
	case v == "true":
		m.log = "-"
	default:
		m.lost(s, "decision_log", `write decision_log.file yourself: "-" for standard output, or nothing`)
	}
}

func (m *migration) takeLabel(s setting) {
	if v, ok := m.scalar(s); ok {
		m.labels = append(m.labels, labelled{s.name(), v})
	}
}

// takeTracing takes an OTLP collector that is reached by gRPC over, with OPA's defaults for what is not said.
func (m *migration) takeTracing(s setting) {
	switch kind := scalarBelow(s.node, "type"); kind {
	case "":
		m.note(s, "", "OPA writes no traces without a type")
		return
	case "grpc":
	default:
		m.lost(s, "traces", fmt.Sprintf("type %q: traces go to an OTLP collector's gRPC receiver: give its address in traces.otlp", kind))
		return
	}
	t := traces{otlp: cmp.Or(scalarBelow(s.node, "address"), "localhost:4317"), insecure: true, ratio: 1}
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		key, value := s.node.Content[i], s.node.Content[i+1]
		part := setting{path: append(s.path[:len(s.path):len(s.path)], key.Value), line: key.Line, node: value}
		switch key.Value {
		case "type", "address":
		case "encryption":
			t.insecure = value.Value == "off"
			if value.Value == "mtls" {
				m.lost(part, "traces", "Gatehouse shows the collector no certificate of its own")
			}
		case "sample_percentage":
			n, err := strconv.ParseFloat(value.Value, 64)
			if err != nil || n < 0 || n > 100 {
				m.fail(part, "%q is not a percentage", value.Value)
			}
			t.ratio = n / 100
		case "service_name":
			m.lost(part, "traces", `the spans' service.name is "gatehouse"`)
		default:
			m.lost(part, "traces", "the collector's certificate is checked against the system's certificate authorities; spans are batched by OpenTelemetry's defaults")
		}
	}
	if err := checkAddress(t.otlp); err != nil {
		m.fail(s, "address: %v", err)
	}
	m.traces = &t
}
