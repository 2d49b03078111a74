package input

import "time"

// Field is one field of a policy's input. To add one, append a Field with a Number of its own to the table in this file: with that it is
// in the input that policies get (and is only made where they read it), in the key of the memo, in the packed entries of the decision
// log, in their lines with what is secret taken out, and RequestFromInput reads it back.
//
// Exactly one of the functions says where the value comes from; it points into the Input, so that one function serves reading and
// writing, or is nil where the Input has no place for it. What is composed or worked out has a Kind of its own instead.
type Field struct {
	Path string // in the input, with dots between the names
	Kind Kind   // set by New where one of the functions is given

	Text   func(*Input) *string
	Int    func(*Input) *int64
	Bool   func(*Input) *bool
	List   func(*Input) *[]string
	Labels func(*Input) *map[string]string
	Object func(*Input) *map[string]any // plain JSON

	Address func(*Input) *Address   // Kind Place
	Time    func(*Input) *time.Time // Kind Moment

	// Always says that the field is there also when it is empty.
	Always bool
	// Computed says that the value is worked out from others: it is not read back, as reading back those others brings it.
	Computed bool
	// Unlogged says that the decision log does not keep the value.
	Unlogged bool
	// Secret says what redaction does to the value before the decision log has it. The zero value does most.
	Secret Secret
	// Payload says that the log leaves out what Envoy's jwt_authn puts there: the payload of a token.
	Payload bool
	// Mistake is the error for a value that is no input; "" is the reader's own.
	Mistake string

	// Number is how a packed entry names the field. Zero is for the fields of version 1 alone, whose order in the table is that in the
	// packed entry. A number is given once and for ever.
	Number int
	// Head says that the packed entry has the field before its input, because the envelope of the line shows it as well: there it is
	// at Line, a JSON pointer.
	Head bool
	Line string
	// Bit is the flag of version 1 that is the value or, of a Group or an address, says which it is.
	Bit Bit

	Constant string            // Kind Fixed: the value
	Of       string            // the Path of the field that this one repeats in the log
	Present  func(*Input) bool // Kind Group: whether the object is there. Of a field with a Number: whether the log has it
	Make     func(*Input)      // Kind Group: makes room for it when it is read back
	Index    int               // set by New: its place among the Fields
	Slot     int               // set by New: the Index of the field that holds its value in the log
	Pointer  string            // set by New: the JSON pointer to it in a line
}

// Kind is what a field's value is, and so how it is made, packed and read.
type Kind int

// The kinds of fields. Those behind Moment are what no function can point at.
const (
	KindText Kind = iota + 1
	KindInt
	KindBool
	KindList
	KindLabels
	KindObject
	KindPlace  // an endpoint's address
	KindMoment // seconds and nanoseconds

	KindGroup       // an object of fields
	KindFixed       // a constant
	KindClaims      // the credential's claims, of which the log keeps some
	KindHeaders     // one member for each header
	KindHeaderMap   // the header lines one by one, where the proxy sends them so
	KindBody        // the body as text
	KindRawBody     // the body in base64, where the proxy sends bytes
	KindParsedBody  // as JSON or a form
	KindParsedPath  // the decoded segments
	KindParsedQuery // name to values
	KindRouteMethod // of the route
	KindParams      // of the route, only where one matched
)

// Secret is what redaction does to a field's value.
type Secret int

const (
	// SecretAnywhere takes out what is known or looks like a secret and, of objects and labels, the members that have a secret's name.
	SecretAnywhere Secret = iota
	// SecretQuery is SecretAnywhere for a query: its parameters with a secret's name go, too.
	SecretQuery
	// SecretPlace takes out the request's own credentials alone: the value says where a request went, which a client must not be able to hide.
	SecretPlace
	// SecretPath is SecretPlace for a path with its query.
	SecretPath
	// SecretNever leaves the value as it is: no client has a say in it.
	SecretNever
)

// Bit is a flag of a packed entry, as its number.
type Bit int

// The flags that are about the input. (Others, about the entry, are the decision log's.)
const (
	NoBit            Bit = 0 // bit 0 is the entry's
	BitAuthenticated Bit = 1
	BitTLS           Bit = 10
	BitTruncated     Bit = 13
	BitMatched       Bit = 14
	BitSource        Bit = 17
	BitDestination   Bit = 18
	BitRedirect      Bit = 22
)

