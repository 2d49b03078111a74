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

// Problem takes an error of the YAML library apart: the line, 0 where it names none, and the rest on one line. The rest may show the file's text.
func Problem(err error) (at int, text string) {
	text = strings.Join(strings.Fields(err.Error()), " ")
	if strings.HasSuffix(text, "found character that cannot start any token") {
		text += ": a tab? Indent with spaces. Text that begins with @, ` or % stands in quotes"
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
