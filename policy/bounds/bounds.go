// Package bounds limits the depth, size and work of Rego's built-in functions, whatever operands a request gives them.
//
// OPA checks for cancellation between evaluation steps, not within a built-in. A built-in that runs for minutes outlasts every deadline, one
// that allocates gigabytes kills the process, and one that recurses over client input overflows the stack, which recover cannot catch. Each
// built-in of the linked OPA has a row in one table that says how it is bounded:
//
//	bounded    time and memory grow with its operands, and it recurses no deeper than they are nested
//	limited    its operands, or its result, are checked against a limit before it is called
//	replaced   our implementation gives the same result in bounded time
//	apart      large calls run on their own goroutine, which is abandoned at the evaluation's deadline
//	waits      it waits for others and honours the evaluation's context
//
// A call that exceeds a limit fails the whole evaluation. Leaving the expression undefined, as an ordinary built-in error does, would let a
// request switch off a deny rule by making it too large.
//
// A built-in without a row counts as unbounded and always runs apart. Package topdown's built-ins are replaced in its registry, which is
// global and read without a lock, so this happens once, when the package is initialised.
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

// Limits. They are far above what a policy needs for one request.
const (
	MaxText    = 32 << 20 // bytes of a text that a built-in builds
	MaxNodes   = 1 << 20  // values in a value that a built-in walks or builds
	MaxNesting = 10_000   // depth of arrays and objects
	MaxNumber  = 1000     // characters of a number that a built-in parses
	MaxDigits  = 40_000   // digits of a number in arithmetic
	MaxShift   = 100_000  // bits of a shift
	MaxList    = 1 << 20  // elements of a list that a built-in generates
	MaxPattern = 64 << 10 // bytes of a pattern or template
	MaxProgram = 1 << 18  // instructions of a compiled regular expression

	isolatedWork = 1 << 18 // calls with more steps (some nanoseconds each) run apart
)

// ErrOverloaded ends an evaluation when too many abandoned calls are still running.
var ErrOverloaded = errors.New("too many calls of built-in functions that outlast their deadline are under way")

// ErrLimit ends an evaluation when a built-in would exceed a limit.
var ErrLimit = errors.New("limit exceeded")

// Evaluation is what a topdown.Cancel may also implement: Deadline returns when the evaluation has to end, zero if unknown; End, called on
// the evaluating goroutine, records why it was ended.
type Evaluation interface {
	Deadline() time.Time
	End(cause error)
}

// verdict is the result of checking a call's operands.
type verdict struct {
	work    int    // steps; above isolatedWork the call runs apart
	refused string // the limit it exceeds
}

// guard says how a built-in is bounded.
type guard struct {
	kind        string
	why         string
	check       func(args []*ast.Term) verdict // nil: nothing to check
	replacement topdown.BuiltinFunc            // nil: OPA's implementation
	result      func(*ast.Term) string         // checks the result; nil: nothing to check
}

// Row is a built-in and how it is bounded.
type Row struct{ Name, Kind, Why string }

// Table returns how each built-in of the linked OPA is bounded, in OPA's order. Kind is "unknown" for one without a row.
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

// Rows returns the names in the table, including those of other OPA versions.
func Rows() []string {
	var names []string
	for name := range guards {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// opas holds OPA's own implementations of the guarded built-ins, by name.
var opas = map[string]topdown.BuiltinFunc{}

// OPA's registry is global: evaluation looks there before it looks at the query's own built-ins.
func init() {
	for _, b := range ast.Builtins {
		g, known := guards[b.Name]
		original := topdown.GetBuiltin(b.Name)
		if original == nil || known && g.check == nil && g.replacement == nil && g.result == nil {
			continue
		}
		opas[b.Name] = original
		if !known {
			g.check = func([]*ast.Term) verdict { return verdict{work: isolatedWork + 1} }
		}
		if g.replacement == nil {
			g.replacement = original
		}
		b.CanSkipBctx = false // the call needs the evaluation's deadline
		topdown.RegisterBuiltinFunc(b.Name, g.call(b.Name, b.Decl.Arity()))
	}
}

// call wraps the built-in with its guard. args may have one more element than arity: the expected result.
func (g guard) call(name string, arity int) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		if g.result != nil {
			iter = g.checked(name, bctx.Location, iter)
		}
		if g.check != nil {
			switch v := g.check(args[:min(arity, len(args))]); {
			case v.refused != "":
				return limit(name, bctx.Location, v.refused)
			case v.work > isolatedWork:
				return isolated(name, g.replacement, bctx, args, iter)
			}
		}
		return g.replacement(bctx, args, iter)
	}
}

// checked wraps iter to check the result first.
func (g guard) checked(name string, at *ast.Location, iter func(*ast.Term) error) func(*ast.Term) error {
	return func(t *ast.Term) error {
		if text := g.result(t); text != "" {
			return limit(name, at, text)
		}
		return iter(t)
	}
}

// limit halts the evaluation.
func limit(name string, at *ast.Location, text string) error {
	return haltError(name, at, fmt.Errorf("%w: %s", ErrLimit, text))
}

func haltError(name string, at *ast.Location, cause error) error {
	code := topdown.BuiltinErr
	if errors.Is(cause, context.DeadlineExceeded) {
		code = topdown.CancelErr
	}
	e := &topdown.Error{Code: code, Message: name + ": " + cause.Error(), Location: at}
	return topdown.Halt{Err: e.Wrap(cause)}
}

// outcome is the result of a call apart.
type outcome struct {
	terms    []*ast.Term
	err      error
	panicked string
}

// isolated runs a call on its own goroutine and waits for it until the evaluation's deadline. Operands are not copied: those from a request are
// in memory that the transport does not reuse, and those from a policy's data may be large.
func isolated(name string, f topdown.BuiltinFunc, bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
	evaluation, _ := bctx.Cancel.(Evaluation)
	end := func(cause error) error {
		if evaluation != nil {
			evaluation.End(cause)
		}
		return haltError(name, bctx.Location, cause)
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

// longest bounds the wait where there is no deadline, as in tools.
const longest = 30 * time.Second

// wait returns false if the deadline came first.
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
	var look <-chan time.Time // polls an evaluation that has neither
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
