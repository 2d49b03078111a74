// Package events is one line of the decision log, as text: reads it ([Event]), takes it apart and changes it ([Line]), and masks it.
// It owns the names of a line's members, and imports nothing of ours. Whoever reads decisions may import it.
//
// Names are those of Open Policy Agent's decision log events where it has
// one: decision_id, labels, trace_id, span_id, bundles (name to revision; we
// add digest), path (of the decision: "envoy/authz/allow"), requested_by,
// timestamp (RFC 3339, UTC, nanoseconds), metrics.timer_server_handler_ns,
// input, result, error (code and message), erased and masked. Ours are
// format (1), revision (of the whole view), app, route, parameters, identity
// (type, subject, issuer, roles, groups, scopes, authenticated, and the claims
// that Config.Claims names: an allow-list), peer, request (method, host, path),
// outcome ("allow" or "deny"), reason, status (HTTP), dry_run, memo, digests,
// directory (revision and digest), facts (question and answer) and facts_truncated.
package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrNoEvent says that a line is none of a decision log: neither a decision nor a gap.
var ErrNoEvent = errors.New("not a JSON object with a decision_id or a gap")

// Event is one line of the log: a decision, or a gap. [Event.Parse] is its only decoder, for our own lines and for those of Open Policy
// Agent, whose names ours are (eventMembers has all of them). Nothing is copied: what is a string, a list or a document is a part of the
// line, and good as long as the line is. A member that is absent, or of another type than ours, leaves its field zero. Members that
// neither log has are passed over.
//
// A mask may have taken out or replaced Facts, NDBuiltins, RequestedBy, Parameters, Peer, Error, Result, Input, and what is in Identity and
// Request; Erased and Masked say where.
type Event struct {
	DecisionID  RawString       // decision_id: names the decision, also to client and application; a gap has none
	Timestamp   RawString       // timestamp: when the request was received, RFC 3339 in UTC with nanoseconds; see Time. Absent from a gap
	Format      int             // format: of the line; 1. Absent from a gap, and from Open Policy Agent's
	Labels      json.RawMessage // labels: object of strings, Config.Labels such as the instance's id. Absent where none are configured
	TraceID     RawString       // trace_id: W3C trace context, in hexadecimal. Absent where the request carried none, as is SpanID
	SpanID      RawString       // span_id: likewise
	Revision    RawString       // revision: of everything that decided, policy, routes and keys. Absent before the first policy
	Bundles     json.RawMessage // bundles: object, name to EventBundle, the policy's parts; see DecodeBundles. Absent where there is no policy
	Path        RawString       // path: of the rule that was asked, "envoy/authz/allow", or a route's package. Absent where none was asked
	RequestedBy RawString       // requested_by: address of who connected to us, or to the proxy. Absent where the proxy did not say
	App         RawString       // app: the application's name in the configuration. Absent where there is one without a name
	Route       RawString       // route: name of the route that took the request, its template where it has none. Absent where none did
	Parameters  json.RawMessage // parameters: object of strings, the route's, as the path has them. Absent where there are none
	Identity    Identity        // identity: who asked
	Peer        RawString       // peer: SPIFFE ID or subject of the mTLS peer. Absent without mTLS
	Request     Request         // request: what was asked for
	Outcome     RawString       // outcome: "allow" or "deny", in a dry run too. Absent from Open Policy Agent's: its Result has it
	Reason      RawString       // reason: the gate's reason for a denial or a failure. Absent for a plain allow
	Status      int             // status: HTTP status of the answer. Absent where the request goes on to the application
	DryRun      bool            // dry_run: the request was let through whatever Outcome says. Absent where false
	Memo        bool            // memo: the policy's answer to the same question was remembered. Absent where false
	Error       Error           // error: what went wrong. Absent where nothing did
	Metrics     json.RawMessage // metrics: object of times in ns, of ours timer_server_handler_ns; see HandlerTime. Absent from a gap
	Digests     Digests         // digests: of what decided beside the policy. Absent where there is nothing beside it
	Directory   Directory       // directory: the users, groups and relations that the decision was made with. Absent where there is no directory
	Facts       json.RawMessage // facts: list of {question, answer}, what the policy asked of the directory. Absent where it asked nothing
	// FactsTruncated: facts_truncated: the policy asked more than the line has. Absent where false
	FactsTruncated bool
	Erased         json.RawMessage // erased: list of JSON pointers to what was taken out of the line. Absent where nothing was
	Masked         json.RawMessage // masked: list of JSON pointers to what has another value in the line than it had. Absent where nothing has
	NDBuiltins     json.RawMessage // nd_builtin_cache: Open Policy Agent's, what non-deterministic built-ins answered. Absent from our own
	Result         json.RawMessage // result: what the policy answered, any JSON. Absent where it did not answer, or for want of room
	Input          json.RawMessage // input: object, what the policy saw. Absent where it was not asked, or for want of room
	Gap            Gap             // gap: what is missing from the log here. Absent from a decision
}

