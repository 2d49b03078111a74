package record

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
)

// maxText is the longest text in which secrets are looked for one by one; a longer one that may hold any is redacted whole.
const maxText = 64 << 10

// What a byte may be a part of, so that most texts are looked through once and left alone.
const (
	byteOther   = iota
	byteToken   // second letter of a JSON Web Token
	byteScheme  // first letter of Bearer or Basic
	byteEquals  // of name=value
	byteColon   // of "name": or of ://
	byteEscape  // of a percent-encoded byte
	byteDash    // of -----BEGIN
	byteEncoded // first letter of a token in base64
)

var byteKinds = func() (kinds [256]uint8) {
	for kind, bytes := range map[uint8]string{byteToken: "yw", byteScheme: "bB", byteEquals: "=", byteColon: ":", byteEscape: "%", byteDash: "-", byteEncoded: "Z"} {
		for i := range len(bytes) {
			kinds[bytes[i]] = kind
		}
	}
	return kinds
}()

// mayHoldSecret reports whether a text may hold a secret: it never says no where redactText or url change something.
func mayHoldSecret[T string | []byte](r *redactor, v T) bool {
	for i := 0; i < len(v); i++ {
		kind := byteKinds[v[i]]
		switch {
		case kind == byteOther:
			continue
		case kind == byteEscape:
			return true
		case kind == byteToken && (i == 0 || v[i-1] != 'e'), kind == byteDash && (i+1 == len(v) || v[i+1] != '-'):
			continue // most of these, and not worth a call
		}
		if suspectAt(r, v, i, kind) {
			return true
		}
	}
	return false
}

func suspectAt[T string | []byte](r *redactor, v T, i int, kind uint8) bool {
	left := len(v) - i
	switch kind {
	case byteToken:
		return i > 0 && left > 2 && v[i-1] == 'e' && isTokenThird(v[i], v[i+1])
	case byteScheme:
		return left > 5 && (v[i+1]|0x20 == 'e' && v[i+2]|0x20 == 'a' && v[i+3]|0x20 == 'r' || v[i+1]|0x20 == 'a' && v[i+2]|0x20 == 's' && v[i+3]|0x20 == 'i')
	case byteEquals:
		return i > 2 && left > 1 && endsInSecretName(r, v[:i])
	case byteColon:
		if left > 2 && v[i+1] == '/' && v[i+2] == '/' {
			return hasUser(v[i+3:])
		}
		return i > 2 && left > 1 && endsInSecretName(r, v[:i])
	case byteDash:
		return left > 10 && v[i+1] == '-' && v[i+2] == '-'
	case byteEncoded:
		return left > 15 && v[i+1] == 'X'
	}
	return false
}

// isTokenThird tells what can follow the "e" of an object in base64url: {" and { with white space.
func isTokenThird(second, third byte) bool {
	if second == 'y' {
		return third == 'J' || third == 'I' || third >= 'A' && third <= 'D'
	}
	return third >= 'k' && third <= 'r' || third >= '0' && third <= '3'
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// hasUser reports whether an authority has a user in front of its host.
func hasUser[T string | []byte](v T) bool {
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '@':
			return true
		case '/', '?', '#', ' ':
			return false
		}
	}
	return false
}

// longestName bounds the names that are looked up.
const longestName = 64

// endsInSecretName reports whether the name that a text ends in, before "=" or ":", may be one of those whose values are secret.
func endsInSecretName[T string | []byte](r *redactor, v T) bool {
	var folded [longestName]byte
	n := len(folded)
	for i := len(v) - 1; i >= 0; i-- {
		c := v[i]
		switch {
		case n == 0, c >= 0x80:
			return true // rare: looked at closely
		case 'a' <= c|0x20 && c|0x20 <= 'z':
			n--
			folded[n] = c | 0x20
		case '0' <= c && c <= '9':
			n--
			folded[n] = c
		case c == '_' || c == '-' || c == '"' || c == '\'' || c == '\\':
		case c == '[' || c == ']' || c == '.':
			if isSecret(r, folded[n:]) {
				return true
			}
			n = len(folded)
		case n < len(folded) || c != ' ' && c != '\t':
			return isSecret(r, folded[n:])
		}
	}
	return isSecret(r, folded[n:])
}

