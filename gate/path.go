package gate

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"gatehouse/policy/reach"
	"gatehouse/query"
	"gatehouse/routes"
)

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
