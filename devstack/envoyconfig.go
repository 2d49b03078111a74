package devstack

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"gatehouse/config"
	"gatehouse/envoy/generate"
	"gatehouse/yamltext"
)

// envoyConfig is the envoy.yaml beside gatehouse.yaml, or the one that would be generated. It is used as it is, but for its addresses.
type envoyConfig struct {
	file   string // "" where it is generated
	doc    yaml.Node
	port   int    // that clients come to
	scheme string // http or https
}

// addresses are those of one run.
type addresses struct {
	envoy, app       int
	gatehouse, admin string // unix sockets
}

const envoyFileName = "envoy.yaml"

// readEnvoyConfig finds the configuration of Envoy.
func readEnvoyConfig(gatehouseYAML string, c *config.Config) (*envoyConfig, error) {
	e := &envoyConfig{file: filepath.Join(filepath.Dir(gatehouseYAML), envoyFileName), scheme: "http"}
	text, err := config.ReadBounded(e.file)
	if errors.Is(err, fs.ErrNotExist) {
		e.file = ""
		text, err = generated(c)
	}
	if err != nil {
		return nil, fmt.Errorf("reading Envoy's configuration: %w", err)
	}
	if err := yaml.Unmarshal(text, &e.doc); err != nil {
		return nil, yamltext.Error(e.file, err)
	}
	listeners := find(e.top(), "static_resources", "listeners")
	if listeners == nil || len(listeners.Content) != 1 {
		return nil, e.wrong(listeners, "it has not one listener: gatehouse up puts its port there")
	}
	port := find(listeners.Content[0], "address", "socket_address", "port_value")
	if port == nil || port.Decode(&e.port) != nil || e.port < 1 || e.port > 65535 {
		return nil, e.wrong(listeners, "its listener has no socket_address with a port_value")
	}
	for _, chain := range items(find(listeners.Content[0], "filter_chains")) {
		if find(chain, "transport_socket") != nil {
			e.scheme = "https"
		}
	}
	return e, nil
}

// generated is what `gatehouse envoy generate` prints.
func generated(c *config.Config) ([]byte, error) {
	g, err := generate.FromConfig(c, "")
	if err != nil {
		return nil, err
	}
	g.TLS, g.MTLS = false, false // on a socket of our own
	return g.YAML()
}

func (e *envoyConfig) top() *yaml.Node {
	if len(e.doc.Content) == 0 {
		return nil
	}
	return e.doc.Content[0]
}

func (e *envoyConfig) wrong(n *yaml.Node, format string, args ...any) error {
	where := e.file
	if n != nil {
		where = fmt.Sprintf("%s:%d", where, n.Line)
	}
	return fmt.Errorf("%s: %s\nmove it away and gatehouse up generates one; gatehouse envoy generate prints that", where, fmt.Sprintf(format, args...))
}

// with is the configuration with the addresses of this run: loopback alone, and sockets that only this user can reach.
func (e *envoyConfig) with(a addresses) ([]byte, error) {
	top := e.top()
	set(top, "admin", fmt.Sprintf("{address: {pipe: {path: %q, mode: 384}}}", a.admin)) // 0600
	listener := find(top, "static_resources", "listeners").Content[0]
	set(listener, "address", fmt.Sprintf("{socket_address: {address: 127.0.0.1, port_value: %d}}", a.envoy))
	endpoints := map[string]string{
		"app":       fmt.Sprintf("{socket_address: {address: 127.0.0.1, port_value: %d}}", a.app),
		"gatehouse": fmt.Sprintf("{pipe: {path: %q}}", a.gatehouse),
	}
	clusters := find(top, "static_resources", "clusters")
	for _, cluster := range items(clusters) {
		name := ""
		if n := find(cluster, "name"); n != nil {
			name = n.Value
		}
		address, ours := endpoints[name]
		if !ours {
			continue
		}
		set(cluster, "type", "STATIC")
		set(cluster, "load_assignment", fmt.Sprintf("{cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}", name, address))
		remove(cluster, "transport_socket")
		remove(cluster, "health_checks")
		delete(endpoints, name)
	}
	for name := range endpoints {
		return nil, e.wrong(clusters, "it has no cluster %q", name)
	}
	for _, filter := range e.filters(listener) {
		relax(filter)
	}
	return yaml.Marshal(&e.doc)
}

// filters are the typed configurations of the connection manager and of its HTTP filters.
func (e *envoyConfig) filters(listener *yaml.Node) (all []*yaml.Node) {
	for _, chain := range items(find(listener, "filter_chains")) {
		for _, filter := range items(find(chain, "filters")) {
			manager := find(filter, "typed_config")
			all = append(all, manager)
			for _, inner := range items(find(manager, "http_filters")) {
				all = append(all, find(inner, "typed_config"))
			}
		}
	}
	return all
}

// accessLine is one line for each request, with what `gatehouse explain` wants of it. Envoy replaces what clients could have put between the quotes.
const accessLine = `%RESPONSE_CODE% %REQ(:METHOD)% %REQ(:PATH)% %DURATION%ms %RESP(X-DECISION-ID)%` + "\n"

// relax gives questions more time than on a server, as the machine of a developer is busy now and then, and makes the access log short.
func relax(typed *yaml.Node) {
	if timeout := find(typed, "grpc_service", "timeout"); timeout != nil {
		timeout.Value = "5s"
	}
	for _, log := range items(find(typed, "access_log")) {
		if t := find(log, "typed_config"); t != nil && find(t, "log_format") == nil && find(t, "@type") != nil {
			set(t, "log_format", fmt.Sprintf("{text_format_source: {inline_string: %q}}", accessLine))
		}
	}
}

// find follows keys of mappings, through aliases; nil where they lead nowhere.
func find(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		for n != nil && n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		if n == nil || n.Kind != yaml.MappingNode {
			return nil
		}
		var found *yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				found = n.Content[i+1]
			}
		}
		n = found
	}
	return n
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// set puts a value that is YAML itself under a key of a mapping.
func set(n *yaml.Node, key, value string) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(value), &doc); err != nil || n == nil || n.Kind != yaml.MappingNode {
		return // what we write is YAML
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = doc.Content[0]
			return
		}
	}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, doc.Content[0])
}

func remove(n *yaml.Node, key string) {
	for i := 0; n != nil && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content = append(n.Content[:i], n.Content[i+2:]...)
			return
		}
	}
}
