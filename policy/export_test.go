package policy

import "time"

// Collide makes all keys have one hash.
func (m *Memo) Collide() { m.hashMask = 0 }

// Pace sets when an entry does without the memo.
func (m *Memo) Pace(window uint64, rest, mostRest int64) { m.pace = pace{window, rest, mostRest} }

// Patient lets the questions of a remembered decision be asked again however long that takes.
func (m *Memo) Patient() { m.again = time.Hour }

// Text is the key as it is compared, and whether it is fit for anything.
func (k *Key) Text() (string, bool) { return string(k.text), !k.unfit }

// Replayed says what a Replayer makes of a built-in that may be called.
func Replayed(name string) (never, unsure, timed bool) {
	r := &Replayer{}
	r.note([]string{name})
	return len(r.never) > 0, len(r.unsure) > 0, r.timed
}