// Identity is the caller. Of what the policy saw of him it has no more than this; the rest is in Input.
type Identity struct {
	Recorded      bool            // the line has an identity; a mask may have made it something else than an object
	Type          RawString       // type: of the credential, such as "jwt". Absent for an anonymous caller
	Subject       RawString       // subject: who it is. Absent for an anonymous caller
	Issuer        RawString       // issuer: who says so. Absent where the credential has none
	Roles         json.RawMessage // roles: list of strings. Absent where empty, as are Groups and Scopes
	Groups        json.RawMessage // groups: list of strings
	Scopes        json.RawMessage // scopes: list of strings
	Claims        json.RawMessage // claims: object, those that Config.Claims names. Absent where there are none
	Authenticated bool            // authenticated: a credential was verified
}

// Request is what the client asked for, as the proxy received it. Open Policy Agent has it only in the input.
type Request struct {
	Recorded bool      // the line has a request
	Method   RawString // method
	Host     RawString // host, with its port where the client sent one
	Path     RawString // path, with its query, credentials in it redacted
}

// Error is what went wrong, for operators.
type Error struct {
	Recorded bool      // the line has an error
	Code     RawString // code: the gate's reason
	Message  RawString // message: redacted
}

// Bundle is one part of the policy that decided.
type Bundle struct {
	Revision string `json:"revision"` // as the bundle's manifest or its source names it
	Digest   string `json:"digest"`   // SHA-256 of its content; "" where it is not known
}

// Directory names the directory that a decision was made with.
type Directory struct {
	Recorded bool      // the line has a directory
	Revision uint64    // revision: it counts the changes at this node
	Digest   RawString // digest: SHA-256 of its content
}

// Digests name what decided beside the policy, each as a SHA-256 in hexadecimal; absent where there is none.
type Digests struct {
	Recorded  bool      // the line has digests
	Routes    RawString // routes: the tables of all applications
	Keys      RawString // keys: the key sets of all issuers
	Directory RawString // directory: users, groups and relations
}

// Gap is what is missing: decisions that were not recorded, or bytes of a segment that cannot be read.
type Gap struct {
	Recorded   bool      // the line is a gap
	Dropped    uint64    // dropped: decisions that were not recorded
	Since      RawString // since: RFC 3339; the first that is missing, or the last that could be read before
	Until      RawString // until: RFC 3339; the last that is missing, or the first that could be read behind
	Damaged    uint64    // damaged_bytes: that were a decision's, or may have been. Absent where 0
	Unfinished uint64    // unfinished_bytes: reserved for decisions that were never written. Absent where 0
	Segment    RawString // segment: the file of the spool that they are in. Absent where decisions were dropped
}

// eventMember is one member of an object in a line, with the field that keeps it.
type eventMember[T any] struct {
	name  string
	field func(*T) any
}

