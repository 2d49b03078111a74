package record

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"time"
)

func (o *Packing) uint(n uint64) {
	if n < 0x80 {
		o.buf = append(o.buf, byte(n))
		return
	}
	o.buf = binary.AppendUvarint(o.buf, n)
}

func (o *Packing) int(n int64) { o.buf = binary.AppendVarint(o.buf, n) }

func (o *Packing) time(t time.Time) {
	o.int(t.Unix())
	o.uint(uint64(t.Nanosecond()))
}

// packString writes a string that redaction does not look at.
func (o *Packing) packString(s string) { o.packFlagged(s, 0) }

func (o *Packing) strings(list ...string) {
	if o.limit > 0 {
		for _, s := range list {
			o.packFlagged(s, 0)
		}
		return
	}
	buf := o.buf
	for _, s := range list {
		buf = o.appendText(buf, s, 0)
	}
	o.buf = buf
}

func (o *Packing) list(list []string) {
	o.uint(uint64(len(list)))
	o.strings(list...)
}

// clean writes what redaction left of a string.
func (o *Packing) clean(old, text string) {
	if text == old { // the same memory, in all but a few cases
		o.packFlagged(text, 0)
		return
	}
	o.packFlagged(text, textChanged)
}

// packFlagged writes a string with what redaction did to it.
func (o *Packing) packFlagged(s string, flag uint64) {
	s = o.cut(s, &flag)
	o.buf = o.appendText(o.buf, s, flag)
}

// cut makes a string as short as it has to be, and sets the flag for that.
func (o *Packing) cut(s string, flag *uint64) string {
	if o.limit == 0 || len(s) <= o.limit {
		return s
	}
	*flag = textChanged
	return strings.ToValidUTF8(s[:o.limit-3], "") + "..."
}

// appendText is for those who keep the buffer at hand.
func (o *Packing) appendText(buf []byte, s string, flag uint64) []byte {
	if n := uint64(len(s))<<2 | flag; n < 0x80 {
		if n == '%' || n == '\\' {
			o.lengths = append(o.lengths, len(buf))
		}
		buf = append(buf, byte(n)) // most are short, and there are many
	} else {
		buf = binary.AppendUvarint(buf, n)
	}
	return append(buf, s...)
}

// value writes plain JSON, and says whether it was that.
func (o *Packing) value(v any, depth int) bool {
	switch v := v.(type) {
	case nil:
		o.buf = append(o.buf, kindNull)
	case bool:
		o.buf = append(o.buf, kindFalse+byte(flagIf(v, 1)))
	case string:
		o.buf = append(o.buf, kindString)
		o.packFlagged(v, 0)
	case json.Number:
		o.buf = append(o.buf, kindNumber)
		o.packFlagged(string(v), 0)
	case []any:
		o.buf = append(o.buf, kindArray)
		o.uint(uint64(len(v)))
		for _, one := range v {
			if depth >= maxNesting || !o.value(one, depth+1) {
				return false
			}
		}
	case map[string]any:
		o.buf = append(o.buf, kindObject)
		return o.object(v, depth)
	default:
		return o.number(v)
	}
	return true
}

// number writes one of Go's numbers.
func (o *Packing) number(v any) bool {
	text, err := json.Marshal(v)
	if err != nil || len(text) == 0 || text[0] > '9' || text[0] == '"' {
		return false
	}
	o.buf = append(o.buf, kindNumber)
	o.packFlagged(string(text), 0)
	return true
}

func (o *Packing) object(m map[string]any, depth int) bool { return o.objectBut(m, "", depth) }

// objectBut writes an object but for one member; "" leaves out none.
func (o *Packing) objectBut(m map[string]any, without string, depth int) bool {
	_, leaves := m[without]
	leaves = leaves && without != ""
	n := len(m)
	if leaves {
		n--
	}
	o.uint(uint64(n))
	if n == 0 {
		return true
	}
	names, base := sortedNames(o, m)
	defer func() { o.names = o.names[:base] }()
	for _, name := range names {
		if leaves && name == without {
			continue
		}
		if o.packString(name); depth >= maxNesting || !o.value(m[name], depth+1) {
			return false
		}
	}
	return true
}
