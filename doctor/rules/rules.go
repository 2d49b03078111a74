// Package rules is what the doctor knows to look for: the table of findings with their ids, what each means and how it is mended. It also has
// what a finding is, and what the doctor knows of the Gatehouse behind the proxy. It imports the tree that findings point into, and nothing else of
// ours.
package rules

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"gatehouse/doctor/tree"
)

// Severity says how bad a finding is.
type Severity string

// An Error lets requests through that were not decided, or decides on something else than the application gets. A Warning is an outage that waits
// for its day, or a second line of defence that is missing. A Note is worth knowing.
const (
	Note    Severity = "note"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Severities are all, from the least.
func Severities() []Severity { return []Severity{Note, Warning, Error} }

// AtLeast says whether s is as bad as other.
func (s Severity) AtLeast(other Severity) bool {
	return slices.Index(Severities(), s) >= slices.Index(Severities(), other)
}

// Page is where findings are explained, each under its id.
const Page = "docs/doctor.md"

// Rule is one kind of finding.
type Rule struct {
	ID       string   // stays as it is, also in later versions
	Severity Severity // of the finding
	Title    string   // what is wrong
	Risk     string   // what an attacker or an outage does with it
	Mend     string
}

// Findings are collected while something is looked at.
type Findings []Finding

// Found adds a finding, and returns it for what may be added to it before the next.
func (f *Findings) Found(id string, at tree.Node, format string, args ...any) *Finding {
	*f = append(*f, Of(id).At(at, format, args...))
	return &(*f)[len(*f)-1]
}

// Finding is one thing that is wrong at one place.
type Finding struct {
	Rule
	File    string
	Line    int
	Path    string
	Message string
	// Fix changes the text that was examined; nil where a person has to decide.
	Fix func()
}

// Of is the rule with an id.
func Of(id string) Rule {
	for _, r := range All() {
		if r.ID == id {
			return r
		}
	}
	return Rule{ID: id, Severity: Error} // a test looks for ids without a row
}

// At reports where and what. The message says what is wrong at this place.
func (r Rule) At(n tree.Node, format string, args ...any) Finding {
	return Finding{Rule: r, File: n.File(), Line: n.Line(), Path: n.Path(), Message: fmt.Sprintf(format, args...)}
}

// With adds how to mend it.
func (f Finding) With(fix func()) Finding {
	f.Fix = fix
	return f
}

// Sort puts findings in the order of places, and takes those off that are there twice, as where an alias repeats a mistake.
func Sort(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(findings, func(a, b Finding) bool {
		return a.ID == b.ID && a.File == b.File && a.Line == b.Line && a.Message == b.Message
	})
}

// Gatehouse is what is known of the Gatehouse that the proxy asks.
type Gatehouse struct {
	Known           bool // from a gatehouse.yaml; else these are its defaults
	PolicyTimeout   time.Duration
	Message         int      // limits.message, bytes
	IdentityHeaders []string // that it sets for the application
	Credentials     []string // headers that credentials are looked for in
	Metadata        bool     // trusts what jwt_authn verified
	CompatPaths     bool
	AllowPaths      []string
	DryRunExtension bool
}

// Default is a Gatehouse without a gatehouse.yaml.
func Default() Gatehouse {
	return Gatehouse{PolicyTimeout: 100 * time.Millisecond, Message: 1 << 20, IdentityHeaders: []string{"x-auth-subject", "x-auth-roles"},
		Credentials: []string{"authorization"}}
}
