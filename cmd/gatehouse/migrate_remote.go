package main

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/decisionlog"
)

// What an OPA configuration says of services, bundles that come from them, and what is sent to them.

// service is one of OPA's services, on its way to one of ours.
type service struct {
	setting setting
	url     string // without user and password
	ca      string
	oci     bool
	secret  bool     // it has a credential
	lines   []string // of our configuration, below the name
	used    bool
}

// opaKey is one of OPA's keys.
type opaKey struct {
	setting         setting
	algorithm, file string
	scope           string
	missing         bool // the file has to be made
	used            bool
}

// each walks the members of a mapping.
func (s setting) each(visit func(setting)) {
	if s.node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		key, value := s.node.Content[i], s.node.Content[i+1]
		visit(setting{path: append(slices.Clone(s.path), key.Value), line: key.Line, node: value})
	}
}

// below is a member, with its path; ok is false where there is none.
func (s setting) below(key string) (found setting, ok bool) {
	s.each(func(c setting) {
		if c.name() == key {
			found, ok = c, true
		}
	})
	return found, ok
}

// fileName makes a name that a file can have.
func fileName(name string) string {
	return cmp.Or(strings.Trim(notInName.ReplaceAllString(name, "-"), "-."), "service")
}

// takeService takes a service over: where it is goes to what uses it, the rest is a service here.
func (m *migration) takeService(s setting) {
	out := &service{setting: s, url: text(s.node, "url"), oci: text(s.node, "type") == "oci"}
	add := func(format string, args ...any) { out.lines = append(out.lines, fmt.Sprintf(format, args...)) }
	s.each(func(c setting) {
		switch c.name() {
		case "name", "url":
			m.serviceURL(out, c)
		case "type":
			if v := c.node.Value; v != "oci" && v != "" {
				m.lost(c, "services", "a service here is asked over HTTP, or as a registry where it is one of an image")
			}
		case "credentials":
			m.credentials(out, c)
		case "headers":
			c.each(func(h setting) {
				v := h.node.Value
				if (decisionlog.Redact{}).Shown("", nil).Header(h.name(), v) != v && !isVariable(v) {
					m.lost(h, "services", "headers here are not for secrets: put it into the file of bearer_file, or what takes its place")
					return
				}
				add("    headers: {%s: %s}", quote(h.name()), quote(h.node.Value))
			})
		case "tls":
			c.each(func(t setting) {
				if t.name() == "ca_cert" {
					out.ca = m.relative(t.node.Value)
				} else if t.name() != "system_ca_required" || t.node.Value == "true" {
					m.lost(t, "services", "authorities are those of ca, and where that is not set the system's")
				}
			})
		case "allow_insecure_tls":
			if c.node.Value != "false" {
				m.lost(c, "services", "a server is always verified: name its authority in ca")
			}
		case "response_header_timeout_seconds":
			m.lost(c, "services", "an answer is waited for as long as the request may take; a sink has a timeout of its own")
		default:
			m.lost(c, "services", "not a setting of a service here")
		}
	})
	if out.ca != "" {
		add("    ca: %s", quote(out.ca))
	}
	out.lines = mergeHeaders(out.lines)
	m.services[s.name()] = out
	m.serviceNames = append(m.serviceNames, s.name())
}

// mergeHeaders puts several headers into one mapping.
func mergeHeaders(lines []string) (out []string) {
	var headers []string
	for _, line := range lines {
		if inner, ok := strings.CutPrefix(line, "    headers: {"); ok {
			headers = append(headers, strings.TrimSuffix(inner, "}"))
		} else {
			out = append(out, line)
		}
	}
	if len(headers) > 0 {
		out = append(out, "    headers: {"+strings.Join(headers, ", ")+"}")
	}
	return out
}

