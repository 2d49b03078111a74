package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gatehouse/replay/search"
	"gatehouse/terminal"
)

// logQuery says which events of a log are asked for.
type logQuery struct{ search.Query }

func (q *logQuery) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&q.Denied, "denied", false, "only denials, including those of a dry run")
	f.BoolVar(&q.Allowed, "allowed", false, "only allowed requests")
	f.StringArrayVar(&q.Subjects, "subject", nil, "only this caller; may be repeated")
	f.StringArrayVar(&q.Routes, "route", nil, "only this route: its name, its template, or method and template; may be repeated")
	f.StringArrayVar(&q.Apps, "app", nil, "only this application; may be repeated")
	f.StringArrayVar(&q.Reasons, "reason", nil, "only this reason, such as denied or no_route; may be repeated")
	f.StringArrayVar(&q.Methods, "method", nil, "only this method; may be repeated")
	f.StringVar(&q.Path, "path", "", "only paths that begin like this")
	f.StringVar(&q.Since, "since", "", "only from this time on: RFC 3339, a date, or how long ago (90m, 36h, 7d)")
	f.StringVar(&q.Until, "until", "", "only before this time, in the same formats")
}

// nothing says that nothing was found, and in how much.
func (q *logQuery) nothing(l *logSource) {
	text := fmt.Sprintf("nothing found: %s in %s", terminal.Count(l.Events+l.Gaps, "event"), l.name())
	if l.Events > 0 {
		text += "; none of them is asked for"
	}
	fmt.Fprintln(l.stderr, terminal.Visible(text))
}