// isSecret is for a folded name.
func isSecret(r *redactor, name []byte) bool {
	return len(name) > 2 && (r.query[string(name)] || r.folded[string(name)] || hasSecretEnding(name))
}

// hasSecretEnding reports whether a folded name ends as names of secrets do: new_password, githubToken.
func hasSecretEnding[T string | []byte](name T) bool {
	if len(name) < 5 {
		return false
	}
	ends := func(end string) bool { return len(name) >= len(end) && string(name[len(name)-len(end):]) == end }
	switch name[len(name)-1] {
	case 'n':
		return ends("token")
	case 't':
		return ends("secret") || ends("jwt")
	case 'd':
		return ends("password") || ends("passwd") || ends("pwd")
	case 'y':
		return ends("apikey") || ends("secretkey") || ends("privatekey") || ends("accesskey")
	case 'e':
		return ends("passphrase")
	case 's':
		return ends("credentials")
	}
	return false
}

// secretName reports whether a name of a parameter, a member or a form's field, in any of its spellings, is one whose values are secret:
// Access-Token, user[password], login.password, token[0].
func (r *redactor) secretName(name string, names map[string]bool) bool {
	if strings.IndexByte(name, '%') >= 0 {
		name = lenientUnescape(name)
	}
	if names[paramName(name)] {
		return true
	}
	for part := range strings.FieldsFuncSeq(name, func(c rune) bool { return c == '[' || c == ']' || c == '.' || c == ':' || c == '/' || c == '$' }) {
		folded := paramFold.Replace(strings.ToLower(part))
		if folded = strings.TrimSpace(folded); names[folded] || hasSecretEnding(folded) {
			return true
		}
	}
	return false
}

