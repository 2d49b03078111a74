package scim

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	filter "github.com/scim2/filter-parser/v2"
)

// Bounds of a filter.
const (
	maxFilter  = 4 << 10 // bytes
	maxNesting = 20
	maxTerms   = 200
)

// location is where an attribute is: in the resource or an extension, with a sub-attribute or without.
type location struct {
	extension string     // URN; "": none
	attribute *attribute // nil: the whole extension
	sub       *attribute
}

// locate reads a path without a filter: name.givenName, also behind a URN.
func (k *kind) locate(path string) (l location, err error) {
	attributes := k.all
	rest := path
	if len(path) >= 4 && strings.EqualFold(path[:4], "urn:") {
		found := false
		for _, s := range append([]*schema{k.core}, k.extensions...) {
			if len(path) < len(s.urn) || !strings.EqualFold(path[:len(s.urn)], s.urn) {
				continue
			}
			if s != k.core {
				l.extension, attributes = s.urn, s.attributes
			}
			if rest = path[len(s.urn):]; rest == "" && s != k.core {
				return l, nil
			}
			if rest, found = strings.CutPrefix(rest, ":"); found {
				break
			}
		}
		if !found {
			return l, invalid("invalidPath", "there is no attribute %q", path)
		}
	}
	name, sub, has := strings.Cut(rest, ".")
	if l.attribute = find(attributes, name); l.attribute == nil {
		return l, invalid("invalidPath", "there is no attribute %q", path)
	}
	if has {
		if l.sub = l.attribute.find(sub); l.sub == nil {
			return l, invalid("invalidPath", "there is no attribute %q", path)
		}
	}
	return l, nil
}

// node is a part of a filter.
type node struct {
	op          string // and, or, not, [, or an operator of RFC 7644, table 3
	left, right *node
	at          location
	value       any
}

// parseFilter reads a filter. of nil is of a resource; else of the values of an attribute.
func (k *kind) parseFilter(text string, of *attribute) (*node, error) {
	if len(text) > maxFilter {
		return nil, invalid("invalidFilter", "the filter has %d bytes: %d are possible", len(text), maxFilter)
	}
	if strings.Count(text, "(")+strings.Count(text, "[") > maxNesting {
		return nil, invalid("invalidFilter", "the filter has more than %d brackets", maxNesting)
	}
	parsed, err := filter.ParseFilterNumber([]byte(text))
	if err != nil {
		return nil, invalid("invalidFilter", "the filter %q cannot be read: %v", text, err)
	}
	left := maxTerms
	return k.compile(parsed, of, &left)
}

func (k *kind) compile(e filter.Expression, of *attribute, left *int) (*node, error) {
	if *left--; *left < 0 {
		return nil, invalid("invalidFilter", "the filter has more than %d terms", maxTerms)
	}
	switch e := e.(type) {
	case *filter.LogicalExpression:
		a, err := k.compile(e.Left, of, left)
		if err != nil {
			return nil, err
		}
		b, err := k.compile(e.Right, of, left)
		return &node{op: strings.ToLower(string(e.Operator)), left: a, right: b}, err
	case *filter.NotExpression:
		a, err := k.compile(e.Expression, of, left)
		return &node{op: "not", left: a}, err
	case *filter.ValuePath:
		at, err := k.place(e.AttributePath, of)
		if err != nil {
			return nil, err
		}
		if at.attribute == nil || at.sub != nil || at.attribute.sub == nil {
			return nil, invalid("invalidFilter", "%s has no sub-attributes", e.AttributePath)
		}
		a, err := k.compile(e.ValueFilter, at.attribute, left)
		return &node{op: "[", left: a, at: at}, err
	case *filter.AttributeExpression:
		return k.term(e, of)
	}
	return nil, invalid("invalidFilter", "the filter cannot be read")
}

func (k *kind) place(p filter.AttributePath, of *attribute) (l location, err error) {
	if of != nil {
		if l.attribute = of.find(p.AttributeName); l.attribute == nil || p.SubAttribute != nil || p.URIPrefix != nil {
			return l, invalid("invalidFilter", "%s has no sub-attribute %q", of.name, p.String())
		}
		return l, nil
	}
	if l, err = k.locate(p.String()); err != nil {
		return l, invalid("invalidFilter", "there is no attribute %q", p.String())
	}
	return l, nil
}

