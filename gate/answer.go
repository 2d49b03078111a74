package gate

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"gatehouse/input"
	"gatehouse/policy"
	"gatehouse/routes"
)

// Answer is the result of Check: complete, validated and ready for any transport to render. The zero value denies.
type Answer struct {
	Allow      bool
	Reason     Reason // None where Allow, unless DryRun let a denial through
	DryRun     bool   // the verdict would have been a denial
	Direct     bool   // the gate answers in place of the application: neither an allow nor a denial
	Status     int    // HTTP status of a denial, or of an own answer
	DecisionID string

	Set      []HeaderOption // allow: on the request to the app; else: on the answer to the client
	Remove   []string       // allow: headers to take off the request to the app
	Response []HeaderOption // allow: on the application's response to the client

	// Percent-encoded in SetQuery; in RemoveQuery as the client sent them.
	SetQuery    []policy.QueryParameter
	RemoveQuery []string

	Body     string         // of a denial, or of an own answer
	Unsent   Content        // the body of a denial whose status allows none, for transports that send another status
	Metadata map[string]any // dynamic metadata besides decision_id, as plain JSON

	Diagnostics Diagnostics
}

// Content is a body and its type.
type Content struct{ Type, Body string }

// Diagnostics explain how an Answer was reached. They are for operators' tools and are never sent to a client.
type Diagnostics struct {
	App   string       // the application, "" where there is only one
	Match routes.Match // the matched route; where several may match, the one whose rule decided
	// May lists the routes that may match where there are several, in the application's order; else nil. All their
	// rules must allow.
	May      []*routes.Route
	Redirect bool          // the application only redirects; Match is the route of the redirect's target
	Asked    string        // the decision path
	Entry    *policy.Entry // the entry evaluated; nil where the policy was not
	// User is the caller in the directory; nil: not found or not looked up.
	User *input.User
	// UserMissing says that the caller was looked up in the directory and not found.
	UserMissing bool
	// Remembers says that the settings enable the memo; Entry knows whether its own decisions qualify.
	Remembers bool
	Revision  string // of the policy
	Cause     error  // why it is a denial, nil where the policy allowed
}

// Action says how a header combines with others of the same name.
type Action uint8

// The actions. Plain leaves the choice to the proxy, as opa-envoy-plugin does; the others are Envoy's
// HeaderValueOption.HeaderAppendAction.
const (
	Plain Action = iota
	AppendIfExistsOrAdd
	AddIfAbsent
	OverwriteIfExistsOrAdd
	OverwriteIfExists
)

var actions = map[string]Action{
	"":                           Plain,
	"APPEND_IF_EXISTS_OR_ADD":    AppendIfExistsOrAdd,
	"ADD_IF_ABSENT":              AddIfAbsent,
	"OVERWRITE_IF_EXISTS_OR_ADD": OverwriteIfExistsOrAdd,
	"OVERWRITE_IF_EXISTS":        OverwriteIfExists,
}

// HeaderOption is one header of an Answer.
type HeaderOption struct {
	Name, Value string
	Action      Action
}

// overrides make some servers and frameworks act on another method or path than the one decided about: gunicorn takes
// SCRIPT_NAME from a proxy on loopback and strips it from the path. Every spelling of them is removed.
var overrides = newNameSet("x-http-method-override", "x-http-method", "x-method-override",
	"script-name", "path-info", "x-script-name", "x-original-url", "x-rewrite-url")

// nameSet is a small set of names, indexed by length: most lookups of other names end at the length.
type nameSet [32][]string

func newNameSet(names ...string) (s nameSet) {
	for _, name := range names {
		s[len(name)] = append(s[len(name)], name)
	}
	return s
}

func (s *nameSet) has(name string) bool {
	return len(name) < len(s) && slices.Contains(s[len(name)], name)
}

// headerValue reports whether s may be a header's value: RFC 9110 section 5.5 without obs-text rules, UTF-8, no controls.
func headerValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

