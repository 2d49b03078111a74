package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// logEvent is what an event of the decision log says, without its documents. Package decisionlog has the meaning of the names; what Open
// Policy Agent calls otherwise is filled in from there.
type logEvent struct {
	DecisionID string                  `json:"decision_id"`
	Timestamp  string                  `json:"timestamp"`
	Revision   string                  `json:"revision"`
	Bundles    map[string]loggedBundle `json:"bundles"`
	Path       string                  `json:"path"`
	App        string                  `json:"app"`
	Route      string                  `json:"route"`
	Identity   struct {
		Type, Subject, Issuer string
		Roles                 []string
		Authenticated         bool
	} `json:"identity"`
	Request struct{ Method, Host, Path string } `json:"request"`
	Outcome string                              `json:"outcome"`
	Reason  string                              `json:"reason"`
	Status  int                                 `json:"status"`
	DryRun  bool                                `json:"dry_run"`
	Error   *struct{ Message string }           `json:"error"`
	Metrics struct {
		Handler int64 `json:"timer_server_handler_ns"`
	} `json:"metrics"`
	Erased []string   `json:"erased"`
	Masked []string   `json:"masked"`
	Gap    *loggedGap `json:"gap"`
}

type loggedBundle struct {
	Revision string `json:"revision"`
	Digest   string `json:"digest"`
}

// loggedGap is what was not recorded, or could not be read.
type loggedGap struct {
	Dropped    uint64 `json:"dropped"`
	Since      string `json:"since"`
	Until      string `json:"until"`
	Damaged    uint64 `json:"damaged_bytes"`
	Unfinished uint64 `json:"unfinished_bytes"`
	Segment    string `json:"segment"`
}

// parse reads a line. A member of another type than ours is taken for absent: others log too.
func (e *logEvent) parse(line []byte) error {
	*e = logEvent{}
	if err := lenient(json.Unmarshal(line, e)); err != nil {
		return err
	}
	if e.Outcome == "" && e.Gap == nil {
		return e.foreign(line)
	}
	return nil
}

func lenient(err error) error {
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil
	}
	return err
}

// foreign fills in what an event of Open Policy Agent says in other places. A result that is neither a boolean nor an object with
// "allowed" is no verdict.
func (e *logEvent) foreign(line []byte) error {
	var opa struct {
		Result json.RawMessage
		Input  struct {
			Attributes struct {
				Request struct {
					HTTP struct{ Method, Host, Path string }
				}
			}
		}
	}
	if err := lenient(json.Unmarshal(line, &opa)); err != nil {
		return err
	}
	if e.Request.Method == "" {
		e.Request.Method, e.Request.Host, e.Request.Path = opa.Input.Attributes.Request.HTTP.Method, opa.Input.Attributes.Request.HTTP.Host,
			opa.Input.Attributes.Request.HTTP.Path
	}
	var answer struct {
		Allowed *bool
		Status  int `json:"http_status"`
	}
	switch {
	case bytes.Equal(opa.Result, []byte("true")):
		e.Outcome = "allow"
	case bytes.Equal(opa.Result, []byte("false")):
		e.Outcome, e.Reason = "deny", "denied"
	case len(opa.Result) == 0:
		e.Outcome, e.Reason = "deny", "no_decision"
	case lenient(json.Unmarshal(opa.Result, &answer)) == nil && answer.Allowed != nil:
		e.Outcome, e.Status = "deny", answer.Status
		if e.Reason = "denied"; *answer.Allowed {
			e.Outcome, e.Reason = "allow", ""
		}
	}
	return nil
}

// at is when the decision was, or until when a gap; the zero time where that cannot be told.
func (e *logEvent) at() time.Time {
	text := e.Timestamp
	if e.Gap != nil {
		text = e.Gap.Until
	}
	at, _ := time.Parse(time.RFC3339Nano, text)
	return at
}

const lineTime = "2006-01-02T15:04:05.000Z"

// line tells the event in one line: time, verdict, status, method and path, route, subject, reason, id.
func (e *logEvent) line(p printer) string {
	at := "-"
	if t := e.at(); !t.IsZero() {
		at = t.UTC().Format(lineTime)
	}
	if e.Gap != nil {
		return p.paint(faint, fmt.Sprintf("%-24s", at)) + "  " + p.paint(amber, "gap    "+e.Gap.words())
	}
	verdict, style := fmt.Sprintf("%-5s", column(e.Outcome)), red
	switch {
	case e.Outcome == "allow":
		style = green
	case e.DryRun:
		verdict, style = "deny*", amber // let through by dry run
	}
	status := "-"
	if e.Status > 0 {
		status = strconv.Itoa(e.Status)
	}
	return fmt.Sprintf("%s  %s  %3s  %-6s %-24s  %-16s  %-12s  %-12s  %s", p.paint(faint, fmt.Sprintf("%-24s", at)), p.paint(style, verdict), status,
		column(e.Request.Method), column(e.Request.Path), column(e.Route), column(e.Identity.Subject), column(e.Reason), p.paint(faint, column(e.DecisionID)))
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

// logged is what a query asks about a decision.
func (r *recorded) logged() *logEvent {
	e := &logEvent{DecisionID: textOf(r.id), Timestamp: textOf(r.timestamp), App: textOf(r.app), Route: textOf(r.route), Outcome: textOf(r.outcome),
		Reason: textOf(r.reason), Status: r.status, DryRun: r.dryRun}
	if r.gap != nil {
		e.Gap = &loggedGap{}
		_ = json.Unmarshal(r.gap, e.Gap) // of what is left out there is none
	}
	e.Identity.Subject = textOf(r.subject)
	e.Request.Method, e.Request.Host, e.Request.Path = textOf(r.method), textOf(r.host), textOf(r.target)
	return e
}
