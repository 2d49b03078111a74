// Package input is what a policy decides on: the attributes of one request (Request, Identity, Peer, together an Input) and the one
// table of the fields that a policy finds of them. The document that the policy is given, its JSON, what the decision log keeps of it,
// and the request that is read back out of it all follow that table: a Field says where a value stands in the input, where it comes
// from, what of it may be secret, and how it is packed. See Field for how to add one.
//
// It is a foundation: it imports nothing of ours and knows neither policies nor logs.
package input

// Input is what the input of one decision is made of, by reference: nothing of it is copied, and nothing is changed.
type Input struct {
	Request
	Identity Identity
	Peer     Peer
	User     *User // of the directory; nil: unknown, or not asked for

	App          string // name of the application where there are several
	DecisionPath string // which rule was asked, such as "envoy/authz/allow"

	Matched                  bool // a route did
	WebSocket                bool // it is one of WebSockets: its method is WEBSOCKET, whatever the request's is
	Redirect                 bool // it is that of the path which the application redirects to
	RouteName, RouteTemplate string
	Params                   []Param

	HasBody    bool     // a body came; its text is never recorded
	Truncated  bool     // more of the body was sent than is here
	ParsedBody Document // as the policy could read it; nil is null
}

// Param is a parameter of a route and what the request's path has in its place.
type Param struct{ Name, Value string }

// Document is a JSON value that is made when it is needed, off the request path and at most once. JSON returns map[string]any,
// []any, string, json.Number or another number, bool or nil, all of it free for the caller to change. (An interface rather than a
// func: a pointer in it costs no allocation, a closure does.)
type Document interface {
	JSON() (any, error)
}
