package record

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"gatehouse/decisionlog/events"
)

// What an entry has beside its input and its fixed part is packed as the input's fields are that have a number. These numbers are above all
// of theirs, and are given once and for ever as well.
const (
	numberDirectory = 1<<16 + iota // Entry.DirectoryRevision
	numberFacts                    // Entry.Facts, a list of {answer, question}
	numberTruncated                // true: there were more
)

// Bounds of the questions that are recorded of a decision. What is beyond is left out, and facts_truncated says so.
const (
	maxFacts   = 64
	factsBytes = 8 << 10
)

// extras is how many numbers an entry has beside those of its input.
func (o *Packing) extras(e *Entry) (n int) {
	if e.DirectoryRevision != 0 {
		n++
	}
	if e.Facts != nil {
		n += 2
	}
	return n
}

// putExtras writes them.
func (o *Packing) putExtras(e *Entry) {
	if e.DirectoryRevision != 0 {
		o.uint(numberDirectory)
		o.buf = append(o.buf, kindNumber)
		o.packString(strconv.FormatUint(e.DirectoryRevision, 10))
	}
	if e.Facts != nil {
		o.uint(numberFacts)
		whole := o.facts(e)
		o.uint(numberTruncated)
		o.buf = append(o.buf, kindFalse)
		if !whole || e.FactsTruncated {
			o.buf[len(o.buf)-1] = kindTrue
		}
	}
}

// facts writes the questions and their answers, as many as there may be, and reports whether that is all. What is known or looks like a secret
// is taken out, as of the input.
func (o *Packing) facts(e *Entry) (whole bool) {
	plain := o.limit == 0 && !o.deep // nothing is left out for this request's sake
	if plain && o.keptFacts(e) {
		return true
	}
	start, others := len(o.buf), len(o.masked)
	made, ok := makeDocument(e.Facts)
	list, isList := made.([]any)
	if o.limit > 0 || !ok || !isList {
		list = nil
	}
	o.buf = append(o.buf, kindArray, 0) // how many there are takes one byte
	from, n := len(o.buf), 0
	for _, fact := range list[:min(len(list), maxFacts)] {
		mark, masked := len(o.buf), len(o.masked)
		o.at = append(o.at[:0], "/facts", strconv.Itoa(n))
		if !o.inputValue(fact, 0, true) || len(o.buf)-from > factsBytes {
			o.buf, o.masked = o.buf[:mark], o.masked[:masked]
			break
		}
		n++
	}
	o.buf[from-1] = byte(n)
	if whole = ok && isList && n == len(list); whole && plain {
		o.keepFacts(e, o.buf[start:], o.masked[others:])
	}
	return whole
}

// keptFacts writes the questions as they were packed for another entry.
func (o *Packing) keptFacts(e *Entry) bool {
	if e.FactsKept == nil {
		return false
	}
	k, _ := e.FactsKept.Load().(*kept)
	if k == nil || k.by != o.Packer || len(o.masked)+len(k.masked) > events.MaxPointers {
		return false
	}
	o.buf, o.masked = append(o.buf, k.bytes...), append(o.masked, k.masked...)
	return true
}

// keepFacts keeps questions that were packed last for other entries.
func (o *Packing) keepFacts(e *Entry, packed []byte, masked []string) {
	if e.FactsKept == nil || len(packed) > maxKept || len(o.masked) == events.MaxPointers {
		return
	}
	e.FactsKept.Store(&kept{by: o.Packer, bytes: bytes.Clone(packed), masked: slices.Clone(masked)})
}

// setExtra takes a value that an entry has beside its input.
func (u *unpacking) setExtra(rec *record, number uint64, value any) {
	switch number {
	case numberDirectory:
		revision, _ := value.(json.Number)
		if n, err := strconv.ParseUint(string(revision), 10, 64); err == nil && n > 0 {
			rec.Directory = &recordDirectory{Revision: n, Digest: rec.Digests.Directory}
		}
	case numberFacts:
		list, _ := value.([]any)
		var e encoder
		text, err := e.append(nil, list)
		switch {
		case len(list) == 0:
		case err != nil:
			u.scan.eraseAll("/facts")
		default:
			rec.Facts = text
		}
	case numberTruncated:
		rec.FactsTruncated, _ = value.(bool)
	}
}

// extra is what the line of an entry shows beside its input.
type extra struct {
	directory, facts span
	truncated        bool
}

// readExtra takes a value that an entry has beside its input.
func (l *lineWriter) readExtra(number uint64, value span) {
	text := l.parts[value.from:value.to]
	switch number {
	case numberDirectory:
		if n, err := strconv.ParseUint(string(text), 10, 64); err != nil || n == 0 {
			l.rare = true
		}
		l.extra.directory = value
	case numberFacts:
		if len(text) == 0 || text[0] != '[' {
			l.rare = true
		}
		l.extra.facts = value
	case numberTruncated:
		l.extra.truncated = string(text) == "true"
	}
}

// extras writes what the entry has beside its input.
func (l *lineWriter) extras(dst []byte, e *commonEntry) []byte {
	x := &l.extra
	if x.directory.to > x.directory.from {
		dst = l.piece(append(dst, `,"directory":{"revision":`...), x.directory)
		dst = append(appendMember(dst, "digest", e.directoryDigest), '}')
	}
	if !x.facts.empty() {
		dst = l.piece(append(dst, `,"facts":`...), x.facts)
	}
	if x.truncated {
		dst = append(dst, `,"facts_truncated":true`...)
	}
	return dst
}
