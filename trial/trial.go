// Package trial puts requests to a gate that runs off to the side, and says what came of them and why. It is the library behind gatehouse
// check, test and explain, and behind policy.smoke, whose requests are rows of the same tables. It owns the format of those tables
// (tests.yaml) and the words in which an answer is told; what it says of a decision is what the gate says. It imports gate, and what a gate
// is made of; bundles, to find the policy's own tests; and config for nothing but the nearest known key. It prints nothing.
package trial

import (
	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity"
)

// Config says what requests are put to.
type Config struct {
	Gate    *gate.Gate
	Issuers []identity.Issuer  // a caller whom no credential proves is made up as one of theirs
	Redact  decisionlog.Redact // what an explanation does not show either
}

// Trial puts requests to a gate.
type Trial struct {
	gate    *gate.Gate
	issuers []identity.Issuer
	redact  decisionlog.Redact
}

// New makes a Trial. It starts nothing: whose gate it is runs it.
func New(c Config) *Trial { return &Trial{gate: c.Gate, issuers: c.Issuers, redact: c.Redact} }
