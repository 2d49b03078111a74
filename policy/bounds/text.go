package bounds

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// stringOf returns a string operand, "" for another type: the built-in itself reports that.
func stringOf(t *ast.Term) string {
	s, _ := t.Value.(ast.String)
	return string(s)
}

func outputs(n int) verdict {
	if n > MaxText || n < 0 {
		return verdict{refused: fmt.Sprintf("the text would have more than %d bytes", MaxText)}
	}
	return verdict{work: n / 4}
}

// atMost checks built-ins whose string operands have no reason to be long.
func atMost(n int, operands ...int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) verdict {
		for _, i := range operands {
			if len(stringOf(args[i])) > n {
				return verdict{refused: fmt.Sprintf("a text of more than %d bytes", n)}
			}
		}
		return verdict{}
	}
}

// linear checks built-ins that take this many steps per byte of their texts.
func linear(steps int, operands ...int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) (v verdict) {
		for _, i := range operands {
			v.work += len(stringOf(args[i])) * steps
		}
		return v
	}
}

// keyed checks built-ins that parse and use keys and certificates: long operands are refused.
func keyed(most int, operands ...int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) (v verdict) {
		for _, i := range operands {
			w, ok := weigh(args[i].Value, weight{nodes: 10_000, text: most, depth: 100})
			if !ok {
				return verdict{refused: fmt.Sprintf("a key or certificate of more than %d bytes", most)}
			}
			v.work += w.text * 64
		}
		return v
	}
}

// concatenated checks concat.
func concatenated(args []*ast.Term) verdict {
	n, size := 0, 0
	each(args[1].Value, func(t *ast.Term) bool {
		n, size = n+1, size+len(stringOf(t))
		return size > MaxText
	})
	if join := len(stringOf(args[0])); n > 0 && join > 0 && n > MaxText/join+1 {
		return verdict{refused: fmt.Sprintf("the text would have more than %d bytes", MaxText)}
	}
	return outputs(size + n*len(stringOf(args[0])))
}

// replaced checks replace.
func replaced(args []*ast.Term) verdict {
	s, old, with := stringOf(args[0]), stringOf(args[1]), stringOf(args[2])
	if len(s)*len(with) < 1<<16 && len(s)*len(old) < 1<<16 {
		return verdict{}
	}
	n := strings.Count(s, old)
	if len(with) > 0 && n > MaxText/len(with)+1 {
		return verdict{refused: fmt.Sprintf("the text would have more than %d bytes", MaxText)}
	}
	v := outputs(len(s) + n*len(with))
	v.work += len(s) * min(len(old), 256)
	return v
}

// longOld is the length in bytes above which OPA's replacer is not used: building its table takes time quadratic in the length.
const longOld = 256

// replaceLong is replace, and strings.replace_n with one pattern, in linear time.
func replaceLong(original topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		s, old, with := args[0], ast.Value(nil), ast.Value(nil)
		if patterns, ok := args[0].Value.(ast.Object); ok && patterns.Len() == 1 {
			s = args[1]
			patterns.Foreach(func(k, v *ast.Term) { old, with = k.Value, v.Value })
		} else if !ok && len(args) > 2 {
			old, with = args[1].Value, args[2].Value
		}
		subject, okSubject := s.Value.(ast.String)
		from, okFrom := old.(ast.String)
		to, okTo := with.(ast.String)
		if !okSubject || !okFrom || !okTo || len(from) < longOld {
			return original(bctx, args, iter)
		}
		return iter(ast.StringTerm(strings.ReplaceAll(string(subject), string(from), string(to))))
	}
}

// replacedN checks strings.replace_n.
func replacedN(args []*ast.Term) verdict {
	patterns, ok := args[0].Value.(ast.Object)
	if !ok {
		return verdict{}
	}
	s, shortest, longest, all := stringOf(args[1]), 1<<30, 0, 0
	patterns.Foreach(func(k, v *ast.Term) {
		shortest, longest, all = min(shortest, len(stringOf(k))), max(longest, len(stringOf(v))), all+len(stringOf(k))
	})
	matches := len(s)/max(shortest, 1) + 1
	if longest > 0 && matches > MaxText/longest+1 {
		return verdict{refused: fmt.Sprintf("the text may have more than %d bytes", MaxText)}
	}
	v := outputs(len(s) + matches*longest)
	v.work += all*16 + len(s)*min(all, 1024)
	return v
}

