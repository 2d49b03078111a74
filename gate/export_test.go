package gate

import (
	"context"

	"gatehouse/policy"
)

// Memo is the memo of the active View.
func (g *Gate) Memo() *policy.Memo { return g.View().memo }

// Again decides about a request, and returns what finds that decision again and nothing else.
func (g *Gate) Again(ctx context.Context, req *Request) func() bool {
	g.Check(ctx, req)
	c := &call{req: req, view: g.view.Load(), identity: *req.As}
	if err := g.prepare(ctx, c); err != nil {
		return func() bool { return false }
	}
	c.rule = c.app.ask(req.Method, nil)
	entry := c.rule.entry
	if c.parseInput(entry) != nil {
		return func() bool { return false }
	}
	return func() bool {
		key := c.key(entry)
		defer key.Done()
		found, _ := g.lookup(c, key)
		return found
	}
}
