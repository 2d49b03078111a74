package convert

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	maxLDIFLine  = 16 << 20 // unfolded: large enough for a photograph
	maxLDIFEntry = 5_000_000
	maxFolds     = 1_000_000
)

// value is an attribute's value, with its line.
type value struct {
	text string
	line int
}

// entry is an LDIF record: the values of the wanted attributes, by lower-case name.
type entry struct {
	dn    string
	line  int
	attrs map[string][]value
}

// ldifReader reads content records of RFC 2849.
type ldifReader struct {
	in      *bufio.Reader
	all     int64
	wanted  func(attribute string) bool
	line    int    // of the last line read
	ahead   string // the next physical line, which may continue it
	aheadOK bool
	started bool
}

// ldifError is an error at a line.
type ldifError struct {
	line int
	text string
}

func (e *ldifError) Error() string { return e.text }

func ldifFail(line int, text string, args ...any) error {
	return &ldifError{line, fmt.Sprintf(text, args...)}
}

func newLDIFReader(in io.Reader, wanted func(string) bool) *ldifReader {
	return &ldifReader{in: bufio.NewReaderSize(&withoutMark{in: in}, 1<<16), wanted: wanted}
}

// physical reads a physical line without its end.
func (r *ldifReader) physical() (string, error) {
	var b []byte
	for {
		part, err := r.in.ReadSlice('\n')
		r.all += int64(len(part))
		b = append(b, part...)
		switch {
		case len(b) > maxLDIFLine:
			return "", ldifFail(r.line+1, "a line of more than %d bytes", maxLDIFLine)
		case r.all > maxFile:
			return "", ldifFail(r.line+1, "more than %d bytes", int64(maxFile))
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(b) == 0:
			return "", io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return "", err
		}
		line := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
		if i := strings.IndexAny(line, "\x00\r"); i >= 0 {
			return "", ldifFail(r.line+1, "byte 0x%02x; LDIF writes such values in base64", line[i])
		}
		return line, nil
	}
}

// logical reads a line with its folded continuation lines. The number is that of the first. Comments are skipped.
func (r *ldifReader) logical() (text string, line int, err error) {
	for {
		if !r.aheadOK {
			if r.ahead, err = r.physical(); err != nil {
				return "", r.line, err
			}
			r.line++
		}
		r.aheadOK = false
		text, line = r.ahead, r.line
		if strings.HasPrefix(text, " ") {
			return "", line, ldifFail(line, "a line that begins with a space goes on with the one before, and there is none")
		}
		if text == "" {
			return text, line, nil
		}
		if text, err = r.unfold(text, line); err != nil {
			return "", line, err
		}
		if text[0] != '#' {
			return text, line, nil
		}
	}
}

func (r *ldifReader) unfold(text string, line int) (string, error) {
	var b strings.Builder
	b.WriteString(text)
	for n := 0; ; n++ {
		next, err := r.physical()
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		r.line++
		if !strings.HasPrefix(next, " ") {
			r.ahead, r.aheadOK = next, true
			return b.String(), nil
		}
		if b.WriteString(next[1:]); b.Len() > maxLDIFLine || n > maxFolds {
			return "", ldifFail(line, "a line of more than %d bytes, with those that it is folded into", maxLDIFLine)
		}
	}
}

// next reads the next entry; io.EOF at the end. After an ldifError the rest of the file is unreliable.
func (r *ldifReader) next() (*entry, error) {
	var e *entry
	values := 0
	for {
		text, line, err := r.logical()
		switch {
		case errors.Is(err, io.EOF) && e != nil:
			return e, nil
		case err != nil:
			return nil, err
		case text == "" && e != nil:
			return e, nil
		case text == "":
			continue
		}
		name, content, err := split(text, line)
		if err != nil {
			return nil, err
		}
		switch {
		case name == "version" && !r.started && e == nil:
			if content != "1" {
				return nil, ldifFail(line, "version %q; version 1 is known", clip(content))
			}
			r.started = true
			continue
		case e == nil && name != "dn":
			return nil, ldifFail(line, "%q where an entry begins, with dn; export with ldapsearch -LLL, slapcat, or ldifde", clip(name))
		case e == nil:
			r.started = true
			e = &entry{dn: content, line: line, attrs: map[string][]value{}}
			continue
		case name == "dn":
			return nil, ldifFail(line, "dn within an entry; an empty line separates entries")
		case name == "changetype":
			if !strings.EqualFold(content, "add") {
				return nil, ldifFail(line, "changetype %q: changes are not a directory; export its entries", clip(content))
			}
			continue
		case name == "control":
			return nil, ldifFail(line, "a control: changes are not a directory; export its entries")
		}
		base, options, _ := strings.Cut(name, ";")
		if !r.wanted(base) {
			continue
		}
		if options != "" {
			if strings.Contains(options, "range=") {
				return nil, ldifFail(line, "%s is a part of a list; export all of its values, with paging or ldifde", clip(name))
			}
			continue // with a language option, or a binary certificate
		}
		if !utf8.ValidString(content) {
			return nil, ldifFail(line, "%s is not valid UTF-8", base)
		}
		if values++; values > maxLDIFEntry {
			return nil, ldifFail(line, "an entry with more than %d values", maxLDIFEntry)
		}
		e.attrs[base] = append(e.attrs[base], value{content, line})
	}
}

// split parses a line. Names become lower case.
func split(text string, line int) (name, content string, err error) {
	name, content, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return "", "", ldifFail(line, "%q is not NAME: VALUE", clip(text))
	}
	for i := range len(name) {
		if c := name[i]; c != '-' && c != ';' && c != '.' && c != '=' && c != '*' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return "", "", ldifFail(line, "%q is not the name of an attribute", clip(name))
		}
	}
	name = strings.ToLower(name)
	switch {
	case strings.HasPrefix(content, "<"):
		return "", "", ldifFail(line, "%s is in another file, which is not read; export with values", clip(name))
	case strings.HasPrefix(content, ":"):
		b, err := base64.StdEncoding.Strict().DecodeString(strings.Trim(content[1:], " "))
		if err != nil {
			return "", "", ldifFail(line, "%s is not valid base64", clip(name))
		}
		return name, string(b), nil
	}
	return name, strings.TrimLeft(content, " "), nil
}
