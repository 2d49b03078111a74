// Package routes finds the route that an application uses for a request, from a table of the application's routes: GET /orders/17 is "GET /orders/<int:id>" with id 17. A policy can then speak about routes instead of paths.
//
// # The table
//
// A table is a file, routes.yaml, that people read and edit; an importer writes the first one from the application:
//
//	framework: flask                # whose rules decide: flask, starlette, fastapi, django, openapi
//	routes:
//	  - GET /health
//	  - route: GET, POST /orders/<int:id>
//	    name: orders.show
//	    tags: [orders]
//	  - route: ANY /files/<path:name>
//	    allow: [encoded_slash]      # a path form that is refused elsewhere (see Forms)
//
// Parse's errors explain each key. The frameworks differ, and the table follows each one exactly:
//
//   - flask: Werkzeug's state machine. Static parts come before converters, converters go by weight, int's limits are
//     checked when it is too late to try another rule; strict_slashes and merge_slashes redirect; GET brings HEAD, and
//     every route brings OPTIONS.
//   - starlette, fastapi: the first full match in order; a path that matches without its method is 405 when nothing
//     else takes it; redirect_slashes; mounts and hosts keep what they take. starlette adds HEAD to GET, fastapi does not.
//   - django: the first path that matches, depth first through includes; methods only decide about 405; APPEND_SLASH.
//   - openapi: the most concrete template; its operations decide about the method. Nothing is redirected.
//
// # Paths
//
// Match takes the path as it was sent: percent-encoded, cut before "?". It is decoded as gunicorn or uvicorn and the
// framework do it, so "%2F" separates segments. Parameters are the decoded strings on the URL, never converted.
// A path in one of the ambiguous Forms is Refused unless the table (Allowing) or the route that it reaches allows it.
//
// An unsupported route (such as a pattern with flags) stays in the table with unsupported: and the reason. Every path with
// its prefix that reaches it is Refused, because the route cannot be determined.
//
// Lookarounds, references, possessive and atomic groups are matched by a backtracking engine under limits of time and length.
// Past those a path is Refused as well; it never falls through to the next route.
//
// # WebSockets
//
// WebSocket routes have the method WEBSOCKET, which no request has: it is passed to Match for a request that opens one.
// ANY does not include it. Only WEBSOCKET routes match such a request, and the groups that contain them.
//
// # Routes that may be passed by
//
// Django tries the next pattern where a converter's to_python raises ValueError. The table does not know which values that
// rejects, so every custom converter without exact: makes its routes unsure: Match.Also has the further routes that may
// match, up to the first sure one. An include with unsure: does the same.
//
// # Known differences between table and application
//
// The tests compare both over many thousand requests. The remaining differences are safe or invisible to a policy:
//
//   - A path that the server refuses before there is an application (gunicorn and h11 take printable ASCII only) may
//     have an answer here.
//   - What makes Starlette answer 500 while it looks for a route (an int of more than 4300 digits) is 404 here.
//   - Django answers 400 where its redirect would be longer than 2048 characters; here it is a redirect.
//   - Values that an application's own converter refuses in its to_python are not known here: Flask answers 404 and Starlette
//     500, where there is a match here.
//   - Werkzeug's and re's \d take every decimal digit of the Unicode version that the interpreter has; Go's may be newer.
//   - Extra arguments and defaults that are not on the URL are no parameters.
//   - Flask behind ports: ":80" and ":443" are dropped from the host whatever the scheme is.
//
// # Sources of the rules
//
// werkzeug/routing (3.1.9), starlette/routing.py (1.10.0), fastapi/routing.py (0.165.0), django/urls (5.2),
// gunicorn/http (27.0), uvicorn/protocols/http (0.54). The tests ask those packages themselves.
package routes

import (
	"slices"
	"strings"
)

