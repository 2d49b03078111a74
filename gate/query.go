package gate

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse/policy"
	"gatehouse/query"
)

// maxSpellings bounds in how many ways one request may spell parameters that are set or removed. Honest clients have one.
const maxSpellings = 32

var (
	errFixedQuery = errors.New("the policy changes the query, which this proxy has no way to do")
	errSpellings  = errors.New("the query spells parameters that are set or removed in too many ways")
	errReordered  = errors.New("the query spells one parameter in two ways, and the proxy would change their order")
)

// changeQuery fills in what changes in the query: what the policy sets and removes, and the credential's parameter. Envoy compares
// names as they were sent and writes what it gets as it stands. So what is set is escaped here, and every spelling in which the
// client sent such a name goes: applications decode names ("%74enant" is tenant to them).
//
// Envoy sets first and then removes: what is both set and removed is gone. With validate_mutations it takes no percent sign in what is
// set, so that a value with other characters than letters, digits, "*", "-", "." and "_" is a 500 there.
func (c *call) changeQuery(a *Answer) error {
	var set []policy.QueryParameter
	var remove []string
	if !a.DryRun {
		set, remove = c.decision.SetQuery, c.decision.RemoveQuery
		if c.req.FixedQuery && len(set)+len(remove) > 0 {
			return fail(PolicyError, errFixedQuery)
		}
	}
	_, raw, _ := strings.Cut(c.req.Path, "?") // read here: where the path was refused, nobody has yet
	q := queryChange{raw: raw, compat: c.view.settings().Paths.Compat}
	for _, p := range set {
		q.set(p.Name, p.Value)
	}
	for _, name := range remove {
		q.remove(name)
	}
	if err := c.removeCredentialQuery(&q); err != nil {
		return err
	}
	if len(q.sets)+len(q.removes) == 0 {
		return nil
	}
	if len(q.removes) > maxSpellings+len(remove) {
		return fail(BadRequest, errSpellings)
	}
	if q.reordered() {
		return fail(BadRequest, errReordered)
	}
	a.SetQuery, a.RemoveQuery = q.sets, q.removes
	return nil
}

// queryChange is what becomes of one query.
type queryChange struct {
	raw     string
	compat  bool // as opa-envoy-plugin has it: policies escape, and each value goes on its own
	sets    []policy.QueryParameter
	removes []string
}

// set writes a parameter, and takes off its other spellings.
func (q *queryChange) set(name, value string) {
	p := policy.QueryParameter{Name: q.escape(name), Value: q.escape(value)}
	at := slices.IndexFunc(q.sets, func(other policy.QueryParameter) bool { return other.Name == p.Name })
	if at >= 0 && !q.compat { // of several settings of a name Envoy keeps the last
		q.sets[at].Value += "&" + p.Name + "=" + p.Value
		return
	}
	q.sets = append(q.sets, p)
	q.spellings(q.name(name), p.Name)
}

// escape writes a name or value as it has to stand in a query.
func (q *queryChange) escape(s string) string {
	if q.compat {
		return query.EscapeRest(s) // there policies escape by themselves
	}
	return query.Escape(s)
}

// name is what an application will read for a name that the policy gave.
func (q *queryChange) name(given string) string {
	if q.compat {
		given, _ = query.Decode(given)
	}
	return given
}

// remove takes a parameter off in every spelling.
func (q *queryChange) remove(name string) {
	q.take(q.escape(name))
	q.spellings(q.name(name), "")
}

// spellings takes off every name that an application reads as name, but for the one that is kept.
func (q *queryChange) spellings(name, kept string) {
	for sent := range query.Pairs(q.raw) {
		if sent != kept && query.Spells(sent, name) {
			q.take(sent)
		}
	}
}

func (q *queryChange) take(sent string) {
	if len(q.removes) <= 2*maxSpellings && !slices.Contains(q.removes, sent) {
		q.removes = append(q.removes, sent)
	}
}

// reordered reports whether a parameter that stays is spelled in two ways. Envoy writes a query that it changes in the order of the names
// as they were sent, so that the application would read another first value than the policy did.
func (q *queryChange) reordered() bool {
	spelled := map[string]string{} // decoded -> sent
	for sent := range query.Pairs(q.raw) {
		if slices.Contains(q.removes, sent) {
			continue
		}
		name, _ := query.Decode(sent)
		if other, twice := spelled[name]; twice && other != sent {
			return true
		}
		spelled[name] = sent
	}
	return false
}

// removeCredentialQuery takes off the parameter that holds a credential, also where it is hidden behind a semicolon: old frameworks take
// that for a separator. A name that the policy sets is the policy's.
func (c *call) removeCredentialQuery(q *queryChange) error {
	if !c.view.settings().Headers.RemoveCredential {
		return nil
	}
	for _, s := range c.view.settings().Verifier.Places() {
		if s.Query == "" || slices.ContainsFunc(q.sets, func(p policy.QueryParameter) bool { return p.Name == s.Query }) {
			continue
		}
		for name, value := range query.Pairs(q.raw) {
			if !s.NamesQuery(name, value) {
				continue
			}
			if c.req.FixedQuery {
				return fail(BadRequest, fmt.Errorf("query parameter %q is to be taken off, which this proxy has no way to do", s.Query))
			}
			q.take(name)
		}
	}
	return nil
}
