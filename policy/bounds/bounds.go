// Package bounds holds the built-in functions of Rego to limits of depth, size and work, whatever a request puts into their operands.
//
// OPA looks at the deadline between two steps of an evaluation, not within a built-in. So a built-in that runs for minutes outlasts
// every deadline, one that allocates gigabytes ends the process, and one that recurses over what a client sent overflows the stack,
// which no recover can catch. Each built-in of the OPA that is linked has a row in one table that says how it is bounded:
//
//	bounded    time and memory grow with its operands, and it does not recurse deeper than they are nested
//	limited    its operands, or what would come of them, are held to a limit before it is called
//	replaced   an implementation of ours gives the same result in bounded time
//	apart      large work is done on a goroutine of its own, which is given up at the evaluation's deadline
//	waits      it waits for others, by the evaluation's context
//
// What exceeds a limit ends the whole evaluation with an error. It does not leave an expression undefined, as a built-in's ordinary
// error does: a request could else switch a rule that denies off by making it too large.
//
// A built-in that the table does not know counts as unbounded: it always runs apart. Those of package topdown are replaced in its own
// registry, which belongs to the process and is read without a lock: that is done once, when this package is initialised.
package bounds

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// The limits. They lie far above what a policy does with one request.
const (
	MaxText    = 32 << 20 // bytes of a text that a built-in puts together
	MaxNodes   = 1 << 20  // values in a value that a built-in walks through or makes
	MaxNesting = 10_000   // of arrays and objects
	MaxNumber  = 1000     // characters of a number that a built-in reads from a text
	MaxDigits  = 40_000   // of a number that is calculated with
	MaxShift   = 100_000  // bits
	MaxList    = 1 << 20  // elements of a list that a built-in counts up
	MaxPattern = 64 << 10 // bytes of a pattern or template
	MaxProgram = 1 << 18  // instructions that a regular expression may come to

	apartWork = 1 << 18 // above so many steps, of some nanoseconds each, a call is made apart
)

// ErrOverloaded is the cause of an evaluation's end where too many calls that were given up are still under way.
var ErrOverloaded = errors.New("too many calls of built-in functions that outlast their deadline are under way")

// ErrLimit is the cause of an evaluation's end where a built-in would exceed a limit.
var ErrLimit = errors.New("limit exceeded")

// Evaluation is what a topdown.Cancel may tell of its evaluation: when it has to end, zero where nothing is known, and, on the
// goroutine that evaluates, that it was ended.
type Evaluation interface {
	Deadline() time.Time
	End(cause error)
}

// verdict is what is known of a call before it is made.
type verdict struct {
	work    int    // steps; above apartWork the call is made apart
	refused string // the limit that it exceeds
}

// guard is how a built-in is bounded.
type guard struct {
	kind    string
	why     string
	check   func(args []*ast.Term) verdict // nil: nothing to check
	instead topdown.BuiltinFunc            // nil: OPA's own
	result  func(*ast.Term) string         // checks what comes of it; nil: nothing to check
}

// Row is a built-in with how it is bounded.
type Row struct{ Name, Kind, Why string }

// Table gives how each built-in of the linked OPA is bounded, in OPA's order. Kind is "unknown" for one that has no row.
func Table() []Row {
	rows := make([]Row, len(ast.Builtins))
	for i, b := range ast.Builtins {
		g, known := guards[b.Name]
		if !known {
			g = guard{kind: "unknown", why: "not in the table: always apart"}
		}
		rows[i] = Row{b.Name, g.kind, g.why}
	}
	return rows
}

