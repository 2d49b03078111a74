package input

import (
	"strings"
	"testing"
)

// TestIsFolded has each byte at each place of names of each length, next to the table.
func TestIsFolded(t *testing.T) {
	for n := range 26 {
		for at := range n {
			for c := range 256 {
				name := []byte(strings.Repeat("a-0z9b", 5)[:n])
				name[at] = byte(c)
				if got := IsFolded(string(name)); got != folded[c] {
					t.Fatalf("%q: %v", name, got)
				}
			}
		}
		name := strings.Repeat("x-Auth_ß", 4)[:n]
		if got := Fold(name) == name; got != IsFolded(name) {
			t.Errorf("%q: %v", name, !got)
		}
	}
	if !IsFolded("") || Fold("X_Auth-Subject") != Fold("x-auth-subject") {
		t.Error("an empty name, or two spellings of one")
	}
}
