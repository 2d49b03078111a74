package policy

// Collide makes all keys have one hash.
func (m *Memo) Collide() { m.hashMask = 0 }

// Pace sets when an entry does without the memo.
func (m *Memo) Pace(window uint64, rest, mostRest int64) { m.pace = pace{window, rest, mostRest} }

// Pure reports whether a built-in counts as pure.
func Pure(name string) bool { return pure[name] }

// Text is the key as it is compared, and whether it is fit for anything.
func (k *Key) Text() (string, bool) { return string(k.text), !k.unfit }