// The matching rules that a table can follow.
const (
	Flask     = "flask"
	Starlette = "starlette"
	FastAPI   = "fastapi"
	Django    = "django"
	OpenAPI   = "openapi"
)

// Outcome is what the application does with a request. The zero value is NotFound.
type Outcome uint8

// The outcomes.
const (
	NotFound         Outcome = iota // no route
	Matched                         // Match.Route matches
	Redirect                        // to the path with or without a trailing slash, or to a rule's target
	MethodNotAllowed                // a route matches the path, not the method
	Refused                         // the path is ambiguous, or only an unsupported route may match it
)

// String is the word printed by `gatehouse routes match`.
func (o Outcome) String() string {
	return [...]string{"404", "match", "redirect", "405", "refused"}[o]
}

// Param is one parameter of a route as in the URL, percent-decoded.
type Param struct{ Name, Value string }

// Match is the result for one request. Params alias the given path.
type Match struct {
	Outcome Outcome
	Route   *Route  // on Matched; otherwise the route that caused the outcome, if any
	Params  []Param // on Matched, in the order of the template
	Forms   Forms   // the ambiguous forms of the path, allowed or not

	// Also are the other routes that may match instead of Route, each Matched: a custom converter (to_python) may
	// reject a value, and Django then tries the next pattern. All of them count.
	Also []Match

	slashes bool // on Redirect: it only adds or removes trailing slashes
}

// Allows are the ambiguous forms that every possibly matching route allows.
func (m *Match) Allows() Forms {
	if m.Outcome != Matched {
		return 0
	}
	allowed := m.Route.Allow
	for i := range m.Also {
		allowed &= m.Also[i].Route.Allow
	}
	return allowed
}

// WebSocket is the method of WebSocket routes in a table, and the method to pass to Match for a request that upgrades
// to one. Such a request matches no other route, and no other request matches these.
const WebSocket = "WEBSOCKET"

// Route is one entry of a table. It is shared and immutable.
type Route struct {
	Methods     []string // as in the file; nil is any method
	Template    string   // with the prefixes of its mounts: "/orders/<int:id>"
	Name        string   // Flask's endpoint, Django's and Starlette's name, OpenAPI's operationId
	Host        string   // where the application matches by host
	Tags        []string
	Allow       Forms  // forms that this route allows
	IgnoreBody  bool   // request bodies are not parsed for the policy
	Guess       bool   // inferred from traffic, unconfirmed
	Manual      bool   // added by the maintainer: importers do not know it
	Unsupported string // the reason; such a route never matches
	Line        int    // in routes.yaml; 0 for an imported one

	effective     []string // the methods including HEAD and OPTIONS added by the framework; nil is any
	pat           *pattern
	pieces        []piece // the complete template; nil for an expression
	socket        bool    // of a WebSocket
	noAppendSlash bool
	options       string // the other keys that affect matching, for Diff
}

// Table is an immutable set of routes under one framework's matching rules. It is safe for concurrent use.
type Table struct {
	settings
	spec    *tableSpec
	routes  []*Route
	allowed Forms
	digest  string
	facts   Facts

	list       *list              // starlette, fastapi, django, openapi
	machine    *state             // flask
	hosts      bool               // flask: rules are bound to hosts or subdomains
	byEndpoint map[string][]*rule // flask
	opaque     []*rule            // flask
	mounts     []flaskMount       // flask
}

// Framework names the matching rules.
func (t *Table) Framework() string { return t.framework }

// Routes returns the routes in the order of the file, groups flattened. The caller must not change it.
func (t *Table) Routes() []*Route { return t.routes }

// Digest is the SHA-256, in hexadecimal, of the file that the table was parsed from; "" for a nil table.
func (t *Table) Digest() string {
	if t == nil {
		return ""
	}
	return t.digest
}

// Allowing returns a table that allows these forms on every route (paths.allow in gatehouse.yaml).
func (t *Table) Allowing(f Forms) *Table {
	copied := *t
	copied.allowed |= f
	return &copied
}

