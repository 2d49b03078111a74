package routes

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

func itoa(i int) string { return strconv.Itoa(i) }

// YAML prints the table as routes.yaml. Parse reads the same table back; a file's comments are not kept.
func (t *Table) YAML() []byte {
	s := t.spec
	doc := &mapNode{}
	doc.addText("framework", s.framework)
	doc.optionalText("source", s.source)
	doc.optionalText("server", ifNot(s.server, "wsgi"))
	switch {
	case s.mount.to != "":
		m := &mapNode{flow: true}
		m.addText("prefix", s.mount.prefix)
		m.addText("rewrite", s.mount.to)
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
			one.addText("regex", c.regex)
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
		return nil // plain nodes always encode
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

// node is the entry, in short form where it has no other keys.
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
	m.addText(s.key, head)
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
	m.unless("own", s.manual, false)
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

func (m *mapNode) addText(key, value string) { m.add(key, scalar(value, "!!str")) }

func (m *mapNode) optionalText(key, value string) {
	if value != "" {
		m.addText(key, value)
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

// Merge returns table as the new content of the route table in text, and keeps from there what belongs to the
// maintainer: comments, mounts, and on each remaining route its tags, allow and body. A confirmed route stays
// confirmed. The second result is the new content, parsed.
func Merge(text []byte, table *Table) ([]byte, *Table, error) {
	var old, made yaml.Node
	if err := yaml.Unmarshal(text, &old); err != nil {
		return nil, nil, err
	}
	if err := yaml.Unmarshal(table.YAML(), &made); err != nil {
		return nil, nil, err
	}
	copyComments(&made, &old)
	mergeSettings(made.Content[0], old.Content[0])
	before := map[string][]*yaml.Node{}
	eachRoute(old.Content[0], "", func(key string, entry *yaml.Node) { before[key] = append(before[key], entry) })
	eachRoute(made.Content[0], "", func(key string, entry *yaml.Node) {
		if same := before[key]; len(same) > 0 {
			before[key] = same[1:]
			mergeRoute(entry, same[0])
		}
	})
	keepOwn(made.Content[0], old.Content[0])
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&made); err != nil {
		return nil, nil, err
	}
	merged, _, err := Parse("the merged table", out.Bytes())
	if err != nil {
		return nil, nil, err
	}
	if left := Diff(merged, table); len(left) > 0 {
		return nil, nil, fmt.Errorf("what the file keeps does not go with the application: %s", left[0])
	}
	return out.Bytes(), merged, nil
}

// eachRoute calls use with every entry below routes: and its identity, groups before their entries.
func eachRoute(node *yaml.Node, within string, use func(key string, entry *yaml.Node)) {
	list := valueOf(node, "routes")
	if list == nil {
		return
	}
	for _, entry := range list.Content {
		key := within + "\n" + headOf(entry)
		use(key, entry)
		if entry.Kind == yaml.MappingNode {
			eachRoute(entry, key, use)
		}
	}
}

// headOf is an entry's methods and template: "GET,POST /orders".
func headOf(entry *yaml.Node) string {
	kind, head := "route", entry.Value
	if entry.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(entry.Content); i += 2 {
			switch k := entry.Content[i].Value; k {
			case "route", "re_path", "include", "re_include", "mount", "host_mount":
				kind, head = k, entry.Content[i+1].Value
			case "host":
				kind += " " + entry.Content[i+1].Value
			}
		}
	}
	methods, template, _ := strings.Cut(strings.ReplaceAll(head, ", ", ","), " ")
	sorted := strings.Split(methods, ",")
	slices.Sort(sorted)
	return kind + " " + strings.Join(sorted, ",") + " " + template
}

func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	if mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// mergeSettings keeps the settings that depend on the deployment, and the comments.
func mergeSettings(made, old *yaml.Node) {
	copyComments(made, old)
	var routesKey []*yaml.Node // stays last
	if n := len(made.Content); n >= 2 && made.Content[n-2].Value == "routes" {
		routesKey = made.Content[n-2:]
		made.Content = slices.Clip(made.Content[:n-2])
	}
	kept := []string{"mount", "root_path"}
	if a, b := valueOf(made, "framework"), valueOf(old, "framework"); a != nil && b != nil && a.Value == b.Value {
		kept = append(kept, "server") // only for Django
	}
	for i := 0; i+1 < len(old.Content); i += 2 {
		if slices.Contains(kept, old.Content[i].Value) {
			setValue(made, old.Content[i], old.Content[i+1])
		}
	}
	made.Content = append(made.Content, routesKey...)
	for i := 0; i+1 < len(old.Content); i += 2 {
		for j := 0; j+1 < len(made.Content); j += 2 {
			if made.Content[j].Value == old.Content[i].Value {
				copyComments(made.Content[j], old.Content[i])
				copyComments(made.Content[j+1], old.Content[i+1])
			}
		}
	}
}

func setValue(mapping, key, value *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key.Value {
			mapping.Content[i], mapping.Content[i+1] = key, value
			return
		}
	}
	mapping.Content = append(mapping.Content, key, value)
}

// mergeRoute keeps the maintainer's keys of one entry.
func mergeRoute(made, old *yaml.Node) {
	copyComments(made, old)
	if old.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(old.Content); i += 2 {
			switch key := old.Content[i]; key.Value {
			case "tags", "allow", "body":
				if made.Kind == yaml.ScalarNode {
					head := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: made.Value}
					*made = yaml.Node{Kind: yaml.MappingNode, HeadComment: made.HeadComment, FootComment: made.FootComment,
						Content: []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: "route"}, head}}
				}
				setValue(made, key, old.Content[i+1])
			}
		}
	}
	if valueOf(old, "guess") != nil || made.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(made.Content); i += 2 {
		if made.Content[i].Value == "guess" {
			made.Content = slices.Delete(made.Content, i, i+2)
			return
		}
	}
}

