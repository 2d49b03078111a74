package gate

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/policy/reach"
	"gatehouse/query"
	"gatehouse/routes"
)

// maxSpellings bounds the names that Envoy is told to remove. Regular clients use one spelling of each.
const maxSpellings = 32

const pathHeader = ":path"

var errFixedQuery = errors.New("the policy changes the query, which this proxy has no way to do")

// changeQuery sets the changes to the query: parameters that the policy sets and removes, and the credential's
// parameter. Envoy compares names as sent and writes values verbatim. So values are escaped here, and every spelling
// of such a name that the client sent is removed: applications decode names ("%74enant" is tenant to them).
//
// Envoy sets first and then removes: a name that is both set and removed is gone.
func (c *call) changeQuery(a *Answer) error {
	var set []policy.QueryParameter
	var remove []string
	if !a.DryRun {
		set, remove = c.decision.SetQuery, c.decision.RemoveQuery
		if c.req.FixedQuery && len(set)+len(remove) > 0 {
			return fail(PolicyError, errFixedQuery)
		}
	}
	// The path that is forwarded: a policy may have set it. It is parsed here because a denied path was never parsed.
	path := c.req.Path
	at := -1
	for i := range a.Set {
		if strings.EqualFold(a.Set[i].Name, pathHeader) {
			at, path = i, a.Set[i].Value // Envoy uses the last of several
		}
	}
	_, raw, _ := strings.Cut(path, "?")
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
	if path == "" || !q.rewrites() { // CONNECT has no path
		a.SetQuery, a.RemoveQuery = q.sets, q.removes
		return nil
	}
	path = q.rewrite(path)
	if at >= 0 {
		a.Set[at].Value = path
	} else {
		a.Set = append(a.Set, HeaderOption{Name: pathHeader, Value: path, Action: OverwriteIfExistsOrAdd})
	}
	return nil
}

// queryChange collects the changes of one query.
type queryChange struct {
	raw     string
	compat  bool // as opa-envoy-plugin: policies escape, and each value is passed on separately
	sets    []policy.QueryParameter
	removes []string

	owned   []string               // names that are set or removed, decoded
	removed []string               // removed names, as spelled in the query
	places  []identity.TokenSource // whose parameters are removed
	many    bool                   // more spellings than maxSpellings
}

// set writes a parameter, and removes its other spellings.
func (q *queryChange) set(name, value string) {
	p := policy.QueryParameter{Name: q.escape(name), Value: q.escape(value)}
	at := slices.IndexFunc(q.sets, func(other policy.QueryParameter) bool { return other.Name == p.Name })
	if at >= 0 && !q.compat { // Envoy keeps the last of several settings of a name
		q.sets[at].Value += "&" + p.Name + "=" + p.Value
		return
	}
	q.sets = append(q.sets, p)
	q.owned = append(q.owned, q.name(name))
	q.spellings(q.name(name), p.Name)
}

// escape encodes a name or value for a query.
func (q *queryChange) escape(s string) string {
	if q.compat {
		return query.EscapeRest(s) // in compat mode policies escape
	}
	return query.Escape(s)
}

// name is the name that an application reads for one given by the policy.
func (q *queryChange) name(given string) string {
	if q.compat {
		given, _ = query.Decode(given)
	}
	return given
}

// remove removes a parameter in every spelling.
func (q *queryChange) remove(name string) {
	q.owned, q.removed = append(q.owned, q.name(name)), append(q.removed, q.escape(name))
	q.removeSpelling(q.escape(name))
	q.spellings(q.name(name), "")
}

// spellings removes every spelling of name except kept.
func (q *queryChange) spellings(name, kept string) {
	for sent := range query.Pairs(q.raw) {
		if sent != kept && query.Spells(sent, name) {
			q.removeSpelling(sent)
		}
	}
}

// removeSpelling removes a name as the client sent it.
func (q *queryChange) removeSpelling(sent string) {
	switch {
	case slices.Contains(q.removes, sent):
	case len(q.removes) >= maxSpellings+len(q.removed):
		q.many = true
	default:
		q.removes = append(q.removes, sent)
	}
}

// rewrites reports whether the query has to be written as a new path, because Envoy's own query changes would fail:
// its validate_mutations accepts few characters in values and answers all others with an empty 500, and a client may
// use more spellings than maxSpellings. In compat mode the policy's values are passed on as by opa-envoy-plugin.
func (q *queryChange) rewrites() bool {
	return q.many || q.reordered() || !q.compat && slices.ContainsFunc(q.sets, func(p policy.QueryParameter) bool {
		return !query.Bare(p.Name) || !query.Bare(p.Value)
	})
}