// allow is the only place where an Answer becomes an allow. Where dry run overrides a denial, why is its reason.
func (c *call) allow(why Reason) (Answer, error) {
	a := Answer{Reason: why, DryRun: why != None, Status: http.StatusOK, DecisionID: c.id}
	if err := c.requestHeaders(&a); err != nil {
		return Answer{}, err
	}
	if err := c.changeQuery(&a); err != nil {
		return Answer{}, err
	}
	if why == None {
		d := &c.decision
		a.Response = options(d.ResponseHeaders)
		a.Metadata = d.Metadata
	} else {
		a.Metadata = map[string]any{"dry_run": map[string]any{"allowed": false, "reason": why.String()}}
	}
	a.Allow = true
	return a, nil
}

// requestHeaders sets what changes on the request to the app: the caller's verified identity, the headers the policy
// adds and removes, and the removal of everything the client sent that the app could mistake for either.
func (c *call) requestHeaders(a *Answer) error {
	names := &c.view.settings().Headers
	told, err := c.headerUser(names)
	if err != nil {
		return err
	}
	trusted, err := names.trusted(told, c.started, c.trusted[:0])
	if err != nil {
		return err
	}
	if trusted, err = names.propertyHeaders(c.user, trusted); err != nil {
		return err
	}
	a.Set = make([]HeaderOption, 0, len(trusted)+len(c.decision.Headers))
	if !a.DryRun {
		a.Remove = append(a.Remove, c.decision.RemoveHeaders...)
		c.policyHeaders(a)
	}
	for _, h := range trusted {
		if slices.ContainsFunc(a.Set, func(s HeaderOption) bool { return strings.EqualFold(s.Name, h.Name) }) {
			continue // the policy sets this name itself
		}
		if h.Value != "" {
			a.Set = append(a.Set, h)
		} else if c.view.settings().manages() || index(c.req.Headers, h.Name) >= 0 {
			a.Remove = append(a.Remove, h.Name)
		}
	}
	if err := c.removeLookalikes(a, names); err != nil {
		return err
	}
	if names.RemoveCredential {
		return c.removeCredential(a)
	}
	return nil
}

// policyHeaders resolves the policy's headers to plain settings. Envoy ignores append_action on request headers (1.40
// always overwrites), so it is resolved here against what the client sent; several values become one line (RFC 9110
// section 5.3), because the last of several settings would win.
func (c *call) policyHeaders(a *Answer) {
	if c.view.settings().Paths.Compat {
		a.Set = append(a.Set, options(c.decision.Headers)...)
		return
	}
	for _, h := range c.decision.Headers {
		action := actions[h.AppendAction]
		at := slices.IndexFunc(a.Set, func(s HeaderOption) bool { return strings.EqualFold(s.Name, h.Name) })
		sent := c.req.Headers.Values(strings.ToLower(h.Name))
		switch {
		case at >= 0:
			a.Set[at].Value += "," + h.Value
			continue
		case action == AddIfAbsent && len(sent) > 0, action == OverwriteIfExists && len(sent) == 0:
			continue
		case action == AppendIfExistsOrAdd && len(sent) > 0:
			h.Value = strings.Join(sent, ",") + "," + h.Value
		}
		a.Set = append(a.Set, HeaderOption{Name: h.Name, Value: h.Value, Action: OverwriteIfExistsOrAdd})
	}
}

// removeLookalikes removes other spellings sent by the client of a name that the app trusts, that holds a credential
// or that the policy removes, and every spelling of the overrides. The canonical name is not removed: Envoy removes
// after it sets.
func (c *call) removeLookalikes(a *Answer, names *IdentityHeaders) error {
	removed := 0 // by the policy
	if !a.DryRun {
		removed = len(c.decision.RemoveHeaders)
	}
	odd := !a.DryRun && slices.ContainsFunc(c.decision.Headers, func(h policy.Header) bool { return input.Fold(h.Name) != strings.ToLower(h.Name) })
	verifier := c.view.settings().Verifier
	for i := range c.req.Headers {
		h := &c.req.Headers[i]
		if !odd && removed == 0 && input.IsFolded(h.Name) && !verifier.Lookalike(h.Name, h.Name) && !overrides.has(h.Name) {
			continue // the common case: the canonical spelling
		}
		folded := input.Fold(h.Name)
		spoof := folded != h.Name && names.has(folded) || (odd || folded != h.Name) && otherSpelling(a.Set, h.Name, folded) ||
			verifier.Lookalike(h.Name, folded) || removed > 0 && c.removes(a, h.Name, folded)
		switch {
		case !spoof && !overrides.has(folded) || slices.Contains(a.Remove, h.Name):
		case c.req.FixedHeaders:
			return fail(BadRequest, fmt.Errorf("header %q could mislead the application, and this proxy cannot take it off: let it drop the header before it asks", h.Name))
		default:
			a.Remove = append(a.Remove, h.Name)
		}
	}
	return nil
}

