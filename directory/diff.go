package directory

import "iter"

// Diff is what turns from into to.
func Diff(from, to *Snapshot) iter.Seq[Change] {
	return func(yield func(Change) bool) {}
}
