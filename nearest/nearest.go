// Package nearest finds the word that was meant, for errors about a word that is not known. It is a foundation and imports nothing of ours.
package nearest

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// maxWord bounds what is looked at of a word, in bytes: no known one is longer.
const maxWord = 64

// Word returns the known word that differs from this one in the fewest letters, whatever their case; of several the first. It is "" where each
// differs in as many as below or more, or in all of its letters.
func Word(word string, known []string, below int) (best string) {
	word = strings.ToLower(word[:min(len(word), maxWord)])
	for _, k := range known {
		if d := levenshtein.ComputeDistance(word, strings.ToLower(k)); d < below && d < len(k) {
			best, below = k, d
		}
	}
	return best
}