// rewrite is path with the query changed. Set parameters come first, so that nothing the client sent (a "#", a
// semicolon) can hide them.
func (q *queryChange) rewrite(path string) string {
	path, _, _ = strings.Cut(path, "?")
	var b strings.Builder
	b.Grow(len(path) + len(q.raw) + 128)
	b.WriteString(path)
	separator := byte('?')
	write := func(pair string) {
		b.WriteByte(separator)
		b.WriteString(pair)
		separator = '&'
	}
	for i, p := range q.sets {
		again := func(other policy.QueryParameter) bool { return other.Name == p.Name }
		if !slices.Contains(q.removed, p.Name) && !slices.ContainsFunc(q.sets[i+1:], again) { // the last of a name wins
			write(p.Name + "=" + p.Value)
		}
	}
	for pair := range strings.SplitSeq(q.raw, "&") {
		sent, value, _ := strings.Cut(pair, "=")
		mine := func(name string) bool { return query.Spells(sent, name) }
		place := func(s identity.TokenSource) bool { return s.NamesQuery(sent, value) }
		if pair != "" && !slices.ContainsFunc(q.owned, mine) && !slices.ContainsFunc(q.places, place) {
			write(pair)
		}
	}
	return b.String()
}

// reordered reports whether a parameter that stays is spelled in two ways. Envoy sorts a changed query by the names
// as sent, so the application would read another first value than the policy did.
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

// removeCredentialQuery removes the parameter that holds a credential, also behind a semicolon: old frameworks treat
// that as a separator. A name that the policy sets stays.
func (c *call) removeCredentialQuery(q *queryChange) error {
	if !c.view.settings().Headers.RemoveCredential {
		return nil
	}
	for _, s := range c.view.settings().Verifier.Places() {
		if s.Query == "" || slices.ContainsFunc(q.sets, func(p policy.QueryParameter) bool { return query.Spells(p.Name, s.Query) }) {
			continue
		}
		q.places = append(q.places, s)
		for name, value := range query.Pairs(q.raw) {
			if !s.NamesQuery(name, value) {
				continue
			}
			if c.req.FixedQuery {
				return fail(BadRequest, fmt.Errorf("query parameter %q must be removed, which this proxy cannot do", s.Query))
			}
			q.removeSpelling(name)
		}
	}
	return nil
}

// PathRules say which path forms reach the policy. Proxies, servers and frameworks read these forms differently, so a
// policy could decide about another resource than the application serves: each is denied unless allowed here or on
// the matched route. Package routes names and detects them.
type PathRules struct {
	// Compat turns every check off, and sets headers as opa-envoy-plugin does, for policies that rely on its
	// behaviour.
	Compat bool
	// Allow permits single forms.
	Allow routes.Forms
}

func (p PathRules) forms() routes.Forms {
	if p.Compat {
		return routes.AllForms()
	}
	return p.Allow
}

// target is a request's path and query, parsed once, as contract's parsed_path and parsed_query.
type target struct {
	raw      string // the path as on the wire, without the query
	forms    routes.Forms
	decoded  string
	rawQuery string // as on the wire, without the question mark
	query    query.Values
}

// parseTarget parses a request path. Errors do not quote it. Where the form is allowed, a percent sign without two
// hex digits is literal, as in Python's servers; in a query it always is.
func parseTarget(path string, rules PathRules) (target, error) {
	raw, rawQuery, _ := strings.Cut(path, "?")
	t := target{raw: raw, rawQuery: rawQuery, forms: routes.FormsOf(raw)}
	decoded := raw
	var err error
	if strings.IndexByte(raw, '%') >= 0 {
		if rules.Allow&routes.BadEscape != 0 && !rules.Compat {
			raw = escapeBad(raw)
		}
		if decoded, err = url.PathUnescape(raw); err != nil {
			return t, errors.New("a percent sign in the path is not followed by two hexadecimal digits")
		}
	}
	t.decoded = decoded
	if rules.Compat { // opa-envoy-plugin rejects semicolons and stray percent signs
		if _, err := url.ParseQuery(rawQuery); err != nil {
			return t, errors.New("malformed query")
		}
	}
	t.query, err = query.Parse(rawQuery)
	return t, err
}

// unclearQuery finds a parameter that the policy reads and frameworks read differently, where the form is not
// allowed. Parameters that the policy does not read may have any form, such as Latin-1 in old links.
func (c *call) unclearQuery(reads reach.Reads) error {
	if len(c.target.query.Unclear) == 0 || c.allowed()&routes.InvalidUTF8 != 0 {
		return nil
	}
	parameters, read := reads.Member("parsed_query")
	if !read || !slices.ContainsFunc(c.target.query.Unclear, parameters.Has) {
		return nil
	}
	return errors.New("the query is not UTF-8 where the policy reads it (paths.allow: [invalid_utf8], or allow: on the route, lets it through)")
}

// allowed are the forms permitted by the configuration or the route.
func (c *call) allowed() routes.Forms {
	forms := c.view.Settings.Paths.forms()
	if c.match.Outcome == routes.Matched {
		forms |= c.match.Route.Allow
	}
	return forms
}

// segments are those of the decoded path.
func (t *target) segments() []string { return strings.Split(strings.TrimLeft(t.decoded, "/"), "/") }

// escapeBad escapes percent signs that begin no valid escape.
func escapeBad(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if s[i] == '%' && (i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2])) {
			b.WriteString("%25")
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
