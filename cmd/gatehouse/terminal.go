package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible is a text from a log, a client or a server as one line that a terminal shows and does not obey: control characters (C0, DEL, C1),
// line breaks, marks that change the direction of writing and bytes that are no UTF-8 stand there as escapes. Everything that is printed for
// people goes through here.
func visible(text string) string {
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

// visibleLines is visible for a text of our own that has several lines.
func visibleLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		before := len(lines[i]) - len(strings.TrimLeft(lines[i], "\t"))
		lines[i] = lines[i][:before] + visible(lines[i][before:])
	}
	return strings.Join(lines, "\n")
}

// visibleJSON is the same JSON without characters that a terminal obeys. What they can stand in is strings, and there are escapes for them.
func visibleJSON(text []byte) []byte {
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

// jsonWriter writes JSON as visibleJSON has it. Each Write has whole characters, as those of an encoder have.
type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(text []byte) (int, error) {
	if _, err := j.w.Write(visibleJSON(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// jsonLines writes one document a line. Templates have angle brackets, so these stay as they are.
func jsonLines(w io.Writer) *json.Encoder {
	e := json.NewEncoder(jsonWriter{w})
	e.SetEscapeHTML(false)
	return e
}

// visibleArgs are arguments for a format, those that are texts made visible.
func visibleArgs(args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			out[i] = visible(arg)
		case error:
			out[i] = visible(arg.Error())
		default:
			out[i] = arg
		}
	}
	return out
}
