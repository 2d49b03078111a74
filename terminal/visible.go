// Package terminal is how text, JSON and progress are printed for people: made visible, so that a terminal obeys nothing that a client or a
// log put in, coloured where it is one, counted, and kept up to date while something takes long. It may import nothing of ours.
package terminal

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Visible is a text from a log, a client or a server as one line that a terminal shows and does not obey: control characters (C0, DEL, C1),
// line breaks, marks that change the direction of writing and bytes that are no UTF-8 stand there as escapes. Everything that is printed for
// people goes through here.
func Visible(text string) string {
	if isVisible(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case unicode.IsPrint(r):
			b.WriteString(text[i : i+size])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	return b.String()
}

func isVisible(text string) bool {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			return false
		}
		i += size
	}
	return true
}

// VisibleLines is Visible for a text of our own that has several lines.
func VisibleLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		before := len(lines[i]) - len(strings.TrimLeft(lines[i], "\t"))
		lines[i] = lines[i][:before] + Visible(lines[i][before:])
	}
	return strings.Join(lines, "\n")
}

// VisibleJSON is the same JSON without characters that a terminal obeys. What they can stand in is strings, and there are escapes for them.
func VisibleJSON(text []byte) []byte {
	at := -1
	for i, c := range text {
		if c >= 0x7f || c < ' ' && c != '\n' && c != '\t' && c != '\r' {
			at = i
			break
		}
	}
	if at < 0 {
		return text
	}
	out := append(make([]byte, 0, len(text)+16), text[:at]...)
	for i := at; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == '\n' || r == '\t' || r == '\r' || unicode.IsPrint(r) && (r != utf8.RuneError || size > 1):
			out = append(out, text[i:i+size]...)
		case r < 0x10000:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
		i += size
	}
	return out
}

// jsonWriter writes JSON as VisibleJSON has it. Each Write has whole characters, as those of an encoder have.
type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(text []byte) (int, error) {
	if _, err := j.w.Write(VisibleJSON(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// JSON writes one document a line. Templates have angle brackets, so these stay as they are.
func JSON(w io.Writer) *json.Encoder {
	e := json.NewEncoder(jsonWriter{w})
	e.SetEscapeHTML(false)
	return e
}

// VisibleArgs are arguments for a format, those that are texts made visible.
func VisibleArgs(args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			out[i] = Visible(arg)
		case error:
			out[i] = Visible(arg.Error())
		default:
			out[i] = arg
		}
	}
	return out
}

const maxWord = 200 // characters of one value in a line

// Word is a value as one word that a terminal shows and does not obey: a client may have written it.
func Word(s string) string {
	if s == "" {
		return "-"
	}
	cut := false
	for i, n := 0, 0; i < len(s); n++ {
		if n == maxWord {
			s, cut = s[:i], true
			break
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	if strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsGraphic(r) || unicode.IsSpace(r) || r == utf8.RuneError || r == '"'
	}) {
		s = strconv.Quote(s)
	}
	if cut {
		s += "..."
	}
	return s
}
