package nearest_test

import (
	"strings"
	"testing"

	"gatehouse/nearest"
)

func TestWord(t *testing.T) {
	known := []string{"headers", "host", "GET", "id"}
	for word, want := range map[string]string{"header": "headers", "Hots": "host", "get": "GET", "GOT": "GET", "xy": "", "": "", "path": "", "ids": "id",
		strings.Repeat("x", 1<<20): "", "\xff\xfe": ""} {
		if got := nearest.Word(word, known, 3); got != want {
			t.Errorf("%.20q: %q, want %q", word, got, want)
		}
	}
}
