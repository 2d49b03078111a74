package routes

import (
	"cmp"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gatehouse/routes/pyregex"
)

// kind is how a complete path segment is matched without a regular expression.
type kind uint8

const (
	kindText   kind = iota // [^/]{min,max}
	kindInt                // digits; unicode ones for Werkzeug
	kindFloat              // digits "." digits; the fraction may be optional
	kindUUID               // hex digits and dashes
	kindSlug               // Django's [-a-zA-Z0-9_]+
	kindAny                // Werkzeug's any(a, b)
	kindPath               // the rest of the path
	kindRegexp             // an application's own converter
)

// converter defines which strings a parameter matches, as in its framework.
type converter struct {
	kind  kind
	py    string // the framework's regular expression
	expr  string // the same in Go's syntax, without named groups
	back  string // of a custom converter: in the backtracking engine's syntax
	whole *regexp.Regexp

	backtracks bool // only the backtracking engine supports it: expr is ""
	unsure     bool // Django: to_python may reject a match of the expression; then the next pattern is tried

	minLen, maxLen int // kindText: in characters; maxLen 0 is no limit
	items          []string
	signed         bool // kindInt, kindFloat: one leading "-"
	unicode        bool // kindInt, kindFloat: \d instead of [0-9]
	fraction       bool // kindFloat: the fraction is optional (Starlette)
	dashes         bool // kindUUID: dashes are optional (Starlette)
	lower          bool // kindUUID: lower case only (Django)
	empty          bool // kindPath: may be empty (Starlette)
	newlines       bool // kindPath: "." is any byte

	weight      int  // Werkzeug's order among dynamic parts
	isolating   bool // Werkzeug: stays within one segment
	fixedDigits int
	min, max    *big.Rat
}

// maxIntDigits is CPython's limit on int(str): more digits raise ValueError, so the converter rejects them.
const maxIntDigits = 4300

// matchSegment matches a complete segment (no "/" inside), for every kind but kindPath.
func (c *converter) matchSegment(s string) bool {
	switch c.kind {
	case kindText:
		if c.maxLen == 0 && c.minLen <= 1 {
			return s != ""
		}
		n := utf8.RuneCountInString(s)
		return n >= c.minLen && (c.maxLen == 0 || n <= c.maxLen)
	case kindInt:
		return c.digits(c.unsigned(s)) == len(c.unsigned(s)) && c.unsigned(s) != ""
	case kindFloat:
		return c.matchFloat(c.unsigned(s))
	case kindUUID:
		return c.matchUUID(s)
	case kindSlug:
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !isSlug(r) }) < 0
	case kindAny:
		return slices.Contains(c.items, s)
	}
	return c.whole != nil && c.whole.MatchString(s)
}

func (c *converter) unsigned(s string) string {
	if c.signed {
		return strings.TrimPrefix(s, "-")
	}
	return s
}

// digits returns the length of the run of digits at the start of s.
func (c *converter) digits(s string) int {
	for i, r := range s {
		if '0' <= r && r <= '9' || c.unicode && r >= utf8.RuneSelf && unicode.Is(unicode.Nd, r) {
			continue
		}
		return i
	}
	return len(s)
}

func (c *converter) matchFloat(s string) bool {
	whole := c.digits(s)
	if whole == 0 {
		return false
	}
	if whole == len(s) {
		return c.fraction
	}
	rest := s[whole+1:]
	return s[whole] == '.' && rest != "" && c.digits(rest) == len(rest)
}

func (c *converter) matchUUID(s string) bool {
	group := 0
	for i, want := range [...]int{8, 4, 4, 4, 12} {
		if i > 0 {
			switch {
			case group < len(s) && s[group] == '-':
				group++
			case !c.dashes:
				return false
			}
		}
		if len(s)-group < want {
			return false
		}
		for _, b := range []byte(s[group : group+want]) {
			if _, hex := unhex(b); !hex || c.lower && 'A' <= b && b <= 'F' {
				return false
			}
		}
		group += want
	}
	return group == len(s)
}

