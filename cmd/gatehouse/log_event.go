package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// loggedGap is what was not recorded, or could not be read.
type loggedGap struct {
	Dropped    uint64 `json:"dropped"`
	Since      string `json:"since"`
	Until      string `json:"until"`
	Damaged    uint64 `json:"damaged_bytes"`
	Unfinished uint64 `json:"unfinished_bytes"`
	Segment    string `json:"segment"`
}

// gapOf is the gap that an event is.
func (r *recorded) gapOf() (g loggedGap) {
	_ = json.Unmarshal(r.gap, &g) // of what does not parse there is none
	return g
}

// when is the time of a decision, or until when a gap was; the zero time where that cannot be told.
func (r *recorded) when() (at time.Time) {
	if r.gap != nil {
		at, _ = time.Parse(time.RFC3339Nano, r.gapOf().Until)
		return at
	}
	at, _ = r.at()
	return at
}

// outcomes is what was decided and with which status, as far as the event says so: "allow", "deny", or "" for an answer of Open Policy
// Agent's to another question.
func (r *recorded) outcomes() (outcome, reason string, status int) {
	if !r.opa {
		return textOf(r.outcome), textOf(r.reason), r.status
	}
	allowed := string(r.result)
	if r.result != nil && r.result[0] == '{' {
		allowed = string(within(r.result, "allowed"))
	}
	switch {
	case r.result == nil:
		return "deny", "no_decision", 0
	case allowed == "true":
		return "allow", "", 0
	case allowed == "false":
		return "deny", "denied", answerOf(r.result).status
	}
	return "", "", 0
}

const lineTime = "2006-01-02T15:04:05.000Z"

// line tells the event in one line: time, verdict, status, method and path, route, subject, reason, id.
func (r *recorded) line(p printer) string {
	at := "-"
	if t := r.when(); !t.IsZero() {
		at = t.UTC().Format(lineTime)
	}
	if r.gap != nil {
		g := r.gapOf()
		return p.paint(faint, fmt.Sprintf("%-24s", at)) + "  " + p.paint(amber, "gap    "+g.words())
	}
	outcome, reason, code := r.outcomes()
	verdict, style, status := fmt.Sprintf("%-5s", column(outcome)), red, "-"
	switch {
	case outcome == "allow":
		style = green
	case r.dryRun:
		verdict, style = "deny*", amber // let through by dry run
	}
	if code > 0 {
		status = strconv.Itoa(code)
	}
	return fmt.Sprintf("%s  %s  %3s  %-6s %-24s  %-16s  %-12s  %-12s  %s", p.paint(faint, fmt.Sprintf("%-24s", at)), p.paint(style, verdict), status,
		column(textOf(r.method)), column(textOf(r.target)), column(textOf(r.route)), column(textOf(r.subject)), column(reason), p.paint(faint, column(textOf(r.id))))
}

// words say what a gap is, and where.
func (g *loggedGap) words() string {
	text := g.sum()
	if g.Segment != "" {
		text += " in segment " + column(g.Segment)
	}
	return text + " since " + column(g.Since)
}

// sum says how much is missing.
func (g *loggedGap) sum() string {
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