func (k *kind) term(e *filter.AttributeExpression, of *attribute) (*node, error) {
	at, err := k.place(e.AttributePath, of)
	if err != nil {
		return nil, err
	}
	if at.attribute == nil && e.Operator != filter.PR {
		return nil, invalid("invalidFilter", "%s cannot be compared", e.AttributePath)
	}
	n := &node{op: string(e.Operator), at: at, value: e.CompareValue}
	if s, ok := n.value.(string); ok { // the library leaves escapes as they are
		if err := json.Unmarshal([]byte(`"`+s+`"`), &s); err != nil {
			return nil, invalid("invalidFilter", "%q is no JSON string", s)
		}
		n.value = s
	}
	if n.op == "pr" {
		return n, nil
	}
	a := n.compared()
	if a.typ == "complex" {
		return nil, invalid("invalidFilter", "%s cannot be compared", e.AttributePath)
	}
	if a.typ == "boolean" {
		if s, ok := n.value.(string); ok { // as Entra sends them
			if b, err := strconv.ParseBool(strings.ToLower(s)); err == nil {
				n.value = b
			}
		}
		if n.op != "eq" && n.op != "ne" {
			return nil, invalid("invalidFilter", "%s cannot be compared with %s", e.AttributePath, n.op)
		}
	}
	return n, nil
}

// compared is the attribute that a comparison is of.
func (n *node) compared() *attribute {
	a := n.at.attribute
	if n.at.sub != nil {
		return n.at.sub
	}
	if value := a.find("value"); value != nil {
		return value
	}
	return a
}

// matches reports whether a resource, or a value, fits.
func (n *node) matches(doc map[string]any) bool {
	switch n.op {
	case "and":
		return n.left.matches(doc) && n.right.matches(doc)
	case "or":
		return n.left.matches(doc) || n.right.matches(doc)
	case "not":
		return !n.left.matches(doc)
	case "[":
		for _, v := range n.at.all(doc) {
			if object, ok := v.(map[string]any); ok && n.left.matches(object) {
				return true
			}
		}
		return false
	case "ne":
		return !n.any(doc, "eq")
	case "pr":
		for _, v := range n.at.all(doc) {
			if s, isText := v.(string); v != nil && (!isText || s != "") {
				return true
			}
		}
		return false
	}
	return n.any(doc, n.op)
}

func (n *node) any(doc map[string]any, op string) bool {
	list := n.at.all(doc)
	if n.value == nil {
		return op == "eq" && len(list) == 0
	}
	a := n.compared()
	for _, v := range list {
		if object, ok := v.(map[string]any); ok {
			v = object["value"]
		}
		if compare(a, op, v, n.value) {
			return true
		}
	}
	return false
}

// all are the values at a location.
func (l *location) all(doc map[string]any) (out []any) {
	if l.extension != "" {
		of, _ := doc[l.extension].(map[string]any)
		if l.attribute == nil {
			if len(of) > 0 {
				out = append(out, of)
			}
			return out
		}
		doc = of
	}
	add := func(v any) {
		if object, ok := v.(map[string]any); ok && l.sub != nil {
			v = object[l.sub.name]
		}
		if v != nil {
			out = append(out, v)
		}
	}
	switch v := doc[l.attribute.name].(type) {
	case nil:
	case []any:
		for _, one := range v {
			add(one)
		}
	default:
		add(v)
	}
	return out
}

func compare(a *attribute, op string, have, want any) bool {
	h, ok := have.(string)
	w, both := want.(string)
	if !ok || !both {
		return op == "eq" && have == want
	}
	if a.typ == "dateTime" {
		x, err := time.Parse(time.RFC3339Nano, h)
		y, bad := time.Parse(time.RFC3339Nano, w)
		if err == nil && bad == nil {
			return ordered(op, x.Compare(y))
		}
	}
	if !a.caseExact && a.typ != "reference" && a.typ != "binary" {
		h, w = strings.ToLower(h), strings.ToLower(w)
	}
	switch op {
	case "co":
		return strings.Contains(h, w)
	case "sw":
		return strings.HasPrefix(h, w)
	case "ew":
		return strings.HasSuffix(h, w)
	}
	return ordered(op, strings.Compare(h, w))
}

func ordered(op string, c int) bool {
	switch op {
	case "eq":
		return c == 0
	case "gt":
		return c > 0
	case "ge":
		return c >= 0
	case "lt":
		return c < 0
	case "le":
		return c <= 0
	}
	return false
}

// exact are values that a resource must have to match: attribute names with what they equal. Names are in small letters.
func (n *node) exact(out map[string]string) {
	switch n.op {
	case "and":
		n.left.exact(out)
		n.right.exact(out)
	case "[":
		if s, ok := n.left.value.(string); ok && n.left.op == "eq" && n.at.attribute.name == "members" && n.left.at.attribute.name == "value" {
			out["members"] = s
		}
	case "eq":
		s, ok := n.value.(string)
		if !ok || s == "" || n.at.extension != "" {
			return
		}
		if n.at.sub == nil || n.at.attribute.name == "members" && n.at.sub.name == "value" {
			out[n.at.attribute.name] = s
		}
	}
}
