package bounds

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// weight is a value's size as text: shared parts count each time.
type weight struct {
	nodes, text, depth int
	number             int // characters of the longest number
}

// most is where weigh stops.
var most = weight{nodes: MaxNodes, text: MaxText, depth: MaxNesting}

// weigh adds up a value's size; false as soon as it exceeds the bound.
func weigh(v ast.Value, bound weight) (weight, bool) {
	w := weight{}
	ok := w.add(v, 1, &bound)
	return w, ok
}

func (w *weight) add(v ast.Value, depth int, bound *weight) bool {
	w.nodes++
	w.text += 2
	w.depth = max(w.depth, depth)
	if w.nodes > bound.nodes || w.text > bound.text || depth > bound.depth {
		return false
	}
	switch v := v.(type) {
	case ast.String:
		w.text += len(v)
	case ast.Number:
		w.text += len(v)
		w.number = max(w.number, len(v))
	case *ast.Array:
		return !v.Until(func(t *ast.Term) bool { return !w.add(t.Value, depth+1, bound) })
	case ast.Set:
		return !v.Until(func(t *ast.Term) bool { return !w.add(t.Value, depth+1, bound) })
	case ast.Object:
		return !v.Until(func(k, t *ast.Term) bool { return !w.add(k.Value, depth+1, bound) || !w.add(t.Value, depth+1, bound) })
	default:
		w.text += 8
	}
	return w.text <= bound.text
}

// tooLarge returns which limit a walked value exceeds, "" if none.
func tooLarge(v ast.Value) (weight, string) {
	w, ok := weigh(v, most)
	if ok {
		return w, ""
	}
	return w, fmt.Sprintf("a value has more than %d parts, %d bytes of text or %d levels", MaxNodes, MaxText, MaxNesting)
}

// Check returns an error if a value that leaves an evaluation is too large. A value may hold another many times, which costs nothing until
// it is serialized.
func Check(v ast.Value) error {
	switch v.(type) {
	case *ast.Array, ast.Set, ast.Object:
		if _, refused := tooLarge(v); refused != "" {
			return fmt.Errorf("%w: %s", ErrLimit, refused)
		}
	}
	return nil
}

// walked checks built-ins that walk these operands once, at this cost per step.
func walked(cost int, operands ...int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) verdict {
		v := verdict{}
		for _, i := range operands {
			w, refused := tooLarge(args[i].Value)
			if refused != "" {
				return verdict{refused: refused}
			}
			v.work += (w.nodes*16 + w.text) * cost
		}
		return v
	}
}

// read returns which limit a parsed value exceeds: its numbers can be too long for arithmetic.
func read(t *ast.Term) string {
	w, refused := tooLarge(t.Value)
	switch {
	case refused != "":
		return refused
	case w.number > MaxNumber:
		return fmt.Sprintf("a number of more than %d characters", MaxNumber)
	}
	return ""
}

// readNumber is read for a number, which must be valid JSON: OPA accepts 0x1p-99999999.
func readNumber(t *ast.Term) string {
	n, ok := t.Value.(ast.Number)
	if !ok {
		return ""
	}
	switch {
	case len(n) > MaxNumber:
		return fmt.Sprintf("a number of more than %d characters", MaxNumber)
	case strings.ContainsAny(string(n), "xXpPbBoO_"):
		return "a number that is not written in decimal digits"
	}
	return ""
}

// digits bounds a number's length in decimal digits.
func digits(v ast.Value) int {
	n, ok := v.(ast.Number)
	if !ok {
		return 0
	}
	if i := strings.IndexAny(string(n), "eE"); i >= 0 {
		exponent, err := strconv.Atoi(string(n[i+1:]))
		if err != nil {
			return math.MaxInt32
		}
		return len(n) + max(exponent, -exponent)
	}
	return len(n)
}

// arithmetic checks built-ins that calculate with numbers.
func arithmetic(args []*ast.Term) (v verdict) {
	for _, t := range args {
		n, ok := t.Value.(ast.Number)
		if !ok || len(n) <= 4 { // at most 9e99
			continue
		}
		d := digits(n)
		if d > MaxDigits {
			return verdict{refused: fmt.Sprintf("a number has more than %d digits", MaxDigits)}
		}
		v.work += d * d / 16 // formatting the result
	}
	return v
}

