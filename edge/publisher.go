package edge

import (
	"context"
	"sync"

	"gatehouse/gate"
)

// publisher passes parts from the active engine to the gate, and rejects those of a replaced one, which would
// overwrite newer parts.
type publisher struct {
	gate *gate.Gate

	mu    sync.Mutex // guards owner, and is held during a publication
	owner *engine
}

// publish passes parts of an engine to the gate. For a replaced engine it returns context.Canceled, as its context
// does.
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

// handOver publishes a new engine's parts and makes it the owner. The old one's context ends before any other
// publication. On an error nothing changes.
func (p *publisher) handOver(ctx context.Context, old, next *engine, parts ...gate.Part) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil { // check first, as select would choose at random
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
