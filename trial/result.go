package trial

import (
	"fmt"

	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy/reach"
)

// Result is an answer for scripts, as check prints it.
type Result struct {
	Allow        bool              `json:"allow"`
	Status       int               `json:"status"`
	Reason       string            `json:"reason,omitempty"` // the closed set's
	ClientReason string            `json:"told,omitempty"`   // the reason that the client reads
	Cause        string            `json:"cause,omitempty"`  // for operators
	DryRun       bool              `json:"dry_run,omitempty"`
	Caller       *ResultCaller     `json:"caller,omitempty"` // made up, not verified
	User         *ResultUser       `json:"user,omitempty"`   // the caller in the directory, as far as it was asked
	App          string            `json:"app,omitempty"`
	Route        *ResultRoute      `json:"route,omitempty"`
	May          []ResultRoute     `json:"may_be_taken_by,omitempty"` // where there are several; the rules of all of them must allow
	Redirect     bool              `json:"redirect,omitempty"`        // the application only redirects, to the route's path
	Params       map[string]string `json:"params,omitempty"`
	Rule         string            `json:"rule,omitempty"`
	Memo         *Memo             `json:"memo,omitempty"` // absent where the policy was not asked
	Revision     string            `json:"revision"`
	ToApp        []ResultHeader    `json:"headers_to_app,omitempty"`
	Removed      []string          `json:"headers_removed,omitempty"`
	ToClient     []ResultHeader    `json:"headers_to_client,omitempty"`
	Body         string            `json:"body,omitempty"`
	Explain      *Explanation      `json:"explain,omitempty"` // with --explain
}

type (
	// ResultCaller is a made-up caller.
	ResultCaller struct {
		Subject string   `json:"subject"`
		Roles   []string `json:"roles,omitempty"`
	}
	// ResultUser is a caller in the directory.
	ResultUser struct {
		ID          string         `json:"id"`
		DisplayName string         `json:"display_name,omitempty"`
		Properties  map[string]any `json:"properties,omitempty"`
		Roles       []string       `json:"roles,omitempty"`
		Groups      []string       `json:"groups,omitempty"`
	}
	// ResultRoute is a route of a table.
	ResultRoute struct {
		Template string `json:"template"`
		Name     string `json:"name,omitempty"`
		Line     int    `json:"line,omitempty"`
	}
	// ResultHeader is a header that is set.
	ResultHeader struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
)

// ResultOf is an answer for scripts.
func ResultOf(a *Request, answer *gate.Answer) Result {
	out := Result{Allow: answer.Allow, Status: answer.Status, Reason: answer.Reason.String(), ClientReason: ClientReason(answer), Cause: Cause(a, answer),
		DryRun: answer.DryRun, Caller: resultCaller(a.As), App: answer.Diagnostics.App, Rule: answer.Diagnostics.Asked, Revision: answer.Diagnostics.Revision,
		Removed: answer.Remove, Body: answer.Body}
	if r := answer.Diagnostics.Match.Route; r != nil {
		out.Route, out.Params = &ResultRoute{r.Template, r.Name, r.Line}, map[string]string{}
	}
	if u := answer.Diagnostics.User; u != nil {
		out.User = &ResultUser{u.ID, u.DisplayName, u.Properties, u.Roles, u.Groups}
	}
	out.Redirect = answer.Diagnostics.Redirect
	for _, r := range answer.Diagnostics.May {
		out.May = append(out.May, ResultRoute{r.Template, r.Name, r.Line})
	}
	for _, p := range answer.Diagnostics.Match.Params {
		out.Params[p.Name] = p.Value
	}
	if answer.Allow {
		out.ToApp, out.ToClient = resultHeaders(answer.Set), resultHeaders(answer.Response)
	} else {
		out.ToClient = resultHeaders(answer.Set)
	}
	return out
}

func resultCaller(id *identity.Identity) *ResultCaller {
	if id == nil {
		return nil
	}
	return &ResultCaller{id.Subject, id.Roles}
}

func resultHeaders(options []gate.HeaderOption) []ResultHeader {
	var out []ResultHeader
	for _, h := range options {
		out = append(out, ResultHeader{h.Name, h.Value})
	}
	return out
}

// Memo is whether a decision can be remembered and, if not, what is in the way.
type Memo struct {
	On       bool   `json:"on"`                 // policy.memo, and the rule can be remembered
	Sound    bool   `json:"sound"`              // the decision depends on nothing but what the policy reads
	Off      string `json:"off,omitempty"`      // the key that turns it off
	Impure   []Use  `json:"impure,omitempty"`   // built-ins whose value may be another next time
	Changing []Use  `json:"changing,omitempty"` // reads of what is another in each request
}

// Use is what a rule calls or reads, and where.
type Use struct {
	What string `json:"what"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// MemoOf tells it of the rule that was asked; nil where none was.
func MemoOf(answer *gate.Answer) *Memo {
	if answer.Diagnostics.Entry == nil {
		return nil
	}
	found := answer.Diagnostics.Entry.Memoisable()
	out := &Memo{Sound: len(found.Impure) == 0, Impure: memoUses(found.Impure), Changing: memoUses(found.Changing)}
	if !answer.Diagnostics.Remembers {
		out.Off = "policy.memo"
	}
	out.On = out.Sound && out.Off == ""
	return out
}

func memoUses(uses []reach.Use) []Use {
	var out []Use
	for _, u := range uses {
		out = append(out, Use{u.What, u.File, u.Line})
	}
	return out
}

func (u Use) String() string {
	return reach.Use{What: u.What, File: u.File, Line: u.Line}.String()
}

// Text is it in one line, "" where there is nothing to say.
func (m *Memo) Text() string {
	switch {
	case m == nil:
		return ""
	case m.Off != "":
		return "off: " + m.Off
	case !m.Sound:
		return fmt.Sprintf("not remembered: calls %s%s", m.Impure[0], more(m.Impure))
	case len(m.Changing) > 0:
		return fmt.Sprintf("of little use: reads %s%s, which is hardly the same twice", m.Changing[0], more(m.Changing))
	}
	return "remembered for requests like it"
}

// more says how many there are beyond the first.
func more(uses []Use) string {
	if len(uses) < 2 {
		return ""
	}
	return fmt.Sprintf(" and %d more", len(uses)-1)
}
