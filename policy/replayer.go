package policy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
)

// InputReader makes values of JSON text, many one after the other: what repeats from one to the next is made once. It belongs
// to one goroutine; the values do not.
type InputReader struct{ keys, values map[string]*ast.Term }

// Read reads exactly one JSON value with its numbers exact. It refuses what FromJSON would.
func (i *InputReader) Read(text []byte) (Value, error) {
	if i.keys == nil {
		i.keys, i.values = map[string]*ast.Term{}, map[string]*ast.Term{}
	}
	for _, kept := range []map[string]*ast.Term{i.keys, i.values} {
		if len(kept) >= maxShared {
			clear(kept)
		}
	}
	r := valueReader{text: text, keys: i.keys, values: i.values}
	if term := r.value(0); term != nil && r.peek() == 0 && r.at == len(text) {
		return term.Value, nil
	}
	var document any
	if _, err := decodeJSON(bytes.TrimSpace(text), &document); err != nil {
		return nil, err
	}
	return FromJSON(document)
}

// Replayer repeats decisions that were made before, for tools that compare. It is for many decisions by one entry. The zero value is
// not usable; Entry.Replayer makes one.
type Replayer struct {
	entry  *Entry
	unsure []string // observed built-ins that may be called, sorted
	never  []string // unknown ones, for which the policy is not even asked, sorted
	timed  bool
	asks   bool // the directory
}

// Replayer prepares an entry for repeating decisions. It walks the policy once.
func (e *Entry) Replayer() *Replayer {
	r := &Replayer{entry: e}
	called := calls(reachable(e.snapshot.compiler, e.query))
	r.note(slices.Sorted(maps.Keys(called)))
	return r
}

// note sorts built-ins that may be called by what their values depend on.
func (r *Replayer) note(called []string) {
	for _, name := range called {
		switch classes[name] {
		case unknown:
			r.never = append(r.never, name)
		case observed:
			r.unsure = append(r.unsure, name)
		case timed:
			r.timed = true
		case asked:
			r.asks = true
		}
	}
}

// Entry is the entry that the Replayer repeats.
func (r *Replayer) Entry() *Entry { return r.entry }

// Pure reports whether nothing but the part of the input that is read makes the decision: not the time, nor chance, nor anybody
// who is asked.
func (r *Replayer) Pure() bool { return !r.timed && !r.asks && len(r.unsure)+len(r.never) == 0 }

// Basis says what a repeated decision rests on.
type Basis struct {
	// Unsure is the first built-in whose value may have been another when the decision was made, "" where there is none. With one the decision
	// says nothing.
	Unsure string
	// Recorded and Current count the questions to the directory that were answered from the record, and those that the facts answered because
	// they are not on record: as the directory is now.
	Recorded, Current int
	asked             string // the first of the latter
}

// Decide is Entry.Decide, except that nobody is called. unsure is Basis.Unsure; a call of the directory counts.
func (r *Replayer) Decide(ctx context.Context, input Value, facts Facts, now time.Time) (d Decision, unsure string, err error) {
	d, of, err := r.DecideRecorded(ctx, input, nil, facts, now)
	if of.Current > 0 {
		return Decision{}, of.asked, nil
	}
	return d, of.Unsure, err
}

// DecideRecorded is Entry.Decide, except that nobody is called and that what was asked of the directory then has the answer that is on record.
// Other questions are put to facts.
func (r *Replayer) DecideRecorded(ctx context.Context, input Value, recorded []Question, facts Facts, now time.Time) (d Decision, of Basis, err error) {
	if len(r.never) > 0 {
		return Decision{}, Basis{Unsure: r.never[0]}, nil
	}
	if len(r.unsure) == 0 && !r.asks {
		d, err = r.entry.Decide(ctx, input, facts, now)
		return d, Basis{}, err
	}
	return r.watch(ctx, input, recorded, facts, now)
}

// watch decides with an eye on what is called.
func (r *Replayer) watch(ctx context.Context, input Value, recorded []Question, facts Facts, now time.Time) (d Decision, of Basis, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = Decision{}, fmt.Errorf("%w: panic: %s\n%s", ErrEvaluation, withoutOperands(fmt.Sprint(p)), debug.Stack())
		}
	}()
	result, of, err := r.evaluate(ctx, input, recorded, facts, now, nil)
	if err != nil || of.Unsure != "" {
		return Decision{}, of, err
	}
	d, err = r.entry.snapshot.output.decision(result)
	return d, of, err
}

// evaluate gives the value of the decision document. adjust, where there is one, has the last word on the query.
func (r *Replayer) evaluate(ctx context.Context, input Value, recorded []Question, facts Facts, now time.Time, adjust func(*topdown.Query)) (result Value, of Basis, err error) {
	sent, chance := false, builtins.NDBCache{}
	directory := &recordedDirectory{record: recorded, now: facts.Directory}
	state, err := r.entry.evaluate(ctx, 0, input, Facts{Directory: directory}, now, func(q *topdown.Query) {
		q.WithNDBuiltinCache(chance).WithHTTPRoundTripper(func(*http.Transport) http.RoundTripper {
			sent = true
			return noCalls{}
		})
		if adjust != nil {
			adjust(q)
		}
	})
	of = directory.of
	for _, name := range r.unsure {
		if _, called := chance[name]; called || sent && name == "http.send" {
			of.Unsure = cmp.Or(of.Unsure, name)
		}
	}
	if of.Unsure != "" {
		return nil, of, nil
	}
	return state.result, of, err
}

// OnRecord are the facts of a decision that is on record: what was asked then has the answer that it had. Other questions are put to facts and
// fail where there is no directory. They are one goroutine's.
func OnRecord(recorded []Question, facts Facts) Facts {
	return Facts{Directory: &recordedDirectory{record: recorded, now: facts.Directory, strict: true}}
}

// errNotOnRecord is what a question comes to that nobody can answer.
var errNotOnRecord = errors.New("no answer on record, and there is no directory")

// recordedDirectory answers from the record, else from the directory as it is now. It is one evaluation's.
type recordedDirectory struct {
	record []Question
	now    Directory // nil: there is none
	strict bool      // what nobody can answer fails; else it is undefined, and of says so
	of     Basis
}

// Ask implements Directory.
func (d *recordedDirectory) Ask(builtin string, args []Value, now time.Time) (Value, error) {
	for i := range d.record {
		if q := &d.record[i]; q.Builtin == builtin && slices.EqualFunc(q.Args, args, same) {
			d.of.Recorded++
			return q.Answer, nil
		}
	}
	if d.now == nil {
		d.of.Unsure = cmp.Or(d.of.Unsure, builtin)
		if d.strict {
			return nil, errNotOnRecord
		}
		return nil, nil
	}
	d.of.Current++
	d.of.asked = cmp.Or(d.of.asked, builtin)
	return d.now.Ask(builtin, args, now)
}

// Epoch implements Directory.
func (d *recordedDirectory) Epoch(now time.Time) uint64 {
	if d.now == nil {
		return 0
	}
	return d.now.Epoch(now)
}

// calls are the names of the built-ins that what was walked can call, those among them that stand in for another function.
func calls(c *collector) map[string]bool {
	names := map[string]bool{}
	note := func(ref ast.Ref) bool {
		if name := ref.String(); isBuiltin(ref) {
			names[name] = true
		}
		return false
	}
	for rule := range c.rules {
		ast.WalkRefs(rule.Body, note)
		ast.WalkRefs(rule.Head, note)
	}
	return names
}
