package routes

import (
	"bytes"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

func itoa(i int) string { return strconv.Itoa(i) }

// YAML prints the table as routes.yaml. Parse reads it back to the same table; comments of a file are not kept.
func (t *Table) YAML() []byte {
	s := t.spec
	doc := &mapNode{}
	doc.text("framework", s.framework)
	doc.optionalText("source", s.source)
	doc.optionalText("server", ifNot(s.server, "wsgi"))
	switch {
	case s.mount.to != "":
		m := &mapNode{flow: true}
		m.text("prefix", s.mount.prefix)
		m.text("rewrite", s.mount.to)
		doc.add("mount", m.node())
	default:
		doc.optionalText("mount", s.mount.prefix)
	}
	doc.optionalText("root_path", s.rootPath)
	doc.unless("strict_slashes", s.strictSlashes, true)
	doc.unless("merge_slashes", s.mergeSlashes, true)
	doc.unless("redirect_defaults", s.redirectDefaults, true)
	doc.unless("automatic_options", s.automaticOptions, true)
	doc.unless("host_matching", s.hostMatching, false)
	doc.optionalText("subdomain_matching", s.serverName)
	doc.unless("redirect_slashes", s.redirectSlashes, true)
	doc.unless("append_slash", s.appendSlash, true)
	if len(s.converters) > 0 {
		all := &mapNode{}
		for _, c := range s.converters {
			one := &mapNode{flow: true}
			one.text("regex", c.regex)
			if c.weight != 100 {
				one.add("weight", scalar(itoa(c.weight), "!!int"))
			}
			if s.framework == Flask {
				one.unless("part_isolating", c.segment, !strings.Contains(c.regex, "/"))
			}
			one.unless("exact", c.exact, false)
			all.add(c.name, one.node())
		}
		doc.add("converters", all.node())
	}
	doc.add("routes", routeNodes(s.routes))
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(doc.node()); err != nil {
		return nil // a tree of plain nodes always encodes
	}
	return out.Bytes()
}

func routeNodes(specs []routeSpec) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range specs {
		list.Content = append(list.Content, specs[i].node())
	}
	return list
}

// node is the entry's short form where there is nothing to add to the route.
func (s *routeSpec) node() *yaml.Node {
	m := &mapNode{}
	head := s.template
	if !s.isGroup() {
		head = "ANY"
		if s.methods != nil {
			head = strings.Join(s.methods, ", ")
		}
		if s.template != "" {
			head += " " + s.template
		}
	}
	m.text(s.key, head)
	m.optionalText("name", s.name)
	m.optionalText("host", s.host)
	m.list("tags", s.tags)
	m.list("allow", s.allow.Names())
	m.optionalText("body", s.body)
	m.optional("strict_slashes", s.strictSlashes)
	m.optional("merge_slashes", s.mergeSlashes)
	m.optional("automatic_options", s.automaticOptions)
	m.optional("append_slash", s.appendSlash)
	m.optional("redirect_slashes", s.redirectSlashes)
	m.unless("redirects", s.redirects, false)
	m.unless("exclusive", s.exclusive, false)
	m.unless("fallback", s.fallback, false)
	m.unless("unsure", s.unsure, false)
	m.unless("guess", s.guess, false)
	m.unless("own", s.own, false)
	m.optionalText("root_path", s.rootPath)
	if len(s.defaults) > 0 {
		values := &mapNode{flow: true}
		for _, d := range s.defaults {
			values.add(d.name, scalar(d.text, d.kind))
		}
		m.add("defaults", values.node())
	}
	m.optionalText("unsupported", s.unsupported)
	if s.isGroup() {
		m.add("routes", routeNodes(s.routes))
	}
	if s.key == "route" && len(m.content) == 2 {
		return m.content[1]
	}
	return m.node()
}

// mapNode builds a mapping in a fixed order.
type mapNode struct {
	content []*yaml.Node
	flow    bool
}

func (m *mapNode) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Content: m.content}
	if m.flow {
		n.Style = yaml.FlowStyle
	}
	return n
}

func scalar(text, tag string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: text, Tag: tag}
	if tag == "!!str" {
		n.SetString(text)
	}
	return n
}

func (m *mapNode) add(key string, value *yaml.Node) {
	m.content = append(m.content, scalar(key, "!!str"), value)
}

func (m *mapNode) text(key, value string) { m.add(key, scalar(value, "!!str")) }

func (m *mapNode) optionalText(key, value string) {
	if value != "" {
		m.text(key, value)
	}
}

func (m *mapNode) unless(key string, value, normal bool) {
	if value != normal {
		m.add(key, scalar(strconv.FormatBool(value), "!!bool"))
	}
}

func (m *mapNode) optional(key string, value *bool) {
	if value != nil {
		m.add(key, scalar(strconv.FormatBool(*value), "!!bool"))
	}
}

func (m *mapNode) list(key string, values []string) {
	if len(values) == 0 {
		return
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, v := range values {
		list.Content = append(list.Content, scalar(v, "!!str"))
	}
	m.add(key, list)
}

func ifNot(value, normal string) string {
	if value == normal {
		return ""
	}
	return value
}
