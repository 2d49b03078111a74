package directory

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestTableOfIDs puts objects into one table and takes them out again, with hashes of which many belong in the same few buckets and have the
// same mark: at each moment those that are there are found, and no others.
func TestTableOfIDs(t *testing.T) {
	b := NewBuilder(DefaultManifest(), Limits{}, 0, 0)
	const objects = 400
	for i := range objects {
		if err := b.AddObject(Object{Ref: Ref{"user", fmt.Sprint(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Finish(1)
	if err != nil {
		t.Fatal(err)
	}
	typ, _ := s.symbols.typ("user")
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		homes, marks := 1+r.IntN(40), 1+r.IntN(3)
		hashes := make([]uint64, objects)
		for i := range hashes {
			hashes[i] = uint64(r.IntN(marks))<<32 | uint64(uint32(r.IntN(homes))*(1<<32-1)/uint32(homes))
		}
		hash := func(n number) uint64 { return hashes[n] }
		var table idTable
		there := map[number]bool{}
		most := 1 + r.IntN(objects)
		for range 1500 {
			n := number(r.IntN(most))
			switch grow := len(there) < most/2; {
			case !there[n] && (grow || r.IntN(2) == 0):
				table.reserve(hash)
				table.put(hashes[n], n)
				there[n] = true
			case there[n] && (!grow || r.IntN(2) == 0):
				table.remove(hashes[n], n, hash)
				delete(there, n)
			}
			if n = number(r.IntN(most)); table.n != len(there) {
				t.Fatalf("seed %d: %d in the table, want %d", seed, table.n, len(there))
			}
			if got, ok := table.find(hashes[n], s.rows, typ, fmt.Sprint(n)); ok != there[n] || ok && got != n {
				t.Fatalf("seed %d: object %d is %d, %v; want %v", seed, n, got, ok, there[n])
			}
		}
		for n := range number(objects) {
			if got, ok := table.find(hashes[n], s.rows, typ, fmt.Sprint(n)); ok != there[n] || ok && got != n {
				t.Fatalf("seed %d: at the end object %d is %d, %v; want %v", seed, n, got, ok, there[n])
			}
		}
	}
}
