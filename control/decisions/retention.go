package decisions

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// maxHolds bounds the holds of an environment.
const maxHolds = 100

// ask has the writer do something with the chain.
func (e *Environment) ask(ctx context.Context, do func() error) error {
	o := &order{do: do, done: make(chan error, 1)}
	select {
	case e.orders <- o:
		return <-o.done
	case <-e.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kept is how long entries are kept, and what holds them.
func (e *Environment) Kept() (Retention, []Hold) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.retention, slices.Clone(e.holds)
}

// SetRetention sets how long entries are kept.
func (e *Environment) SetRetention(ctx context.Context, r Retention, by string) error {
	for _, d := range []time.Duration{r.Allow, r.Deny, r.Gap} {
		if d < 0 || d > 0 && d < time.Hour {
			return fmt.Errorf("%w: entries are kept for an hour at least; 0 is for ever", ErrFilter)
		}
	}
	return e.ask(ctx, func() error {
		if err := e.record(&Record{Retention: &r, By: by}); err != nil {
			return err
		}
		e.retain()
		return nil
	})
}

// Hold keeps entries from being ended by the retention, until Release.
func (e *Environment) Hold(ctx context.Context, h Hold) error {
	if h.Name == "" || len(h.Name) > 100 || len(h.Why) > maxText || strings.ContainsFunc(h.Name+h.Why, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("%w: a hold has a name of up to 100 bytes, and a reason of up to %d", ErrFilter, maxText)
	}
	return e.ask(ctx, func() error {
		_, holds := e.Kept()
		if len(holds) >= maxHolds || slices.ContainsFunc(holds, func(other Hold) bool { return other.Name == h.Name }) {
			return fmt.Errorf("%w: a hold %q is there already, or %d others", ErrFilter, h.Name, maxHolds)
		}
		h.At = e.store.with.Clock().UTC()
		return e.record(&Record{Hold: &h, By: h.By})
	})
}

// Release ends a hold.
func (e *Environment) Release(ctx context.Context, name, by string) error {
	return e.ask(ctx, func() error {
		_, holds := e.Kept()
		if !slices.ContainsFunc(holds, func(h Hold) bool { return h.Name == name }) {
			return fmt.Errorf("%w: there is no hold %q", ErrFilter, name)
		}
		if err := e.record(&Record{Release: name, By: by}); err != nil {
			return err
		}
		e.retain()
		return nil
	})
}

// retain removes segments whose last entry is older than the retention. The chain says so first.
func (e *Environment) retain() {
	now := e.store.with.Clock()
	keep, holds := e.Kept()
	e.mu.RLock()
	segments := e.segments
	e.mu.RUnlock()
	var gone []string
	for _, s := range segments {
		d := keep.of(s.Outcome)
		if d == 0 || s.To >= at(now.Add(-d)) || slices.ContainsFunc(holds, func(h Hold) bool { return h.holds(s) }) {
			continue
		}
		gone = append(gone, s.File)
	}
	if len(gone) == 0 {
		return
	}
	if err := e.record(&Record{Remove: gone}); err != nil {
		e.say("the retention of decisions cannot be carried out", err)
		return
	}
	for _, file := range gone {
		path := filepath.Join(e.dir, file)
		e.store.files.forget(path)
		if err := os.Remove(path); err != nil {
			e.logger.Warn("a segment that has ended cannot be removed: the next start does", zap.String("environment", e.Name), zap.Error(err))
		}
	}
	e.logger.Info("decisions have reached the end of their retention", zap.String("environment", e.Name), zap.Int("segments", len(gone)))
}
