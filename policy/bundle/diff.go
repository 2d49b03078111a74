package bundle

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Difference is what differs between two bundles. Whitespace, comments, the order and place of rules, and test modules do not count.
type Difference struct {
	Rules    []RuleChange `json:"rules,omitempty"`
	Data     []DataChange `json:"data,omitempty"`
	MoreData int          `json:"more_data,omitempty"` // changes beyond those in Data
	Manifest []DataChange `json:"manifest,omitempty"`  // revision and roots
}

// Empty reports whether nothing differs.
func (d *Difference) Empty() bool { return len(d.Rules)+len(d.Data)+len(d.Manifest) == 0 }

// RuleChange is a rule with a definition added, removed or changed.
type RuleChange struct {
	Change string  `json:"change"` // added, removed or changed
	Path   string  `json:"path"`   // data.orders.allow
	Before []Place `json:"before,omitempty"`
	After  []Place `json:"after,omitempty"` // definitions that only this bundle has
}

// Place is a rule's location in a bundle.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

func (p Place) String() string { return p.File + ":" + strconv.Itoa(p.Line) }

// DataChange is a value that was added, removed or changed.
type DataChange struct {
	Change  string `json:"change"`
	Pointer string `json:"pointer"` // JSON pointer (RFC 6901)
	Before  string `json:"before,omitempty"`
	After   string `json:"after,omitempty"` // JSON, at most 80 bytes of it
}

const maxShownValue = 80

// Diff compares two bundles and lists at most maxData changes of data.
func Diff(before, after *Bundle, maxData int) *Difference {
	d := &Difference{Rules: diffRules(definitions(before), definitions(after))}
	data := &dataDiff{most: maxData}
	data.objects("", before.data, after.data)
	d.Data, d.MoreData = data.changes, data.more
	for _, field := range []struct{ name, before, after string }{
		{"/revision", before.revision, after.revision},
		{"/roots", strings.Join(before.roots, " "), strings.Join(after.roots, " ")},
	} {
		if field.before != field.after {
			d.Manifest = append(d.Manifest, DataChange{Change: "changed", Pointer: field.name, Before: strconv.Quote(field.before), After: strconv.Quote(field.after)})
		}
	}
	return d
}

// definition is one definition of a rule: its meaning and location.
type definition struct {
	text  string
	place Place
}

// definitions lists a bundle's rules by path.
func definitions(b *Bundle) map[string][]definition {
	all := map[string][]definition{}
	for _, file := range slices.Sorted(maps.Keys(b.modules)) {
		module := b.modules[file]
		for _, rule := range module.Rules {
			path := rule.Ref().GroundPrefix().String()
			d := definition{text: rule.String() + importsOf(module, rule), place: Place{File: file}}
			if rule.Location != nil {
				d.place.Line = rule.Location.Row
			}
			all[path] = append(all[path], d)
		}
	}
	return all
}

// importsOf returns what the imported names in a rule stand for: with another import it is another rule.
func importsOf(module *ast.Module, rule *ast.Rule) string {
	used := map[ast.Var]bool{}
	ast.WalkVars(rule, func(v ast.Var) bool {
		used[v] = true
		return false
	})
	var text strings.Builder
	for _, imported := range module.Imports {
		if used[imported.Name()] {
			fmt.Fprintf(&text, "\nimport %v as %v", imported.Path, imported.Name())
		}
	}
	return text.String()
}

func diffRules(before, after map[string][]definition) (changes []RuleChange) {
	paths := slices.Sorted(maps.Keys(before))
	for path := range after {
		if before[path] == nil {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		c := RuleChange{Path: path, Change: "changed", Before: only(before[path], after[path]), After: only(after[path], before[path])}
		switch {
		case before[path] == nil:
			c.Change = "added"
		case after[path] == nil:
			c.Change = "removed"
		case c.Before == nil && c.After == nil:
			continue
		}
		changes = append(changes, c)
	}
	return changes
}

// only returns the places of definitions that the other rule lacks. Duplicates count.
func only(here, there []definition) (places []Place) {
	left := map[string]int{}
	for _, d := range there {
		left[d.text]++
	}
	for _, d := range here {
		if left[d.text]--; left[d.text] < 0 {
			places = append(places, d.place)
		}
	}
	return places
}

// dataDiff collects changes up to a limit and counts the rest.
type dataDiff struct {
	most    int
	changes []DataChange
	more    int
}

func (d *dataDiff) add(change, pointer string, before, after *ast.Term) {
	if len(d.changes) >= d.most {
		d.more++
		return
	}
	d.changes = append(d.changes, DataChange{Change: change, Pointer: pointer, Before: shown(before), After: shown(after)})
}

// shown returns the beginning of a value's JSON.
func shown(t *ast.Term) string {
	if t == nil {
		return ""
	}
	value, err := ast.JSON(t.Value)
	if err != nil {
		return "..."
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "..."
	}
	if len(text) > maxShownValue {
		return strings.ToValidUTF8(string(text[:maxShownValue]), "") + "..."
	}
	return string(text)
}

// values compares the values at a pointer.
func (d *dataDiff) values(pointer string, before, after *ast.Term) {
	switch a := before.Value.(type) {
	case ast.Object:
		if b, ok := after.Value.(ast.Object); ok {
			d.objects(pointer, a, b)
			return
		}
	case *ast.Array:
		if b, ok := after.Value.(*ast.Array); ok {
			d.arrays(pointer, a, b)
			return
		}
	}
	if before.Value.Compare(after.Value) != 0 {
		d.add("changed", pointer, before, after)
	}
}

// objects descends only into members that differ: in large data these are few.
func (d *dataDiff) objects(pointer string, before, after ast.Object) {
	var differ []*ast.Term
	before.Foreach(func(key, value *ast.Term) {
		if other := after.Get(key); other == nil || other.Value.Compare(value.Value) != 0 {
			differ = append(differ, key)
		}
	})
	after.Foreach(func(key, _ *ast.Term) {
		if before.Get(key) == nil {
			differ = append(differ, key)
		}
	})
	slices.SortFunc(differ, func(a, b *ast.Term) int { return cmp.Compare(dataKey(a), dataKey(b)) })
	for _, key := range differ {
		at := pointer + "/" + pointerEscape.Replace(dataKey(key))
		switch a, b := before.Get(key), after.Get(key); {
		case a == nil:
			d.add("added", at, nil, b)
		case b == nil:
			d.add("removed", at, a, nil)
		default:
			d.values(at, a, b)
		}
	}
}

// pointerEscape escapes a key as a JSON pointer segment (RFC 6901 section 3).
var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

func (d *dataDiff) arrays(pointer string, before, after *ast.Array) {
	for i := range max(before.Len(), after.Len()) {
		at := pointer + "/" + strconv.Itoa(i)
		switch {
		case i >= before.Len():
			d.add("added", at, nil, after.Elem(i))
		case i >= after.Len():
			d.add("removed", at, before.Elem(i), nil)
		default:
			d.values(at, before.Elem(i), after.Elem(i))
		}
	}
}

func dataKey(key *ast.Term) string {
	s, _ := key.Value.(ast.String)
	return string(s)
}
