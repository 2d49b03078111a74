package directory

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ParseManifest parses a manifest. Its errors are *ManifestError, the first ones joined.
func ParseManifest(file string, text []byte) (*Manifest, error) {
	p := &manifestParser{file: file, m: &Manifest{text: slices.Clone(text), byName: map[string]*typeDef{}}}
	if len(text) > maxManifest {
		return nil, &ManifestError{file, 0, fmt.Errorf("manifest of %d bytes; %d are possible", len(text), maxManifest)}
	}
	var documents [2]yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	if err := decoder.Decode(&documents[0]); err != nil {
		return nil, &ManifestError{file, 0, fmt.Errorf("%w: %w", errManifestSyntax, err)}
	}
	if decoder.Decode(&documents[1]) == nil {
		return nil, &ManifestError{file, documents[1].Line, fmt.Errorf("%w: a second YAML document: one file holds one manifest", errManifestSyntax)}
	}
	p.document(&documents[0])
	if len(p.errs) == 0 {
		p.validate()
	}
	if len(p.errs) > 0 {
		return nil, p.err()
	}
	return p.m, nil
}

type manifestParser struct {
	file  string
	m     *Manifest
	names int
	terms int
	steps int // of all arrows, see reached
	errs  []*ManifestError
}

// maxErrors is how many errors are reported at once.
const maxErrors = 10

func (p *manifestParser) err() error {
	slices.SortStableFunc(p.errs, func(a, b *ManifestError) int { return a.Line - b.Line })
	var out []error
	for _, e := range p.errs[:min(len(p.errs), maxErrors)] {
		out = append(out, e)
	}
	if len(out) == 1 {
		return out[0]
	}
	return errors.Join(out...)
}

func (p *manifestParser) fail(line int, format string, args ...any) {
	p.errs = append(p.errs, &ManifestError{p.file, line, fmt.Errorf(format, args...)})
}

// hint is hint, for errors that are reported.
func (p *manifestParser) hint(word string, known []string) string {
	if len(p.errs) >= maxErrors {
		return ""
	}
	return hint(word, known)
}

// quoted formats a word of the manifest for a message.
func quoted(s string) string {
	if len(s) > maxNameBytes {
		s = s[:maxNameBytes] + "..."
	}
	return strconv.Quote(s)
}

func (p *manifestParser) document(n *yaml.Node) {
	if len(n.Content) != 1 || n.Content[0].Kind != yaml.MappingNode {
		p.fail(n.Line, "%w: it must be a mapping with the keys model and types", errManifestSyntax)
		return
	}
	version := false
	p.mapping(n.Content[0], "the manifest", []string{"model", "types"}, func(key, value *yaml.Node) {
		if key.Value == "types" {
			p.mapping(value, "types", nil, p.typ)
			return
		}
		p.mapping(value, "model", []string{"version"}, func(key, value *yaml.Node) {
			version = true
			if value.Kind != yaml.ScalarNode || value.Value != "3" {
				p.fail(key.Line, "model version %s is not supported: write version: 3", quoted(value.Value))
			}
		})
	})
	if !version && len(p.errs) == 0 {
		p.fail(n.Content[0].Line, "no model version: write model: {version: 3}")
	}
}

// mapping visits a mapping's keys. known are the valid ones; nil: any name. An empty mapping is valid.
func (p *manifestParser) mapping(n *yaml.Node, where string, known []string, each func(key, value *yaml.Node)) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		p.fail(n.Line, "%s: anchors and aliases are not supported: write the value out", where)
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n.Line, "%s must be a mapping", where)
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" {
			p.fail(key.Line, "%s: a key must be a plain name", where)
			continue
		}
		if line, twice := seen[key.Value]; twice {
			p.fail(key.Line, "%s is already on line %d", quoted(key.Value), line)
			continue
		}
		seen[key.Value] = key.Line
		if known != nil && !slices.Contains(known, key.Value) {
			p.fail(key.Line, "unknown key %s in %s%s", quoted(key.Value), where, p.hint(key.Value, known))
			continue
		}
		each(key, value)
	}
}

// name checks a defined name.
func (p *manifestParser) name(key *yaml.Node, what string) bool {
	if p.names++; p.names > maxNames {
		if p.names == maxNames+1 {
			p.fail(key.Line, "more than %d types, relations and permissions", maxNames)
		}
		return false
	}
	if s := key.Value; len(s) > maxNameBytes || identifier(s) != len(s) || s == "" {
		p.fail(key.Line, "%s %s: a name begins with a letter, ends with a letter or digit, has letters, digits, dots, underscores and dashes, "+
			"and at most %d of them", what, quoted(s), maxNameBytes)
		return false
	}
	return true
}

func (p *manifestParser) typ(key, value *yaml.Node) {
	if !p.name(key, "type") {
		return
	}
	t := &typeDef{name: key.Value, line: key.Line, byName: map[string]int{}}
	p.m.types = append(p.m.types, t)
	p.m.byName[t.name] = t
	p.mapping(value, "type "+t.name, []string{"relations", "permissions"}, func(part, value *yaml.Node) {
		p.mapping(value, part.Value+" of "+t.name, nil, func(key, value *yaml.Node) {
			if !p.name(key, "relation or permission") {
				return
			}
			if _, ok := t.byName[key.Value]; ok {
				p.fail(key.Line, "%s is both a relation and a permission of %s: a name can be one of them", quoted(key.Value), t.name)
				return
			}
			if part.Value == "relations" {
				t.byName[key.Value] = len(t.relations)
				t.relations = append(t.relations, &relationDef{key.Value, key.Line, p.relation(t.name+"#"+key.Value, value)})
			} else {
				t.byName[key.Value] = -1 - len(t.permissions)
				t.permissions = append(t.permissions, &permissionDef{key.Value, key.Line, p.permission(t.name+"#"+key.Value, value)})
			}
		})
	})
}

