package trial

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gatehouse/gate"
	"gatehouse/nearest"
	"gatehouse/routes"
)

// Hints says what may be wrong with the request itself, where its answer suggests that.
func (t *Trial) Hints(a *Request, answer *gate.Answer) (hints []string) {
	if !a.Typed() {
		hints = append(hints, "the body is taken as application/json: --header 'content-type: ...' says otherwise")
	}
	view := t.gate.View()
	path, _, _ := strings.Cut(a.Path, "?")
	if table := view.Routes[answer.Diagnostics.App]; table != nil && answer.Reason == gate.NoRoute && a.Method == "GET" &&
		table.Match(routes.WebSocket, cmp.Or(a.Host, "localhost"), path).Outcome == routes.Matched {
		hints = append(hints, fmt.Sprintf("it is a WebSocket: check %s %s", routes.WebSocket, a.Path))
	}
	if text := caller(view, a); text != "" && !answer.Allow {
		hints = append(hints, text)
	}
	return hints
}

// maxCallers bounds the users that are looked through for the one that was meant.
const maxCallers = 10_000

// caller says who of the directory was probably meant by a name that is not in it; "" where the name is, or the directory is large.
func caller(view *gate.View, a *Request) string {
	if view.Directory == nil || view.Settings == nil || a.As == nil {
		return ""
	}
	users := view.Settings.Users
	if users == nil || users.Email || users.Claim != "" {
		return ""
	}
	typ := "identity"
	if users.ByID {
		typ = "user"
	}
	var known []string
	for object := range view.Directory.Objects(typ) {
		if len(known) == maxCallers {
			return ""
		}
		known = append(known, object.ID)
	}
	name := a.As.Subject
	if slices.Contains(known, name) {
		return ""
	}
	if bare, ok := strings.CutPrefix(name, "user:"); ok && slices.Contains(known, bare) {
		return fmt.Sprintf("%s is not in the directory; did you mean %s, without user:?", name, bare)
	}
	if near := nearest.Word(name, known, min(2, len(name)/4)+1); near != "" { // short names differ by a letter anyway
		return fmt.Sprintf("%s is not in the directory; did you mean %s?", name, near)
	}
	return ""
}
