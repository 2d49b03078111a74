package routes

import (
	"net/url"
	"strings"
)

// FixedPath is the one path by which a client reaches a route of this table whose template is text alone, percent-encoded. ok is false for
// every other route, and where it cannot be said. Whether another route takes that path first is for Match to say.
func (t *Table) FixedPath(r *Route) (path string, ok bool) {
	if r.pieces == nil || r.Unsupported != "" {
		return "", false
	}
	for i := range r.pieces {
		if r.pieces[i].conv != nil {
			return "", false
		}
		path += r.pieces[i].text
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if t.framework == Flask || t.framework == Django && t.server != "asgi" {
		path = t.rootPath + path
	}
	if t.mount.prefix != "" {
		rest, below := strings.CutPrefix(path, t.mount.to)
		if path = t.mount.prefix + rest; !below {
			return "", false
		}
	}
	return (&url.URL{Path: path}).EscapedPath(), true
}

// Unsure reports whether the application may pass by some route of the table for a reason that is not known here: see Match.Also.
func (t *Table) Unsure() bool { return t.list.unsure() }

func (l *list) unsure() bool {
	if l == nil {
		return false
	}
	for i := range l.entries {
		if e := &l.entries[i]; e.unsure || e.pat != nil && e.pat.unsure || e.group.unsure() {
			return true
		}
	}
	return l.fallback.unsure()
}