// standard are the fields of the input, those of version 1 of the packed entry in its order. Never move one: append, with a Number.
func standard() []Field {
	const http = "attributes.request.http."
	fields := []Field{
		// The head of a packed entry.
		{Path: http + "method", Text: func(in *Input) *string { return &in.Method }, Secret: SecretPlace, Head: true, Line: "/request/method"},
		{Path: http + "host", Text: func(in *Input) *string { return &in.Host }, Secret: SecretPlace, Head: true, Line: "/request/host"},
		{Path: http + "path", Text: func(in *Input) *string { return &in.Path }, Secret: SecretPath, Head: true, Line: "/request/path"},
		{Path: "policy.path", Text: func(in *Input) *string { return &in.DecisionPath }, Secret: SecretNever, Computed: true, Head: true, Line: "/path"},
		{Path: "identity.type", Text: func(in *Input) *string { return &in.Identity.Type }, Secret: SecretNever, Head: true, Line: "/identity/type"},
		{Path: "identity.identity", Text: func(in *Input) *string { return &in.Identity.Identity }, Secret: SecretNever, Head: true},
		{Path: "identity.subject", Text: func(in *Input) *string { return &in.Identity.Subject }, Secret: SecretNever, Head: true, Line: "/identity/subject"},
		{Path: "identity.issuer", Text: func(in *Input) *string { return &in.Identity.Issuer }, Secret: SecretNever, Head: true, Line: "/identity/issuer"},
		{Path: "identity.roles", List: func(in *Input) *[]string { return &in.Identity.Roles }, Always: true, Secret: SecretNever, Head: true, Line: "/identity/roles"},
		{Path: "identity.groups", List: func(in *Input) *[]string { return &in.Identity.Groups }, Always: true, Secret: SecretNever, Head: true, Line: "/identity/groups"},
		{Path: "identity.scopes", List: func(in *Input) *[]string { return &in.Identity.Scopes }, Always: true, Secret: SecretNever, Head: true, Line: "/identity/scopes"},
		{Path: "identity.claims", Kind: KindClaims, Object: func(in *Input) *map[string]any { return &in.Identity.Claims }, Head: true, Line: "/identity/claims",
			Mistake: "the credential's claims are nested too deeply"},

		// Its input.
		{Path: http + "scheme", Text: func(in *Input) *string { return &in.Scheme }, Secret: SecretPlace},
		{Path: http + "protocol", Text: func(in *Input) *string { return &in.Protocol }, Secret: SecretPlace},
		{Path: http + "id", Text: func(in *Input) *string { return &in.ID }},
		{Path: http + "query", Text: func(in *Input) *string { return &in.Query }, Secret: SecretQuery},
		{Path: http + "fragment", Text: func(in *Input) *string { return &in.Fragment }, Secret: SecretQuery},
		{Path: http + "size", Int: func(in *Input) *int64 { return &in.Size }},
		{Path: "attributes.request.time", Time: func(in *Input) *time.Time { return &in.Time }},
		{Path: http + "headers", Kind: KindHeaders},
	}
	fields = append(fields, endpoint("attributes.source.", BitSource, func(in *Input) *Endpoint { return &in.Source })...)
	fields = append(fields, endpoint("attributes.destination.", BitDestination, func(in *Input) *Endpoint { return &in.Destination })...)
	return append(fields, []Field{
		{Path: "attributes.contextExtensions", Labels: func(in *Input) *map[string]string { return &in.Extensions }},
		{Path: "attributes.metadataContext", Object: func(in *Input) *map[string]any { return &in.Metadata }, Payload: true},
		{Path: "attributes.routeMetadataContext", Object: func(in *Input) *map[string]any { return &in.RouteMetadata }},
		{Path: "attributes.tlsSession.sni", Text: func(in *Input) *string {
			if in.TLS == nil {
				return nil
			}
			return &in.TLS.SNI
		}, Secret: SecretPlace},
		{Path: "peer.spiffe_id", Text: func(in *Input) *string { return &in.Peer.SPIFFEID }, Computed: true, Secret: SecretNever},
		{Path: "peer.subject", Text: func(in *Input) *string { return &in.Peer.Subject }, Computed: true, Secret: SecretNever},
		{Path: "peer.sans", List: func(in *Input) *[]string { return &in.Peer.SANs }, Computed: true, Secret: SecretNever},
		{Path: "app", Text: func(in *Input) *string { return &in.App }, Computed: true, Secret: SecretNever},
		{Path: "route.name", Text: func(in *Input) *string { return &in.RouteName }, Computed: true, Secret: SecretNever},
		{Path: "route.template", Text: func(in *Input) *string { return &in.RouteTemplate }, Computed: true, Secret: SecretNever},
		{Path: "parsed_body", Kind: KindParsedBody, Always: true, Computed: true},

		// Its flags.
		{Path: "identity.authenticated", Bool: func(in *Input) *bool { return &in.Identity.Authenticated }, Always: true, Bit: BitAuthenticated},
		{Path: "truncated_body", Bool: func(in *Input) *bool { return &in.Truncated }, Always: true, Computed: true, Bit: BitTruncated},
		{Path: "route.redirect", Bool: func(in *Input) *bool { return &in.Redirect }, Computed: true, Bit: BitRedirect},
		{Path: "attributes.tlsSession", Kind: KindGroup, Always: true, Present: func(in *Input) bool { return in.TLS != nil },
			Make: func(in *Input) { in.TLS = &TLSSession{} }, Bit: BitTLS},
		{Path: "route", Kind: KindGroup, Computed: true, Present: func(in *Input) bool { return in.Matched }, Bit: BitMatched},

		// What the log works out of the others, as the gate does, and what it does not keep.
		{Path: http + "headerMap", Kind: KindHeaderMap},
		{Path: http + "body", Kind: KindBody, Unlogged: true},
		{Path: http + "rawBody", Kind: KindRawBody, Unlogged: true},
		{Path: "version.ext_authz", Kind: KindFixed, Constant: "v3", Computed: true}, // where policies for opa-envoy-plugin look
		{Path: "version.encoding", Kind: KindFixed, Constant: "protojson", Computed: true},
		{Path: "parsed_path", Kind: KindParsedPath, Computed: true},
		{Path: "parsed_query", Kind: KindParsedQuery, Computed: true},
		{Path: "source_principal", Text: func(in *Input) *string { return &in.Source.Principal }, Of: "attributes.source.principal"},
		{Path: "route.method", Kind: KindRouteMethod, Computed: true},
		{Path: "route.params", Kind: KindParams, Computed: true},
		{Path: "resource", Kind: KindParams, Computed: true},

		// The caller in the directory. What of it was not asked for is not there: see User.
		{Path: "user", Kind: KindGroup, Present: func(in *Input) bool { return in.User != nil }, Make: func(in *Input) { in.User = &User{} }},
		{Path: "user.id", Text: func(in *Input) *string { return userPart(in, func(u *User) *string { return &u.ID }) }, Secret: SecretNever, Number: 1},
		{Path: "user.display_name", Text: func(in *Input) *string { return userPart(in, func(u *User) *string { return &u.DisplayName }) }, Number: 2},
		{Path: "user.properties", Object: func(in *Input) *map[string]any {
			return userPart(in, func(u *User) *map[string]any { return &u.Properties })
		}, Number: 3},
		{Path: "user.roles", List: func(in *Input) *[]string { return userPart(in, func(u *User) *[]string { return &u.Roles }) }, Always: true, Secret: SecretNever, Number: 4,
			Present: func(in *Input) bool { return in.User != nil && in.User.Roles != nil }},
		{Path: "user.groups", List: func(in *Input) *[]string { return userPart(in, func(u *User) *[]string { return &u.Groups }) }, Always: true, Secret: SecretNever, Number: 5,
			Present: func(in *Input) bool { return in.User != nil && in.User.Groups != nil }},
	}...)
}

// userPart is a part of the user, where there is one.
func userPart[V any](in *Input, part func(*User) *V) *V {
	if in.User == nil {
		return nil
	}
	return part(in.User)
}

// endpoint are the fields of one end of the connection.
func endpoint(path string, other Bit, at func(*Input) *Endpoint) []Field {
	return []Field{
		{Path: path + "address", Address: func(in *Input) *Address { return &at(in).Address }, Bit: other}, // an address that is not host and port
		{Path: path + "service", Text: func(in *Input) *string { return &at(in).Service }, Secret: SecretPlace},
		{Path: path + "labels", Labels: func(in *Input) *map[string]string { return &at(in).Labels }, Secret: SecretPlace},
		{Path: path + "principal", Text: func(in *Input) *string { return &at(in).Principal }, Secret: SecretNever},
		{Path: path + "certificate", Text: func(in *Input) *string { return &at(in).Certificate }, Secret: SecretNever},
	}
}
