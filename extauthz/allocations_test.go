//go:build !race

package extauthz

import (
	"testing"

	"gatehouse/gate"
	"gatehouse/hack/allocations"
)

// TestAllocations bounds decoding a request and encoding a response.
func TestAllocations(t *testing.T) {
	wire := messages(t)[0]
	headers := []gate.HeaderOption{{Name: "x-auth-subject", Value: "vera"}, {Name: "x-auth-roles", Value: "viewer,editor"}}
	allow := &gate.Answer{Allow: true, DecisionID: "4K7Q2MZJXV5B3W6T", Set: headers}
	deny := &gate.Answer{Status: 403, DecisionID: "4K7Q2MZJXV5B3W6T", Set: headers, Body: `{"title":"Forbidden"}`}
	render := func(a *gate.Answer) func() {
		return func() {
			if _, err := encode(a); err != nil {
				t.Fatal(err)
			}
		}
	}
	allocations.Compare(t, map[string]func(){
		"scan":          func() { read(wire, false) },
		"encode, allow": render(allow),
		"encode, deny":  render(deny),
	})
}