// Rows are the names that the table knows, those of other versions of OPA included.
func Rows() []string {
	var names []string
	for name := range guards {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// opas are OPA's own functions, by name, as far as they have a guard.
var opas = map[string]topdown.BuiltinFunc{}

// OPA's registry is the process's: an evaluation finds a built-in there before it looks at what its query brings.
func init() {
	for _, b := range ast.Builtins {
		g, known := guards[b.Name]
		original := topdown.GetBuiltin(b.Name)
		if original == nil || known && g.check == nil && g.instead == nil && g.result == nil {
			continue
		}
		opas[b.Name] = original
		if !known {
			g.check = func([]*ast.Term) verdict { return verdict{work: apartWork + 1} }
		}
		if g.instead == nil {
			g.instead = original
		}
		b.CanSkipBctx = false // it is called with the evaluation's deadline
		topdown.RegisterBuiltinFunc(b.Name, g.call(b.Name, b.Decl.Arity()))
	}
}

// call is the built-in with its guard. Operands may be followed by what the result is to be.
func (g guard) call(name string, arity int) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		if g.result != nil {
			iter = g.checked(name, bctx.Location, iter)
		}
		if g.check != nil {
			switch v := g.check(args[:min(arity, len(args))]); {
			case v.refused != "":
				return limit(name, bctx.Location, v.refused)
			case v.work > apartWork:
				return apart(name, g.instead, bctx, args, iter)
			}
		}
		return g.instead(bctx, args, iter)
	}
}

// checked is an iterator that looks at what comes of a call first.
func (g guard) checked(name string, at *ast.Location, iter func(*ast.Term) error) func(*ast.Term) error {
	return func(t *ast.Term) error {
		if text := g.result(t); text != "" {
			return limit(name, at, text)
		}
		return iter(t)
	}
}

// limit ends the evaluation.
func limit(name string, at *ast.Location, text string) error {
	return halt(name, at, fmt.Errorf("%w: %s", ErrLimit, text))
}

func halt(name string, at *ast.Location, cause error) error {
	code := topdown.BuiltinErr
	if errors.Is(cause, context.DeadlineExceeded) {
		code = topdown.CancelErr
	}
	e := &topdown.Error{Code: code, Message: name + ": " + cause.Error(), Location: at}
	return topdown.Halt{Err: e.Wrap(cause)}
}

// outcome is what came of a call apart.
type outcome struct {
	terms    []*ast.Term
	err      error
	panicked string
}

// apart makes a call on a goroutine of its own and waits for it until the evaluation's deadline. The operands are not copied: those of a request
// lie in memory that no transport uses again, and those out of a policy's data may be large.
func apart(name string, f topdown.BuiltinFunc, bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
	evaluation, _ := bctx.Cancel.(Evaluation)
	end := func(cause error) error {
		if evaluation != nil {
			evaluation.End(cause)
		}
		return halt(name, bctx.Location, cause)
	}
	if !calls.begin() {
		return end(ErrOverloaded)
	}
	own, outer := topdown.NewCancel(), bctx.Cancel
	done := make(chan outcome, 1)
	go func() {
		var out outcome
		defer func() {
			if p := recover(); p != nil {
				out = outcome{panicked: fmt.Sprintf("%v\n%s", p, debug.Stack())}
			}
			calls.end()
			done <- out
		}()
		inner := bctx
		inner.Cancel = own
		out.err = f(inner, args, func(t *ast.Term) error {
			out.terms = append(out.terms, t)
			return nil
		})
	}()
	out, ok := wait(bctx.Context, outer, evaluation, done)
	if !ok {
		own.Cancel()
		calls.abandon()
		go func() { <-done; calls.left() }() // goroutine: it waits and counts
		return end(context.DeadlineExceeded)
	}
	if out.panicked != "" {
		panic(out.panicked)
	}
	for _, t := range out.terms {
		if err := iter(t); err != nil {
			return err
		}
	}
	return out.err
}

// longest is how long a call is waited for where there is no deadline: in tools.
const longest = 30 * time.Second

// wait is false where the deadline came first.
func wait(ctx context.Context, cancel topdown.Cancel, evaluation Evaluation, done <-chan outcome) (outcome, bool) {
	if ctx == nil {
		ctx = context.Background()
	}
	within := longest
	if evaluation != nil {
		if until := evaluation.Deadline(); !until.IsZero() {
			within = time.Until(until)
		}
		cancel = nil // it has a deadline or a context
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	var look <-chan time.Time // for an evaluation that can only be asked
	if cancel != nil {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case out := <-done:
			return out, true
		case <-ctx.Done():
			return outcome{}, false
		case <-timer.C:
			return outcome{}, false
		case <-look:
			if cancel.Cancelled() {
				return outcome{}, false
			}
		}
	}
}
