package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"gatehouse/decisionlog/events"
	"gatehouse/gate"
	"gatehouse/policy"
)

// Record is one event of a decision log, for replay. Events of Open Policy Agent are mapped to our fields. It aliases
// the event's text, and is valid as long as that is.
type Record struct {
	events.Event
	Number int64 // the event's number, from 1
	OPA    bool  // the outcome was absent and is derived from the result
}

// Parse parses an event.
func (r *Record) Parse(event []byte, number int64) error {
	r.Number, r.OPA = number, false
	if err := r.Event.Parse(event); err != nil {
		return err
	}
	if r.Outcome == nil && !r.Gap.Recorded {
		r.fillDefaults()
	}
	return nil
}

// fillDefaults fills in what Open Policy Agent's decision log leaves implicit.
func (r *Record) fillDefaults() {
	r.OPA = true
	http := events.Member(r.Input, "attributes", "request", "http")
	r.Request.Method, r.Request.Host, r.Request.Path = member(http, "method"), member(http, "host"), member(http, "path")
	said := answerOf(r.Result)
	v := gate.VerdictOf(&policy.Decision{Allowed: said.allowed, Status: said.status}, nil)
	if r.Result == nil {
		v = gate.VerdictOf(nil, policy.ErrUndefined)
	}
	r.Outcome, r.Reason, r.Status = events.RawString("deny"), events.RawString(v.Reason.String()), v.Status
	if v.Allow {
		r.Outcome, r.Reason = events.RawString("allow"), nil
	}
}

func member(value json.RawMessage, names ...string) events.RawString {
	return events.Unquote(events.Member(value, names...))
}

// Recorded is the gate's view of the record.
func (r *Record) Recorded() *gate.Recorded {
	return &gate.Recorded{App: r.App.Decode(), Method: r.routeMethod().Decode(), Route: member(r.Input, "route", "template").Decode(),
		Path: r.Path.Decode()}
}

// routeMethod is the method of the route's rule: the request's, or WEBSOCKET.
func (r *Record) routeMethod() events.RawString {
	if method := member(r.Input, "route", "method"); len(method) > 0 {
		return method
	}
	return r.Request.Method
}

// Verdict is the recorded verdict.
func (r *Record) Verdict() Verdict {
	if string(r.Outcome) == "allow" {
		return Verdict{Verdict: gate.Verdict{Allow: true, Status: http.StatusOK}}
	}
	v := Verdict{Verdict: gate.Verdict{Reason: gate.Denied, Status: r.Status, PolicyStatus: answerOf(r.Result).status}, name: string(r.Reason)}
	if v.name != "" {
		v.Reason = gate.ReasonNamed(v.name)
	}
	if r.DryRun { // the client got the application's response
		if v.Status = v.PolicyStatus; v.PolicyStatus == 0 && v.Reason.OfPolicy() {
			v.Status = v.Reason.Status()
		}
	}
	return v
}

// Outcomes is the outcome and status as far as the event says: "allow", "deny", or "" for an answer of Open Policy
// Agent to another query.
func (r *Record) Outcomes() (outcome, reason string, status int) {
	if !r.OPA {
		return r.Outcome.Decode(), r.Reason.Decode(), r.Status
	}
	allowed := string(r.Result)
	if r.Result != nil && r.Result[0] == '{' {
		allowed = string(events.Member(r.Result, "allowed"))
	}
	switch {
	case r.Result == nil:
		return "deny", "no_decision", 0
	case allowed == "true":
		return "allow", "", 0
	case allowed == "false":
		return "deny", "denied", answerOf(r.Result).status
	}
	return "", "", 0
}

// IsQuestion reports whether an application called the authorization API, so that no route applied.
func (r *Record) IsQuestion() bool {
	return string(member(r.Input, "attributes", "request", "http", "protocol")) == gate.QuestionProtocol
}

// unasked says why the policy was not evaluated, or why its result is unknown.
func (r *Record) unasked() string {
	reason := string(r.Reason)
	switch {
	case r.IsQuestion():
		return "an application asked for it: it is no request"
	case r.Input != nil && (reason == "" || gate.ReasonNamed(reason).OfPolicy()):
		return ""
	case r.Input != nil:
		return "the answer was not the policy's: " + reason
	case r.Erased != nil && slices.Contains(events.Strings(r.Erased), "/input"):
		return "its input is not in the log (erased)"
	case reason == "":
		return "its input is not in the log"
	}
	return "the policy was not asked: " + reason
}

