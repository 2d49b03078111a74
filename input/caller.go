package input

import (
	"fmt"
	"time"
)

// Identity is the end user of one request. It is shared between requests: its slices and Claims must not be changed.
//
// The zero value is not the anonymous user but no identity at all; see identity.Anonymous.
type Identity struct {
	Type          string // of a closed set: see package identity
	Identity      string // the subject, but for an anonymous caller
	Subject       string // claim sub
	Issuer        string // claim iss: always one that is configured, but for what Envoy's jwt_authn verified
	Roles         []string
	Groups        []string
	Scopes        []string
	Email         string         // empty where the issuer does not vouch for it
	Claims        map[string]any // all verified claims; numbers are json.Number
	Expires       time.Time      // claim exp, without clock skew; or an API key's end. Zero = never
	Authenticated bool
}

// String names the type and nothing else: claims do not belong in logs.
func (id Identity) String() string { return "identity(" + id.Type + ")" }

// GoString is String.
func (id Identity) GoString() string { return id.String() }

// Format prints String for every verb.
func (id Identity) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(id.String())) }

// MarshalJSON gives String as a JSON string, so that a structured log of an Identity shows no claims. What a policy sees is
// built from the fields.
func (id Identity) MarshalJSON() ([]byte, error) { return []byte(`"` + id.String() + `"`), nil }

// User is the end user as the directory has it. It is shared between requests, and must not be changed.
type User struct {
	ID          string
	DisplayName string
	Properties  map[string]any // numbers are json.Number; nil: there are none, or they were not asked for
	Roles       []string       // through groups; nil: they were not asked for
	Groups      []string       // likewise
}

// Peer is the other end of the connection to Envoy, by its certificate. It is not the end user. The zero value is no peer.
type Peer struct {
	SPIFFEID string
	Subject  string // distinguished name
	SANs     []string
}