func isSlug(r rune) bool {
	return r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// accept is the converter's to_python: it may reject a match of the expression. Werkzeug then ends the search; Django
// tries the next pattern; Starlette propagates the exception.
func (c *converter) accept(s string) bool {
	if c.kind != kindInt && c.kind != kindFloat {
		return true
	}
	if c.fixedDigits != 0 && utf8.RuneCountInString(s) != c.fixedDigits {
		return false
	}
	if c.kind == kindInt && len(s) > maxIntDigits && utf8.RuneCountInString(c.unsigned(s)) > maxIntDigits {
		return false
	}
	if c.min == nil && c.max == nil {
		return true
	}
	value, ok := c.number(s)
	return ok && (c.min == nil || value.Cmp(c.min) >= 0) && (c.max == nil || value.Cmp(c.max) <= 0)
}

// number is the value as parsed by Python's int() or float(); ok is false for an invalid one (an infinite float is
// larger than any limit).
func (c *converter) number(s string) (*big.Rat, bool) {
	s = asciiDigits(s)
	if c.kind == kindInt {
		value, ok := new(big.Int).SetString(s, 10)
		if !ok {
			return nil, false
		}
		return new(big.Rat).SetInt(value), true
	}
	f, _ := strconv.ParseFloat(s, 64) // overflow gives infinity, as in Python
	if rat := new(big.Rat).SetFloat64(f); rat != nil {
		return rat, true
	}
	return new(big.Rat).SetString(s)
}

// asciiDigits replaces Unicode decimal digits by ASCII ones. All ranges of Nd consist of blocks of ten.
func asciiDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			return r
		}
		for _, block := range unicode.Nd.R16 {
			if rune(block.Lo) <= r && r <= rune(block.Hi) {
				return '0' + (r-rune(block.Lo))%10
			}
		}
		for _, block := range unicode.Nd.R32 {
			if rune(block.Lo) <= r && r <= rune(block.Hi) {
				return '0' + (r-rune(block.Lo))%10
			}
		}
		return r
	}, s)
}

// customConverter is an application's own converter: an entry under converters: in routes.yaml.
func customConverter(name, expr string, weight int, isolating bool) (*converter, error) {
	translated, err := pyregex.TranslateFlat(expr)
	if err != nil {
		return nil, fmt.Errorf("converter %q: %w", name, err)
	}
	c := &converter{kind: kindRegexp, py: expr, expr: translated.RE2, back: translated.Backtracking, weight: weight, isolating: isolating}
	if c.backtracks = translated.Backtracks(); !c.backtracks {
		c.whole = regexp.MustCompile(`\A(?:` + translated.RE2 + `)\z`)
	}
	return c, nil
}

// The converters of Starlette (convertors.py), Django (urls/converters.py) and OpenAPI's plain parameter.
func builtinConverter(framework, name string) *converter {
	text := &converter{kind: kindText, minLen: 1, expr: `[^/]+`}
	if framework == OpenAPI {
		return text
	}
	starlette := framework != Django
	switch name {
	case "str":
		return text
	case "int":
		return &converter{kind: kindInt, expr: `[0-9]+`}
	case "path":
		if starlette {
			return &converter{kind: kindPath, expr: `.*`, empty: true}
		}
		return &converter{kind: kindPath, expr: `.+`}
	case "uuid":
		if starlette {
			hex := `[0-9a-fA-F]`
			return &converter{kind: kindUUID, dashes: true,
				expr: hex + `{8}-?` + hex + `{4}-?` + hex + `{4}-?` + hex + `{4}-?` + hex + `{12}`}
		}
		return &converter{kind: kindUUID, lower: true, expr: `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`}
	case "float":
		if starlette {
			return &converter{kind: kindFloat, fraction: true, expr: `[0-9]+(?:\.[0-9]+)?`}
		}
	case "slug":
		if !starlette {
			return &converter{kind: kindSlug, expr: `[-a-zA-Z0-9_]+`}
		}
	}
	return nil
}

// exprBuilder builds an expression from text and converters.
type exprBuilder struct {
	both       pyregex.Expression
	backtracks bool
}

func (b *exprBuilder) raw(s string) { b.both = b.both.Append(s) }

// converter adds a converter's expression as group n.
func (b *exprBuilder) converter(c *converter, n int) {
	b.both.RE2 += fmt.Sprintf("(?P<p%d>%s)", n, c.expr)
	b.both.Backtracking += fmt.Sprintf("(?<p%d>%s)", n, cmp.Or(c.back, c.expr))
	b.backtracks = b.backtracks || c.backtracks
}

// compile compiles the expression for the engine that supports it.
func (b *exprBuilder) compile() (*pyregex.Matcher, error) {
	if b.backtracks {
		return pyregex.Compile(pyregex.Expression{Backtracking: b.both.Backtracking})
	}
	return pyregex.Compile(pyregex.Expression{RE2: b.both.RE2})
}

// argument is a converter's argument: int(min=1), any(a, b).
type argument struct{ name, value string }

// parseArguments parses arguments as Werkzeug does.
func parseArguments(text string) ([]argument, error) {
	var args []argument
	for rest := text + ","; strings.TrimSpace(rest) != ""; {
		if strings.TrimSpace(rest) == "," {
			break
		}
		m := werkzeugArgument.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("can't read converter arguments %q", text)
		}
		value := m[2]
		if m[3] != "" {
			value = m[3][1 : len(m[3])-1]
		}
		args = append(args, argument{name: m[1], value: value})
		rest = rest[len(m[0]):]
	}
	return args, nil
}

