package policy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strconv"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// maxKey bounds a key in bytes. A longer one is unlikely to occur again.
const maxKey = 8 << 10

// Key is a canonical encoding of what an entry's policy reads of one input: two inputs have the same key only if the policy cannot tell them
// apart. It is written member by member, like the input, without allocating values.
//
// The text is the entry's path followed by the input, each part with a type tag and everything of variable length with its length in front.
// So the encoding is injective: absent, null, the empty string, the empty array and the empty object differ, and no byte of a name or value
// can end it early.
//
// A Key belongs to one goroutine, from Memo.Key to Done.
type Key struct {
	text   []byte
	starts []int  // offsets in text of the open objects' members
	sorted []byte // scratch space for sorting members
	unfit  bool   // too long, or not a possible input: nothing is memoised under it

	memo  *Memo
	entry *Entry
	hash  uint64
}

var keyPool = sync.Pool{New: func() any { return &Key{text: make([]byte, 0, 1024), starts: make([]int, 0, 32)} }}

// fits reports whether n more bytes may be written. Once it is false, nothing more is written.
func (k *Key) fits(n int) bool {
	if len(k.text)+n > maxKey {
		k.unfit = true
	}
	return !k.unfit
}

// sized writes a tag, a length and the bytes.
func (k *Key) sized(tag byte, s string) {
	switch {
	case !k.fits(len(s) + 1 + binary.MaxVarintLen32):
	case len(s) < 1<<7:
		k.text = append(append(k.text, tag, byte(len(s))), s...)
	default:
		k.text = append(binary.AppendUvarint(append(k.text, tag), uint64(len(s))), s...)
	}
}

func (k *Key) tag(tag byte) {
	if k.fits(1) {
		k.text = append(k.text, tag)
	}
}

// prefix is the start of an entry's keys.
func prefix(path []string) []byte {
	text := binary.AppendUvarint([]byte{'['}, uint64(len(path)))
	for _, s := range path {
		text = append(binary.AppendUvarint(append(text, 's'), uint64(len(s))), s...)
	}
	return text
}

// Open begins an object or an array. Its result is passed to Close or Drop.
func (k *Key) Open() (mark int) {
	mark = len(k.starts)
	k.tag('{')
	return mark
}

// Empty reports whether nothing was written into an object since Open.
func (k *Key) Empty(mark int) bool { return len(k.starts) == mark }

// Close ends an object. Members without a fixed order are sorted, so that equal inputs have one key.
func (k *Key) Close(mark int, unordered bool) {
	if unordered && len(k.starts) > mark+1 && !k.unfit {
		k.sort(k.starts[mark:])
	}
	k.starts = k.starts[:mark]
	k.tag('}')
}

// Drop removes the last member, whose value is the open object.
func (k *Key) Drop(mark int) {
	k.text = k.text[:k.starts[mark-1]]
	k.starts = k.starts[:mark-1]
}

// sort sorts the members at the end of the text by their bytes.
func (k *Key) sort(starts []int) {
	first, end := starts[0], len(k.text)
	member := func(i int) []byte {
		if i+1 < len(starts) {
			return k.text[starts[i]:starts[i+1]]
		}
		return k.text[starts[i]:end]
	}
	ascending := true
	for i := 1; i < len(starts) && ascending; i++ {
		ascending = bytes.Compare(member(i-1), member(i)) <= 0
	}
	if ascending {
		return
	}
	var few [32]int
	order := few[:0]
	for i := range starts {
		order = append(order, i)
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(member(a), member(b)) })
	k.sorted = k.sorted[:0]
	for _, i := range order {
		k.sorted = append(k.sorted, member(i)...)
	}
	copy(k.text[first:], k.sorted)
}

// Name begins a member of the open object; its value is written next.
func (k *Key) Name(name string) {
	k.starts = append(k.starts, len(k.text))
	k.sized('k', name)
}

