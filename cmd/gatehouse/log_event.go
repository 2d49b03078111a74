package main

import (
	"fmt"
	"strconv"
	"strings"

	"gatehouse/decisionlog/events"
	"gatehouse/replay/search"
	"gatehouse/terminal"
)

const lineTime = "2006-01-02T15:04:05.000Z"

// lineOf tells an event in one line: time, verdict, status, method and path, route, subject, reason, id.
func lineOf(r *search.Event, p terminal.Printer) string {
	at := "-"
	if t := r.When(); !t.IsZero() {
		at = t.UTC().Format(lineTime)
	}
	if r.Gap.Recorded {
		return p.Paint(terminal.Faint, fmt.Sprintf("%-24s", at)) + "  " + p.Paint(terminal.Amber, "gap    "+gapWords(&r.Gap))
	}
	outcome, reason, code := r.Outcomes()
	verdict, style, status := fmt.Sprintf("%-5s", terminal.Word(outcome)), terminal.Red, "-"
	switch {
	case outcome == "allow":
		style = terminal.Green
	case r.DryRun:
		verdict, style = "deny*", terminal.Amber // let through by dry run
	}
	if code > 0 {
		status = strconv.Itoa(code)
	}
	return fmt.Sprintf("%s  %s  %3s  %-6s %-24s  %-16s  %-12s  %-12s  %s", p.Paint(terminal.Faint, fmt.Sprintf("%-24s", at)), p.Paint(style, verdict), status,
		terminal.Word(r.Request.Method.Decode()), terminal.Word(r.Request.Path.Decode()), terminal.Word(r.Route.Decode()), terminal.Word(r.Identity.Subject.Decode()), terminal.Word(reason), p.Paint(terminal.Faint, terminal.Word(r.DecisionID.Decode())))
}

// gapWords say what a gap is, and where.
func gapWords(g *events.Gap) string {
	text := gapSum(g)
	if len(g.Segment) > 0 {
		text += " in segment " + terminal.Word(g.Segment.Decode())
	}
	return text + " since " + terminal.Word(g.Since.Decode())
}

// gapSum says how much is missing.
func gapSum(g *events.Gap) string {
	var parts []string
	if g.Dropped > 0 {
		parts = append(parts, terminal.Count(g.Dropped, "decision")+" not recorded")
	}
	if g.Damaged > 0 {
		parts = append(parts, terminal.Count(g.Damaged, "byte")+" damaged")
	}
	if g.Unfinished > 0 {
		parts = append(parts, terminal.Count(g.Unfinished, "byte")+" never finished")
	}
	return strings.Join(parts, ", ")
}