// werkzeugConverter builds a converter with its arguments (werkzeug/routing/converters.py).
func (s *settings) werkzeugConverter(name, args string) (*converter, error) {
	arguments, err := parseArguments(args)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = "default"
	}
	if c := s.custom[name]; c != nil {
		if len(arguments) > 0 {
			return nil, fmt.Errorf("converter %q is the application's own: its arguments can't be expressed", name)
		}
		return c, nil
	}
	switch name {
	case "default", "string":
		return stringConverter(arguments)
	case "any":
		return anyConverter(arguments)
	case "path":
		if len(arguments) > 0 {
			return nil, fmt.Errorf("converter %q takes no arguments", name)
		}
		return &converter{kind: kindPath, py: `[^/].*?`, expr: `[^/].*?`, weight: 200}, nil
	case "int", "float":
		return numberConverter(name, arguments)
	case "uuid":
		if len(arguments) > 0 {
			return nil, fmt.Errorf("converter %q takes no arguments", name)
		}
		const hex = `[A-Fa-f0-9]`
		expr := hex + `{8}-` + hex + `{4}-` + hex + `{4}-` + hex + `{4}-` + hex + `{12}`
		return &converter{kind: kindUUID, py: expr, expr: expr, weight: 100, isolating: true}, nil
	}
	return nil, fmt.Errorf("unknown converter %q (one of the application's own belongs under converters:)", name)
}

// named assigns positional arguments to parameter names.
func named(arguments []argument, names ...string) (map[string]string, error) {
	values := map[string]string{}
	for i, a := range arguments {
		if a.name == "" && i < len(names) {
			a.name = names[i]
		}
		if !slices.Contains(names, a.name) {
			return nil, fmt.Errorf("unexpected converter argument %q", a.name+"="+a.value)
		}
		if a.value != "None" {
			values[a.name] = a.value
		}
	}
	return values, nil
}

// maxLength bounds lengths to what Go's regexp can repeat.
const maxLength = 1000

func stringConverter(arguments []argument) (*converter, error) {
	values, err := named(arguments, "minlength", "maxlength", "length")
	if err != nil {
		return nil, err
	}
	c := &converter{kind: kindText, minLen: 1, weight: 100, isolating: true}
	number := func(name string, into *int) {
		if text, ok := values[name]; ok && err == nil {
			if *into, err = strconv.Atoi(text); err != nil || *into < 0 || *into > maxLength {
				err = fmt.Errorf("%s=%s is not a number between 0 and %d", name, text, maxLength)
			}
		}
	}
	number("minlength", &c.minLen)
	number("maxlength", &c.maxLen)
	if c.py = fmt.Sprintf("[^/]{%d,%s}", c.minLen, values["maxlength"]); values["length"] != "" {
		number("length", &c.minLen)
		c.maxLen, c.py = c.minLen, fmt.Sprintf("[^/]{%d}", c.minLen)
	}
	if err == nil && c.maxLen == 0 && (values["maxlength"] != "" || values["length"] != "") {
		err = fmt.Errorf("a length of 0 can't be expressed")
	}
	c.expr = c.py
	return c, err
}

func anyConverter(arguments []argument) (*converter, error) {
	c := &converter{kind: kindAny, weight: 100, isolating: true}
	var quoted []string
	for _, a := range arguments {
		if _, err := strconv.ParseFloat(a.value, 64); err == nil || a.name != "" || a.value == "True" || a.value == "False" {
			return nil, fmt.Errorf("any: item %q is not a string to Werkzeug", a.value)
		}
		c.items = append(c.items, a.value)
		quoted = append(quoted, regexp.QuoteMeta(a.value))
	}
	c.expr = "(?:" + strings.Join(quoted, "|") + ")"
	c.py = c.expr
	return c, nil
}

func numberConverter(name string, arguments []argument) (*converter, error) {
	names := []string{"fixed_digits", "min", "max", "signed"}
	c := &converter{kind: kindInt, unicode: true, expr: `\p{Nd}+`, weight: 50, isolating: true}
	if name == "float" {
		names = names[1:]
		c.kind, c.expr = kindFloat, `\p{Nd}+\.\p{Nd}+`
	}
	values, err := named(arguments, names...)
	if err != nil {
		return nil, err
	}
	if text, ok := values["fixed_digits"]; ok {
		if c.fixedDigits, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("fixed_digits=%s is not a number", text)
		}
	}
	for key, into := range map[string]**big.Rat{"min": &c.min, "max": &c.max} {
		if text, ok := values[key]; ok {
			limit, ok := new(big.Rat).SetString(text)
			if !ok || len(text) > 40 {
				return nil, fmt.Errorf("%s=%s is not a number", key, text)
			}
			*into = limit
		}
	}
	if text := values["signed"]; text == "True" {
		c.signed, c.expr = true, "-?"+c.expr
	} else if text != "" && text != "False" {
		return nil, fmt.Errorf("signed=%s is neither True nor False", text)
	}
	c.py = c.expr
	return c, nil
}
