package migrate

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/decisionlog"
	"gatehouse/upstream"
)

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

// takeService takes a service over: where it is goes to what uses it, the rest is a service here.
func (m *migration) takeService(s setting) {
	out := &service{setting: s, url: scalarBelow(s.node, "url"), oci: scalarBelow(s.node, "type") == "oci"}
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
	if u, err := url.Parse(out.url); err == nil && u.Scheme == "http" && !upstream.IsLoopback(u.Hostname()) && !strings.Contains(out.url, "${") {
		out.lines = append(out.lines, "    plain_http: true")
		m.note(c, "services", "requests and credentials go to this service unencrypted, as they did: https is better")
	}
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

// oauth2 takes the grant of client credentials over. Of another one nothing is: serve would not start with a part of it.
func (m *migration) oauth2(out *service, s setting) {
	var parts []string
	file := fileName(out.setting.name()) + ".secret"
	const only = "oauth2 is the grant of client credentials with a secret"
	grant := scalarBelow(s.node, "grant_type")
	whole := (grant == "" || grant == "client_credentials") && child(s.node, "client_secret") != nil
	s.each(func(c setting) {
		switch c.name() {
		case "token_url", "client_id":
			parts = append(parts, c.name()+": "+quote(c.node.Value))
		case "client_secret":
			if !whole {
				m.lost(c, "services", only)
				return
			}
			m.todo(c, file)
		case "scopes":
			parts = append(parts, "scopes: "+flowList(c.node))
		case "grant_type":
			if c.node.Value != "client_credentials" {
				m.lost(c, "services", "oauth2 is the grant of client credentials")
			}
		default:
			m.lost(c, "services", only)
		}
	})
	if !whole {
		m.note(s, "services", "the service is asked without a credential: put a token for it into a file and name that in bearer_file")
		return
	}
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
	if v := scalarBelow(s.node, "service"); v != "" {
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

// useService is the service that something names, or the only one there is; nil with a finding where there is none.
func (m *migration) useService(s setting, name, section string) *service {
	if name == "" && len(m.serviceNames) == 1 {
		name = m.serviceNames[0]
	}
	found := m.services[name]
	switch {
	case found == nil:
		m.lost(s, section, fmt.Sprintf("there is no service %q: its address is unknown", name))
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
