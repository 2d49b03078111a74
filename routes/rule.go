package routes

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// RulePath is the place of a route's rule below data, with one rule per route (contract.md, "Aserto policies"): root,
// the method, the template's segments with each parameter as "__name". It returns the reference's terms; a segment
// may be any text, so they must not be joined into Rego source.
//
// template may be of any framework; Django's re_path is supported where it consists of text and groups. Any other
// expression gives its literal text and, as the last term, a digest of the whole, so that rules are unique:
// __re_3f2a91c4.
func RulePath(root []string, method, template string) ([]string, error) {
	if isRegex(template) {
		simple, err := simplifyRegex(template)
		if errors.Is(err, errNoTemplate) {
			return append(append(slices.Clone(root), method), regexTerms(template)...), nil
		}
		if err != nil {
			return nil, err
		}
		template = simple
	}
	path := append(slices.Clone(root), method)
	for _, segment := range strings.Split(strings.Trim(ruleParam.ReplaceAllString(template, "__$1$2"), "/"), "/") {
		if segment != "" {
			path = append(path, segment)
		}
	}
	return path, nil
}

func isRegex(template string) bool {
	return strings.ContainsAny(template, `^$\`) || strings.Contains(template, "(?")
}

// NamedByPath reports whether the terms of a template's rule correspond to prefixes of its paths, so that a rule for
// a prefix applies. It does not for ^(?!api/).*$.
func NamedByPath(template string) bool {
	if !isRegex(template) {
		return true
	}
	_, err := simplifyRegex(template)
	return err == nil && (template[0] == '/' || template[0] == '^')
}

// ruleParam matches a parameter in angle brackets (converter before the name) or braces (after it).
var ruleParam = regexp.MustCompile(`<(?:[^<>]*:)?([^<>:]+)>|\{([^{}:]+)(?::[^{}]*)?\}`)

// simplifyRegex converts an expression to a template: anchors are dropped, named groups become parameters, unnamed
// ones are named by position. Anything else than plain text is an error.
func simplifyRegex(expr string) (string, error) {
	out, position := "", 0
	for i := 0; i < len(expr); {
		switch c := expr[i]; {
		case c == '^' || c == '$':
			i++
		case strings.HasPrefix(expr[i:], `\Z`), strings.HasPrefix(expr[i:], `\A`):
			i += 2
		case strings.HasPrefix(expr[i:], "(?P<"):
			end := strings.IndexByte(expr[i:], '>')
			if end < 0 {
				return "", fmt.Errorf("template %q: unclosed group", expr)
			}
			out += "<" + expr[i+4:i+end] + ">"
			i += groupEnd(expr[i:])
		case c == '(' && !strings.HasPrefix(expr[i:], "(?"):
			out += fmt.Sprintf("<%d>", position)
			position++
			i += groupEnd(expr[i:])
		case c == '<' || c == '{': // the template of an include before the expression
			end := strings.IndexAny(expr[i:], ">}")
			if end < 0 {
				return "", fmt.Errorf("template %q: unclosed parameter", expr)
			}
			out += expr[i : i+end+1]
			i += end + 1
		case c == '\\' && i+1 < len(expr) && strings.IndexByte(`./-_~:@+`, expr[i+1]) >= 0:
			out += expr[i+1 : i+2]
			i += 2
		case strings.HasPrefix(expr[i:], "/?"):
			i += 2 // an optional trailing slash
		case strings.IndexByte(`\[]{}*+?|.()`, c) >= 0:
			return "", fmt.Errorf("template %q, offset %d: %w", expr, i, errNoTemplate)
		default:
			out += string(c)
			i++
		}
	}
	return out, nil
}

// errNoTemplate: an expression is more than text and parameters.
var errNoTemplate = errors.New("not a template")

// regexTerms names an expression that is no template: its text, its named groups as parameters, and a digest.
func regexTerms(expr string) []string {
	const most, longest = 8, 40
	var terms []string
	text := regexNoise.ReplaceAllString(regexGroup.ReplaceAllString(expr, "/__$1$2/"), "/")
	for _, t := range strings.FieldsFunc(text, func(r rune) bool { return r == '/' }) {
		if t = strings.Trim(t, "-."); t != "" && len(terms) < most {
			terms = append(terms, t[:min(len(t), longest)])
		}
	}
	sum := sha256.Sum256([]byte(expr))
	return append(terms, fmt.Sprintf("__re_%x", sum[:4]))
}

var (
	regexGroup = regexp.MustCompile(`\(\?P<([A-Za-z_][A-Za-z0-9_]*)>(?:[^()\\]|\\.)*\)|<(?:[^<>]*:)?([A-Za-z_][A-Za-z0-9_]*)>`)
	// Classes, escapes, counts, and other non-literals.
	regexNoise = regexp.MustCompile(`\[[^\]]*\]|\\.|\{[^}]*\}|\(\?P?[<!=:]*|[^A-Za-z0-9_.-]|\.[*+?]`)
)

// groupEnd is the length of the group at the start of s; brackets inside classes and escapes are skipped.
func groupEnd(s string) int {
	depth, class := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '[':
			class = true
		case c == ']':
			class = false
		case c == '(' && !class:
			depth++
		case c == ')' && !class:
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

// RuleConflicts finds routes that cannot have separate rules: two templates with the same rule, and a rule at the
// place of another route's segment (a segment called "allowed"). Templates that differ only in a trailing slash share
// their rule. decision is the name of the rule in each route's package.
func (t *Table) RuleConflicts(root []string, decision string) []Notice {
	c := ruleConflicts{decision: decision, at: map[string][]*Route{}}
	for _, r := range t.routes {
		if r.Unsupported != "" {
			continue // it never matches, so its rule is never evaluated
		}
		path, err := RulePath(nil, "", r.Template)
		if err != nil {
			c.note(r, nil, "%v", err)
			continue
		}
		path = path[1:] // skip the method: a route may have several, or any
		for _, other := range c.at[strings.Join(path, "\x00")] {
			if r.sharesMethod(other) && strings.TrimSuffix(other.Template, "/") != strings.TrimSuffix(r.Template, "/") {
				c.note(r, other, "its rule %s is that of %s%s as well",
					RuleName(slices.Concat(root, []string{"METHOD"}, path)), describe(other), atLine(other))
				break
			}
		}
		c.at[strings.Join(path, "\x00")] = append(c.at[strings.Join(path, "\x00")], r)
	}
	for _, r := range t.routes {
		c.shadowed(r)
	}
	return c.notices
}

// ruleConflicts is one search; at holds the routes by the terms after the method.
type ruleConflicts struct {
	decision string
	at       map[string][]*Route
	notices  []Notice
}

func (c *ruleConflicts) note(r, other *Route, format string, args ...any) {
	n := Notice{Line: r.Line, Text: describe(r) + ": " + fmt.Sprintf(format, args...)}
	if other != nil {
		n.Other = other.Line
	}
	c.notices = append(c.notices, n)
}

// shadowed looks for a rule at the place of a segment of r.
func (c *ruleConflicts) shadowed(r *Route) {
	path, err := RulePath(nil, "", r.Template)
	if err != nil || r.Unsupported != "" {
		return
	}
	path = path[1:]
	for i, term := range path {
		if term != c.decision {
			continue
		}
		for _, other := range c.at[strings.Join(path[:i], "\x00")] {
			if r.sharesMethod(other) {
				c.note(r, other, "the rule %q of %s%s stands in its way", c.decision, describe(other), atLine(other))
			}
		}
	}
}

func (r *Route) sharesMethod(o *Route) bool {
	if r.Methods == nil || o.Methods == nil {
		return true
	}
	return slices.ContainsFunc(r.Methods, func(m string) bool { return slices.Contains(o.Methods, m) })
}

// RuleMethods are the methods for which a route needs a rule: those that it lists, without HEAD where GET is listed,
// because HEAD falls back to GET's rule. A route for any method needs one for each of the usual methods.
func (r *Route) RuleMethods() []string {
	if r.Methods == nil {
		return []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	}
	if !slices.Contains(r.Methods, "GET") {
		return r.Methods
	}
	return slices.DeleteFunc(slices.Clone(r.Methods), func(m string) bool { return m == "HEAD" })
}

// RuleName formats the terms as a reference: todoapp.GET.todos, orders.GET["a-b"].__id.
func RuleName(path []string) string {
	var out strings.Builder
	for i, term := range path {
		switch {
		case !plainTerm.MatchString(term):
			fmt.Fprintf(&out, "[%q]", term)
		case i > 0:
			out.WriteString("." + term)
		default:
			out.WriteString(term)
		}
	}
	return out.String()
}

var plainTerm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
