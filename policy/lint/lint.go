// Package lint is what helps authors of policies beside compiling them: Rego formatted as OPA formats it, and mistakes that compile. It decides
// nothing and prints nothing. Behind `gatehouse fmt` and `lint`. It may import policy and its parts.
package lint

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"gatehouse/nearest"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
	"gatehouse/policy/regoerror"
)

// Format is a module as OPA formats it, in the version of Rego that it is written in.
func Format(file string, text []byte) ([]byte, error) {
	var first error
	for _, version := range []ast.RegoVersion{ast.RegoV1, ast.RegoV0} {
		out, err := format.SourceWithOpts(file, text, format.Opts{RegoVersion: version, ParserOptions: &ast.ParserOptions{RegoVersion: version}})
		if err == nil {
			return out, nil
		}
		first = cmp.Or(first, err)
	}
	return nil, problem(file, text, first)
}

// problem names the line and what to do.
func problem(file string, text []byte, err error) error {
	var all ast.Errors
	if !errors.As(err, &all) || len(all) == 0 {
		return fmt.Errorf("formatting %s: %w", file, err)
	}
	found := regoerror.Parsing(all[len(all)-1], string(text))
	return bundle.Problems{{Stage: "formatting", File: file, Line: found.Line, Column: found.Column, Source: found.Source, Text: found.Text}}
}

// The rules of Lint.
const (
	Strict    = "strict"            // what OPA's strict mode refuses
	Reference = "unknown-reference" // a rule that is not there, in a package that is
	Default   = "no-default"        // a decision that can be undefined
	Layout    = "format"            // not as Format has it
	Notice    = "notice"            // what the compiler gives notice of
)

// Finding is one mistake.
type Finding struct {
	Rule string `json:"rule"`
	File string `json:"file,omitempty"` // within the bundle
	Line int    `json:"line,omitempty"`
	Text string `json:"text"`
}

// String is the finding in one line.
func (f Finding) String() string {
	text := fmt.Sprintf("%s [%s]", f.Text, f.Rule)
	switch {
	case f.File == "":
		return text
	case f.Line == 0:
		return f.File + ": " + text
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, text)
}

// Lint looks for mistakes in one bundle, which is compiled together with all. files are its files, for their layout. An error means that it does
// not compile.
func Lint(ctx context.Context, cfg policy.Config, b *bundle.Bundle, all []*bundle.Bundle, files map[string][]byte) ([]Finding, error) {
	var found []Finding
	strict, err := policy.Strict(ctx, cfg, all)
	if err != nil {
		return nil, err
	}
	for _, p := range strict {
		if p.Bundle == b.Name() {
			found = append(found, Finding{Strict, p.File, p.Line, p.Text})
		}
	}
	found = append(found, references(b, all)...)
	found = append(found, defaults(cfg, all)...)
	found = append(found, bugs(b, all)...)
	for _, file := range slices.Sorted(keysOf(files)) {
		if strings.HasSuffix(file, ".rego") {
			if out, err := Format(file, files[file]); err == nil && !bytes.Equal(out, files[file]) {
				found = append(found, Finding{Layout, file, 0, "not formatted: gatehouse fmt does it"})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line) })
	return slices.Compact(found), nil
}

func keysOf(files map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	}
}

// references finds references to rules that are not there, in packages that only hold rules.
func references(b *bundle.Bundle, all []*bundle.Bundle) (found []Finding) {
	packages := map[string][]string{} // its path, and below it the first parts of its rules' names
	for _, one := range all {
		for _, m := range one.Modules() {
			at := strings.Join(rego.Path(m.Package.Path), "/")
			for _, r := range m.Rules {
				packages[at] = append(packages[at], strings.Split(strings.TrimPrefix(strings.Join(rego.Path(r.Ref().GroundPrefix()), "/"), at+"/"), "/")[0])
			}
		}
	}
	for other := range packages { // a package below is a name as well, at any depth
		for above, name := path.Split(other); above != ""; above, name = path.Split(above) {
			above = strings.TrimSuffix(above, "/")
			if packages[above] != nil {
				packages[above] = append(packages[above], name)
			}
		}
	}
	for file, m := range b.Modules() {
		written := ast.Module{Package: &ast.Package{}, Imports: m.Imports, Rules: m.Rules} // the package clause is no reference
		ast.WalkRefs(&written, func(ref ast.Ref) bool {
			if !ref.HasPrefix(ast.DefaultRootRef) {
				return false
			}
			ground := rego.Path(ref.GroundPrefix())
			for n := len(ground) - 1; n > 0; n-- {
				rules := packages[strings.Join(ground[:n], "/")]
				if rules == nil {
					continue
				}
				if at := strings.Join(ground[:n], "/"); !slices.Contains(rules, ground[n]) && !hasData(all, ground[:n+1]) {
					text := fmt.Sprintf("%s is no rule of package %s", ground[n], strings.ReplaceAll(at, "/", "."))
					if near := nearest.Word(ground[n], rules, 4); near != "" {
						text += "; did you mean " + near + "?"
					}
					found = append(found, Finding{Reference, file, ref[0].Location.Row, text})
				}
				break
			}
			return false
		})
	}
	return found
}

// hasData reports whether a bundle has data at a path, or may come to have it.
func hasData(all []*bundle.Bundle, at []string) bool {
	for _, b := range all {
		var value ast.Value = b.Data()
		for i, key := range at {
			object, ok := value.(ast.Object)
			if !ok {
				break
			}
			next := object.Get(ast.StringTerm(key))
			if next == nil {
				break
			}
			if value = next.Value; i == len(at)-1 {
				return true
			}
		}
	}
	return false
}

// always reports whether a rule, or the last of its else, holds for every input.
func always(r *ast.Rule) bool {
	for ; r != nil; r = r.Else {
		if len(r.Body) == 1 && r.Body[0].Equal(ast.NewExpr(ast.BooleanTerm(true))) && len(r.Head.Args) == 0 {
			return true
		}
	}
	return false
}

// defaults finds a decision that no rule gives a value where none holds.
func defaults(cfg policy.Config, all []*bundle.Bundle) []Finding {
	wanted := strings.Split(cfg.Decision, "/")
	var first *Finding
	for _, b := range all {
		for file, m := range b.Modules() {
			for _, r := range m.Rules {
				if !slices.Equal(rego.Path(r.Ref().GroundPrefix()), wanted) {
					continue
				}
				if r.Default || always(r) {
					return nil
				}
				if at := (Finding{Default, file, r.Location.Row, "the decision has no default: where no rule holds, the request is denied as no_decision; write default " + wanted[len(wanted)-1] + " := false"}); first == nil || file < first.File || file == first.File && at.Line < first.Line {
					first = &at
				}
			}
		}
	}
	if first == nil {
		return nil
	}
	return []Finding{*first}
}
