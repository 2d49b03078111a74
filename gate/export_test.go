package gate

import "gatehouse/policy"

// Memo is the memo of the active View.
func (g *Gate) Memo() *policy.Memo { return g.View().memo }
