package report

import (
	"fmt"
	"io"
	"strings"

	"gatehouse/gate"
	"gatehouse/routes"
	"gatehouse/terminal"
	"gatehouse/trial"
)

// Answer tells people what was decided and how.
func Answer(w io.Writer, a *trial.Request, answer *gate.Answer, caller string) error {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		if text := fmt.Sprintf(format, terminal.VisibleArgs(args)...); text != "" {
			fmt.Fprintf(&b, "  %-9s %s\n", key, text)
		}
	}
	fmt.Fprintln(&b, trial.VerdictLine(answer))
	line("reason", "%s", trial.ClientReason(answer))
	line("cause", "%s", trial.Cause(a, answer))
	line("caller", "%s", caller)
	line("user", "%s", userText(&answer.Diagnostics))
	line("app", "%s", answer.Diagnostics.App)
	if r := answer.Diagnostics.Match.Route; r != nil {
		line("route", "%s", strings.TrimSpace(a.Method+" "+r.Template+"  "+r.Name))
	}
	for _, text := range aboutRoute(answer) {
		line("", "%s", text)
	}
	for _, p := range answer.Diagnostics.Match.Params {
		line("param", "%s = %q", p.Name, p.Value)
	}
	if path, _ := gate.RulePathNamed(answer.Diagnostics.Asked); path != nil {
		line("rule", "data.%s", routes.RuleName(path))
	}
	line("memo", "%s", trial.MemoOf(answer).Text())
	line("revision", "%s", answer.Diagnostics.Revision)
	to := "to client"
	if answer.Allow {
		to = "to app"
	}
	for _, h := range answer.Set {
		line(to, "%s: %s", h.Name, h.Value)
	}
	for _, name := range answer.Remove {
		line("removed", "%s", name)
	}
	for _, h := range answer.Response {
		line("to client", "%s: %s", h.Name, h.Value)
	}
	if trial.ClientReason(answer) == "" {
		line("body", "%s", answer.Body)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// userText is the caller in the directory, in words.
func userText(d *gate.Diagnostics) string {
	u := d.User
	switch {
	case d.UserMissing:
		return "not in the directory: directory.user says how callers are found there"
	case u == nil:
		return ""
	}
	text := u.ID
	if u.DisplayName != "" {
		text += " (" + u.DisplayName + ")"
	}
	for _, list := range []struct {
		name string
		ids  []string
	}{{"roles", u.Roles}, {"groups", u.Groups}} {
		if len(list.ids) > 0 {
			text += ", " + list.name + ": " + strings.Join(list.ids, ", ")
		}
	}
	return text
}

// aboutRoute says what the name of one route does not.
func aboutRoute(answer *gate.Answer) (lines []string) {
	if answer.Diagnostics.Redirect {
		lines = append(lines, "the application redirects to this route's path, with or without a closing slash: its rule decides")
	}
	if len(answer.Diagnostics.May) > 0 {
		var names []string
		for _, r := range answer.Diagnostics.May {
			names = append(names, strings.TrimSpace(r.Template+" "+r.Name))
		}
		lines = append(lines, "may be taken by any of "+strings.Join(names, ", ")+": the rules of all of them must allow")
	}
	return lines
}
