package gate

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"gatehouse/routes"
)

// route matches the request against the application's route table, and denies paths that two parsers could read
// differently, unless configuration or the route allows the form.
func (c *call) route() error {
	s := c.view.Settings
	if c.app = c.view.app(c.req); c.app == nil {
		return fail(NoRoute, fmt.Errorf("no app has the host %q", c.req.Host))
	}
	if c.permissions.wanted {
		return c.routePermissions()
	}
	refused := c.target.forms &^ s.Paths.forms()
	named := c.req.Extensions["gatehouse.route"]
	if c.app.table == nil {
		if refused != 0 {
			return refuse(refused)
		}
		if named != "" {
			return fail(BadRequest, fmt.Errorf("gatehouse.route names %q, and there is no route table", named))
		}
		return nil
	}
	var err error
	if c.method, err = tableMethod(c.req); err != nil {
		return fail(BadRequest, err)
	}
	match := c.app.table.Match(c.method, c.req.Host, c.target.raw)
	if match.Outcome == routes.Redirect && c.app.Redirects {
		if target, ok := c.app.table.RedirectTarget(c.method, c.req.Host, c.target.raw); ok {
			match, c.redirect = target, true
		}
	}
	refused &^= match.Allows()
	switch {
	case refused != 0:
		return refuse(refused)
	case match.Outcome == routes.Refused:
		return fail(BadRequest, errors.New("ambiguous path: the route cannot be determined"))
	case match.Outcome == routes.Matched && (named == "" || named == match.Route.Name || named == match.Route.Template):
		c.match = match
		return nil
	case named != "":
		return fail(BadRequest, fmt.Errorf("gatehouse.route names %q, but the path matches another route", named))
	case c.method == routes.WebSocket: // also with AllowUnmatched: some servers serve it as a GET
		return fail(NoRoute, errors.New("the request opens a WebSocket, and the route table has none under its path"))
	case c.app.AllowUnmatched:
		return nil
	}
	return fail(NoRoute, fmt.Errorf("the route table says %s", match.Outcome))
}

func refuse(forms routes.Forms) error {
	if forms&routes.NotAbsolute != 0 {
		return fail(BadRequest, fmt.Errorf("path refused: %s (it must begin with /)", forms))
	}
	return fail(BadRequest, fmt.Errorf("path refused: %s (paths.allow, or allow: on the route, lets it through)", forms))
}

// app selects the application of a request: the one named by Envoy's configuration, else by host, an exact name
// before the longest wildcard.
func (v *View) app(req *Request) *application {
	if name := req.Extensions["gatehouse.app"]; name != "" {
		for i := range v.apps {
			if v.apps[i].Name == name {
				return &v.apps[i]
			}
		}
		return nil
	}
	if len(v.apps) == 1 && len(v.apps[0].Hosts) == 0 {
		return &v.apps[0]
	}
	host, ok := hostName(req.Host)
	if !ok {
		return nil
	}
	var best *application
	longest := -1
	for i := range v.apps {
		a := &v.apps[i]
		if len(a.Hosts) == 0 && longest < 0 {
			best, longest = a, 0
		}
		for _, pattern := range a.Hosts {
			switch suffix, wildcard := strings.CutPrefix(pattern, "*"); {
			case pattern == host:
				return a
			case wildcard && len(suffix) > longest && len(host) > len(suffix) && strings.HasSuffix(host, suffix):
				best, longest = a, len(suffix)
			}
		}
	}
	return best
}

// hostName is a Host header in lower case and without port. It is not ok where two proxies could read it differently:
// with a trailing dot ("a.test." is a.test to nginx, another virtual host to Envoy), or with characters that are
// invalid in a name.
func hostName(host string) (name string, ok bool) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i+1 < len(host) && strings.Trim(host[i+1:], "0123456789") == "" {
		host = host[:i]
	}
	if host == "" || len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' && strings.Trim(host[1:len(host)-1], "0123456789abcdefABCDEF:.") == "" {
		return host, true // IPv6 (RFC 3986 section 3.2.2), which is no name
	}
	name = lowerASCII(host)
	return name, plainHost(name)
}

// plainHost reports whether a lower-case name is unambiguous.
func plainHost(name string) bool {
	return name != "" && name[len(name)-1] != '.' && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// lowerASCII lowers ASCII letters only: Unicode folds some others to ASCII, DNS does not.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Application servers route a WebSocket upgrade differently from a GET for the same path, and disagree about what an
// upgrade is: uvicorn requires Connection to list "upgrade" and Upgrade to be "websocket", daphne checks Upgrade alone,
// gunicorn neither. A request that all of them read alike is accepted as one or the other; any other is denied.
//
// Envoy passes an HTTP/1.1 upgrade unchanged (GET, Upgrade, Connection), and an HTTP/2 extended CONNECT (RFC 8441) in the
// same form. It joins header lines of one name.

var errUpgrade = errors.New("the request may or may not open a WebSocket: Upgrade, Connection and Sec-WebSocket-Key do not agree")

// tableMethod is the method for the route table: the request's own, or routes.WebSocket.
func tableMethod(req *Request) (string, error) {
	if len(req.Method) >= len(routes.WebSocket) && strings.EqualFold(req.Method, routes.WebSocket) {
		return "", fmt.Errorf("%s is no method of HTTP: it stands for upgrades in route tables", routes.WebSocket)
	}
	if !isUpgrade(req) {
		return req.Method, nil
	}
	var upgrades, connections int
	clear := req.Method == http.MethodGet
	for i := range req.Headers {
		switch h := &req.Headers[i]; h.Name {
		case "upgrade":
			upgrades++
			clear = clear && strings.EqualFold(h.Value, "websocket")
		case "connection":
			connections++
			clear = clear && listsToken(h.Value, "upgrade")
		case ":protocol":
			clear = false
		}
	}
	if !clear || upgrades != 1 || connections != 1 {
		return "", errUpgrade
	}
	return routes.WebSocket, nil
}

// isUpgrade reports whether anything in the request indicates a WebSocket.
func isUpgrade(req *Request) bool {
	for i := range req.Headers {
		switch h := &req.Headers[i]; h.Name {
		case "upgrade", ":protocol":
			if containsFold(h.Value, "websocket") {
				return true
			}
		case "sec-websocket-key":
			return true
		}
	}
	return false
}

// containsFold reports whether s contains the word, ignoring ASCII case.
func containsFold(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

// listsToken reports whether a comma-separated list has the token.
func listsToken(list, token string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(item, " \t"), token) {
			return true
		}
	}
	return false
}
