package bundle

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxExcerpt bounds what is shown of a source line, in characters.
const maxExcerpt = 120

// excerpt is the source line with a mark below the column: two lines, or "" where there is no source.
//
//	7:10 | allow if inptu.user == "x"
//	     |          ^
func (p Problem) excerpt() string {
	if p.Source == "" || p.Column < 1 {
		return ""
	}
	line, column := []rune(p.Source), p.Column
	column = min(column, len(line)+1)
	if cut := column - maxExcerpt*3/4; cut > 0 && len(line) > maxExcerpt {
		line, column = line[cut:], column-cut
	}
	line = line[:min(len(line), maxExcerpt)]
	for i, r := range line {
		if r == '\t' {
			line[i] = ' '
		} else if !unicode.IsPrint(r) {
			line[i] = utf8.RuneError
		}
	}
	indent := 0
	for indent < len(line) && indent < column-1 && line[indent] == ' ' {
		indent++
	}
	at := fmt.Sprintf("%d:%d", p.Line, p.Column)
	return fmt.Sprintf("    %s | %s\n    %s | %s^", at, string(line[indent:]), strings.Repeat(" ", len(at)), strings.Repeat(" ", column-1-indent))
}

// Excerpts is the text of an error, in which each Problem is followed by the source line that it is about: for people at a terminal.
func Excerpts(err error) string {
	text := err.Error()
	eachProblem(err, func(p Problem) {
		excerpt, said := p.excerpt(), p.Error()
		if excerpt == "" {
			return
		}
		if at := strings.Index(text, said); at >= 0 {
			end := at + len(said)
			text = text[:end] + "\n" + excerpt + text[end:]
		}
	})
	return text
}

// All are the problems in an error, also in one that joins several.
func All(err error) (list []Problem) {
	eachProblem(err, func(p Problem) { list = append(list, p) })
	return list
}

func eachProblem(err error, do func(Problem)) {
	if list, ok := err.(Problems); ok {
		for _, p := range list {
			do(p)
		}
		return
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			eachProblem(one, do)
		}
	default:
		if inner := errors.Unwrap(err); inner != nil {
			eachProblem(inner, do)
		}
	}
}