// definition is the text of a relation or permission, as tokens.
func (p *manifestParser) definition(what string, n *yaml.Node) *tokens {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		p.fail(n.Line, "%s: anchors and aliases are not supported: write the value out", what)
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		p.fail(n.Line, "%s: a definition is a text, such as user | group#member", what)
		return nil
	}
	if n.ShortTag() == "!!null" || strings.TrimSpace(n.Value) == "" {
		p.fail(n.Line, "%s has no definition", what)
		return nil
	}
	t := &tokens{p: p, what: what, text: n.Value, line: n.Line}
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		t.line++
	}
	t.next()
	return t
}

// tokens is the tokenizer of a definition.
type tokens struct {
	p      *manifestParser
	what   string
	text   string // the remaining text
	word   string // the current word; "" at the end
	name   bool   // the word is a name
	line   int
	nested int
	failed bool
}

// identifier is the length of the name at the beginning of s: it may contain dots, underscores and dashes, but not
// end with one.
func identifier(s string) int {
	n := 0
	for i := range len(s) {
		c := s[i]
		switch letter := c|0x20 >= 'a' && c|0x20 <= 'z'; {
		case letter, c >= '0' && c <= '9' && i > 0:
			n = i + 1
		case i == 0 || c != '.' && c != '_' && c != '-':
			return n
		}
	}
	return n
}

func (t *tokens) next() {
	rest := strings.TrimLeft(t.text, " \t\n\r\f")
	t.line += strings.Count(t.text[:len(t.text)-len(rest)], "\n")
	n := identifier(rest)
	t.name = n > 0
	if n == 0 && rest != "" {
		n = 1
		if strings.HasPrefix(rest, "->") {
			n = 2
		}
		for n < len(rest) && rest[n]&0xc0 == 0x80 { // a complete UTF-8 character
			n++
		}
	}
	t.word, t.text = rest[:n], rest[n:]
}

func (t *tokens) fail(format string, args ...any) {
	if !t.failed {
		t.failed = true
		t.p.fail(t.line, "%s: %s", t.what, fmt.Sprintf(format, args...))
	}
}

// expect consumes a name.
func (t *tokens) expect(what string) string {
	word := t.word
	switch {
	case t.name && len(word) <= maxNameBytes:
		if t.p.terms++; t.p.terms > maxTerms {
			t.fail("more than %d terms in the manifest", maxTerms)
		}
		t.next()
		return word
	case word == "":
		t.fail("ends where %s belongs", what)
	default:
		t.fail("%s where %s belongs", quoted(word), what)
	}
	return ""
}

// relation parses a relation's definition: user | group#member | user:*.
func (p *manifestParser) relation(what string, n *yaml.Node) []allowedSubject {
	t := p.definition(what, n)
	if t == nil {
		return nil
	}
	var out []allowedSubject
	for {
		a := allowedSubject{typ: t.expect("a type")}
		switch t.word {
		case "#":
			t.next()
			a.relation = t.expect("a relation")
		case ":":
			t.next()
			if a.any = t.word == "*"; !a.any {
				t.fail("only * can follow %s:", a.typ)
			}
			t.next()
		}
		if slices.Contains(out, a) {
			t.fail("%s is named twice", a)
		}
		out = append(out, a)
		if t.failed || t.word == "" {
			return out
		}
		if t.word != "|" {
			t.fail("%s where | belongs: a relation is a list such as user | group#member | user:*", quoted(t.word))
			return out
		}
		t.next()
	}
}

// permission parses a permission's definition.
func (p *manifestParser) permission(what string, n *yaml.Node) *expression {
	t := p.definition(what, n)
	if t == nil {
		return &expression{}
	}
	e := t.expression()
	if !t.failed && t.word != "" {
		t.fail("%s where an operator belongs (|, & or -)", quoted(t.word))
	}
	return e
}

var operators = map[string]operator{"|": opUnion, "&": opIntersection, "-": opExclusion}

// expression parses terms with one operator between them. Mixing operators needs parentheses: there is no precedence.
func (t *tokens) expression() *expression {
	first := t.term()
	op, ok := operators[t.word]
	if !ok || t.failed {
		return first
	}
	e := &expression{op: op, of: []*expression{first}, line: t.line}
	for word := t.word; t.word == word && !t.failed; {
		t.next()
		e.of = append(e.of, t.term())
	}
	if _, other := operators[t.word]; other {
		t.fail("%s after another operator: put parentheses around what belongs together", t.word)
	}
	return e
}

func (t *tokens) term() *expression {
	if t.word != "(" {
		e := &expression{op: opName, line: t.line, name: t.expect("a relation or permission")}
		if t.word == "->" {
			t.next()
			e.op, e.base, e.name = opArrow, e.name, t.expect("a relation or permission")
		}
		return e
	}
	if t.nested++; t.nested > maxNested {
		t.fail("more than %d parentheses in one another", maxNested)
		return &expression{}
	}
	t.next()
	e := t.expression()
	if t.word != ")" {
		t.fail("a parenthesis is not closed")
	}
	t.next()
	t.nested--
	if t.word == "->" {
		t.fail("-> follows a relation, not parentheses")
	}
	return e
}
