package record

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestKnownIsFound has secrets of every length at every place of what is searched, as they are and within base64.
func TestKnownIsFound(t *testing.T) {
	const text = "k3y+hunter2/Zq_91-abcdefgh"
	for n := minSecret; n <= len(text); n++ {
		for _, more := range []string{"", "abc4567", "longer-than-all-others-1"} {
			var k knownSecrets
			if k.add(text[:n], true); more != "" {
				k.add(more, false)
			}
			k.ready()
			for at := range 17 {
				spellings := []string{text[:n]}
				for i := 0; i < 3 && n >= minKnown-1; i++ {
					in := []byte(strings.Repeat("x", i) + text[:n] + "yz")
					spellings = append(spellings, base64.StdEncoding.EncodeToString(in), base64.RawURLEncoding.EncodeToString(in))
				}
				for _, s := range spellings {
					if !k.in([]byte(strings.Repeat("\x01", at)+s), nil) {
						t.Errorf("%q beside %q is not found in %q at %d", text[:n], more, s, at)
					}
				}
			}
		}
	}
}
