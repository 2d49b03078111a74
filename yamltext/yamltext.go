// Package yamltext says where text is not YAML. The YAML library's errors have the line in their text alone; this is the only place that takes
// it out of there. It imports nothing of ours.
package yamltext

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// line is how the library begins the errors of its scanner and parser, and each of those of decoding.
var line = regexp.MustCompile(`^(?:.*yaml: )?(?:unmarshal errors: *)?line (\d+): (.*)`)

// hints are what is mostly meant by what the library says.
var hints = map[string]string{
	"mapping values are not allowed in this context": ": a line that stands further in than the one above it, or a value with \": \" in it that is not in quotes?",
	"did not find expected node content":             ": a [ or { that is not closed, or a comma too many?",
	"did not find expected key":                      ": a line that stands further out or in than its neighbours?",
	"did not find expected '-' indicator":            ": a line that stands further out or in than the entries of the list?",
	"did not find expected ',' or ']'":               ": a [ that is not closed?",
	"did not find expected ',' or '}'":               ": a { that is not closed?",
	"found unexpected end of stream":                 ": a quote that is not closed?",
	"could not find expected ':'":                    ": a key without its \":\", or a text of several lines that is not in quotes?",
}

// Problem takes an error of the YAML library apart: the line, 0 where it names none, and the rest on one line. The rest may show the file's text.
func Problem(err error) (at int, text string) {
	text = strings.Join(strings.Fields(err.Error()), " ")
	if strings.HasSuffix(text, "found character that cannot start any token") {
		text += ": a tab? Indent with spaces. Text that begins with @, ` or % stands in quotes"
	}
	for said, hint := range hints {
		if strings.HasSuffix(text, said) {
			text += hint
		}
	}
	found := line.FindStringSubmatch(text)
	if found == nil {
		return 0, strings.TrimPrefix(text, "yaml: ")
	}
	at, _ = strconv.Atoi(found[1])
	return at, found[2]
}

// Error is the library's error in the form file:line: what. The library names no line where it is the first.
func Error(file string, err error) error {
	at, text := Problem(err)
	return fmt.Errorf("%s:%d: %s", file, max(at, 1), text)
}
