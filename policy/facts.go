package policy

import (
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Facts is what a policy may ask for besides its input: a directory of users, groups and relations. It is one value, handed through
// every way into an evaluation (Decide, DecideWithin, Key.Decide, Replayer, Inspector); the zero value holds nothing. Facts are immutable
// like a Snapshot: a question that is asked twice of the same Facts, in one epoch, has one answer.
type Facts struct {
	// Directory answers what directory built-ins, such as ds.check, ask. nil: there is no directory.
	Directory Directory
	// Version tells directories apart: no two that this process has had have the same. 0: it has none, and a decision that asked this
	// directory is not remembered.
	Version uint64
}

// Directory answers the questions of policies. It is immutable and safe for concurrent use.
type Directory interface {
	// Ask answers one call of a built-in. A nil answer is undefined; an error fails the evaluation, which is a denial. The answer must not
	// be changed afterwards, and nothing of the arguments may be kept.
	Ask(builtin string, args []Value, now time.Time) (answer Value, err error)
	// Epoch is a number that is the same for two times between which no answer changes by itself, because something expires.
	Epoch(now time.Time) uint64
}

// Question is what a policy asked its directory, with the answer.
type Question struct {
	Builtin string
	Args    []Value
	Answer  Value // nil: undefined
}

const (
	// maxQuestions bounds the questions of one evaluation.
	maxQuestions = 1000
	// maxAsked and maxAskedBytes bound those that are kept with a decision: for the log, and to be asked again.
	maxAsked      = 64
	maxAskedBytes = 8 << 10
	// askAgain bounds how long the questions of a remembered decision are asked again, looked at between one and the next: an evaluation has a
	// deadline, this has not.
	askAgain = 5 * time.Millisecond
)

// asking is what an evaluation asked its directory.
type asking struct {
	missing   bool // there was no directory to ask
	count     int
	bytes     int64
	truncated bool // there were more questions than are kept
	kept      []Question
}

// note keeps a question, or says that it did not.
func (a *asking) note(q Question) {
	if a.truncated {
		return
	}
	a.bytes += q.weight()
	if a.truncated = len(a.kept) == maxAsked || a.bytes > maxAskedBytes; !a.truncated {
		a.kept = append(a.kept, q)
	}
}

// weight is about how many bytes a question takes as text.
func (q *Question) weight() int64 {
	n := int64(len(q.Builtin)) + weight(q.Answer, 0)
	for _, arg := range q.Args {
		n += weight(arg, 0)
	}
	return n
}

func weight(v Value, depth int) (n int64) {
	if depth > maxDetached {
		return maxAskedBytes + 1
	}
	switch v := v.(type) {
	case ast.String:
		return int64(len(v)) + 2
	case ast.Number:
		return int64(len(v))
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { n += weight(t.Value, depth+1) + 1 })
		return n + 2
	case ast.Set:
		v.Foreach(func(t *ast.Term) { n += weight(t.Value, depth+1) + 1 })
		return n + 2
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { n += weight(k.Value, depth+1) + weight(t.Value, depth+1) + 2 })
		return n + 2
	}
	return 4
}

// detachedQuestions is a copy of questions that shares no memory with them, and about how many bytes it takes. ok is false where one is nested too
// deeply.
func detachedQuestions(list []Question) (own []Question, size int64, ok bool) {
	own = make([]Question, len(list))
	for i, q := range list {
		own[i] = Question{Builtin: q.Builtin, Args: make([]Value, len(q.Args))}
		size += questionBytes
		for j, arg := range q.Args {
			if own[i].Args[j], ok = detach(arg, &size, 0); !ok {
				return nil, 0, false
			}
		}
		if q.Answer == nil {
			continue
		}
		if own[i].Answer, ok = detach(q.Answer, &size, 0); !ok {
			return nil, 0, false
		}
	}
	return own, size, true
}

// sameAnswers reports whether a directory answers all questions as it did. It stops at the first that it does not, and where it takes too long.
func (f Facts) sameAnswers(list []Question, now time.Time, within time.Duration) bool {
	var began time.Time
	if len(list) > 1 {
		began = time.Now()
	}
	for i := range list {
		if i > 0 && time.Since(began) > within {
			return false
		}
		answer, err := f.Directory.Ask(list[i].Builtin, list[i].Args, now)
		if err != nil || !same(answer, list[i].Answer) {
			return false
		}
	}
	return true
}

// same reports whether no policy can tell two values apart. Two numbers that are equal may have texts that differ.
func same(a, b Value) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	switch a := a.(type) {
	case ast.Boolean:
		b, ok := b.(ast.Boolean)
		return ok && a == b
	case ast.String:
		b, ok := b.(ast.String)
		return ok && a == b
	}
	if a.Compare(b) != 0 {
		return false
	}
	one, two := keyPool.Get().(*Key), keyPool.Get().(*Key)
	defer one.Done()
	defer two.Done()
	return one.exact(a) && two.exact(b) && string(one.text) == string(two.text)
}

// exact makes the key's text that of a value, and reports whether it has one.
func (k *Key) exact(v Value) bool {
	k.text, k.starts, k.unfit = k.text[:0], k.starts[:0], false
	k.Value(v, Reads{})
	return !k.unfit
}