// What a line has, in its order.
var (
	eventMembers = []eventMember[Event]{
		{"decision_id", func(e *Event) any { return &e.DecisionID }},
		{"timestamp", func(e *Event) any { return &e.Timestamp }},
		{"format", func(e *Event) any { return &e.Format }},
		{"labels", func(e *Event) any { return &e.Labels }},
		{"trace_id", func(e *Event) any { return &e.TraceID }},
		{"span_id", func(e *Event) any { return &e.SpanID }},
		{"revision", func(e *Event) any { return &e.Revision }},
		{"bundles", func(e *Event) any { return &e.Bundles }},
		{"path", func(e *Event) any { return &e.Path }},
		{"requested_by", func(e *Event) any { return &e.RequestedBy }},
		{"app", func(e *Event) any { return &e.App }},
		{"route", func(e *Event) any { return &e.Route }},
		{"parameters", func(e *Event) any { return &e.Parameters }},
		{"identity", func(e *Event) any { return &e.Identity }},
		{"peer", func(e *Event) any { return &e.Peer }},
		{"request", func(e *Event) any { return &e.Request }},
		{"outcome", func(e *Event) any { return &e.Outcome }},
		{"reason", func(e *Event) any { return &e.Reason }},
		{"status", func(e *Event) any { return &e.Status }},
		{"dry_run", func(e *Event) any { return &e.DryRun }},
		{"memo", func(e *Event) any { return &e.Memo }},
		{"error", func(e *Event) any { return &e.Error }},
		{"metrics", func(e *Event) any { return &e.Metrics }},
		{"digests", func(e *Event) any { return &e.Digests }},
		{"directory", func(e *Event) any { return &e.Directory }},
		{"facts", func(e *Event) any { return &e.Facts }},
		{"facts_truncated", func(e *Event) any { return &e.FactsTruncated }},
		{"erased", func(e *Event) any { return &e.Erased }},
		{"masked", func(e *Event) any { return &e.Masked }},
		{"nd_builtin_cache", func(e *Event) any { return &e.NDBuiltins }},
		{"result", func(e *Event) any { return &e.Result }},
		{"input", func(e *Event) any { return &e.Input }},
		{"gap", func(e *Event) any { return &e.Gap }},
	}
	identityMembers = []eventMember[Identity]{
		{"type", func(i *Identity) any { return &i.Type }},
		{"subject", func(i *Identity) any { return &i.Subject }},
		{"issuer", func(i *Identity) any { return &i.Issuer }},
		{"roles", func(i *Identity) any { return &i.Roles }},
		{"groups", func(i *Identity) any { return &i.Groups }},
		{"scopes", func(i *Identity) any { return &i.Scopes }},
		{"claims", func(i *Identity) any { return &i.Claims }},
		{"authenticated", func(i *Identity) any { return &i.Authenticated }},
	}
	requestMembers = []eventMember[Request]{
		{"method", func(r *Request) any { return &r.Method }},
		{"host", func(r *Request) any { return &r.Host }},
		{"path", func(r *Request) any { return &r.Path }},
	}
	errorMembers = []eventMember[Error]{
		{"code", func(e *Error) any { return &e.Code }},
		{"message", func(e *Error) any { return &e.Message }},
	}
	digestMembers = []eventMember[Digests]{
		{"routes", func(d *Digests) any { return &d.Routes }},
		{"keys", func(d *Digests) any { return &d.Keys }},
		{"directory", func(d *Digests) any { return &d.Directory }},
	}
	directoryMembers = []eventMember[Directory]{
		{"revision", func(d *Directory) any { return &d.Revision }},
		{"digest", func(d *Directory) any { return &d.Digest }},
	}
	gapMembers = []eventMember[Gap]{
		{"dropped", func(g *Gap) any { return &g.Dropped }},
		{"since", func(g *Gap) any { return &g.Since }},
		{"until", func(g *Gap) any { return &g.Until }},
		{"damaged_bytes", func(g *Gap) any { return &g.Damaged }},
		{"unfinished_bytes", func(g *Gap) any { return &g.Unfinished }},
		{"segment", func(g *Gap) any { return &g.Segment }},
	}
)

