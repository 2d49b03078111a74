package regoerror

import (
	"strings"
	"unicode"

	"gatehouse/nearest"
)

// hints are what to do about errors of the parser, which speaks of tokens. code is what must stand at the column where that matters.
var hints = []struct{ message, code, hint string }{
	{"unexpected and token", "&", "Rego has no &&: write the conditions on lines of their own, or with ; between them"},
	{"unexpected or token", "|", "Rego has no ||: write a second rule of the same name"},
	{"unexpected eq token", "=", "values are compared with =="},
	{"illegal token", `"`, "is the string closed, on the same line?"},
	{"illegal token", "'", `strings stand in double quotes: "text"`},
	{"illegal token", "!", "a negation is written: not condition"},
	{"illegal ! character", "", "a negation is written: not condition"},
	{"`if` keyword is required before rule body", "", "write name if { ... }"},
	{"`contains` keyword is required for partial set rules", "", "write name contains value if { ... }"},
	{"number cannot be used for rule name", "", "does the line before end too early? For an alternative write a second rule of the same name"},
	{"unexpected eof token", "", "a { or ( or [ before is not closed"},
	{"unexpected package", "", "a file has one package, in its first line"},
	{"var cannot be used for rule name", "", "does the line before end too early, or is `if` missing?"},
}

// syntaxHint says what to do about an error of the parser; "" where that is not known. rest is the source from the error's column on.
func syntaxHint(message, rest string) string {
	for _, h := range hints {
		if strings.HasPrefix(message, h.message) && strings.HasPrefix(strings.TrimLeft(rest, " "), h.code) {
			return h.hint
		}
	}
	return ""
}

// joinHints are what to write instead of other languages' words between conditions.
var joinHints = map[string]string{
	"and": "Rego has no and: write one condition per line within { }",
	"or":  "Rego has no or: write a second rule of the same name",
}

// joined is the word that joins conditions in a line that does not parse, and its column; "" where none is there.
func joined(message, line string) (word string, column int) {
	after := strings.HasPrefix(message, "unexpected identifier token") || strings.HasPrefix(message, "`contains` keyword is required")
	for _, word := range []string{"and", "or"} {
		at := columnOf(line, word, 1)
		if !after || at < 2 {
			continue
		}
		before := string([]rune(line)[:at-1])
		if !strings.HasSuffix(before, " ") || strings.TrimSpace(before) == "" || strings.ContainsAny(before, "#`") || strings.Count(before, `"`)%2 != 0 {
			continue // it begins a line, or is text
		}
		return word, at
	}
	return "", 0
}

// didYouMean is the question for the known word nearest to one that is not known, to be put behind an error; "" where none is near.
func didYouMean(word string, known []string) string {
	if len(word) < 3 {
		return ""
	}
	if near := nearest.Word(word, known, 1+max(2, len(word)/4)); near != "" && near != word {
		return "; did you mean " + near + "?"
	}
	return ""
}

// lineOf is a line of a text, from 1.
func lineOf(text string, line int) string {
	for range line - 1 {
		_, rest, ok := strings.Cut(text, "\n")
		if !ok {
			return ""
		}
		text = rest
	}
	text, _, _ = strings.Cut(text, "\n")
	return strings.TrimSuffix(text, "\r")
}

// from is a line from a column on.
func from(line string, column int) string {
	if runes := []rune(line); column >= 1 && column <= len(runes) {
		return string(runes[column-1:])
	}
	return ""
}

// columnOf is where a word stands in a line, at or after a column; 0 where it does not.
func columnOf(line, word string, column int) int {
	runes, letters := []rune(line), []rune(word)
	for at := max(column, 1) - 1; at+len(letters) <= len(runes); at++ {
		end := at + len(letters)
		if string(runes[at:end]) == word && (at == 0 || !inWord(runes[at-1])) && (end == len(runes) || !inWord(runes[end])) {
			return at + 1
		}
	}
	return 0
}

func inWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
