package policy

import "gatehouse/policy/bounds"

// Abandoned are the calls of built-in functions that outlasted the deadline of the evaluation that made them, of all snapshots.
type Abandoned struct {
	Running int64  // given up and still under way
	Total   uint64 // given up since the start
	Refused uint64 // not begun, because too many were under way: ErrOverloaded
}

// CountAbandoned tells how many there are.
func CountAbandoned() Abandoned {
	c := bounds.Abandoned()
	return Abandoned{Running: c.Abandoned, Total: c.Total, Refused: c.Refused}
}