func copyComments(made, old *yaml.Node) {
	made.HeadComment, made.LineComment, made.FootComment = old.HeadComment, old.LineComment, old.FootComment
}

// keepOwn puts the maintainer's own routes back, each after the entry that it followed: order may matter. One whose
// group is gone keeps its group.
func keepOwn(made, old *yaml.Node) {
	from, to := valueOf(old, "routes"), valueOf(made, "routes")
	if from == nil || from.Kind != yaml.SequenceNode {
		return
	}
	if to == nil {
		return
	}
	at := 0 // where the next one is inserted
	for _, entry := range from.Content {
		place := slices.IndexFunc(to.Content, func(e *yaml.Node) bool { return headOf(e) == headOf(entry) })
		switch {
		case isOwn(entry):
			if place < 0 {
				to.Content = slices.Insert(to.Content, at, entry)
				at++
			}
		case place >= 0:
			if valueOf(entry, "routes") != nil {
				keepOwn(to.Content[place], entry)
			}
			at = place + 1
		case hasOwn(entry):
			only := *entry
			only.Content = slices.Clone(entry.Content)
			list := *valueOf(entry, "routes")
			list.Content = slices.DeleteFunc(slices.Clone(list.Content), func(e *yaml.Node) bool { return !hasOwn(e) })
			setValue(&only, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "routes"}, &list)
			to.Content = slices.Insert(to.Content, at, &only)
			at++
		}
	}
	if len(to.Content) > 0 {
		to.Style &^= yaml.FlowStyle // routes: [] of an empty application
	}
}

func isOwn(entry *yaml.Node) bool {
	own := valueOf(entry, "own")
	return own != nil && own.Value == "true"
}

// hasOwn reports whether an entry, or one below it, is the maintainer's own.
func hasOwn(entry *yaml.Node) bool {
	list := valueOf(entry, "routes")
	return isOwn(entry) || list != nil && slices.ContainsFunc(list.Content, hasOwn)
}