func (m *migration) serviceURL(out *service, c setting) {
	if c.name() != "url" {
		return
	}
	scheme, rest, ok := strings.Cut(out.url, "://")
	if host, _, _ := strings.Cut(rest, "/"); ok && strings.Contains(host, "@") {
		out.url = scheme + "://" + rest[strings.LastIndex(host, "@")+1:]
		m.lost(c, "services", "user and password of the address are left out: what the server wants belongs into bearer_file or oauth2")
	}
	if u, err := url.Parse(out.url); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) && !strings.Contains(out.url, "${") {
		out.lines = append(out.lines, "    plain_http: true")
		m.note(c, "services", "requests and credentials go to this service unencrypted, as they did: https is better")
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// credentials takes one kind of credential over.
func (m *migration) credentials(out *service, c setting) {
	out.secret = true
	if out.oci {
		m.lost(c, "services", "a registry's credential is in credential_file of the bundle, as docker login writes it")
		return
	}
	c.each(func(kind setting) {
		switch kind.name() {
		case "bearer":
			m.bearer(out, kind)
		case "client_tls":
			m.clientTLS(out, kind)
		case "oauth2":
			m.oauth2(out, kind)
		case "s3_signing":
			m.awsSigning(out, kind)
		case "gcp_metadata":
			m.inline(out, kind, "gcp", map[string]string{"audience": "audience", "scopes": "scopes", "endpoint": "endpoint"})
		case "azure_managed_identity":
			m.inline(out, kind, "azure", map[string]string{"resource": "resource", "client_id": "client_id", "endpoint": "endpoint"})
		default:
			m.lost(kind, "services", "not a kind of credential here: bearer_file, oauth2, aws, gcp, azure, and a client certificate in cert and key")
		}
	})
}

// todo files that a secret has to be put into a file by hand: it stands in no output of ours.
func (m *migration) todo(s setting, file string) {
	m.lost(s, "services", fmt.Sprintf("secrets stand in files here: put this one into %s", file))
}

func (m *migration) bearer(out *service, s setting) {
	s.each(func(c setting) {
		switch c.name() {
		case "token_path":
			out.lines = append(out.lines, "    bearer_file: "+quote(m.relative(c.node.Value)))
		case "token":
			file := fileName(out.setting.name()) + ".token"
			out.lines = append(out.lines, "    bearer_file: "+quote(file))
			m.todo(c, file)
		case "scheme":
			if !strings.EqualFold(c.node.Value, "bearer") {
				m.lost(c, "services", "the Authorization header's scheme is always Bearer")
			}
		case "encode":
			m.lost(c, "services", "the token is sent as it stands in the file")
		default:
			m.lost(c, "services", "not a setting of bearer_file")
		}
	})
}

func (m *migration) clientTLS(out *service, s setting) {
	s.each(func(c setting) {
		switch c.name() {
		case "cert":
			out.lines = append(out.lines, "    cert: "+quote(m.relative(c.node.Value)))
		case "private_key":
			out.lines = append(out.lines, "    key: "+quote(m.relative(c.node.Value)))
		case "ca_cert":
			out.ca = cmp.Or(out.ca, m.relative(c.node.Value)) // that of tls, where both are there
		case "cert_reread_interval_seconds": // read anew for each connection
		default:
			m.lost(c, "services", "a client certificate is cert and key, without a passphrase")
		}
	})
}

func (m *migration) oauth2(out *service, s setting) {
	var parts []string
	file := fileName(out.setting.name()) + ".secret"
	s.each(func(c setting) {
		switch c.name() {
		case "token_url", "client_id":
			parts = append(parts, c.name()+": "+quote(c.node.Value))
		case "client_secret":
			m.todo(c, file)
		case "scopes":
			parts = append(parts, "scopes: "+flowList(c.node))
		case "grant_type":
			if c.node.Value != "client_credentials" {
				m.lost(c, "services", "oauth2 is the grant of client credentials")
			}
		default:
			m.lost(c, "services", "oauth2 is the grant of client credentials with a secret")
		}
	})
	parts = append(parts, "client_secret_file: "+quote(file))
	out.lines = append(out.lines, "    oauth2: {"+strings.Join(parts, ", ")+"}")
}

func (m *migration) awsSigning(out *service, s setting) {
	from := map[string]string{"environment_credentials": "environment", "metadata_credentials": "metadata", "web_identity_credentials": "web_identity", "profile_credentials": "profile"}
	var parts []string
	s.each(func(c setting) {
		switch {
		case from[c.name()] != "" && len(parts) == 0:
			parts = append(parts, "from: "+from[c.name()])
			c.each(func(p setting) {
				switch p.name() {
				case "aws_region":
					parts = append(parts, "region: "+quote(p.node.Value))
				case "profile":
					parts = append(parts, "profile: "+quote(p.node.Value))
				default:
					m.lost(p, "services", "what the credentials are comes from where AWS's own tools have it")
				}
			})
		case c.name() == "service":
		default:
			m.lost(c, "services", "aws takes its credentials from one place: environment, metadata, web_identity or profile")
		}
	})
	if len(parts) == 0 {
		return
	}
	if v := text(s.node, "service"); v != "" {
		parts = append(parts, "service: "+quote(v))
	}
	out.lines = append(out.lines, "    aws: {"+strings.Join(parts, ", ")+"}")
}

// inline takes a mapping over whose members have the same meaning here.
func (m *migration) inline(out *service, s setting, name string, names map[string]string) {
	var parts []string
	s.each(func(c setting) {
		switch ours := names[c.name()]; {
		case ours == "":
			m.lost(c, "services", "not a setting of "+name+" here")
		case c.node.Kind == yaml.SequenceNode:
			parts = append(parts, ours+": "+flowList(c.node))
		default:
			parts = append(parts, ours+": "+quote(c.node.Value))
		}
	})
	out.lines = append(out.lines, "    "+name+": {"+strings.Join(parts, ", ")+"}")
}

func flowList(n *yaml.Node) string {
	var parts []string
	for _, item := range n.Content {
		parts = append(parts, quote(item.Value))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// takeKey takes a key for signatures over. A public key is written beside the result, where that is a file.
func (m *migration) takeKey(s setting) {
	key := &opaKey{setting: s, algorithm: cmp.Or(text(s.node, "algorithm"), "RS256"), scope: text(s.node, "scope"), file: fileName(s.name()) + ".pem"}
	m.keys[s.name()] = key
	m.keyNames = append(m.keyNames, s.name())
	s.each(func(c setting) {
		switch c.name() {
		case "algorithm", "scope":
		case "key":
			if info, err := os.Stat(c.node.Value); err == nil && info.Mode().IsRegular() {
				key.file = m.relative(c.node.Value)
			} else if strings.HasPrefix(strings.TrimSpace(c.node.Value), "-----BEGIN ") && !strings.Contains(c.node.Value, "PRIVATE") && m.output != "-" {
				m.files = append(m.files, beside{path: filepath.Join(m.dir, key.file), text: strings.TrimSpace(c.node.Value) + "\n"})
				m.note(c, "policy", "is written to "+key.file)
			} else {
				m.lost(c, "policy", "keys stand in files here: put this one into "+key.file)
			}
		case "private_key":
			m.lost(c, "policy", "only public keys belong into a server's configuration; gatehouse bundle sign has the private one")
		default:
			m.lost(c, "policy", "not a setting of a key here")
		}
	})
}

// beside is a file to be written with the result.
type beside struct{ path, text string }

// signing gives a bundle's signing section.
func (m *migration) signing(s setting) string {
	names, scope := slices.Clone(m.keyNames), text(s.node, "scope")
	if id := text(s.node, "keyid"); id != "" {
		names = []string{id}
	}
	s.each(func(c setting) {
		switch c.name() {
		case "keyid", "scope":
		case "exclude_files":
			m.lost(c, "policy", "every file of a signed bundle must be signed")
		default:
			m.lost(c, "policy", "not a setting of signing here")
		}
	})
	var keys []string
	symmetric := ""
	for _, name := range names {
		key := m.keys[name]
		if key == nil {
			key = &opaKey{algorithm: "RS256", file: fileName(name) + ".pem"}
			m.lost(s, "policy", fmt.Sprintf("keys has no %q: the bundle needs its public key in %s, and the right algorithm", name, key.file))
		}
		key.used = true
		one := fmt.Sprintf("id: %s, file: %s, algorithm: %s", quote(name), quote(key.file), quote(key.algorithm))
		if scope := cmp.Or(scope, key.scope); scope != "" {
			one += ", scope: " + quote(scope)
		}
		if strings.HasPrefix(key.algorithm, "HS") {
			symmetric = ", allow_hs256: true"
		}
		keys = append(keys, "{"+one+"}")
	}
	return "signing: {keys: [" + strings.Join(keys, ", ") + "]" + symmetric + "}"
}

// takeBundles takes over each bundle that is fetched, once all services and keys are known.
func (m *migration) takeBundles() {
	for _, s := range m.local {
		m.signed[m.localNames[s.path[len(s.path)-2]]] = m.signing(s)
	}
	for _, r := range m.remote {
		from := m.useService(r.setting, r.service, "policy")
		if from == nil {
			continue
		}
		b := migratedBundle{name: m.bundleName(r.name, r.setting)}
		add := func(format string, args ...any) { b.lines = append(b.lines, fmt.Sprintf(format, args...)) }
		resource := r.resource
		if plain, query, ok := strings.Cut(resource, "?"); ok && !harmlessQuery(query) {
			resource = plain
			named := r.setting
			if c, ok := r.setting.below("resource"); ok {
				named = c
			}
			m.lost(named, "policy", "the query of its resource is left out, because it may hold a secret")
		}
		if from.oci {
			add("image: %s", quote(resource))
			if len(from.lines) > 0 && !from.secret {
				add("service: %s", quote(from.setting.name()))
				from.used = true
			}
		} else {
			add("url: %s", quote(joinURL(from.url, resource)))
			add("service: %s", quote(from.setting.name()))
			from.used = true
		}
		m.bundleSettings(&b, r.setting, !from.oci)
		m.fetched = append(m.fetched, b)
	}
	for _, name := range m.serviceNames {
		if s := m.services[name]; !s.used && !s.oci {
			m.note(s.setting, "services", "nothing uses it")
		}
	}
	for _, name := range m.keyNames {
		if k := m.keys[name]; !k.used {
			m.lost(k.setting, "policy", "no bundle is verified with it")
		}
	}
}

// harmlessQuery reports whether a query only says what of an object is meant, as of one in Google's storage.
func harmlessQuery(query string) bool {
	values, err := url.ParseQuery(query)
	for name := range values {
		if !slices.Contains([]string{"alt", "generation", "ref", "version", "versionId"}, name) {
			return false
		}
	}
	return err == nil && !strings.Contains(query, "${")
}

// migratedBundle is a bundle that is fetched.
type migratedBundle struct {
	name  string
	lines []string
}

func (m *migration) bundleName(name string, s setting) string {
	bare := m.addBundle(name, "")
	m.bundles = m.bundles[:len(m.bundles)-1]
	m.bundleNames = append(m.bundleNames, bare)
	if bare != name {
		m.note(s, "policy", fmt.Sprintf("is called %q here", bare))
	}
	return bare
}

// bundleSettings takes over how a bundle is fetched and verified.
func (m *migration) bundleSettings(b *migratedBundle, s setting, longPoll bool) {
	add := func(format string, args ...any) { b.lines = append(b.lines, fmt.Sprintf(format, args...)) }
	long := "0s" // OPA asks for it only where it is told to
	s.each(func(c setting) {
		switch c.name() {
		case "service", "resource", "name", "prefix":
		case "persist":
			m.persist = m.persist || c.node.Value == "true"
		case "polling":
			if interval := m.polling(c); interval > 0 {
				add("interval: %ds", interval)
			}
			if seconds := text(c.node, "long_polling_timeout_seconds"); seconds != "" {
				long = seconds + "s"
			}
		case "signing":
			add("%s", m.signing(c))
		case "size_limit_bytes":
			m.lost(c, "policy", "the size of bundles is bounded here anyway")
		case "trigger":
			if c.node.Value != "periodic" {
				m.lost(c, "policy", "bundles are asked for periodically; gatehouse bundle pull fetches one by hand")
			}
		default:
			m.lost(c, "policy", "not a setting of a bundle here")
		}
	})
	if longPoll {
		add("long_poll: %s", long)
	}
}

// polling is the middle between OPA's two delays: an interval here is a fifth more or less.
func (m *migration) polling(s setting) int64 {
	low, high := int64(60), int64(120)
	s.each(func(c setting) {
		n, err := strconv.ParseInt(c.node.Value, 10, 64)
		switch {
		case c.name() != "min_delay_seconds" && c.name() != "max_delay_seconds" && c.name() != "long_polling_timeout_seconds":
			m.lost(c, "policy", "not a setting of polling here")
		case err != nil || n < 1 || n > 1<<20:
			m.fail(c, "%q is not a number of seconds", c.node.Value)
		case c.name() == "min_delay_seconds":
			low, high = n, max(high, n)
			if _, both := s.below("max_delay_seconds"); !both {
				high = n
			}
		case c.name() == "max_delay_seconds":
			high = n
		}
	})
	return max(1, (min(low, high)+high)/2)
}

// useService is the service that something names, or the only one there is; nil with a finding where there is none.
func (m *migration) useService(s setting, name, section string) *service {
	if name == "" && len(m.serviceNames) == 1 {
		name = m.serviceNames[0]
	}
	found := m.services[name]
	switch {
	case found == nil:
		m.lost(s, section, fmt.Sprintf("there is no service %q: nobody knows where it is", name))
	case found.url == "" && !found.oci:
		m.lost(s, section, fmt.Sprintf("the service %q has no url", name))
		return nil
	}
	return found
}

// joinURL joins a service's URL and a resource.
func joinURL(service, resource string) string {
	if strings.HasPrefix(resource, "https://") || strings.HasPrefix(resource, "http://") {
		return resource
	}
	return strings.TrimSuffix(service, "/") + "/" + strings.TrimPrefix(resource, "/")
}

// takeLogs takes over where decisions go, once all services are known.
func (m *migration) takeLogs() {
	s := m.logs
	if s.node == nil {
		return
	}
	m.takeLogSettings(s)
	target, ok := s.below("service")
	if !ok {
		return
	}
	from := m.useService(target, target.node.Value, "decision_log")
	if from == nil {
		return
	}
	from.used = true
	resource := cmp.Or(text(s.node, "resource_path"), "/logs")
	if partition := text(s.node, "partition_name"); partition != "" && text(s.node, "resource_path") == "" {
		resource = path.Join("/logs", partition)
	}
	m.sink = []string{"url: " + quote(joinURL(from.url, resource)), "service: " + quote(from.setting.name())}
	if reporting, ok := s.below("reporting"); ok {
		reporting.each(m.takeReporting)
	}
	m.persist = true
}

func (m *migration) takeLogSettings(s setting) {
	s.each(func(c setting) {
		switch c.name() {
		case "service", "resource_path", "partition_name", "resource":
		case "console":
			m.takeConsole(c)
		case "mask_decision":
			m.defaultRule(c, "mask")
		case "drop_decision":
			m.defaultRule(c, "drop")
		case "reporting":
			if _, sent := s.below("service"); !sent {
				m.lost(c, "decision_log", "it is about what is sent, and nothing is")
			}
		case "request_context":
			m.lost(c, "decision_log", "an entry holds the request's headers in its input already")
		case "nd_builtin_cache":
			m.lost(c, "decision_log", "results of non-deterministic built-ins are not logged")
		default:
			m.lost(c, "decision_log", "sinks are described in docs/decisionlog.md")
		}
	})
}

// defaultRule is for the rules about the log, which have one name here.
func (m *migration) defaultRule(s setting, name string) {
	if strings.Trim(s.node.Value, "/") != "system/log/"+name {
		m.lost(s, "decision_log", fmt.Sprintf("the rule is data.system.log.%s, as it is by default: another one is not asked", name))
	}
}

func (m *migration) takeReporting(c setting) {
	n, err := strconv.ParseInt(c.node.Value, 10, 64)
	switch c.name() {
	case "upload_size_limit_bytes":
		if err != nil || n < 1 {
			m.fail(c, "%q is not a number of bytes", c.node.Value)
			return
		}
		bounded := min(max(n, 1<<10), 1<<20)
		m.sink = append(m.sink, "max_request: "+sizeText(bounded))
		if bounded != n {
			m.lost(c, "decision_log", "a request is from 1KiB to 1MiB")
		}
	case "min_delay_seconds":
		if err != nil || n < 1 || n > 1<<20 {
			m.fail(c, "%q is not a number of seconds", c.node.Value)
			return
		}
		m.sink = append(m.sink, fmt.Sprintf("delay: %ds", n))
	case "max_delay_seconds":
		m.note(c, "decision_log", "a request is sent once it is full, or after delay")
	case "trigger":
		if c.node.Value != "periodic" {
			m.lost(c, "decision_log", "decisions are sent as they come")
		}
	case "max_decisions_per_second":
		m.lost(c, "decision_log", "nothing is left out: what cannot be sent yet waits in state_dir")
	case "buffer_size_limit_bytes", "buffer_size_limit_events", "buffer_type":
		m.lost(c, "decision_log", "what cannot be sent yet waits in state_dir, up to decision_log.max_size; then on_full decides")
	default:
		m.lost(c, "decision_log", "not a setting of a sink here")
	}
}

// takeStatus takes over where the state of the bundles is reported, once all services are known.
func (m *migration) takeStatus() {
	s := m.state
	if s.node == nil {
		return
	}
	s.each(func(c setting) {
		switch c.name() {
		case "service", "partition_name":
		case "prometheus":
			m.note(c, "status", "/metrics on the admin port always has the bundles")
		case "trigger":
			if c.node.Value != "periodic" {
				m.lost(c, "status", "it is reported whenever it changes, and each interval")
			}
		default:
			m.lost(c, "status", "read /status and /metrics on the admin port")
		}
	})
	target, ok := s.below("service")
	if !ok {
		return
	}
	if from := m.useService(target, target.node.Value, "status"); from != nil {
		from.used = true
		m.status = []string{"url: " + quote(joinURL(from.url, path.Join("/status", text(s.node, "partition_name")))), "service: " + quote(from.setting.name())}
	}
}

func (m *migration) takePersistence(s setting) {
	if v, ok := m.scalar(s); ok {
		m.stateDir = filepath.Join(v, "gatehouse") // a folder of our own
	}
}
