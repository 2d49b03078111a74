// Package regoerror is what the errors of Rego's parser and compiler mean to whoever wrote the policy: the line, the column, the source line, and
// what was probably meant. It is a part of the policy, for package bundle and the compiler, and decides nothing.
package regoerror

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/builtins"
	"gatehouse/policy/rego"
)

// Error is one error, taken apart.
type Error struct {
	Line   int    // from 1; 0 where unknown
	Column int    // in characters, from 1; 0 where unknown
	Source string // the line; "" where unknown
	Text   string // what is wrong, in one line, with what was probably meant
}

// Parsing is an error of the parser about a module of this content.
func Parsing(e *ast.Error, content string) Error {
	out := Error{Text: rego.ErrorText(e)}
	if e.Location == nil {
		return out
	}
	out.Line, out.Column, out.Source = e.Location.Row, e.Location.Col, lineOf(content, e.Location.Row)
	if word, at := joined(out.Text, out.Source); word != "" {
		before, _, _ := strings.Cut(out.Text, " (hint: ")
		out.Text, out.Column = before+": "+joinHints[word], at
	} else if hint := syntaxHint(out.Text, from(out.Source, out.Column)); hint != "" {
		out.Text += ": " + hint
	}
	return out
}

// Compiling is an error of the compiler. modules are what it compiled, by the files that its locations name.
func Compiling(e *ast.Error, modules map[string]*ast.Module) Error {
	if e.Location == nil {
		return Error{Text: rego.ErrorText(e)}
	}
	module := modules[e.Location.File]
	out := Error{Line: e.Location.Row, Column: e.Location.Col, Source: sourceLine(module, e.Location.Row)}
	switch name, word := cutFunction(e.Message), unsafeVar(e.Message); {
	case name != "":
		out.Text = undefinedFunction(name, module, modules)
		if at := columnOf(out.Source, shortName(name), out.Column); at > 0 {
			out.Column = at
		}
	case word != "":
		if at := columnOf(out.Source, word, out.Column); at > 0 {
			out.Column = at
		}
		out.Text = rego.ErrorText(e)
		if meant := didYouMean(word, slices.Concat([]string{"input", "data", "true", "false", "null"}, names(module, modules), variables(module, e.Location.Row, word))); meant != "" {
			out.Text += meant
		} else {
			out.Text += ": nothing gives it a value"
		}
	default:
		out.Text = rego.ErrorText(e)
	}
	return out
}

func cutFunction(message string) string {
	name, ok := strings.CutPrefix(message, "undefined function ")
	if !ok {
		return ""
	}
	return name
}

// undefinedFunction distinguishes disabled built-ins, rules that are no functions, and unknown ones.
func undefinedFunction(name string, module *ast.Module, modules map[string]*ast.Module) string {
	if slices.Contains(builtins.OffByDefault, name) {
		return fmt.Sprintf("the built-in %s is off by default: policy.capabilities turns it on", name)
	}
	known := names(module, modules)
	if short := shortName(name); short != name && slices.Contains(known, short) {
		return fmt.Sprintf("%s is a rule and no function: write it without ()", short)
	}
	for _, b := range ast.Builtins {
		if b.Infix == "" && !strings.HasPrefix(b.Name, "internal.") {
			known = append(known, b.Name)
		}
	}
	return fmt.Sprintf("there is no function or built-in %s%s", name, didYouMean(shortName(name), known))
}

// shortName is the last part of data.app.is_admin.
func shortName(name string) string {
	if strings.HasPrefix(name, "data.") {
		return name[strings.LastIndexByte(name, '.')+1:]
	}
	return name
}

// names are those of the rules in the module's package, and of its imports.
func names(module *ast.Module, modules map[string]*ast.Module) (list []string) {
	if module == nil {
		return nil
	}
	for _, i := range module.Imports {
		list = append(list, string(i.Name()))
	}
	for _, other := range modules {
		if !other.Package.Equal(module.Package) {
			continue
		}
		for _, r := range other.Rules {
			list = append(list, r.Head.Ref()[0].String())
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// variables are the others of the rule at a line.
func variables(module *ast.Module, line int, but string) (list []string) {
	if module == nil {
		return nil
	}
	for _, r := range module.Rules {
		if l := r.Location; l == nil || line < l.Row || line > l.Row+strings.Count(string(l.Text), "\n") {
			continue
		}
		ast.WalkVars(r, func(v ast.Var) bool {
			if name := string(v); name != but && !v.IsGenerated() && !v.IsWildcard() {
				list = append(list, name)
			}
			return false
		})
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// sourceLine is a line of a module's source, as far as its rules keep it; "" where they do not.
func sourceLine(m *ast.Module, line int) string {
	if m == nil {
		return ""
	}
	var of *ast.Location
	look := func(l *ast.Location) {
		if l != nil && l.Row <= line && line <= l.Row+strings.Count(string(l.Text), "\n") && (of == nil || len(l.Text) > len(of.Text)) {
			of = l
		}
	}
	for _, r := range m.Rules {
		look(r.Location)
	}
	if of == nil {
		return ""
	}
	text := lineOf(string(of.Text), line-of.Row+1)
	if of.Row == line {
		text = strings.Repeat(" ", max(0, of.Col-1)) + text // what stands before is not kept
	}
	return text
}

var unsafe = regexp.MustCompile(`^var ([\pL_][\pL\pN_]*) is unsafe$`)

// unsafeVar is the variable of the message about one that nothing gives a value; "" where the message is another.
func unsafeVar(message string) string {
	if found := unsafe.FindStringSubmatch(message); found != nil {
		return found[1]
	}
	return ""
}
