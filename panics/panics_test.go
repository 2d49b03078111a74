package panics_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"gatehouse/panics"
)

func TestPanics(t *testing.T) {
	var said []panics.Event
	panics.SetReporter(func(e panics.Event) { said = append(said, e) })
	defer panics.SetReporter(nil)
	func() {
		defer panics.Recover("doing one thing")
		panic("oh")
	}()
	err := func() (err error) {
		defer panics.Into("doing another", &err)
		var none []int
		return errors.New(string(rune(none[3])))
	}()
	if err == nil || !strings.Contains(err.Error(), "doing another: it panicked: runtime error: index out of range") {
		t.Error(err)
	}
	if len(said) != 1 || said[0].Where != "doing one thing" || said[0].Value != "oh" || !strings.Contains(string(said[0].Stack), "TestPanics") {
		t.Errorf("%v", said) // one a second says it all
	}
	if n := panics.Counts(); n["doing one thing"] != 1 || n["doing another"] != 1 {
		t.Error(n)
	}
	if list := panics.Degraded(); len(list) != 2 || !slices.IsSorted(list) || !strings.HasPrefix(list[0], "panics: doing another panicked, the last time at ") {
		t.Errorf("%q", list)
	}
}

// TestLoop starts what panicked again, and ends with its context, or its error.
func TestLoop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	panics.Loop(ctx, "looping", func(ctx context.Context) {
		if runs++; runs == 1 {
			panic("once")
		}
		cancel()
		<-ctx.Done()
	})
	if runs != 2 {
		t.Errorf("it ran %d times", runs)
	}
	failed := errors.New("failed")
	if err := panics.LoopError(t.Context(), "failing", func(context.Context) error { return failed }); err != failed {
		t.Error(err)
	}
	panics.Loop(ctx, "ended", func(context.Context) { panic("after the end") }) // does not begin again
}
