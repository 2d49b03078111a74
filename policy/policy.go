// Package policy turns bundles of Rego and data into decisions.
//
// It has three steps, each a value in and a value out:
//
//	bundle.Read(name, files, limits) -> *bundle.Bundle  one bundle's files, checked and parsed
//	Compile(ctx, cfg, bundles)       -> *Snapshot       all bundles together, compiled for one decision path
//	Snapshot.Decide(...)             -> Decision        one request's input answered
//
// A bundle and a Snapshot are immutable and safe for concurrent use. A snapshot owns everything that its decisions depend on: compiler,
// data, one open read transaction, caches of compiled patterns. Nothing has to be closed; a snapshot is garbage when the last decision that
// uses it has ended. Bundles may be compiled again together with others: Compile copies what it changes.
//
// What a decision depends on besides its input and the time is Facts. What a built-in's result depends on is written once, in package
// builtins; the memo (Memo) and replays (Replayer) both use it.
//
// The package owns compilation, evaluation, the checks on a decision, and the memo. Of ours it imports its parts alone: rego (values),
// bundle (reading), builtins and reach (what a policy can reach), bounds. Package explain uses it through Inspector. With these it is the
// only importer of OPA's compiler and evaluator. OPA's plugin manager, bundle plugin and rego package are not used: the first two serve from
// a store that is locked and patched while requests read it, the third starts a goroutine per call and runs a bundle's own tests only.
//
// # What a policy cannot do
//
// The built-ins http.send, net.lookup_ip_addr and opa.runtime do not exist unless enabled, print statements are erased, and JSON schemas are
// never fetched from the network.
//
// # Built-in functions that take too long
//
// Package bounds limits each built-in: no input overflows the stack, allocates gigabytes or keeps Decide past its context's end. What
// exceeds a limit ends the evaluation with ErrEvaluation.
//
// # Built-in functions that fail
//
// As in OPA, a built-in that fails (a number that does not parse, a malformed token) makes its expression undefined and evaluation goes on,
// so that policies with a default keep their meaning. Only when the whole decision is undefined is the first such failure reported, as
// ErrEvaluation instead of ErrUndefined.
package policy

import (
	"errors"

	"gatehouse/policy/reach"
)

// ErrUndefined is returned by Decide when the decision is undefined for this input.
var ErrUndefined = errors.New("the policy makes no decision for this input")

// ErrEvaluation is returned by Decide when the policy failed: conflicting rules, a decision of the wrong type, a result that must not leave
// the process, a built-in that failed, a panic. Its text names file and line. It is for the log, never for the client.
var ErrEvaluation = errors.New("evaluating the policy failed")

// ErrOverloaded is returned by Decide when a built-in was not called because too many abandoned calls are still running.
var ErrOverloaded = errors.New("evaluating the policy: overloaded")

// Asked names a rule that requests are decided by, or one for each package below another.
type Asked = reach.Asked

// Config configures Compile.
type Config struct {
	// Decision is the path of the decision document, its segments separated by slashes: "envoy/authz/allow" is data.envoy.authz.allow. Empty
	// leaves the snapshot without a default decision: callers use Entry.
	Decision string

	// Asked names further rules, besides Decision, that requests are decided by. A rule that is almost called like one of them gets a notice.
	Asked []Asked

	// AllowHeaders names headers that a policy may set although they are refused by default: pseudo-headers, host, framing and hop-by-hop
	// headers. Case-insensitive.
	AllowHeaders []string

	// Capabilities enables built-ins that are off by default.
	Capabilities Capabilities

	// Directory says that a directory is configured: policies that query it then get no notices.
	Directory bool

	// Notice, if set, is called by Compile for each of the snapshot's notices.
	Notice func(string)
}