// answer is the recorded result in canonical form; "" where it is incomplete.
func (r *Record) answer() string {
	for _, list := range []json.RawMessage{r.Erased, r.Masked} {
		if slices.ContainsFunc(events.Strings(list), func(p string) bool { return strings.HasPrefix(p, "/result") }) {
			return ""
		}
	}
	d := json.NewDecoder(bytes.NewReader(r.Result))
	d.UseNumber()
	var plain any
	if r.Result == nil || d.Decode(&plain) != nil {
		return ""
	}
	out, _ := json.Marshal(plain) // was decoded from JSON: cannot fail
	return string(out)
}

// recordedVerdict is the part of a recorded result that determines the verdict.
type recordedVerdict struct {
	allowed bool
	status  int // the policy's own; 0: none
}

func answerOf(result json.RawMessage) (out recordedVerdict) {
	if len(result) == 0 || result[0] != '{' {
		return recordedVerdict{allowed: string(result) == "true"}
	}
	out.allowed = string(events.Member(result, "allowed")) == "true"
	out.status, _ = strconv.Atoi(string(events.Member(result, "http_status")))
	return out
}

// Route identifies the route of a request, by all its names.
type Route struct{ App, Method, Name, Template, Path string }

// RouteOf reads it from the record, where the template is only in the input.
func (r *Record) RouteOf() Route {
	return RouteOf(r.App.Decode(), r.routeMethod().Decode(), r.Event.Route.Decode(), r.Request.Path.Decode(), r.Input)
}

// RouteOf makes a Route from parts of an event; route is its member of that name.
func RouteOf(app, method, route, path string, input json.RawMessage) Route {
	out := Route{App: app, Method: method}
	if within := events.Member(input, "route"); within != nil {
		out.Name, out.Template = member(within, "name").Decode(), member(within, "template").Decode()
	}
	if out.Template == "" && out.Name == "" {
		if out.Name = route; strings.HasPrefix(out.Name, "/") {
			out.Name, out.Template = "", out.Name
		}
	}
	if out.Template == "" && out.Name == "" {
		out.Path = generalised(path)
	}
	return out
}

// Label names a group of changes.
func (r Route) Label() string {
	for _, name := range []string{r.Template, r.Name, r.Path} {
		if name != "" {
			return strings.TrimSpace(r.Method + " " + name)
		}
	}
	return strings.TrimSpace(r.Method + " (no path)")
}

// Named reports whether a user-given name means this route.
func (r Route) Named(name string) bool {
	return slices.Contains([]string{r.Label(), r.Template, r.Name, r.Path}, name) || r.Name != "" && name == r.Method+" "+r.Name
}

// generalised is a path without its query and with * for segments that look like ids, to group similar requests where
// no route table names them.
func generalised(path string) string {
	const most = 120
	path, _, _ = strings.Cut(path, "?")
	segments := strings.Split(path, "/")
	for i, s := range segments {
		digits := strings.ContainsAny(s, "0123456789")
		if digits && (strings.Trim(s, "0123456789") == "" || len(s) >= 16) || len(s) > 40 {
			segments[i] = "*"
		}
	}
	path = strings.Join(segments, "/")
	if len(path) > most {
		path = strings.ToValidUTF8(path[:most], "") + "..."
	}
	return path
}

// Verdict is the part of a decision that is compared. The zero value is a denial.
type Verdict struct {
	gate.Verdict
	answer string // the policy's complete answer in canonical form; "" where it is not compared
	name   string // of a recorded reason unknown to this version; "": that of Reason
}

// ReasonName is a denial's reason, as in the log.
func (v Verdict) ReasonName() string {
	if v.name != "" {
		return v.name
	}
	return v.Reason.String()
}

// String formats the verdict for the file of expected changes.
func (v Verdict) String() string {
	if v.Allow {
		return "allow"
	}
	return fmt.Sprintf("deny %d %s", v.Status, v.ReasonName())
}

// Matches reports whether a verdict matches the pattern.
func (v Verdict) Matches(text string) bool {
	have := strings.Fields(v.String())
	return !slices.ContainsFunc(strings.Fields(text), func(word string) bool { return !slices.Contains(have, word) })
}
