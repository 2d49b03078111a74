// Package attack is a table of requests, most of them forged, each with what an identity.Verifier must say to it. It is for
// tests: of the verifier alone, of the gRPC service around it, and of a real Envoy in front of that.
//
// The forgeries are those of RFC 8725 (JSON Web Token Best Current Practices) and those that JWT libraries were caught with.
// Every check of package identity has a case here that fails without it; hack/disable-checks proves that.
package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse/identity"
)

// OK and Anonymous are what Case.Want says where it is not the cause of a bad credential.
const (
	OK        = "ok"
	Anonymous = "anonymous"
)

// Case is one request.
type Case struct {
	Name    string
	Headers [][2]string // field lines in their order: lower-case name and value
	Query   string      // as sent, without the question mark
	Want    string      // OK, Anonymous, or the text behind "bad credential: "
	Edge    bool        // holds only while the clock stands at Suite.Now
}

// Sendable reports whether the headers can be sent over HTTP as they are: some have control characters.
func (c Case) Sendable() bool {
	for _, line := range c.Headers {
		for i := 0; i < len(line[1]); i++ {
			if b := line[1][i]; b < ' ' && b != '\t' || b == 0x7f {
				return false
			}
		}
	}
	return true
}

// Text reports whether all of it is valid UTF-8, as a string in a protobuf message must be.
func (c Case) Text() bool {
	for _, line := range c.Headers {
		if !utf8.ValidString(line[1]) {
			return false
		}
	}
	return utf8.ValidString(c.Query)
}

// Repeats reports whether a header is there more than once: proxies join such lines.
func (c Case) Repeats() bool {
	for i, line := range c.Headers {
		for _, other := range c.Headers[:i] {
			if other[0] == line[0] {
				return true
			}
		}
	}
	return false
}

// Values gives the field lines of one header, as an identity.Header does.
func (c Case) Values(name string) []string {
	var values []string
	for _, line := range c.Headers {
		if line[0] == name {
			values = append(values, line[1])
		}
	}
	return values
}

// Suite is the table together with the issuers and keys that it is about.
type Suite struct {
	Now   time.Time // the clock's time; tokens that are good live an hour from it
	Keys  *Keys
	Cases []Case
}

// New makes new keys, and all tokens for the time now.
func New(now time.Time) *Suite {
	s := &Suite{Now: now.Truncate(time.Second), Keys: newKeys()}
	for _, part := range []func() []Case{s.accepted, s.places, s.signatures, s.algorithms, s.headers, s.keyReuse, s.encodings,
		s.json, s.claims, s.times, s.recipients, s.rules} {
		s.Cases = append(s.Cases, part()...)
	}
	return s
}

// The issuers of the suite. A and B are plain, C is a provider whose tokens have no aud, D has every rule.
const (
	issuerA = "https://a.example"
	issuerB = "https://b.example"
	issuerC = "https://c.example"
	issuerD = "https://d.example"
)

// WriteKeys writes the issuers' key sets into a directory.
func (s *Suite) WriteKeys(dir string) error {
	for name, set := range s.keySets() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(set), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Config is what the cases hold for. dir is where WriteKeys wrote.
func (s *Suite) Config(dir string) identity.Config {
	file := func(name string) identity.KeySource { return identity.KeySource{File: filepath.Join(dir, name)} }
	return identity.Config{
		Clock: func() time.Time { return s.Now },
		Issuers: []identity.Issuer{{
			Issuer:    issuerA,
			Audiences: []string{"orders", "stock"},
			Keys:      file("a.json"),
			From:      []identity.TokenSource{{Header: "Authorization", Scheme: "Bearer"}, {Cookie: "access_token"}},
			Claims:    identity.ClaimPaths{Roles: "realm_access.roles"},
		}, {
			Issuer:     issuerB,
			Audiences:  []string{"orders"},
			Algorithms: []string{"RS256"},
			Keys:       file("b.json"),
			From:       []identity.TokenSource{{Header: "x-token"}},
		}, {
			Issuer:    issuerC,
			ClientIDs: []string{"orders-web"},
			TokenUse:  "access",
			Keys:      file("c.json"),
		}, {
			Issuer:    issuerD,
			Audiences: []string{"orders"},
			ClientIDs: []string{"shop", "phone"},
			Parties:   []string{"shop"},
			Type:      "at+jwt",
			MaxAge:    time.Hour,
			Require:   map[string][]string{"department": nil, "level": {"gold", "3", "true"}},
			Keys:      file("d.json"),
			From:      []identity.TokenSource{{Header: "Authorization", Scheme: "Bearer"}, {Query: "access_token"}},
			Claims:    identity.ClaimPaths{Roles: "permissions */roles"},
		}},
	}
}

// YAML is Config as the identity section of a gatehouse.yaml.
func (s *Suite) YAML(dir string) string {
	return fmt.Sprintf(strings.ReplaceAll(`identity:
	jwt:
		- issuer: `+issuerA+`
			audiences: [orders, stock]
			keys: {file: %[1]q}
			from: [{header: Authorization, scheme: Bearer}, {cookie: access_token}]
			claims: {roles: realm_access.roles}
		- issuer: `+issuerB+`
			audiences: [orders]
			algorithms: [RS256]
			keys: {file: %[2]q}
			from: [{header: x-token}]
		- issuer: `+issuerC+`
			client_ids: [orders-web]
			token_use: access
			keys: {file: %[3]q}
		- issuer: `+issuerD+`
			audiences: [orders]
			client_ids: [shop, phone]
			authorized_parties: [shop]
			type: at+jwt
			max_age: 1h
			require: {department: [], level: [gold, "3", "true"]}
			keys: {file: %[4]q}
			from: [{header: Authorization, scheme: Bearer}, {query: access_token}]
			claims: {roles: "permissions */roles"}
`, "\t", "  "), filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json"), filepath.Join(dir, "c.json"), filepath.Join(dir, "d.json"))
}
