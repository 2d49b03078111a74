package record

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gatehouse/input"
)

// maxKnown bounds the secrets of one request that are looked for elsewhere in its entry.
const maxKnown = 32

// knownSecrets are the secrets of one request, such as its token, its API key or its password: what of an entry holds one of them is found by
// looking through its bytes, whatever spelling it has there. Their names and shapes say nothing of where a policy, an error or a client puts
// them once more.
type knownSecrets struct {
	list    []knownSecret
	short   int        // how many are too short for the index
	stride  int        // every place that holds a secret has one of the grams at a multiple of this: 4 or 8
	grams   []uint32   // four bytes each
	bits    [64]uint64 // by a hash of these
	buffers [][]byte   // for the entry without escapes
}

type knownSecret struct {
	text string
	// credential says that the text was sent as one. Others, such as cookies that nobody verifies, are not taken out of what says where a
	// request went: a client could hide that by sending it as a cookie.
	credential bool
}

func (k *knownSecrets) reset() {
	if len(k.list) == 0 {
		return
	}
	k.list, k.grams, k.short = k.list[:0], k.grams[:0], 0
	if len(k.buffers) > 0 && cap(k.buffers[0]) > keepBuffer {
		k.buffers = nil
	}
	clear(k.bits[:])
}

// notSecrets stand where a client has no credential.
var notSecrets = wordsOf("null none nil true false undefined bearer basic anonymous")

func (k *knownSecrets) add(text string, credential bool) {
	text = strings.Trim(text, " \t\r\n\"")
	if len(text) < minSecret || len(k.list) >= maxKnown || text == redacted || len(text) < 10 && notSecrets[strings.ToLower(text)] {
		return
	}
	for i := range k.list {
		if k.list[i].text == text {
			k.list[i].credential = k.list[i].credential || credential
			return
		}
	}
	k.list = append(k.list, knownSecret{text, credential})
}

// credential adds what a header holds: its value, without the name of a scheme, and what is in a user's and password's base64.
func (k *knownSecrets) credential(value string) {
	value = strings.TrimSpace(value)
	scheme, rest, ok := strings.Cut(value, " ")
	if !ok {
		k.add(value, true)
		return
	}
	rest = strings.TrimSpace(rest)
	k.add(rest, true)
	if !strings.EqualFold(scheme, "basic") {
		return
	}
	if plain := decodeBase64(rest); plain != "" {
		_, password, _ := strings.Cut(plain, ":")
		k.add(plain, true)
		k.add(password, true)
	}
}

// header adds what a request's header holds.
func (k *knownSecrets) header(r *redactor, h *input.Header) {
	if len(h.Name) != len("cookie") || !strings.EqualFold(h.Name, "cookie") {
		k.credential(h.Value)
		return
	}
	for rest := h.Value; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, ";")
		name, value, _ := strings.Cut(pair, "=")
		switch name = strings.TrimSpace(name); {
		case r.cookies[name] || r.cookies[strings.TrimRight(name, "_-.0123456789")]: // a long one comes in several
			k.add(value, true)
		case looksRandom(value):
			k.add(value, false)
		}
	}
}

