package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gatehouse/decisionlog/events"
	"gatehouse/replay/search"
)

const lineTime = "2006-01-02T15:04:05.000Z"

// lineOf tells an event in one line: time, verdict, status, method and path, route, subject, reason, id.
func lineOf(r *search.Event, p printer) string {
	at := "-"
	if t := r.When(); !t.IsZero() {
		at = t.UTC().Format(lineTime)
	}
	if r.Gap.Recorded {
		return p.paint(faint, fmt.Sprintf("%-24s", at)) + "  " + p.paint(amber, "gap    "+gapWords(&r.Gap))
	}
	outcome, reason, code := r.Outcomes()
	verdict, style, status := fmt.Sprintf("%-5s", column(outcome)), red, "-"
	switch {
	case outcome == "allow":
		style = green
	case r.DryRun:
		verdict, style = "deny*", amber // let through by dry run
	}
	if code > 0 {
		status = strconv.Itoa(code)
	}
	return fmt.Sprintf("%s  %s  %3s  %-6s %-24s  %-16s  %-12s  %-12s  %s", p.paint(faint, fmt.Sprintf("%-24s", at)), p.paint(style, verdict), status,
		column(r.Request.Method.Decode()), column(r.Request.Path.Decode()), column(r.Route.Decode()), column(r.Identity.Subject.Decode()), column(reason), p.paint(faint, column(r.DecisionID.Decode())))
}

// gapWords say what a gap is, and where.
func gapWords(g *events.Gap) string {
	text := gapSum(g)
	if len(g.Segment) > 0 {
		text += " in segment " + column(g.Segment.Decode())
	}
	return text + " since " + column(g.Since.Decode())
}

// gapSum says how much is missing.
func gapSum(g *events.Gap) string {
	var parts []string
	if g.Dropped > 0 {
		parts = append(parts, plural(int(g.Dropped), "decision")+" not recorded")
	}
	if g.Damaged > 0 {
		parts = append(parts, plural(int(g.Damaged), "byte")+" damaged")
	}
	if g.Unfinished > 0 {
		parts = append(parts, plural(int(g.Unfinished), "byte")+" never finished")
	}
	return strings.Join(parts, ", ")
}

const mostColumn = 200 // characters of one value in a line

// column is a value as one word that a terminal shows and does not obey: a client may have written it.
func column(s string) string {
	if s == "" {
		return "-"
	}
	cut := false
	for i, n := 0, 0; i < len(s); n++ {
		if n == mostColumn {
			s, cut = s[:i], true
			break
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	if strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsGraphic(r) || unicode.IsSpace(r) || r == utf8.RuneError || r == '"'
	}) {
		s = strconv.Quote(s)
	}
	if cut {
		s += "..."
	}
	return s
}