// shifted is arithmetic for shifts by the second operand.
func shifted(args []*ast.Term) verdict {
	if by, ok := args[1].Value.(ast.Number); ok {
		if n, whole := by.Int64(); !whole || n > MaxShift {
			return verdict{refused: fmt.Sprintf("a shift by more than %d bits", MaxShift)}
		}
	}
	return arithmetic(args)
}

// accumulated is arithmetic for a list that is summed or, if multiplied, whose product has as many digits as all elements together.
func accumulated(multiplied bool) func([]*ast.Term) verdict {
	return func(args []*ast.Term) verdict {
		n, total, longest := 0, 0, 0
		each(args[0].Value, func(t *ast.Term) bool {
			d := digits(t.Value)
			n, total, longest = n+1, total+d, max(longest, d)
			return total > 100*MaxDigits
		})
		switch {
		case longest > MaxDigits, multiplied && total > 2*MaxDigits, total > 100*MaxDigits:
			return verdict{refused: fmt.Sprintf("numbers of more than %d digits, or too many of them", MaxDigits)}
		case multiplied:
			return verdict{work: total * total / 64}
		}
		return verdict{work: total * 4}
	}
}

// each calls f for a list's elements until it returns true.
func each(v ast.Value, f func(*ast.Term) bool) {
	switch v := v.(type) {
	case *ast.Array:
		v.Until(f)
	case ast.Set:
		v.Until(f)
	}
}

// few is a number of elements that is harmless whatever they are.
const few = 512

// listed checks built-ins that make a set or an object of a list's elements. OPA's hash of a number is its integer part, and its string hash
// has a known seed: elements with the same hash are compared pairwise.
func listed(operands ...int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) (v verdict) {
		for _, i := range operands {
			v.work += collisions(args[i].Value)
		}
		if v.work > maxCollisions {
			v.refused = manyAlike
		}
		return v
	}
}

const (
	maxCollisions = 1 << 24 // about two thousand elements with one hash: a third of a second
	manyAlike     = "too many elements of one hash"
)

// hashed checks built-ins that make sets and objects from the elements of others: too many hash collisions are refused. Few elements cost
// nothing; otherwise the deadline bounds the time.
func hashed(operands ...int) func([]*ast.Term) verdict {
	return func(args []*ast.Term) verdict {
		for _, i := range operands {
			if length(args[i].Value) >= few && collisions(args[i].Value) > maxCollisions {
				return verdict{refused: manyAlike}
			}
		}
		return verdict{}
	}
}

// subtracted checks minus, which takes numbers and sets.
func subtracted(args []*ast.Term) verdict {
	if _, ok := args[0].Value.(ast.Set); ok {
		return hashed(0, 1)(args)
	}
	return arithmetic(args)
}

// joined checks array.concat: one call is cheap, but repeated calls can double a list each time.
func joined(args []*ast.Term) verdict {
	if n := length(args[0].Value) + length(args[1].Value); n > maxJoined {
		return verdict{refused: fmt.Sprintf("a list of more than %d elements", maxJoined)}
	}
	return verdict{}
}

const maxJoined = 1 << 23

// collisions estimates the steps to put a list's elements into a set.
func collisions(v ast.Value) int {
	n := 0
	switch v := v.(type) {
	case *ast.Array:
		n = v.Len()
	case ast.Set:
		n = v.Len()
	case ast.Object:
		n = v.Len()
	}
	if n < few {
		return n
	}
	counts, work := make(map[int]int, n), n
	count := func(t *ast.Term) bool {
		h := t.Value.Hash()
		if list, ok := t.Value.(*ast.Array); ok && list.Len() > 0 { // for a path, the first element
			h = list.Elem(0).Value.Hash()
		}
		counts[h]++
		work += 8 * counts[h]
		return false
	}
	if object, ok := v.(ast.Object); ok {
		object.Until(func(k, _ *ast.Term) bool { return count(k) })
		return work
	}
	each(v, count)
	return work
}

// sorted checks built-ins that sort a list.
func sorted(args []*ast.Term) verdict {
	n := 0
	switch v := args[0].Value.(type) {
	case *ast.Array:
		n = v.Len()
	case ast.Set:
		n = v.Len()
	}
	return verdict{work: n * 256}
}
