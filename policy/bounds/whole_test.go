package bounds_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"runtime"
	"testing"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/bounds"
	"gatehouse/policy/rego"
)

// TestWhole has an evaluation that ignores cancellation: it is abandoned at its deadline or with its caller, counted, and limited in number.
func TestWhole(t *testing.T) {
	release := make(chan struct{})
	stuck := func() int { <-release; return 1 }
	settle := func() { // evaluations of earlier tests may still run
		for bounds.Abandoned().Abandoned != 0 {
			time.Sleep(time.Millisecond)
		}
	}
	settle()
	before := bounds.Abandoned()
	if _, err := bounds.RunIsolated(context.Background(), time.Millisecond, stuck); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at its deadline: %v", err)
	}
	gone, leave := context.WithCancel(context.Background())
	leave()
	if _, err := bounds.RunIsolated(gone, time.Hour, stuck); !errors.Is(err, context.Canceled) {
		t.Errorf("with its caller: %v", err)
	}
	most := max(4, 2*int64(runtime.GOMAXPROCS(0)))
	for bounds.Abandoned().Abandoned < most {
		_, _ = bounds.RunIsolated(context.Background(), time.Millisecond, stuck)
	}
	if _, err := bounds.RunIsolated(context.Background(), time.Millisecond, stuck); !errors.Is(err, bounds.ErrOverloaded) {
		t.Errorf("past the bound: %v", err)
	}
	if now := bounds.Abandoned(); now.Total-before.Total < uint64(most) || now.Refused == before.Refused {
		t.Errorf("counted %+v, before %+v", now, before)
	}
	close(release)
	settle()
	if n, err := bounds.RunIsolated(context.Background(), time.Hour, stuck); n != 1 || err != nil {
		t.Errorf("one that ends: %d, %v", n, err)
	}
}

// TestKeysOfOneHash uses strings with equal hashes, easy to find because OPA uses xxhash with a known seed. A one-megabyte body with such
// keys kept object.keys busy for half a minute.
func TestKeysOfOneHash(t *testing.T) {
	keys := oneHash(3000)
	object, list := map[string]any{}, []any{}
	for _, key := range keys {
		object[key], list = 1, append(list, key)
	}
	if fromTest(t, keys[0]).Hash() != fromTest(t, keys[1]).Hash() {
		t.Fatal("OPA has another hash now: the test has to find other keys")
	}
	for _, rule := range []string{
		`count(object.keys(input.a)) == 1`,
		`count(object.union(input.a, {"x": 1})) == 1`,
		`count(object.filter({"x": 1}, input.b)) == 1`,
		`count(object.remove({"x": 1}, input.b)) == 1`,
		`count({x | some x in input.b} & {"x", "y"}) == 1`,
		`count({x | some x in input.b} | {"x", "y"}) == 1`,
		`count({x | some x in input.b} - {"x", "y"}) == 1`,
	} {
		s := compile(t, module("import rego.v1\ndefault allow := false\nallow if { "+rule+" }"))
		input := rego.Object(rego.Member{Key: "a", Value: fromTest(t, object)}, rego.Member{Key: "b", Value: fromTest(t, list)})
		if _, err := s.Decide(context.Background(), input, time.Now()); !errors.Is(err, policy.ErrEvaluation) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// oneHash returns strings with one xxHash64 hash: a second block cancels the change of the first.
func oneHash(n int) (keys []string) {
	const p1, p2 = 11400714785074694791, 14029467366897019727
	round := func(sum, word uint64) uint64 { return bits.RotateLeft64(sum+word*p2, 31) * p1 }
	inverse := func(x uint64) uint64 {
		y := x
		for range 6 {
			y *= 2 - x*y
		}
		return y
	}
	start := uint64(p1)
	start += p2
	i1, i2 := inverse(p1), inverse(p2)
	word := binary.LittleEndian.Uint64([]byte("aaaaaaaa"))
	wants := bits.RotateLeft64(round(round(start, word), word)*i1, -31)
	rest := again("x", 24)
	var first, second [8]byte
	for i := 1; len(keys) < n; i++ {
		for k, j := 0, i; k < 8; k, j = k+1, j/64 {
			first[k] = byte('0' + j%64)
		}
		binary.LittleEndian.PutUint64(second[:], (wants-round(start, binary.LittleEndian.Uint64(first[:])))*i2)
		printable := true
		for _, c := range second {
			printable = printable && ' ' <= c && c <= '~'
		}
		if printable {
			keys = append(keys, string(first[:])+rest+string(second[:])+rest)
		}
	}
	return keys
}
