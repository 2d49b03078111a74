package bounds

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/gobwas/glob"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	maxGlob    = 4096 // bytes
	maxBraces  = 100
	globChecks = 1 << 14
)

// globs is glob.match. OPA's library backtracks over all ways to match the stars: a 41-byte pattern can run for ever. A pattern and text
// that may take long are matched by a regular expression instead, in time proportional to both.
func globs(original topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		pattern, subject := stringOf(args[0]), stringOf(args[2])
		if matchWays(pattern, len(subject)) <= globChecks {
			return original(bctx, args, iter)
		}
		separators, ok := globSeparators(args[1])
		if !ok {
			return original(bctx, []*ast.Term{args[0], args[1], ast.StringTerm("")}, iter) // OPA reports what is wrong with the pattern
		}
		if _, err := glob.Compile(pattern, separators...); err != nil {
			return err
		}
		expression, ok := globExpression(pattern, separators)
		if !ok {
			return limit("glob.match", bctx.Location, "a pattern that may take too long")
		}
		re, err := regexp.Compile(expression)
		if err != nil {
			return limit("glob.match", bctx.Location, "a pattern that may take too long")
		}
		return iter(ast.InternedTerm(re.MatchString(subject)))
	}
}

// globbed is the check of glob.match.
func globbed(args []*ast.Term) verdict {
	pattern, n := stringOf(args[0]), len(stringOf(args[2]))
	if len(pattern) > maxGlob {
		return verdict{refused: fmt.Sprintf("a pattern of more than %d bytes", maxGlob)}
	}
	if strings.Count(pattern, "{") > maxBraces { // closing braces may be quoted
		return verdict{refused: fmt.Sprintf("a pattern with more than %d alternatives", maxBraces)}
	}
	return verdict{work: len(pattern) * n}
}

// matchWays bounds the number of ways to match n bytes with a pattern's stars and alternatives.
func matchWays(pattern string, n int) int {
	stars, alternatives := 0, 1
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '*':
			if i == 0 || pattern[i-1] != '*' {
				stars++
			}
		case '{', ',':
			alternatives *= 2
		}
		if alternatives > globChecks {
			return alternatives
		}
	}
	total := alternatives
	for i := range stars {
		if total = total * (n + i + 1) / (i + 1); total > globChecks {
			break
		}
	}
	return total
}

func globSeparators(t *ast.Term) ([]rune, bool) {
	list, ok := t.Value.(*ast.Array)
	if !ok {
		return nil, t.Value.Compare(ast.Null{}) == 0
	}
	if list.Len() == 0 {
		return []rune{'.'}, true
	}
	var out []rune
	for i := range list.Len() {
		r, size := utf8.DecodeRuneInString(stringOf(list.Elem(i)))
		if size == 0 || size != len(stringOf(list.Elem(i))) {
			return nil, false
		}
		out = append(out, r)
	}
	return out, true
}

// globExpression translates a pattern that compiles into a regular expression; false if there is no exact translation.
func globExpression(pattern string, separators []rune) (string, bool) {
	one := `(?s:.)`
	if len(separators) > 0 {
		var class strings.Builder
		for _, r := range separators {
			fmt.Fprintf(&class, `\x{%x}`, r)
		}
		one = "[^" + class.String() + "]"
	}
	var out strings.Builder
	out.WriteString(`\A(?:`)
	depth, runes := 0, []rune(pattern)
	for i := 0; i < len(runes); i++ {
		switch c := runes[i]; {
		case c == utf8.RuneError:
			return "", false
		case c == '\\' && i+1 < len(runes):
			i++
			out.WriteString(regexp.QuoteMeta(string(runes[i])))
		case c == '*':
			n := 1
			for i+1 < len(runes) && runes[i+1] == '*' {
				i, n = i+1, n+1
			}
			switch n {
			case 1:
				out.WriteString(one + "*")
			case 2:
				out.WriteString(`(?s:.*)`)
			default:
				return "", false
			}
		case c == '?':
			out.WriteString(one)
		case c == '{':
			depth++
			out.WriteString("(?:")
		case c == '}' && depth > 0:
			depth--
			out.WriteString(")")
		case c == ',' && depth > 0:
			out.WriteString("|")
		case c == '[':
			class, end := globClass(runes, i)
			if end < 0 {
				return "", false
			}
			out.WriteString(class)
			i = end
		case c == '}' || c == ']' || c == '\\':
			return "", false
		default:
			out.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	if depth != 0 {
		return "", false
	}
	out.WriteString(`)\z`)
	return out.String(), true
}

// globClass translates a character class: [abc], [a-z], or either with a leading !.
func globClass(runes []rune, at int) (string, int) {
	end := at + 1
	for end < len(runes) && runes[end] != ']' {
		if runes[end] == '\\' || runes[end] == '[' || runes[end] == utf8.RuneError {
			return "", -1
		}
		end++
	}
	inner := runes[at+1 : min(end, len(runes))]
	if end >= len(runes) || len(inner) == 0 {
		return "", -1
	}
	var class strings.Builder
	class.WriteByte('[')
	if inner[0] == '!' {
		class.WriteByte('^')
		inner = inner[1:]
	}
	quoted := func(r rune) { fmt.Fprintf(&class, `\x{%x}`, r) }
	switch {
	case len(inner) == 3 && inner[1] == '-' && inner[0] <= inner[2]:
		quoted(inner[0])
		class.WriteByte('-')
		quoted(inner[2])
	case len(inner) == 0:
		return "", -1
	default:
		for _, r := range inner {
			if r == '-' {
				return "", -1
			}
			quoted(r)
		}
	}
	class.WriteByte(']')
	return class.String(), end
}

// intersected checks regex.globs_match, which backtracks too.
func intersected(args []*ast.Term) verdict {
	stars := 0
	for _, t := range args[:2] {
		stars += strings.Count(stringOf(t), "*") + strings.Count(stringOf(t), "+")
	}
	n := len(stringOf(args[0])) + len(stringOf(args[1]))
	if n > 1000 || stars > 12 && n > 64 || stars > 40 {
		return verdict{refused: "patterns of more than 1000 bytes, or with more than 12 stars"}
	}
	if n > 100 || stars > 6 {
		return verdict{work: isolatedWork + 1}
	}
	return verdict{}
}