// Effective returns the methods that the route answers to, including HEAD and OPTIONS added by the framework; nil is
// any method. The caller must not change it.
func (r *Route) Effective() []string { return r.effective }

// Match says what the application does with a request. method is case-sensitive where the framework's is; host is the
// Host header; path is the request target as sent, cut before the first "?".
func (t *Table) Match(method, host, path string) Match {
	if method != WebSocket && len(method) >= len(WebSocket) && strings.EqualFold(method, WebSocket) {
		return Match{Outcome: Refused} // frameworks that ignore case would read it as an upgrade
	}
	forms := FormsOf(path)
	m := t.match(method, host, path)
	m.Forms = forms
	if forms&^(t.allowed|m.Allows()) != 0 {
		return Match{Outcome: Refused, Route: m.Route, Forms: forms}
	}
	return m
}

func (t *Table) match(method, host, path string) Match {
	path, ok := t.mount.rewrite(path)
	if !ok {
		return Match{}
	}
	wsgi := t.framework == Flask || t.framework == Django && t.server != "asgi"
	if wsgi && t.rootPath != "" { // gunicorn compares SCRIPT_NAME with the raw path, and otherwise answers 500
		if path, ok = strings.CutPrefix(path, t.rootPath); !ok {
			return Match{}
		}
	}
	path = decodePath(path, wsgi && t.framework == Django)
	switch t.framework {
	case Flask:
		return t.dispatchFlask(method, host, path)
	case Django:
		if !wsgi { // ASGIRequest: a missing prefix is no error
			path = strings.TrimPrefix(path, t.rootPath)
		}
		return t.matchDjango(method, path)
	case OpenAPI:
		return t.matchOpenAPI(method, path)
	}
	return t.matchStarlette(method, host, path)
}

// mount is the change of the path between check and application by Envoy's prefix_rewrite.
type mount struct{ prefix, to string }

// rewrite returns the path that the application receives; ok is false for one outside the mount.
func (m mount) rewrite(path string) (string, bool) {
	if m.prefix == "" {
		return path, true
	}
	rest, ok := strings.CutPrefix(path, m.prefix)
	switch {
	case !ok:
		return "", false
	case m.to != "":
		return m.to + rest, true
	case rest == "":
		return "/", true
	}
	return rest, rest[0] == '/'
}

// effectiveMethods adds the framework's own methods.
func (s *settings) effectiveMethods(methods []string, options bool) []string {
	if methods == nil || slices.Contains(methods, WebSocket) {
		return methods
	}
	out := slices.Clone(methods)
	add := func(method string) {
		if !slices.Contains(out, method) {
			out = append(out, method)
		}
	}
	if s.framework == Flask || s.framework == Starlette {
		if slices.Contains(methods, "GET") {
			add("HEAD")
		}
	}
	if s.framework == Flask && options {
		add("OPTIONS")
	}
	return out
}

// RedirectTarget is the match of a redirect's target, where the redirect only adds or removes trailing slashes:
// Flask's strict_slashes, Django's APPEND_SLASH, Starlette's redirect_slashes. It is ok only where the request itself
// is a Redirect, and its target is Matched for the same method: clients repeat a POST there (307, 308), and a rule
// for GET does not cover POST.
//
// Flask's other redirects (defaults, merged slashes, redirect_to) lead elsewhere, and have no target here.
func (t *Table) RedirectTarget(method, host, path string) (target Match, ok bool) {
	if m := t.Match(method, host, path); m.Outcome != Redirect || !m.slashes {
		return Match{}, false
	}
	other := path + "/"
	if strings.HasSuffix(path, "/") {
		if t.framework != Starlette && t.framework != FastAPI {
			return Match{}, false // the others only add one
		}
		other = strings.TrimRight(path, "/")
	}
	target = t.Match(method, host, other)
	return target, target.Outcome == Matched
}
