package routes

import (
	"net/url"
	"strings"
)

// FixedPath is the only request path of a route whose template is plain text, percent-encoded. ok is false for other
// routes, and where it is unknown. Whether another route matches that path first is up to Match.
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

// Unsure reports whether the application may skip some route for a reason unknown to the table: see Match.Also.
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