// otherSpelling reports whether a name is another spelling of a header that is set.
func otherSpelling(set []HeaderOption, name, folded string) bool {
	return slices.ContainsFunc(set, func(s HeaderOption) bool {
		return !strings.EqualFold(s.Name, name) && input.Fold(s.Name) == folded
	})
}

// removes reports whether a header is another spelling of one that the policy removes: WSGI maps "X_Debug" and
// "x-debug" to one name. Headers that are set stay.
func (c *call) removes(a *Answer, name, folded string) bool {
	if slices.ContainsFunc(a.Set, func(s HeaderOption) bool { return strings.EqualFold(s.Name, name) }) {
		return false
	}
	return slices.ContainsFunc(c.decision.RemoveHeaders, func(r string) bool {
		return !strings.EqualFold(r, name) && input.Fold(r) == folded
	})
}

func options(headers []policy.Header) []HeaderOption {
	if len(headers) == 0 {
		return nil
	}
	out := make([]HeaderOption, len(headers))
	for i, h := range headers {
		out[i] = HeaderOption{Name: h.Name, Value: h.Value, Action: actions[h.AppendAction]}
	}
	return out
}

// deny renders a denial: status, headers and a body in the client's preferred format.
func (c *call) deny(why Reason, status int) Answer {
	a := Answer{Reason: why, Status: status, DecisionID: c.id}
	text := why.String()
	if why == Denied || why == NoCredential {
		d := &c.decision
		a.Set, a.Metadata, a.Body = options(d.Headers), d.Metadata, d.Body
		if d.Reason != "" {
			text = sanitize(d.Reason)
		}
	}
	if a.Status == 0 {
		a.Status = why.Status()
	}
	c.denialHeaders(&a)
	if a.Body == "" && !c.bodyChosen(why) {
		c.view.settings().Denials.render(c.req, &a, text)
	}
	a.withoutContent()
	return a
}

// bodyChosen reports whether the policy chose the body, which may be empty.
func (c *call) bodyChosen(why Reason) bool {
	return (why == Denied || why == NoCredential) && c.decision.EmptyBody()
}

// withoutContent removes the body and its headers where the status allows no content (RFC 9110 sections 15.3.5,
// 15.3.6 and 15.4.5): HTTP/2 clients reset a 204 with a content-length.
func (a *Answer) withoutContent() {
	switch a.Status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusNotModified:
	default:
		return
	}
	a.Unsent, a.Body = Content{Body: a.Body}, ""
	a.Set = slices.DeleteFunc(a.Set, func(h HeaderOption) bool {
		if strings.EqualFold(h.Name, "content-type") {
			a.Unsent.Type = h.Value
			return true
		}
		return strings.EqualFold(h.Name, "content-length")
	})
}

// denialHeaders adds the headers that every denial carries, unless the policy set them.
func (c *call) denialHeaders(a *Answer) {
	set := func(name, value string) {
		if !slices.ContainsFunc(a.Set, func(h HeaderOption) bool { return strings.EqualFold(h.Name, name) }) {
			a.Set = append(a.Set, HeaderOption{Name: name, Value: value})
		}
	}
	set("x-decision-id", c.id)
	set("cache-control", "no-store")
	if a.Status != http.StatusUnauthorized {
		return
	}
	// RFC 6750 section 3: no error code where the request carried no credential at all.
	challenge := `Bearer realm="gatehouse"`
	if a.Reason == BadCredential {
		challenge += `, error="invalid_token"`
	}
	set("www-authenticate", challenge)
}

// sanitize makes policy text safe to show anywhere: UTF-8, one line, bounded.
func sanitize(s string) string {
	const limit = 1024
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