var (
	// RFC 7519 and RFC 7516: an object in base64url, and two parts or four more, of which the second may be empty.
	tokenShape = regexp.MustCompile(`e[yw][A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){2,4}`)
	jwtShape   = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_.-]*`)
	// RFC 6750 and RFC 7617, also where the space is escaped or one of a list.
	schemeShape = regexp.MustCompile(`(?i)\b(bearer|basic)((?:[\s+:,"']|\\["nrt]|%20|%09)+)([A-Za-z0-9._~+/=%-]+)`)
	// name=value, "name": "value" and the like, within quotation marks that may be escaped.
	pairShape = regexp.MustCompile(`([A-Za-z0-9_.$%\[\]-]{2,96})(\\*["']?\s*)(=|:)(\s*)(\\*"(?:[^"\\]|\\+[^"\\])*\\*"?|\\*'[^']*'?|[^\s&;,"'<>(){}#]+)`)
	userShape = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^/@\s:?#"']*):([^/@\s"']+)@`)
	pemShape  = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*(?:PRIVATE KEY|SECRET)[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*-----|$)`)
	// A token that somebody has put into base64 once more.
	encodedShape = regexp.MustCompile(`ZX[A-Za-z0-9+/_-]{14,}={0,2}`)
)

// redactText redacts what is shaped like a secret anywhere in a text, also in an escaped one.
func (r *redactor) redactText(v string) string {
	if !mayHoldSecret(r, v) {
		return v
	}
	if len(v) > maxText {
		return redacted
	}
	v = r.shapes(v)
	if strings.IndexByte(v, '%') < 0 {
		return v
	}
	for plain, left := v, 3; left > 0; left-- {
		next := lenientUnescape(plain)
		if next == plain {
			break
		}
		if clean := r.shapes(next); clean != next {
			return clean
		}
		plain = next
	}
	return v
}

// shapes is redactText as the text stands, whatever its escapes mean.
func (r *redactor) shapes(v string) string {
	if len(v) > maxText {
		return redacted
	}
	if strings.Contains(v, "eyJ") {
		v = jwtShape.ReplaceAllLiteralString(v, redacted)
	}
	if strings.Contains(v, "ew") || strings.Contains(v, "ey") {
		v = tokenShape.ReplaceAllStringFunc(v, func(found string) string {
			if isTokenThird(found[1], found[2]) && isObject(found) {
				return redacted
			}
			return found
		})
	}
	v = schemeShape.ReplaceAllStringFunc(v, func(found string) string {
		m := schemeShape.FindStringSubmatch(found)
		if !isCredential(m[1], m[3], len(found) == len(v)) {
			return found
		}
		return m[1] + m[2] + redacted
	})
	v = r.pairs(v)
	if strings.Contains(v, "://") {
		v = userShape.ReplaceAllString(v, "$1:"+redacted+"@")
	}
	if strings.Contains(v, "-----BEGIN") {
		v = pemShape.ReplaceAllLiteralString(v, redacted)
	}
	if strings.Contains(v, "ZX") {
		v = encodedShape.ReplaceAllStringFunc(v, func(found string) string {
			if plain := decodeBase64(found); strings.Contains(plain, "eyJ") && jwtShape.MatchString(plain) {
				return redacted
			}
			return found
		})
	}
	return v
}

// isObject reports whether the first part of a token is the beginning of a JSON object.
func isObject(token string) bool {
	head, _, _ := strings.Cut(token, ".")
	plain := strings.TrimLeft(strings.TrimPrefix(decodeBase64(head), "{"), " \t\r\n")
	return strings.HasPrefix(plain, `"`)
}

// decodeBase64 takes either alphabet, with padding or without; "" where it is neither.
func decodeBase64(s string) string {
	s = strings.TrimRight(s, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	plain, err := enc.DecodeString(s)
	if err != nil {
		if plain, err = enc.DecodeString(s[:len(s)/4*4]); err != nil {
			return ""
		}
	}
	return string(plain)
}

// notCredentials are words that follow the name of a scheme in sentences.
var notCredentials = wordsOf("token tokens auth authentication authorization credential credentials scheme realm error header headers and or is was not of for in to the a an with plan tier user users access required invalid missing")

func wordsOf(list string) map[string]bool {
	out := map[string]bool{}
	for word := range strings.FieldsSeq(list) {
		out[word] = true
	}
	return out
}

// isCredential tells a credential behind the name of its scheme from a sentence about it. Where nothing else is in the text, all is one.
func isCredential(scheme, value string, all bool) bool {
	word := strings.ToLower(strings.Trim(value, ".="))
	if notCredentials[word] || strings.Contains(value, "redacted") {
		return false
	}
	if strings.EqualFold(scheme, "bearer") {
		return all || len(value) >= 4
	}
	return strings.Contains(decodeBase64(value), ":") || strings.ContainsAny(value, "0123456789=/+")
}

// beforeColons are names of one word whose value may follow a colon. Others stand in sentences: bad credential: api key is cut off.
var beforeColons = wordsOf("password passwd pwd passphrase apikey authorization cookie")

// pairs redacts values by the names before them. In a URL's query those of queries count too.
func (r *redactor) pairs(v string) string {
	if !strings.ContainsAny(v, "=:") {
		return v
	}
	var out strings.Builder
	from := 0
	for from < len(v) {
		m := pairShape.FindStringSubmatchIndex(v[from:])
		if m == nil {
			break
		}
		for i := range m {
			m[i] += from
		}
		name, quote, colon, value := v[m[2]:m[3]], v[m[4]:m[5]], v[m[6]:m[7]] == ":", v[m[10]:m[11]]
		names := r.body
		if m[2] > 0 && strings.IndexByte("?&#;", v[m[2]-1]) >= 0 && !colon {
			names = r.query
		}
		header := colon && r.headers[headerName(name)] == secretHeader
		if header { // all of the line, such as several cookies
			if end := strings.IndexAny(v[m[11]:], "\r\n\"'`"); end >= 0 {
				m[11] += end
			} else {
				m[11] = len(v)
			}
			value = v[m[10]:m[11]]
		}
		// A colon behind some words is a sentence's as often as not.
		sentence := colon && strings.Trim(quote, "\\ \t\r\n") == "" && !strings.ContainsAny(name, "-_") && strings.IndexAny(value, "\"'\\") != 0 && !beforeColons[strings.ToLower(name)]
		if sentence || strings.HasPrefix(strings.TrimLeft(value, `\"'`), redacted) || !header && !r.secretName(name, names) {
			out.WriteString(v[from:m[7]])
			from = m[7]
			continue
		}
		out.WriteString(v[from:m[10]])
		open := value[:len(value)-len(strings.TrimLeft(value, `\"'`))]
		closing := ""
		if open != "" && len(value) > len(open) && strings.HasSuffix(value, open) {
			closing = open
		}
		out.WriteString(open + redacted + closing)
		from = m[11]
	}
	if out.Len() == 0 {
		return v
	}
	out.WriteString(v[from:])
	return out.String()
}

// url redacts a URL or its path.
func (r *redactor) url(u string) string {
	if !mayHoldSecret(r, u) {
		return u
	}
	path, rest := u, ""
	if i := strings.IndexAny(u, "?#"); i >= 0 {
		path, rest = u[:i+1], u[i+1:]
	}
	plain, query := r.path(path), r.queryString(rest)
	if plain == path && query == rest {
		return u // as it came, without an allocation
	}
	return plain + query
}

// path redacts a path, or what comes before a query. A segment that is a secret once it is unescaped goes as a whole.
func (r *redactor) path(path string) string {
	if !mayHoldSecret(r, path) {
		return path
	}
	path = r.shapes(path)
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	return r.unescaped(path, "/?#")
}

// unescaped replaces those parts of a text, between separators, that hold a secret once they are unescaped.
func (r *redactor) unescaped(v, separators string) string {
	var out strings.Builder
	for v != "" {
		end := strings.IndexAny(v, separators)
		if end < 0 {
			end = len(v)
		}
		if part := v[:end]; strings.IndexByte(part, '%') >= 0 && r.redactText(part) != part {
			out.WriteString(redacted)
		} else {
			out.WriteString(part)
		}
		if end < len(v) {
			out.WriteByte(v[end])
			end++
		}
		v = v[end:]
	}
	return out.String()
}

// queryString redacts parameters in place: what is harmless stays as it came,
// byte for byte. "?", "#" and ";" separate too, because something on the way
// may think so.
func (r *redactor) queryString(q string) string {
	changed := false
	for rest := q; rest != "" && !changed; {
		pair, sep := cutPair(rest)
		rest = rest[len(pair)+len(sep):]
		changed = r.pair(pair) != pair
	}
	if !changed {
		return q
	}
	var out strings.Builder
	for q != "" {
		pair, sep := cutPair(q)
		q = q[len(pair)+len(sep):]
		out.WriteString(r.pair(pair))
		out.WriteString(sep)
	}
	return out.String()
}

func cutPair(q string) (pair, sep string) {
	if i := strings.IndexAny(q, "&;?#"); i >= 0 {
		return q[:i], q[i : i+1]
	}
	return q, ""
}

// pair redacts one name=value. A name that cannot be read hides its value: we
// do not know how the application reads it.
func (r *redactor) pair(pair string) string {
	name, value, ok := strings.Cut(pair, "=")
	if !ok || value == "" {
		return r.escapedText(pair)
	}
	plain, err := url.QueryUnescape(name)
	if err != nil || r.secretName(plain, r.query) {
		return r.escapedText(name) + "=" + redacted
	}
	cleanName, clean := r.escapedText(name), r.escapedText(value)
	if cleanName == name && clean == value {
		return pair
	}
	return cleanName + "=" + clean
}

// escapedText is redactText for a part of a query, which stays escaped: where a secret shows only once it is unescaped, all of it goes.
func (r *redactor) escapedText(v string) string {
	if !mayHoldSecret(r, v) && strings.IndexByte(v, '+') < 0 {
		return v
	}
	if clean := r.shapes(v); clean != v || !strings.ContainsAny(v, "%+") {
		return clean
	}
	plain := strings.ReplaceAll(v, "+", " ")
	if plain = lenientUnescape(plain); r.redactText(plain) != plain {
		return redacted
	}
	return v
}
