package record

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/decisionlog/events"
	"gatehouse/input"
)

// What a packed entry holds of the input: the fields of package input's table in its order, those of the head first, each as its kind is
// packed; and at the very end those that have a number. Of these there is a count, then for each its number and its value as plain JSON, and
// then pointers to what redaction changed in them. A reader passes over numbers that it does not know.

// head writes the fields that an entry has in front of its input: what was asked for, and who called.
func (o *Packing) head(in *input.Input, flags uint64) {
	for _, f := range o.schema.Head {
		switch f.Kind {
		case input.KindText:
			o.field(f, in)
		case input.KindList:
			if flags&flagNoRoles == 0 {
				o.list(f.ListIn(in))
			}
		case input.KindClaims:
			if flags&flagNoRoles == 0 {
				o.claimsOf(f, f.ObjectIn(in))
			}
		}
	}
}

// claimsOf writes those claims that the configuration names.
func (o *Packing) claimsOf(f *input.Field, claims map[string]any) {
	n := 0
	for _, name := range o.claims {
		if _, ok := claims[name]; ok {
			n++
		}
	}
	o.uint(uint64(n))
	for _, name := range o.claims {
		if v, ok := claims[name]; ok {
			o.packString(name)
			o.at = append(o.at[:0], f.Line, name)
			if mark := len(o.buf); !o.inputValue(v, 0, false) {
				o.buf = append(o.buf[:mark], kindNull)
			}
		}
	}
}

// input writes the input, and says whether all of it was plain JSON.
func (o *Packing) input(in *input.Input, d *documents, flags uint64) bool {
	for _, f := range o.schema.Input {
		switch f.Kind {
		case input.KindText:
			o.field(f, in)
		case input.KindInt:
			o.int(f.IntIn(in))
		case input.KindMoment:
			if t := *f.Time(in); !t.IsZero() {
				o.time(t)
			}
		case input.KindList:
			o.list(f.ListIn(in))
		case input.KindLabels:
			o.labels(f, f.LabelsIn(in))
		case input.KindHeaders:
			o.headers(in.Headers)
		case input.KindPlace:
			a := f.Address(in)
			o.packString(a.Host)
			o.uint(uint64(a.Port))
			if len(a.Other) > 0 && !o.object(a.Other, 0) {
				return false
			}
		case input.KindObject:
			o.at = append(o.at[:0], f.Pointer)
			if object := f.ObjectIn(in); f.Payload && !o.metadata(object) || !f.Payload && !o.inputObject(object, "", 0, true) {
				return false
			}
		case input.KindParsedBody:
			if flags&flagParsedBody != 0 && !o.value(d.body, 0) {
				return false
			}
		}
	}
	return true
}

// field writes a text as redaction leaves it.
func (o *Packing) field(f *input.Field, in *input.Input) {
	text := f.TextIn(in)
	if f.Secret == input.SecretNever || text == "" {
		o.packString(text)
		return
	}
	if f.Secret == input.SecretPath {
		o.putRedacted(text, o.hidePlace(o.path)) // which is this path
		return
	}
	o.putRedacted(text, o.redactText(f, text))
}

// redactText is what redaction leaves of a field's text, or of one of its members.
func (o *Packing) redactText(f *input.Field, text string) string {
	switch f.Secret {
	case input.SecretNever:
		return text
	case input.SecretPlace:
		return o.hidePlace(text)
	case input.SecretPath:
		return o.hidePlace(o.redact.url(text))
	case input.SecretQuery:
		return o.hide(o.redact.queryString(text))
	}
	return o.hide(o.redact.redactText(text))
}

// added writes what has a number and is there: what the entry has beside its input, and fields of that.
func (o *Packing) added(e *Entry, flags uint64) bool {
	n, in, fields := o.extras(e), &e.Input, o.schema.Added
	if !e.Asked || flags&flagNoInput != 0 {
		fields = nil
	}
	for _, f := range fields {
		if present(f, in) {
			n++
		}
	}
	if n == 0 {
		return true
	}
	o.masked = o.masked[:0]
	o.uint(uint64(n))
	o.putExtras(e)
	for _, f := range fields {
		if !present(f, in) {
			continue
		}
		o.uint(uint64(f.Number))
		o.at = append(o.at[:0], f.Pointer)
		if !o.addedValue(f, in) {
			return false
		}
	}
	o.uint(uint64(len(o.masked)))
	o.strings(o.masked...)
	return true
}

