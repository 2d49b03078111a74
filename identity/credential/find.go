package credential

import (
	"net/url"
	"strings"
)

// Find gives the one token of a request with this header and query (as sent), looked for in the sources, 64 at most. found has a bit for each
// that holds it, and is 0 where there is none.
func Find(sources []Source, header func(name string) []string, query string) (tok Token, found uint64, err error) {
	for i := range sources {
		s := &sources[i]
		var raw string
		switch {
		case s.Cookie != "":
			raw, err = fromCookies(header("cookie"), s)
		case s.WebsocketProtocol != "":
			raw, err = fromProtocols(header(WebsocketHeader), s.WebsocketProtocol)
		case s.Query != "":
			raw, err = fromQuery(query, s.Query)
		default:
			raw, err = fromHeader(header(s.Header), s.Scheme)
		}
		if err != nil {
			return Token{}, 0, err
		}
		if raw == "" {
			continue
		}
		if found != 0 && raw != tok.Raw {
			return Token{}, 0, ErrTwoCredentials
		}
		tok.Raw = raw
		found |= 1 << i
	}
	return tok, found, nil
}

// fromHeader reads a header's value as "scheme token" (RFC 9110 section 11.4), or as a bare token when scheme is empty. A
// well-formed credential of another scheme is none of ours, so the caller stays anonymous; it must be a single one, though.
func fromHeader(lines []string, scheme string) (string, error) {
	if len(lines) == 0 {
		return "", nil
	}
	if len(lines) > 1 {
		return "", errRepeatedHeader
	}
	value := strings.Trim(lines[0], " \t")
	if scheme == "" || value == "" {
		return value, nil
	}
	end := strings.IndexAny(value, " \t")
	if end < 0 {
		end = len(value)
	}
	rest := strings.TrimLeft(value[end:], " ")
	if !IsFieldToken(value[:end]) {
		return "", errNotACredential
	}
	if !strings.EqualFold(value[:end], scheme) {
		if isJoined(rest) {
			return "", ErrJoined
		}
		return "", nil
	}
	if rest == "" {
		return "", errEmpty
	}
	return rest, nil
}

// isJoined reports whether a second credential follows a comma. Parameters (Digest's realm="...") have no space before their
// equals sign, or nothing but spaces; "Bearer x" does.
func isJoined(parameters string) bool {
	_, rest, more := strings.Cut(parameters, ",")
	for more {
		var element string
		element, rest, more = strings.Cut(rest, ",")
		word, after, spaced := strings.Cut(strings.Trim(element, " \t"), " ")
		if spaced && IsFieldToken(word) && !strings.HasPrefix(strings.TrimLeft(after, " "), "=") {
			return true
		}
	}
	return false
}

// fromQuery finds a query parameter by name, however its name and value are percent-encoded. Readers disagree on a semicolon
// (a separator to some) and on a plus sign (a space to most), so neither may stand in what carries a token; and as with
// cookies, two of the name are refused even when they are equal. An empty one is none.
func fromQuery(query, name string) (string, error) {
	value, seen := "", false
	for rest := query; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		key, text, _ := strings.Cut(pair, "=")
		if strings.Contains(pair, ";") {
			for part := range strings.SplitSeq(pair, ";") {
				if key, _, _ := strings.Cut(part, "="); spelledAs(key, name) {
					return "", errQuery
				}
			}
			continue
		}
		if !spelledAs(key, name) {
			continue
		}
		if seen {
			return "", errRepeatedQuery
		}
		value, seen = text, true
	}
	if strings.IndexByte(value, '+') >= 0 {
		return "", errQuery
	}
	if strings.IndexByte(value, '%') < 0 {
		return value, nil
	}
	decoded, err := url.PathUnescape(value)
	if err != nil {
		return "", errQuery
	}
	return decoded, nil
}

// spelledAs reports whether a parameter's name as sent is name. It does not allocate: it is asked for each parameter.
func spelledAs(sent, name string) bool {
	for i := 0; i < len(name); i++ {
		if sent == "" {
			return false
		}
		c, width := sent[0], 1
		if c == '%' && len(sent) >= 3 {
			if high, low := unhex(sent[1]), unhex(sent[2]); high >= 0 && low >= 0 {
				c, width = byte(high<<4|low), 3
			}
		}
		if c != name[i] {
			return false
		}
		sent = sent[width:]
	}
	return sent == ""
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
