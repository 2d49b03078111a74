package routes

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Bounds of a guess: a decision log has no end.
const (
	maxLogLine  = 4 << 20
	maxLogPaths = 50000 // different method and path pairs that are kept
)

// ImportLog guesses a table from the paths in a decision log (lines of JSON with attributes.request.http.method and
// path, at the top or below "input"). Segments that are numbers, UUIDs or long hexadecimal ids become parameters; so do
// the places where more than 20 different words stood. Every route is marked as a guess. Paths in one of the Forms,
// and what is no request, are counted and left out.
func ImportLog(name string, r io.Reader) (*Table, []Notice, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLogLine)
	root, kept, skipped := newGuess(), 0, 0
	for lines.Scan() {
		method, path := loggedRequest(lines.Bytes())
		if method == "" || !guessMethod.MatchString(method) || FormsOf(path) != 0 || len(path) > maxTemplate || !strings.HasPrefix(path, "/") {
			skipped++
			continue
		}
		if kept < maxLogPaths {
			kept += root.add(method, decodePath(path, false))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("reading decision log %q: %w", name, err)
	}
	spec := newTableSpec(OpenAPI)
	spec.source = "log " + name
	root.routes("", map[string]int{}, spec)
	if len(spec.routes) == 0 {
		return nil, nil, fmt.Errorf("decision log %q: no line holds a method and a path", name)
	}
	slices.SortStableFunc(spec.routes, func(a, b routeSpec) int { return strings.Compare(a.template, b.template) })
	table, notices, err := compileLeniently(name, spec)
	if skipped > 0 {
		notices = append(notices, Notice{File: name, Text: fmt.Sprintf("%d lines are left out: no request, or an ambiguous path", skipped)})
	}
	if kept >= maxLogPaths {
		notices = append(notices, Notice{File: name, Text: fmt.Sprintf("only the first %d different paths were looked at", maxLogPaths)})
	}
	return table, notices, err
}

var guessMethod = regexp.MustCompile(`^[A-Z][A-Z0-9_-]{0,19}$`)

func loggedRequest(line []byte) (method, path string) {
	type request struct{ Method, Path string }
	type attributes struct {
		Request struct {
			HTTP request `json:"http"`
		} `json:"request"`
	}
	var entry struct {
		Request    request    `json:"request"` // also where the input is not logged
		Attributes attributes `json:"attributes"`
		Input      struct {
			Attributes attributes `json:"attributes"`
		} `json:"input"`
	}
	if json.Unmarshal(line, &entry) != nil {
		return "", ""
	}
	http := entry.Attributes.Request.HTTP
	if http.Method == "" {
		http = entry.Input.Attributes.Request.HTTP
	}
	if http.Method == "" {
		http = entry.Request
	}
	path, _, _ = strings.Cut(http.Path, "?")
	return http.Method, path
}

// guess is a place in the tree of paths.
type guess struct {
	words   map[string]*guess
	ids     *guess // below a segment that is an id
	methods []string
}

// maxWords is how many different words one place may have before it looks like a parameter.
const maxWords = 20

func newGuess() *guess { return &guess{words: map[string]*guess{}} }

// idSegment is a segment that names a thing: a number, a UUID, or at least eight hexadecimal digits with a digit among them.
var idSegment = regexp.MustCompile(`^(?:[0-9]+|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]*[0-9][0-9a-fA-F]*)$`)

func isID(s string) bool {
	return idSegment.MatchString(s) && (len(s) >= 8 || strings.Trim(s, "0123456789") == "")
}

// add returns 1 for a path that is new.
func (g *guess) add(method, path string) int {
	for _, segment := range strings.Split(path[1:], "/") {
		if isID(segment) {
			if g.ids == nil {
				g.ids = newGuess()
			}
			g = g.ids
			continue
		}
		next := g.words[segment]
		if next == nil {
			next = newGuess()
			g.words[segment] = next
		}
		g = next
	}
	if slices.Contains(g.methods, method) {
		return 0
	}
	g.methods = append(g.methods, method)
	return 1
}

// routes writes the tree out, after joining what looks like one parameter.
func (g *guess) routes(prefix string, names map[string]int, spec *tableSpec) {
	if len(g.methods) > 0 && prefix != "" {
		slices.Sort(g.methods)
		spec.routes = append(spec.routes, routeSpec{key: "route", methods: g.methods, template: prefix, guess: true})
	}
	if len(g.words) > maxWords {
		if g.ids == nil {
			g.ids = newGuess()
		}
		for word, below := range g.words {
			if word != "" {
				g.ids.merge(below)
				delete(g.words, word)
			}
		}
	}
	for word, below := range g.words {
		below.routes(prefix+"/"+strings.NewReplacer("{", "", "}", "").Replace(word), names, spec)
	}
	if g.ids != nil {
		name := "id"
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("id%d", names[name])
		}
		g.ids.routes(prefix+"/{"+name+"}", names, spec)
		names["id"]--
	}
}

func (g *guess) merge(o *guess) {
	for _, m := range o.methods {
		if !slices.Contains(g.methods, m) {
			g.methods = append(g.methods, m)
		}
	}
	for word, below := range o.words {
		if g.words[word] == nil {
			g.words[word] = newGuess()
		}
		g.words[word].merge(below)
	}
	if o.ids != nil {
		if g.ids == nil {
			g.ids = newGuess()
		}
		g.ids.merge(o.ids)
	}
}
