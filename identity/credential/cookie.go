package credential

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxChunks bounds how many cookies one credential may be spread over, in order from NAME_0.
const maxChunks = 10

// cookieParts are what was found of one place's cookie: the whole of it, or its chunks.
type cookieParts struct {
	values [1 + maxChunks]string // the cookie itself, and NAME_0 and so on
	seen   uint32
}

// fromCookies finds a cookie over all Cookie lines (HTTP/2 may send one line per cookie), or joins its chunks. Two of a name are
// refused even when they are equal: an app that reads the other one must not see another user. An empty one is none.
//
// Names and values are read as Werkzeug, Starlette and Django read them: without spaces and tabs around, and a name without an
// equals sign as an empty cookie. Where those would not find the same cookie as we do it is refused.
func fromCookies(lines []string, place *Source) (string, error) {
	var found cookieParts
	quoted := false
	for _, line := range lines {
		for rest := line; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			name, text, _ := strings.Cut(pair, "=")
			part := place.CookiePart(strings.Trim(name, " \t"))
			if part < 0 {
				if place.resembles(pair) {
					return "", ErrCookie
				}
				continue
			}
			if found.seen>>part&1 == 1 {
				return "", errRepeatedCookie
			}
			found.values[part] = strings.Trim(text, " \t")
			found.seen |= 1 << part
		}
		quoted = quoted || strings.IndexByte(line, '"') >= 0
	}
	if found.seen == 0 {
		return "", nil
	}
	if quoted && !found.inFlask(lines, place) {
		return "", ErrCookie
	}
	return found.join()
}

// join puts chunks together. One that is missing, or empty in front of another, ends the credential for some applications and
// not for others.
func (c *cookieParts) join() (string, error) {
	const whole = 1
	if c.seen == whole {
		return c.values[0], nil
	}
	if c.seen&whole != 0 {
		return "", errChunks
	}
	chunks, ended := c.values[1:], false
	for i, chunk := range chunks {
		if ended && chunk != "" || c.seen>>(i+1) != 0 && c.seen>>(i+1)&1 == 0 {
			return "", errChunks
		}
		ended = ended || chunk == ""
	}
	return strings.Join(chunks, ""), nil
}

// CookieNames are the names of all the cookies that the place's credential may stand in: the cookie, and its chunks.
func (s *Source) CookieNames() []string {
	names := []string{s.Cookie}
	for i := 0; s.Chunked && i < maxChunks; i++ {
		names = append(names, s.Cookie+"_"+strconv.Itoa(i))
	}
	return names
}

// CookiePart is 0 for the place's cookie, 1 for its first chunk and so on, and -1 for any other name.
func (s *Source) CookiePart(name string) int {
	rest, ok := strings.CutPrefix(name, s.Cookie)
	switch {
	case !ok:
		return -1
	case rest == "":
		return 0
	case s.Chunked && len(rest) == 2 && rest[0] == '_' && '0' <= rest[1] && rest[1] <= '9':
		return 1 + int(rest[1]-'0')
	}
	return -1
}

// resembles reports whether a reader could find the place's cookie in a pair in which we do not: behind a comma, with which
// lines are joined, or with other characters around the name, which Python strips and Envoy has made an exclamation mark of. So is a
// chunk with a number that is too high, or written in another way.
func (s *Source) resembles(pair string) bool {
	if !strings.Contains(pair, s.Cookie) {
		return false
	}
	first := true
	for part := range strings.SplitSeq(pair, ",") {
		name, _, named := strings.Cut(part, "=")
		name = strings.TrimFunc(name, around)
		if (first || named) && (s.CookiePart(name) >= 0 || s.Chunked && numbered(name, s.Cookie)) {
			return true
		}
		first = false
	}
	return false
}

// around are characters that no cookie's name has, and that a reader may leave out around it.
func around(r rune) bool { return r <= ' ' || r == '!' || r >= 0x7f }

func numbered(name, cookie string) bool {
	digits, ok := strings.CutPrefix(name, cookie+"_")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// inFlask reports whether Werkzeug finds the same as we did. It alone lets a quoted value have a semicolon.
func (c *cookieParts) inFlask(lines []string, place *Source) bool {
	var theirs cookieParts
	for _, line := range lines {
		for pos := 0; pos < len(line); {
			name, value, next := flaskCookie(line, pos)
			if next < 0 {
				skipped := strings.IndexByte(line[pos:], ';')
				if skipped < 0 {
					break
				}
				pos += skipped + 1
				continue
			}
			pos = next
			part := place.CookiePart(name)
			if part < 0 {
				continue
			}
			if theirs.seen>>part&1 == 1 {
				return false
			}
			theirs.values[part] = value
			theirs.seen |= 1 << part
		}
	}
	return theirs == *c
}

// flaskCookie reads one cookie as Werkzeug's regular expression does, its value with the quotes. next is -1 where it does not match.
func flaskCookie(line string, pos int) (name, value string, next int) {
	skip := func(i int, set string) int {
		for i < len(line) && strings.IndexByte(set, line[i]) >= 0 {
			i++
		}
		return i
	}
	until := func(i int, set string) int {
		for i < len(line) && strings.IndexByte(set, line[i]) < 0 {
			i++
		}
		return i
	}
	start := skip(pos, " \t")
	end := until(start, " \t=\";")
	if end == start {
		return "", "", -1
	}
	name = line[start:end]
	if at := skip(end, " \t"); at < len(line) && line[at] == '=' {
		from := skip(at+1, " \t")
		if from < len(line) && line[from] == '"' {
			close := ClosingQuote(line[from:])
			if close < 0 {
				return "", "", -1
			}
			end = from + close + 1
		} else {
			end = until(from, " \t\";")
		}
		value = line[from:end]
	}
	end = skip(end, " \t")
	switch {
	case end == len(line):
		return name, value, end
	case line[end] == ';':
		return name, value, end + 1
	}
	return "", "", -1
}

// PlainCookie reports whether every framework takes a cookie's value for what it is: they take quotes off, and disagree on what is not
// ASCII. Envoy makes an exclamation mark of what is not UTF-8.
func PlainCookie(value string) bool {
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c <= ' ', c >= utf8.RuneSelf-1, c == '"', c == ',', c == '\\', c == '!':
			return false
		}
	}
	return true
}