// formatted checks sprintf: widths, precisions, and arguments that are used several times.
func formatted(args []*ast.Term) verdict {
	format := stringOf(args[0])
	list, ok := args[1].Value.(*ast.Array)
	if !ok {
		return verdict{}
	}
	largest, all, numbers := 0, 0, 0
	for i := range list.Len() {
		w, refused := tooLarge(list.Elem(i).Value)
		if refused != "" {
			return verdict{refused: refused}
		}
		size := w.text
		if n, isNumber := list.Elem(i).Value.(ast.Number); isNumber {
			size = min(digits(n), 400) + len(n)
			if whole, ok := n.Int64(); ok && strings.Contains(format, "*") {
				numbers += int(min(max(whole, -whole, 0), 1_000_000)) // a width
			}
		}
		largest, all = max(largest, size), all+size
	}
	verbs, widths := 0, 0
	for rest := format; ; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			break
		}
		verbs++
		rest = rest[i+1:]
		end := 0
		for end < len(rest) && strings.IndexByte("+-# 0123456789.*[]", rest[end]) >= 0 {
			end++
		}
		for _, n := range strings.FieldsFunc(rest[:end], func(r rune) bool { return r < '0' || r > '9' }) {
			if width, err := strconv.Atoi(n); err == nil {
				widths += min(width, 1_000_000)
			}
		}
		rest = rest[end:]
		if widths > MaxText {
			break
		}
	}
	if strings.Contains(format, "[") {
		all = verbs * largest
		numbers *= verbs
	}
	return outputs(len(format) + 4*all + widths + numbers)
}

// marshalled checks json.marshal_with_options: indentation is written for each line, in proportion to its depth.
func marshalled(args []*ast.Term) verdict {
	w, refused := tooLarge(args[0].Value)
	if refused != "" {
		return verdict{refused: refused}
	}
	extra := 1
	if options, ok := args[1].Value.(ast.Object); ok {
		options.Foreach(func(_, v *ast.Term) { extra = max(extra, len(stringOf(v))) })
	}
	line := extra * (w.depth + 1)
	if w.nodes > MaxText/line {
		return verdict{refused: fmt.Sprintf("the text may have more than %d bytes", MaxText)}
	}
	return outputs(w.text*2 + w.nodes*line)
}

// rendered checks strings.render_template: loops may be nested, and templates may call each other without end.
func rendered(args []*ast.Term) verdict {
	template := stringOf(args[0])
	if len(template) > MaxPattern {
		return verdict{refused: fmt.Sprintf("a template of more than %d bytes", MaxPattern)}
	}
	for _, word := range []string{"template", "block", "define", "printf"} {
		if strings.Contains(template, word) {
			return verdict{refused: fmt.Sprintf("a template with %q", word)}
		}
	}
	w, refused := tooLarge(args[1].Value)
	if refused != "" {
		return verdict{refused: refused}
	}
	size := len(template) + 8*w.text*strings.Count(template, "{{")
	for range strings.Count(template, "range") {
		if size > MaxText/max(w.nodes, 1) {
			return verdict{refused: fmt.Sprintf("the text may have more than %d bytes", MaxText)}
		}
		size *= w.nodes
	}
	return outputs(size)
}

// index is indexof in linear time; with all, indexof_n.
func index(all bool) func(topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(original topdown.BuiltinFunc) topdown.BuiltinFunc {
		return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			base, search := stringOf(args[0]), stringOf(args[1])
			if search == "" || len(base)*len(search) < 1<<16 {
				return original(bctx, args, iter)
			}
			found := positions(clean(base), clean(search), all)
			if all {
				list := make([]*ast.Term, len(found))
				for i, at := range found {
					list[i] = ast.InternedTerm(at)
				}
				return iter(ast.ArrayTerm(list...))
			}
			if len(found) == 0 {
				return iter(ast.InternedTerm(-1))
			}
			return iter(ast.InternedTerm(found[0]))
		}
	}
}

