package bounds

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// evaluation has a deadline, like policy's.
type evaluation struct {
	until time.Time
	ended error
}

func (e *evaluation) Cancel()             {}
func (e *evaluation) Cancelled() bool     { return e.ended != nil }
func (e *evaluation) Deadline() time.Time { return e.until }
func (e *evaluation) End(cause error)     { e.ended = cause }

// TestApart has an unknown built-in that ignores cancellation: it is abandoned at the deadline, counted, and limited in number.
func TestApart(t *testing.T) {
	release, entered := make(chan struct{}), make(chan string, 1000)
	stuck := func(_ topdown.BuiltinContext, args []*ast.Term, _ func(*ast.Term) error) error {
		<-release
		entered <- stringOf(args[0])
		return nil
	}
	call := func(f topdown.BuiltinFunc) (*evaluation, error) {
		e := &evaluation{until: time.Now().Add(time.Millisecond)}
		args := []*ast.Term{ast.StringTerm("x")}
		return e, isolated("test.stuck", f, topdown.BuiltinContext{Context: context.Background(), Cancel: e}, args, func(*ast.Term) error { return nil })
	}
	before := Abandoned()
	for range maxAbandoned() {
		if e, err := call(stuck); !topdown.IsCancel(haltOf(err)) || !errors.Is(e.ended, context.DeadlineExceeded) {
			t.Fatalf("%v, ended by %v", err, e.ended)
		}
	}
	if now := Abandoned(); now.Abandoned-before.Abandoned != maxAbandoned() || now.Total-before.Total != uint64(maxAbandoned()) {
		t.Errorf("counted %+v, before %+v", now, before)
	}
	if e, err := call(stuck); !errors.Is(haltOf(err), ErrOverloaded) || !errors.Is(e.ended, ErrOverloaded) {
		t.Errorf("past the bound: %v, ended by %v", err, e.ended)
	}
	if Abandoned().Refused == before.Refused {
		t.Error("what was refused is not counted")
	}
	close(release)
	for range maxAbandoned() {
		<-entered
	}
	for Abandoned().Abandoned != before.Abandoned { // the test hangs if the call does not end
		time.Sleep(time.Millisecond)
	}
	if _, err := apartWith(call, func(_ topdown.BuiltinContext, _ []*ast.Term, _ func(*ast.Term) error) error { return errors.New("no") }); err == nil || err.Error() != "no" {
		t.Errorf("its error is %v", err)
	}
	defer func() {
		if p := recover(); p == nil || !strings.Contains(p.(string), "bang") {
			t.Errorf("its panic is %v", p)
		}
	}()
	_, _ = apartWith(call, func(topdown.BuiltinContext, []*ast.Term, func(*ast.Term) error) error { panic("bang") })
}

// apartWith repeats a call until its deadline of a millisecond was not exceeded.
func apartWith(call func(topdown.BuiltinFunc) (*evaluation, error), f topdown.BuiltinFunc) (e *evaluation, err error) {
	for {
		if e, err = call(f); e.ended == nil {
			return e, err
		}
	}
}

func haltOf(err error) error {
	var halt topdown.Halt
	if errors.As(err, &halt) {
		return halt.Err
	}
	return err
}
