package policy

import "time"

// Collide makes all keys have one hash.
func (m *Memo) Collide() { m.hashMask = 0 }

// Pace sets when an entry bypasses the memo.
func (m *Memo) Pace(window uint64, rest, mostRest int64) { m.pace = pace{window, rest, mostRest} }

// Patient removes the time limit for repeating a memoised decision's queries.
func (m *Memo) Patient() { m.recheckWait = time.Hour }

// Text returns the key's text, and whether the key is usable.
func (k *Key) Text() (string, bool) { return string(k.text), !k.unfit }

// Replayed returns how a Replayer classifies a built-in.
func Replayed(name string) (never, unsure, timed bool) {
	r := &Replayer{}
	r.note([]string{name})
	return len(r.never) > 0, len(r.unsure) > 0, r.timed
}

// Occupy takes all slots until free is called.
func (a *AdHocSlots) Occupy() (free func()) {
	n := int64(0)
	for ; a.take(); n++ {
	}
	return func() { a.used.Add(-n) }
}

// CompileHere is AdHoc on the caller's goroutine.
func (s *Snapshot) CompileHere(text string) error {
	_, err := s.compileAdHoc(text)
	return err
}
