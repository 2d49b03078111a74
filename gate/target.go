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

// maxSpellings bounds how many names Envoy is told to take off. Honest clients have one spelling of each.
const maxSpellings = 32

const pathHeader = ":path"

var errFixedQuery = errors.New("the policy changes the query, which this proxy has no way to do")

// changeQuery fills in what changes in the query: what the policy sets and removes, and the credential's parameter. Envoy compares
// names as they were sent and writes what it gets as it stands. So what is set is escaped here, and every spelling in which the
// client sent such a name goes: applications decode names ("%74enant" is tenant to them).
//
// Envoy sets first and then removes: what is both set and removed is gone.
func (c *call) changeQuery(a *Answer) error {
	var set []policy.QueryParameter
	var remove []string
	if !a.DryRun {
		set, remove = c.decision.SetQuery, c.decision.RemoveQuery
		if c.req.FixedQuery && len(set)+len(remove) > 0 {
			return fail(PolicyError, errFixedQuery)
		}
	}
	// The path as it goes on: a policy that may set it was asked first. Read here: where the path was refused, nobody has yet.
	path := c.req.Path
	at := -1
	for i := range a.Set {
		if strings.EqualFold(a.Set[i].Name, pathHeader) {
			at, path = i, a.Set[i].Value // of several Envoy takes the last
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

// queryChange is what becomes of one query.
type queryChange struct {
	raw     string
	compat  bool // as opa-envoy-plugin has it: policies escape, and each value goes on its own
	sets    []policy.QueryParameter
	removes []string

	owned  []string               // names that are set or removed, as an application reads them
	gone   []string               // of owned, those that are removed, as they stand in a query
	places []identity.TokenSource // whose parameters go
	many   bool                   // there are more spellings than Envoy is to be told
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
	q.owned = append(q.owned, q.name(name))
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
	q.owned, q.gone = append(q.owned, q.name(name)), append(q.gone, q.escape(name))
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

// take takes off a name as the client sent it.
func (q *queryChange) take(sent string) {
	switch {
	case slices.Contains(q.removes, sent):
	case len(q.removes) >= maxSpellings+len(q.gone):
		q.many = true
	default:
		q.removes = append(q.removes, sent)
	}
}

// rewrites reports whether the query has to be written here, as a new path, because Envoy's own way to change one would spoil it: its
// validate_mutations takes few characters in what is set and answers all others with an empty 500, and a client may have more spellings of a name
// than it is to be told. In compat mode what a policy sets goes as it does from opa-envoy-plugin.
func (q *queryChange) rewrites() bool {
	return q.many || q.reordered() || !q.compat && slices.ContainsFunc(q.sets, func(p policy.QueryParameter) bool {
		return !query.Bare(p.Name) || !query.Bare(p.Value)
	})
}

// rewrite is path with the changes in its query. What is set comes first, so that nothing of the client's (a "#", a semicolon) can be in its way.
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
		if !slices.Contains(q.gone, p.Name) && !slices.ContainsFunc(q.sets[i+1:], again) { // the last of a name counts
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
			q.take(name)
		}
	}
	return nil
}

// PathRules say which path forms get to the policy. Proxies, servers and frameworks read these forms differently, so
// that a policy may decide about another resource than the one the application serves: each is refused unless it is
// allowed here or on the route that it reaches. Package routes names and finds them.
type PathRules struct {
	// Compat turns every refusal off, and sets headers as opa-envoy-plugin does, for policies that rely on its reading.
	Compat bool
	// Allow turns refusals off one by one.
	Allow routes.Forms
}

func (p PathRules) forms() routes.Forms {
	if p.Compat {
		return routes.AllForms()
	}
	return p.Allow
}

// target is a request's path and query taken apart once, as contract's parsed_path and parsed_query.
type target struct {
	raw      string // the path as on the wire, without the query
	forms    routes.Forms
	decoded  string
	rawQuery string // as on the wire, without the question mark
	query    query.Values
}

// parseTarget reads the path of a request line. Errors do not quote it. Where the form is allowed, a percent sign without
// two digits stands for itself, as it does in Python's servers; in a query it always does.
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
	if rules.Compat { // opa-envoy-plugin takes no semicolon and no stray percent sign
		if _, err := url.ParseQuery(rawQuery); err != nil {
			return t, errors.New("malformed query")
		}
	}
	t.query, err = query.Parse(rawQuery)
	return t, err
}

// unclearQuery finds a parameter that the policy reads and that the frameworks read differently, where the form is not allowed.
// What the policy does not look at may be anything: a link of an old search engine's has Latin-1 in it.
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

// allowed are the forms that the configuration or the route lets through.
func (c *call) allowed() routes.Forms {
	forms := c.view.Settings.Paths.forms()
	if c.match.Outcome == routes.Matched {
		forms |= c.match.Route.Allow
	}
	return forms
}

// segments are those of the decoded path, for who reads them.
func (t *target) segments() []string { return strings.Split(strings.TrimLeft(t.decoded, "/"), "/") }

// escapeBad escapes each percent sign that begins no escape.
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