// clean returns a text as its runes compare: each byte that is not UTF-8 becomes U+FFFD.
func clean(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// positions returns where a text occurs, counted in runes: the first, or all including overlaps (Knuth-Morris-Pratt).
func positions(base, search string, all bool) (found []int) {
	back := make([]int, len(search)+1)
	back[0] = -1
	for i, k := 0, -1; i < len(search); {
		for k >= 0 && search[i] != search[k] {
			k = back[k]
		}
		i, k = i+1, k+1
		back[i] = k
	}
	length, runes, k := utf8.RuneCountInString(search), 0, 0
	for i := range len(base) {
		if utf8.RuneStart(base[i]) {
			runes++
		}
		for k >= 0 && (k == len(search) || base[i] != search[k]) {
			k = back[k]
		}
		if k++; k == len(search) {
			// Only a search text that ends within a rune could leave bytes of the last rune unread; clean rules that out.
			found = append(found, runes-length)
			if !all {
				return found
			}
		}
	}
	return found
}

// trimmed checks trim, trim_left and trim_right: each rune is searched for in the second text.
func trimmed(args []*ast.Term) verdict {
	n, m := len(stringOf(args[0])), len(stringOf(args[1]))
	if m > 4096 && n > 4096 {
		return verdict{refused: "a set of more than 4096 bytes to trim from a text of more than 4096 bytes"}
	}
	return verdict{work: n * min(m, 4096)}
}

// matched checks built-ins with a regular expression, a text and a replacement at these operands.
func matched(pattern, subject, with int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) verdict {
		size, refused := program(stringOf(args[pattern]))
		if refused != "" {
			return verdict{refused: refused}
		}
		if subject < 0 {
			return verdict{work: size * 16}
		}
		s := stringOf(args[subject])
		v := verdict{work: size * (len(s) + 16)}
		if with >= 0 {
			if groups := strings.Count(stringOf(args[with]), "$"); (len(s)+1)*(len(stringOf(args[with]))+groups*len(s)) > 1<<16 {
				return expanded(v, args[pattern], s, stringOf(args[with]), groups)
			}
		}
		return v
	}
}

// expanded adds the size of a replacement: one for each match, whose groups are no longer than the match.
func expanded(v verdict, pattern *ast.Term, s, with string, groups int) verdict {
	matches := len(s) + 1
	size := len(s) + matches*len(with) + groups*len(s)
	if size > MaxText {
		return verdict{refused: fmt.Sprintf("the text may have more than %d bytes", MaxText)}
	}
	v.work += size
	return v
}

// nested matches a repetition of a repetition.
var nested = regexp.MustCompile(`\)\{|\}\{`)

// program bounds the instructions of a compiled regular expression.
func program(pattern string) (int, string) {
	size := len(pattern)
	if open := strings.Count(pattern, "{"); open > 0 {
		largest, product := 1, 1
		for rest := pattern; ; {
			_, after, found := strings.Cut(rest, "{")
			if !found {
				break
			}
			rest = after
			for _, n := range strings.FieldsFunc(after[:min(len(after), 12)], func(r rune) bool { return r < '0' || r > '9' }) {
				if times, err := strconv.Atoi(n); err == nil {
					largest = max(largest, min(times, 1000))
				}
			}
			product = min(product*largest, 1000)
		}
		if nested.MatchString(pattern) {
			size *= product
		} else {
			size += open * largest
		}
	}
	if len(pattern) > MaxPattern || size > MaxProgram {
		return 0, fmt.Sprintf("a pattern of more than %d bytes, or that comes to more than %d instructions", MaxPattern, MaxProgram)
	}
	return size + 1, ""
}
