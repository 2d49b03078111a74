package gate

import (
	"errors"
	"net/url"
	"strings"

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
	query    url.Values
}

// parseTarget reads the path of a request line. Errors do not quote it. Where the form is allowed, a percent sign without
// two digits stands for itself, as it does in Python's servers.
func parseTarget(path string, rules PathRules) (target, error) {
	raw, query, _ := strings.Cut(path, "?")
	t := target{raw: raw, rawQuery: query, forms: routes.FormsOf(raw)}
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
	if query != "" {
		if t.query, err = url.ParseQuery(query); err != nil {
			return t, errors.New("malformed query")
		}
	}
	return t, nil
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
