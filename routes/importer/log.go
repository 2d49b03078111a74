package importer

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"gatehouse/routes"
)

// Bounds of a guess, because a decision log is unlimited.
const (
	maxLogLine  = 4 << 20
	maxLogPaths = 50000 // distinct method and path pairs that are kept
)

// Log infers a table from the paths in a decision log (JSON lines with attributes.request.http.method and path, at
// the top level or below "input"). Segments that are numbers, UUIDs or long hexadecimal ids become parameters; so do
// positions with more than 20 distinct words. Every route is marked as a guess. Paths in one of the Forms, and lines
// that are no request, are counted and skipped.
func Log(name string, r io.Reader) (*routes.Table, []routes.Notice, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLogLine)
	root, kept, skipped := newGuess(), 0, 0
	for lines.Scan() {
		method, path := loggedRequest(lines.Bytes())
		if method == "" || !guessMethod.MatchString(method) || routes.FormsOf(path) != 0 || len(path) > routes.MaxTemplate || !strings.HasPrefix(path, "/") {
			skipped++
			continue
		}
		if kept < maxLogPaths {
			if decoded, err := url.PathUnescape(path); err == nil { // cannot fail: the path has no ambiguous form
				kept += root.add(method, decoded)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("reading decision log %q: %w", name, err)
	}
	table := routes.Imported{Framework: routes.OpenAPI, Source: "log " + name}
	root.routes("", map[string]int{}, &table)
	if len(table.Routes) == 0 {
		return nil, nil, fmt.Errorf("decision log %q: no line holds a method and a path", name)
	}
	slices.SortStableFunc(table.Routes, func(a, b routes.ImportedRoute) int { return strings.Compare(a.Template, b.Template) })
	made, notices, err := routes.Import(name, table)
	if skipped > 0 {
		notices = append(notices, routes.Notice{File: name, Text: fmt.Sprintf("%d lines are left out: no request, or an ambiguous path", skipped)})
	}
	if kept >= maxLogPaths {
		notices = append(notices, routes.Notice{File: name, Text: fmt.Sprintf("only the first %d different paths were looked at", maxLogPaths)})
	}
	return made, notices, err
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

// guess is a node of the tree of paths.
type guess struct {
	words   map[string]*guess
	ids     *guess // below a segment that is an id
	methods []string
}

// maxWords is how many distinct words one position may have before it becomes a parameter.
const maxWords = 20

func newGuess() *guess { return &guess{words: map[string]*guess{}} }

// idSegment matches an id: a number, a UUID, or at least eight hexadecimal digits with a decimal digit among them.
var idSegment = regexp.MustCompile(`^(?:[0-9]+|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]*[0-9][0-9a-fA-F]*)$`)

func isID(s string) bool {
	return idSegment.MatchString(s) && (len(s) >= 8 || strings.Trim(s, "0123456789") == "")
}

// add returns 1 for a new path.
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

// routes lists the routes of the tree, after merging parameters.
func (g *guess) routes(prefix string, names map[string]int, table *routes.Imported) {
	if len(g.methods) > 0 && prefix != "" {
		slices.Sort(g.methods)
		table.Routes = append(table.Routes, routes.ImportedRoute{Methods: g.methods, Template: prefix, Guess: true})
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
		below.routes(prefix+"/"+strings.NewReplacer("{", "", "}", "").Replace(word), names, table)
	}
	if g.ids != nil {
		name := "id"
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("id%d", names[name])
		}
		g.ids.routes(prefix+"/{"+name+"}", names, table)
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