// looksRandom tells a session's cookie from a language or a theme.
func looksRandom(v string) bool {
	return len(v) >= 8 && strings.ContainsAny(v, "0123456789") && strings.ContainsFunc(v, func(c rune) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' })
}

// query adds what a path's query holds under the name of a secret.
func (k *knownSecrets) query(r *redactor, path string) {
	_, rest, _ := strings.Cut(path, "?")
	for rest != "" {
		pair, sep := cutPair(rest)
		rest = rest[len(pair)+len(sep):]
		name, value, ok := strings.Cut(pair, "=")
		if !ok || value == "" || !mayHoldSecret(r, pair) || !r.secretName(name, r.query) {
			continue
		}
		k.add(value, true)
		if plain, err := url.QueryUnescape(value); err == nil {
			k.add(plain, true)
		}
	}
}

// minKnown is the shortest text in the index.
const minKnown = 7

// ready makes the index of what was added. Long secrets, as most are, let the search take wider steps.
func (k *knownSecrets) ready() {
	k.stride = 8
	for i := range k.list {
		switch n := len(k.list[i].text); {
		case n < minKnown:
			k.short++
			if n == minKnown-1 {
				k.stride = 4
			}
		case n < 8+4-1:
			k.stride = 4
		}
	}
	for i := range k.list {
		s := &k.list[i]
		k.index([]byte(s.text[:min(len(s.text), 8+4-1)]))
		if len(s.text) < minKnown-1 {
			continue
		}
		var in [14]byte
		var out [20]byte
		for shift := range 3 {
			n := shift + copy(in[shift:], s.text[:min(len(s.text), 12)])
			from, to := (shift*8+5)/6, n*8/6
			base64.RawStdEncoding.Encode(out[:], in[:n])
			k.index(out[from:to])
			if bytes.IndexByte(out[from:to], '+') >= 0 || bytes.IndexByte(out[from:to], '/') >= 0 {
				base64.RawURLEncoding.Encode(out[:], in[:n])
				k.index(out[from:to])
			}
		}
	}
}

// index makes a text known by as many of its beginnings as the search takes bytes at a step.
func (k *knownSecrets) index(text []byte) {
	if len(text) < minKnown {
		return
	}
	bits, grams := &k.bits, k.grams
	for range k.stride {
		if len(text) < 4 {
			break
		}
		g := binary.LittleEndian.Uint32(text)
		grams = append(grams, g)
		h := gramHash(g)
		bits[h/64%64] |= 1 << (h % 64)
		text = text[1:]
	}
	k.grams = grams
}

func gramHash(g uint32) uint32 { return g * 0x9e3779b1 >> 20 }

// in reports whether a packed entry may hold one of the secrets, in whatever spelling. Lengths are the bytes in it that look like the beginning
// of an escape and are none.
func (k *knownSecrets) in(packed []byte, lengths []int) bool {
	if len(k.list) == 0 {
		return false
	}
	if k.foundIn(packed) {
		return true
	}
	if bytes.Count(packed, percentSign)+bytes.Count(packed, backslash) == len(lengths) {
		return false // as of most entries
	}
	return k.escaped(packed, lengths, 3)
}

var percentSign, backslash = []byte{'%'}, []byte{'\\'}

// escaped is in for what shows once escapes are taken away, of either kind and one within the other.
func (k *knownSecrets) escaped(packed []byte, not []int, depth int) bool {
	for _, sign := range [...]byte{'%', '\\'} {
		if depth == 0 || !hasEscape(packed, sign, not) {
			continue
		}
		plain := appendUnescaped(k.takeBuffer(), packed, sign)
		found := k.foundIn(plain) || k.escaped(plain, nil, depth-1)
		k.buffers = append(k.buffers, plain)
		if found {
			return true
		}
	}
	return false
}

func (k *knownSecrets) takeBuffer() []byte {
	if n := len(k.buffers); n > 0 {
		b := k.buffers[n-1]
		k.buffers = k.buffers[:n-1]
		return b[:0]
	}
	return nil
}

// hasEscape reports whether there is an escape behind which a secret may be, at none of the given places: one of a control character is none,
// and bytes of a packed entry often look like that.
func hasEscape(b []byte, sign byte, not []int) bool {
	for i := 0; i+1 < len(b); i++ {
		at := bytes.IndexByte(b[i:], sign)
		if at < 0 || i+at+1 >= len(b) {
			return false
		}
		i += at
		next := b[i+1]
		if sign == '%' && i+2 < len(b) && isHex(next) && isHex(b[i+2]) || sign != '%' && (next == '"' || next == '\'' || next == '/' || next == '\\' || i+3 < len(b) && (next == 'u' || next == 'x') && isHex(b[i+2]) && isHex(b[i+3])) {
			if !slices.Contains(not, i) {
				return true
			}
		}
	}
	return false
}

func (k *knownSecrets) foundIn(b []byte) bool {
	for i := 0; i < len(k.list) && k.short > 0; i++ {
		if s := k.list[i].text; len(s) < minKnown && bytes.Contains(b, []byte(s)) {
			return true
		}
	}
	if len(k.grams) == 0 {
		return false
	}
	bits, stride := &k.bits, k.stride
	for len(b) >= 4 {
		g := binary.LittleEndian.Uint32(b)
		if h := gramHash(g); bits[h/64%64]&(1<<(h%64)) != 0 && slices.Contains(k.grams, g) {
			return true
		}
		if len(b) <= stride {
			return false
		}
		b = b[stride:]
	}
	return false
}

// hide takes the secrets out of a text. What says where a request went keeps what is no credential, or too short to be sure of.
func (k *knownSecrets) hide(v string, place bool) string {
	if len(v) < minSecret {
		return v
	}
	out := k.hidePlain(v, place)
	if !strings.ContainsAny(out, "%\\") {
		return out
	}
	if place {
		return k.hideParts(out)
	}
	if clean, found := k.hideEscaped(out, false, 3); found {
		return clean
	}
	return out
}

// hideEscaped gives the text without those escapes that hid a secret, and without the secret.
func (k *knownSecrets) hideEscaped(v string, place bool, depth int) (string, bool) {
	for _, sign := range []byte{'%', '\\'} {
		if depth == 0 || !hasEscape([]byte(v), sign, nil) {
			continue
		}
		plain := string(appendUnescaped(nil, []byte(v), sign))
		clean := k.hidePlain(plain, place)
		deeper, found := k.hideEscaped(clean, place, depth-1)
		if found {
			return deeper, true
		}
		if clean != plain {
			return clean, true
		}
	}
	return v, false
}

// hideParts is for a path: parts of it that hold a secret once they are unescaped go as a whole.
func (k *knownSecrets) hideParts(v string) string {
	var out strings.Builder
	separators := "/?#"
	for v != "" {
		end := strings.IndexAny(v, separators)
		if end < 0 {
			end = len(v)
		}
		if _, found := k.hideEscaped(v[:end], true, 3); found {
			out.WriteString(redacted)
		} else {
			out.WriteString(v[:end])
		}
		if end < len(v) {
			if out.WriteByte(v[end]); v[end] != '/' {
				separators = "&;?#="
			}
			end++
		}
		v = v[end:]
	}
	return out.String()
}

func (k *knownSecrets) hidePlain(v string, place bool) string {
	for i := range k.list {
		s := &k.list[i]
		if place && (!s.credential || len(s.text) < 8 && !looksRandom(s.text+"      ")) {
			continue
		}
		for _, spelling := range spellings(s.text) {
			if strings.Contains(v, spelling) {
				v = replaceKnown(v, spelling)
			}
		}
		if len(s.text) >= 6 {
			v = hideEncoded(v, s.text)
		}
	}
	return v
}

// spellings are those of a secret that do not show it once escapes are taken away, or not as such.
func spellings(s string) []string {
	out := []string{s}
	plain := true
	for i := range len(s) {
		c := s[i]
		plain = plain && ('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_')
	}
	if plain {
		return out
	}
	quoted := strconv.Quote(s)
	text, _ := json.Marshal(s) // a string always encodes
	for _, one := range []string{url.QueryEscape(s), url.PathEscape(s), quoted[1 : len(quoted)-1], string(text[1 : len(text)-1])} {
		if !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out
}

// replaceKnown replaces a secret. A short one counts only where it stands by itself: it would be found in everything.
func replaceKnown(v, secret string) string {
	if len(secret) >= 8 {
		return strings.ReplaceAll(v, secret, redacted)
	}
	var out strings.Builder
	from := 0
	for {
		i := strings.Index(v[from:], secret)
		if i < 0 {
			break
		}
		i += from
		end := i + len(secret)
		out.WriteString(v[from:i])
		if (i == 0 || !isWord(v[i-1])) && (end == len(v) || !isWord(v[end])) {
			out.WriteString(redacted)
		} else {
			out.WriteString(secret)
		}
		from = end
	}
	return out.String() + v[from:]
}

func isWord(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c >= 0x80 }

// hideEncoded replaces what holds a secret in base64, whatever stands before it there.
func hideEncoded(v, secret string) string {
	for shift := range 3 {
		in := append(make([]byte, shift, shift+len(secret)), secret...)
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			core := enc.EncodeToString(in)[(shift*8+5)/6 : len(in)*8/6]
			for {
				i := strings.Index(v, core)
				if i < 0 || len(core) < 6 {
					break
				}
				from, to := i, i+len(core)
				for from > 0 && isBase64(v[from-1]) {
					from--
				}
				for to < len(v) && isBase64(v[to]) {
					to++
				}
				v = v[:from] + redacted + v[to:]
			}
		}
	}
	return v
}

func isBase64(c byte) bool {
	return isWord(c) && c < 0x80 || c == '+' || c == '/' || c == '-' || c == '_' || c == '='
}

// appendUnescaped appends bytes without percent-encoding, or without the escapes of JSON's and Go's strings. What is no escape stays.
func appendUnescaped(dst, b []byte, sign byte) []byte {
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c != sign {
			to := bytes.IndexByte(b[i:], sign)
			if to < 0 {
				return append(dst, b[i:]...)
			}
			dst = append(dst, b[i:i+to]...)
			i, c = i+to, sign
		}
		if sign == '%' {
			if i+2 < len(b) && isHex(b[i+1]) && isHex(b[i+2]) {
				dst = append(dst, unhex(b[i+1])<<4|unhex(b[i+2]))
				i += 2
			} else {
				dst = append(dst, c)
			}
			continue
		}
		switch {
		case i+5 < len(b) && b[i+1] == 'u' && isHex(b[i+2]) && isHex(b[i+3]) && isHex(b[i+4]) && isHex(b[i+5]):
			r := rune(unhex(b[i+2]))<<12 | rune(unhex(b[i+3]))<<8 | rune(unhex(b[i+4]))<<4 | rune(unhex(b[i+5]))
			dst = append(dst, string(r)...)
			i += 5
		case i+3 < len(b) && b[i+1] == 'x' && isHex(b[i+2]) && isHex(b[i+3]):
			dst = append(dst, unhex(b[i+2])<<4|unhex(b[i+3]))
			i += 3
		case i+1 < len(b):
			i++
			if escaped := strings.IndexByte("nrtbfav", b[i]); escaped >= 0 {
				dst = append(dst, "\n\r\t\b\f\a\v"[escaped])
			} else {
				dst = append(dst, b[i])
			}
		}
	}
	return dst
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