// present reports whether a field is in the input.
func present(f *input.Field, in *input.Input) bool {
	if f.Present != nil && !f.Present(in) {
		return false
	}
	switch f.Kind {
	case input.KindText:
		return f.Always || f.TextIn(in) != ""
	case input.KindInt:
		return f.Always || f.IntIn(in) != 0
	case input.KindBool:
		return f.Always || f.BoolIn(in)
	case input.KindList:
		return f.Always || len(f.ListIn(in)) > 0
	case input.KindLabels:
		return f.Always || len(f.LabelsIn(in)) > 0
	}
	return f.Always || len(f.ObjectIn(in)) > 0
}

// addedValue writes a field as plain JSON.
func (o *Packing) addedValue(f *input.Field, in *input.Input) bool {
	switch f.Kind {
	case input.KindText:
		o.addedText(f, f.TextIn(in), f.Pointer)
	case input.KindInt:
		return o.number(f.IntIn(in))
	case input.KindBool:
		return o.value(f.BoolIn(in), 0)
	case input.KindList:
		list := f.ListIn(in)
		o.buf = append(o.buf, kindArray)
		o.uint(uint64(len(list)))
		for i, text := range list {
			o.addedText(f, text, f.Pointer+"/"+strconv.Itoa(i))
		}
	case input.KindLabels:
		labels := f.LabelsIn(in)
		o.buf = append(o.buf, kindObject)
		o.uint(uint64(len(labels)))
		names, base := sortedNames(o, labels)
		for _, name := range names {
			o.packString(o.hide(o.redact.redactText(name)))
			o.buf = append(o.buf, kindString)
			o.label(f, name, labels[name])
		}
		o.names = o.names[:base]
	default:
		o.buf = append(o.buf, kindObject)
		return o.inputObject(f.ObjectIn(in), "", 0, true)
	}
	return true
}

func (o *Packing) addedText(f *input.Field, text, pointer string) {
	clean := o.redactText(f, text)
	if clean != text {
		o.note(pointer)
	}
	o.buf = append(o.buf, kindString)
	o.packString(clean)
}

func (o *Packing) headers(headers []input.Header) {
	o.uint(uint64(len(headers)))
	buf := o.buf
	for i := range headers {
		h := &headers[i]
		kind := o.kinds[i]
		if kind != secretHeader && o.redact.hides(h.Name) {
			kind = secretHeader
		}
		name, value, flag := o.hide(h.Name), "", uint64(0)
		switch kind {
		case urlHeader:
			value = o.hide(o.redact.url(h.Value))
		case otherHeader:
			value = o.hide(o.redact.anyHeader(h.Value))
		}
		if value != h.Value {
			flag = textChanged
		}
		cut := uint64(0)
		name = o.cut(name, &cut)
		buf = o.appendText(buf, name, cut)
		if kind == secretHeader {
			buf = append(buf, textSecret)
			continue
		}
		value = o.cut(value, &flag)
		buf = o.appendText(buf, value, flag)
	}
	o.buf = buf
}

func (o *Packing) labels(f *input.Field, m map[string]string) {
	o.uint(uint64(len(m)))
	if len(m) == 0 {
		return
	}
	names, base := sortedNames(o, m)
	for _, name := range names {
		o.packString(name)
		o.label(f, name, m[name])
	}
	o.names = o.names[:base]
}

// label writes the value of one.
func (o *Packing) label(f *input.Field, name, v string) {
	clean := redacted
	if v == "" || f.Secret != input.SecretAnywhere || !o.redact.secretName(name, o.redact.body) {
		clean = o.redactText(f, v)
	}
	if clean != v {
		o.note(f.Pointer + "/" + escape(name))
	}
	o.packString(clean)
}

// note keeps a pointer to what redaction changed.
func (o *Packing) note(pointer string) { o.masked = append(o.masked, pointer) }

