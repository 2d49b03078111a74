package policy

import "github.com/open-policy-agent/opa/v1/topdown"

// Facts is what a policy may ask for besides its input: a directory of users, groups and relations. It is one value, handed through
// every way into an evaluation (Decide, DecideWithin, Key.Decide, Replayer, Inspector); the zero value holds nothing. Facts are immutable
// like a Snapshot: a question that is asked twice of the same Facts has one answer.
//
// A decision whose evaluation read facts, also none, is not remembered (Memo). Replayer says that it is unsure of one.
type Facts struct {
	// Directory answers what a directory built-in, such as ds.check, asks by its argument. A nil answer is undefined; an error is
	// the built-in's failure. nil: there is no directory, and such built-ins are undefined.
	Directory func(builtin string, question Value) (answer Value, err error)
}

// factsOf gives a built-in the facts of the evaluation that calls it, and notes that they were read.
func factsOf(bctx topdown.BuiltinContext) Facts {
	e, ok := bctx.Cancel.(*evaluation)
	if !ok {
		return Facts{}
	}
	e.asked = true
	return e.facts
}
