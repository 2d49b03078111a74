package routes

import "strings"

// RedirectTarget is the match of the path that the application redirects a request to, where all that it does is to add or to take
// off closing slashes: Flask's strict_slashes, Django's APPEND_SLASH, Starlette's redirect_slashes. It is ok only where the request
// itself is a Redirect, and where its target is Matched for the same method: the client repeats a POST there (307, 308), and what
// GET may, POST need not.
//
// Flask's other redirects (defaults, merged slashes, redirect_to) go somewhere else, and have no target here.
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