// sortedNames pushes a map's names, so that equal entries are packed equally. Its caller takes them off again, down to base.
func sortedNames[V any](o *Packing, m map[string]V) (names []string, base int) {
	base = len(o.names)
	for name := range m {
		o.names = append(o.names, name)
	}
	slices.Sort(o.names[base:])
	return o.names[base:], base
}

// metadata writes plain JSON without what Envoy's jwt_authn put there: the payload of the token.
func (o *Packing) metadata(m map[string]any) bool {
	filters, _ := m["filterMetadata"].(map[string]any)
	if _, ok := filters[jwtAuthn]; !ok {
		return o.inputObject(m, "", 0, true)
	}
	o.uint(uint64(len(m)))
	names, base := sortedNames(o, m)
	defer func() { o.names = o.names[:base] }()
	for _, name := range names {
		o.packString(name)
		o.at = append(o.at, name)
		if name != "filterMetadata" {
			if !o.inputValue(m[name], 1, true) {
				return false
			}
		} else {
			o.buf = append(o.buf, kindObject)
			if !o.inputObject(filters, jwtAuthn, 1, true) {
				return false
			}
		}
		o.at = o.at[:len(o.at)-1]
	}
	return true
}

// inputValue is value for plain JSON that others hold as well: what is secret in it is left out on the way. By names too, if named.
func (o *Packing) inputValue(v any, depth int, named bool) bool {
	switch v := v.(type) {
	case string:
		clean := o.hide(o.redact.redactText(v))
		if o.buf = append(o.buf, kindString); clean != v {
			o.maskHere()
		}
		o.packFlagged(clean, 0)
		return true
	case []any:
		o.buf = append(o.buf, kindArray)
		o.uint(uint64(len(v)))
		for i, one := range v {
			o.at = append(o.at, strconv.Itoa(i))
			if depth >= maxNesting || !o.inputValue(one, depth+1, named) {
				return false
			}
			o.at = o.at[:len(o.at)-1]
		}
		return true
	case map[string]any:
		o.buf = append(o.buf, kindObject)
		return o.inputObject(v, "", depth, named)
	}
	return o.value(v, depth)
}

// inputObject writes an object but for one member; "" leaves out none.
func (o *Packing) inputObject(m map[string]any, without string, depth int, named bool) bool {
	n := len(m)
	if _, leaves := m[without]; leaves && without != "" {
		n--
	}
	o.uint(uint64(n))
	if n == 0 {
		return true
	}
	names, base := sortedNames(o, m)
	defer func() { o.names = o.names[:base] }()
	for _, name := range names {
		if name == without && without != "" {
			continue
		}
		o.packString(o.hide(o.redact.redactText(name)))
		o.at = append(o.at, name)
		if named && o.redact.secretName(name, o.redact.body) {
			o.maskHere()
			o.buf = append(o.buf, kindString)
			o.packString(redacted)
		} else if depth >= maxNesting || !o.inputValue(m[name], depth+1, named) {
			return false
		}
		o.at = o.at[:len(o.at)-1]
	}
	return true
}

// maskHere notes the pointer to what is being written.
func (o *Packing) maskHere() {
	if len(o.masked) >= events.MaxPointers {
		return
	}
	var b strings.Builder
	b.WriteString(o.at[0])
	for _, name := range o.at[1:] {
		b.WriteString("/" + escape(o.hide(o.redact.redactText(name))))
	}
	o.masked = append(o.masked, b.String())
}

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

// putRedacted writes what redaction left of a string.
func (o *Packing) putRedacted(old, text string) {
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

// object writes an object as it is: no part of an input, so nothing is looked for in it, and it costs less than inputObject.
func (o *Packing) object(m map[string]any, depth int) bool {
	o.uint(uint64(len(m)))
	if len(m) == 0 {
		return true
	}
	names, base := sortedNames(o, m)
	defer func() { o.names = o.names[:base] }()
	for _, name := range names {
		if o.packString(name); depth >= maxNesting || !o.value(m[name], depth+1) {
			return false
		}
	}
	return true
}