// Parse takes a line apart. What it is made of stays the line's. [ErrNoEvent] says that it is none; whether a document within is
// well formed is not looked at.
func (e *Event) Parse(line []byte) error {
	*e = Event{}
	s := jsonScan{text: line}
	if !decodeMembers(&s, e, eventMembers) || s.at != len(line) || e.DecisionID == nil && !e.Gap.Recorded {
		return ErrNoEvent
	}
	return nil
}

// decodeMembers sets the fields of the object at hand, and reports whether there is a whole one.
func decodeMembers[T any](s *jsonScan, into *T, members []eventMember[T]) bool {
	next := 0 // lines have their members in our order, others may not
	return s.members(func(key, value []byte) {
		for i := range members {
			at := next + i
			if at >= len(members) {
				at -= len(members)
			}
			if members[at].name == string(key) {
				decodeValue(members[at].field(into), value)
				next = at + 1
				return
			}
		}
	})
}

func decodeValue(field any, value []byte) {
	switch field := field.(type) {
	case *RawString:
		*field = Unquote(value)
	case *json.RawMessage:
		*field = value
	case *bool:
		*field = value[0] == 't'
	case *int:
		*field, _ = strconv.Atoi(string(value))
	case *uint64:
		*field, _ = strconv.ParseUint(string(value), 10, 64)
	case *Identity:
		field.Recorded = true
		decodeMembers(&jsonScan{text: value}, field, identityMembers)
	case *Request:
		field.Recorded = true
		decodeMembers(&jsonScan{text: value}, field, requestMembers)
	case *Error:
		field.Recorded = true
		decodeMembers(&jsonScan{text: value}, field, errorMembers)
	case *Directory:
		field.Recorded = true
		decodeMembers(&jsonScan{text: value}, field, directoryMembers)
	case *Digests:
		field.Recorded = true
		decodeMembers(&jsonScan{text: value}, field, digestMembers)
	case *Gap:
		field.Recorded = true
		decodeMembers(&jsonScan{text: value}, field, gapMembers)
	}
}

// Time is when a decision's request was received, or until when a gap was.
func (e *Event) Time() (time.Time, error) {
	if e.Gap.Recorded {
		return time.Parse(time.RFC3339Nano, string(e.Gap.Until))
	}
	return time.Parse(time.RFC3339Nano, string(e.Timestamp))
}

// HandlerTime is how long the decision took, from the request's arrival until the answer was ready; 0 where the line does not say.
func (e *Event) HandlerTime() time.Duration {
	ns, err := strconv.ParseInt(string(Member(e.Metrics, "timer_server_handler_ns")), 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}

// DecodeBundles are the parts of the policy that decided, by name; an error where the line has something else there.
func (e *Event) DecodeBundles() (map[string]Bundle, error) {
	var all map[string]Bundle
	if err := json.Unmarshal(e.Bundles, &all); err != nil {
		return nil, fmt.Errorf("reading the bundles of an event: %w", err)
	}
	return all, nil
}

// RawString is a JSON string as it stands in the line between its quotes, with its escapes; nil: there is none.
type RawString []byte

// Decode is what the string means.
func (s RawString) Decode() string {
	if bytes.IndexByte(s, '\\') < 0 {
		return string(s)
	}
	var out string
	if json.Unmarshal([]byte(`"`+string(s)+`"`), &out) != nil {
		return string(s)
	}
	return out
}

// Unquote is the inside of a value that is a string; nil where it is none.
func Unquote(value json.RawMessage) RawString {
	if len(value) < 2 || value[0] != '"' {
		return nil
	}
	return RawString(value[1 : len(value)-1])
}

// Strings are the members of a list of strings; nil where a value is no such list.
func Strings(list json.RawMessage) []string {
	var out []string
	if list == nil || json.Unmarshal(list, &out) != nil {
		return nil
	}
	return out
}

// Member follows names down through objects; nil where there is nothing. Of a value that is not well formed it may find something.
func Member(value json.RawMessage, names ...string) json.RawMessage {
	for _, name := range names {
		var found []byte
		s := jsonScan{text: value}
		if value == nil || !s.members(func(key, value []byte) {
			if string(key) == name {
				found = value
			}
		}) {
			return nil
		}
		value = found
	}
	return value
}
