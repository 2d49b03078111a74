package edge

import (
	"context"
	"sync"

	"gatehouse/gate"
)

// publisher hands parts to the gate for the engine that is active, and for no other: a source that found something while its engine was
// replaced publishes nothing over the new ones.
type publisher struct {
	gate *gate.Gate

	mu    sync.Mutex // guards owner, and is held while one publishes
	owner *engine
}

// publish hands parts of an engine to the gate. For one that was replaced it is context.Canceled, as its context is.
func (p *publisher) publish(ctx context.Context, from *engine, parts ...gate.Part) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owner != from {
		return context.Canceled
	}
	err := p.gate.Publish(ctx, parts...)
	if err == nil {
		from.notePublished()
	}
	return err
}

// handOver publishes a new engine's parts and makes it the owner. The old one's context ends before anybody can publish again. On an error all stays as
// it was.
func (p *publisher) handOver(ctx context.Context, old, next *engine, parts ...gate.Part) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil { // else it is a matter of luck
		return err
	}
	if err := p.gate.Publish(ctx, parts...); err != nil {
		return err
	}
	p.owner = next
	if old != nil {
		old.stop()
	}
	return nil
}
