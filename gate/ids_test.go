package gate_test

import (
	"regexp"
	"slices"
	"testing"

	"gatehouse/gate"
)

// TestDecisionIDs makes ids in two gates: each is there once, and they are in no order.
func TestDecisionIDs(t *testing.T) {
	const each = 20000
	shape := regexp.MustCompile(`^[A-Z2-7]{26}$`)
	var ids []string
	for range 2 {
		g, err := gate.New(gate.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for range each {
			id := g.Check(t.Context(), get("/")).DecisionID
			if !shape.MatchString(id) {
				t.Fatalf("%q", id)
			}
			ids = append(ids, id)
		}
	}
	rising := 0
	for i := range ids[1:] {
		if ids[i] < ids[i+1] {
			rising++
		}
	}
	if rising < each*9/10 || rising > each*11/10 {
		t.Errorf("%d of %d ids are above the one before", rising, len(ids))
	}
	slices.Sort(ids)
	if unique := len(slices.Compact(ids)); unique != 2*each {
		t.Errorf("%d of %d ids are unique", unique, 2*each)
	}
}
