//go:build !race

package identity_test

import (
	"context"
	"testing"

	"gatehouse/hack/allocations"
	"gatehouse/identity"
)

// TestAllocations is who is calling, for a token that was seen before, one that is refused again, and none.
func TestAllocations(t *testing.T) {
	v := newVerifier(t, twoIssuers(t))
	keys, ctx := load(t, v), context.Background()
	identify := func(h headers) func() {
		get := h.get
		return func() { _, _ = v.Identify(ctx, keys, identity.Request{Header: get}) }
	}
	allocations.Compare(t, map[string]func(){
		"cache hit":     identify(bearer(good(nil))),
		"refused again": identify(bearer(good(object{"aud": "other"}))),
		"anonymous":     identify(headers{}),
	})
}
