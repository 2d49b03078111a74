package credential

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// An inside test, because no token ever comes out.
func TestTokenRefusesToPrintItself(t *testing.T) {
	secret := Token{"s3cret"}
	text := fmt.Sprintf("%v %+v %#v %s %q %x %d %v %+v", secret, secret, secret, secret, secret, secret, secret, &secret, struct{ T Token }{secret})
	raw, err := json.Marshal(map[Token]Token{secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{text, string(raw)} {
		if strings.Contains(shown, "s3cret") || strings.Contains(shown, fmt.Sprintf("%x", "s3cret")) {
			t.Errorf("it shows in %s", shown)
		}
	}
}