// String writes a string.
func (k *Key) String(s string) { k.sized('s', s) }

// Null writes null.
func (k *Key) Null() { k.tag('n') }

// Bool writes true or false.
func (k *Key) Bool(b bool) {
	if b {
		k.tag('t')
		return
	}
	k.tag('f')
}

// Int writes an integer.
func (k *Key) Int(i int64) {
	var text [20]byte
	k.number(strconv.AppendInt(text[:0], i, 10))
}

func (k *Key) number(text []byte) {
	if k.fits(len(text) + 1 + binary.MaxVarintLen32) {
		k.text = append(k.text, '#')
		k.text = binary.AppendUvarint(k.text, uint64(len(text)))
		k.text = append(k.text, text...)
	}
}

// Strings writes an array of strings.
func (k *Key) Strings(list []string) {
	k.array(len(list))
	for _, s := range list {
		k.String(s)
	}
}

// array begins an array of n elements, which are written next.
func (k *Key) array(n int) {
	if k.fits(1 + binary.MaxVarintLen32) {
		k.text = binary.AppendUvarint(append(k.text, '['), uint64(n))
	}
}

// JSON writes what FromJSON makes of x. If FromJSON refuses x, the key differs from that of every valid x, or is unusable.
func (k *Key) JSON(x any) { k.json(x, 0) }

func (k *Key) json(x any, depth int) {
	if depth > rego.MaxDepth {
		k.unfit = true
	}
	if k.unfit {
		return
	}
	switch x := x.(type) {
	case nil:
		k.Null()
	case bool:
		k.Bool(x)
	case string:
		k.String(x)
	case json.Number:
		k.sized('#', string(x))
	case float64:
		var text [32]byte
		k.number(strconv.AppendFloat(text[:0], x, 'g', -1, 64))
	case int:
		k.Int(int64(x))
	case int64:
		k.Int(x)
	case []string:
		k.Strings(x)
	case []any:
		k.array(len(x))
		for _, e := range x {
			k.json(e, depth+1)
		}
	case map[string]any:
		mark := k.Open()
		for name, value := range x {
			if k.unfit {
				break
			}
			k.Name(name)
			k.json(value, depth+1)
		}
		k.Close(mark, true)
	default:
		k.unfit = true
	}
}

// Value writes the part of a value that is read. The value must have been made from JSON.
func (k *Key) Value(v rego.Value, reads reach.Reads) { k.value(v, reads, 0) }

func (k *Key) value(v rego.Value, reads reach.Reads, depth int) {
	if depth > rego.MaxDepth {
		k.unfit = true
	}
	if k.unfit {
		return
	}
	switch v := v.(type) {
	case ast.Null:
		k.Null()
	case ast.Boolean:
		k.Bool(bool(v))
	case ast.String:
		k.String(string(v))
	case ast.Number:
		k.sized('#', string(v))
	case *ast.Array:
		k.array(v.Len())
		for i := range v.Len() {
			k.value(v.Elem(i).Value, reach.Reads{}, depth+1)
		}
	case ast.Object:
		k.object(v, reads, depth)
	default:
		k.unfit = true
	}
}

func (k *Key) object(v ast.Object, reads reach.Reads, depth int) {
	mark := k.Open()
	v.Foreach(func(name, value *ast.Term) {
		s, ok := name.Value.(ast.String)
		if !ok {
			k.unfit = true
		} else if reads.Has(string(s)) {
			k.Name(string(s))
			k.value(value.Value, reads.Below(string(s)), depth+1)
		}
	})
	k.Close(mark, true)
}

// Done releases the key. It must not be used afterwards.
func (k *Key) Done() {
	if k == nil {
		return
	}
	k.memo, k.entry = nil, nil
	keyPool.Put(k)
}

// hashed computes the hash that selects the slots.
func (k *Key) hashed(seed maphash.Seed) uint64 { return maphash.Bytes(seed, k.text) }
