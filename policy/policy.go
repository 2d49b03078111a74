// Package policy turns bundles of Rego and data into decisions.
//
// It has three steps, each a value in and a value out:
//
//	bundle.Read(name, files, limits) -> *bundle.Bundle  one bundle's files, checked and parsed
//	Compile(ctx, cfg, bundles)       -> *Snapshot       all bundles together, compiled for one decision path
//	Snapshot.Decide(...)             -> Decision        one request's input answered
//
// A bundle and a Snapshot are immutable and safe for concurrent use. A snapshot owns everything that its decisions
// depend on: compiler, data, one open read transaction, caches of compiled patterns. Nothing has to be closed; the
// garbage collector retires a snapshot when the last decision that uses it has ended. Bundles may be compiled again
// together with others: compiling copies what it changes.
//
// What a decision depends on besides its input and the time is Facts. What a built-in's value depends on is written once, in package builtins:
// the memo (Memo) and the repeating of old decisions (Replayer) both go by it.
//
// The package owns compiling, evaluating, what a decision may say, and the memo. Of ours it imports its parts alone: rego (values), bundle (what
// is read), builtins and reach (what a policy can come to), bounds. Package explain, which says why a policy decides as it does, looks in by
// Inspector. With these it is the only importer of OPA's compiler and evaluator. OPA's plugin manager, bundle plugin and Rego front end stay
// out: the first two serve from a store that is locked and patched while requests read it, the third starts a goroutine per call and runs a
// bundle's own tests only.
//
// # What a policy cannot do
//
// The built-ins http.send, net.lookup_ip_addr and opa.runtime do not exist unless they are turned on, print statements
// are erased, and JSON schemas are never fetched from the network.
//
// # Built-in functions that take too long
//
// Package bounds, which this one imports, holds each built-in to limits: no input overflows the stack, allocates gigabytes or keeps
// Decide past its context's end. What exceeds a limit ends the evaluation with ErrEvaluation.
//
// # Built-in functions that fail
//
// As in OPA, a built-in that fails (a number that does not parse, a token that is malformed) makes its expression
// undefined and evaluation goes on, so that policies with a default keep their meaning. Only when the whole decision
// stays undefined is the first such failure reported, as ErrEvaluation instead of ErrUndefined.
package policy

import (
	"errors"
)

// ErrUndefined is returned by Decide when no rule gave the decision a value for this input.
var ErrUndefined = errors.New("the policy makes no decision for this input")

// ErrEvaluation is returned by Decide when the policy failed: conflicting rules, a decision of a wrong type, an output
// that must not leave the process, a built-in that failed, a panic. The error's text names file and line. It is for the
// log, never for the client.
var ErrEvaluation = errors.New("evaluating the policy failed")

// ErrOverloaded is returned by Decide when a built-in function was not called because too many calls that were given up at their
// deadline are still under way.
var ErrOverloaded = errors.New("evaluating the policy: overloaded")

// Config says what to compile bundles for.
type Config struct {
	// Decision is the path of the document that decides, its segments separated by slashes: "envoy/authz/allow" is
	// data.envoy.authz.allow. Empty leaves the snapshot without a decision of its own: its users ask by Entry.
	Decision string

	// AllowHeaders names headers that a policy may put out although they are refused by default: pseudo-headers, host,
	// framing and hop-by-hop headers. Compared without regard to case.
	AllowHeaders []string

	// Capabilities turn on built-ins that are off by default.
	Capabilities Capabilities

	// Directory says that there will be one to ask, so that a policy that asks gets no notices.
	Directory bool

	// Notice, where set, is called by Compile once for each of the snapshot's notices.
	Notice func(string)
}
