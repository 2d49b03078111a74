package terminal

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

// Is reports whether f is a terminal. The null device is a character device as well, and is none.
func Is(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// The styles of Paint.
const (
	Bold  = "1"
	Faint = "2"
	Red   = "31"
	Green = "32"
	Amber = "33"
)

// amberOnLight stands for Amber on a light background, where yellow is hard to read.
const amberOnLight = "35"

// Printer writes to W, in colour where that is wanted.
type Printer struct {
	W      io.Writer
	Colour bool
	light  bool // the background
}

// To prints to w: in colour on a terminal, unless NO_COLOR or TERM=dumb says otherwise.
func To(w io.Writer) Printer {
	return Printer{W: w, Colour: Is(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb", light: lightBackground(os.Getenv("COLORFGBG"))}
}

// lightBackground reads what many terminals say about their colours: "0;15" is black on white.
func lightBackground(colours string) bool {
	background := colours[strings.LastIndex(colours, ";")+1:]
	return background == "7" || background == "15"
}

// Paint is the text in a style.
func (p Printer) Paint(style, text string) string {
	if !p.Colour {
		return text
	}
	if p.light && style == Amber {
		style = amberOnLight
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// Count is a number with what it counts: "1 file", "1,234 files".
func Count[N int | int64 | uint64](n N, word string) string {
	if n != 1 {
		word += "s"
	}
	return Thousands(n) + " " + word
}

// Thousands writes 1234567 as 1,234,567.
func Thousands[N int | int64 | uint64](n N) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Duration is a time in nanoseconds to three digits.
func Duration(ns int64) string {
	d := time.Duration(ns)
	for unit := time.Duration(1); ; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
}

// ShellWord is a text as one word of a command line.
func ShellWord(text string) string {
	if strings.ContainsAny(text, "&;()<>*?[]$!'\"|~ ") {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}

// Path is a path as seen from the current folder, where that is shorter.
func Path(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

// Wrap breaks a text between words into lines of at most width characters, where no word is longer. Each begins with indent.
func Wrap(text string, width int, indent string) string {
	var b strings.Builder
	used := 0
	for i, word := range strings.Fields(text) {
		long := utf8.RuneCountInString(word)
		switch {
		case i == 0:
			b.WriteString(indent)
			used = len(indent)
		case used+1+long > width:
			b.WriteString("\n" + indent)
			used = len(indent)
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += long
	}
	return b.String()
}

// Table writes rows in columns. Cells are made visible; empty ones at the end of a row leave nothing behind.
func Table(w io.Writer, rows [][]string) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = Visible(cell)
		}
		fmt.Fprintln(columns, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	return columns.Flush()
}
