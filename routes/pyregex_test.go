package routes_test

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"gatehouse/routes"

	"github.com/google/go-cmp/cmp"
)

// patterns that people write, and what is near them: each is put to Python's re with many texts.
var patterns = []string{
	`^(?!api/).*$`, `^(?!api/|static/).*`, `^(?!api(?:/|$)).*$`, `^(?P<p>(?!.*\.\.)[\w/]+)/$`, `^(?:(?!/edit).)*$`, `(?<!x)end$`, `(?<=/)(\d+)$`,
	`^(?=.*\d)(?P<a>\w+)/(?P<b>.*)$`, `^(?P<a>\w+)-(?P=a)$`, `^(\w+)/\1/?$`, `^(?P<x>a)(b)?(?P<y>c)?\2?`, `\bfoo\b`, `^a\b.`, `^(?>a+)b`, `^(?>a|ab)c`, `^a++b`,
	`^(?:ab)*+a`, `^[a-z]?+b`, `^a{1,2}+a$`, `a{,2}b`, `x{,}y`, `x{}y`, `^[^\W\d]+$`, `^[\s\S]*$`, `^(?=(a+))\1b`, `^(?!(a)b)a`, `^(a|(b))+$`, `^(?:(a)|b)*$`,
	`^(a*)*$`, `^(a*)+b?$`, `(?=a)`, `^(?=a$)a`, `^a$|^b`, `^(?!a$)a`, `^(a)?(?(1)b|c)$`, `^(?!\d)\w`, `^\S+(?<!\.html)$`, `^.*(?<!/)$`, `(?!^)a`, `^(?P<n>\d{3})(?!\d)`,
	`^[\]\-^a]+(?!b)`, `^[]a]+(?!b)`, `^(?![\u0660-\u0669])\d`, `^(?!é).`, `^\D(?!\D)`, `^(?!a).\Z`, `(?s)^a.b`, `(?i)^a`, `^(?#x)a`, `^(?i:a)b`, `^\x41`, `^a(?!\Z)`,
	`a**`, `^(?<n>a)`, `^(?!a`, `^\Ba`, `^(?<=a|b)c`, `(?<!a|b)c`, `^a{2}{3}`, `^(\d+)(?!x)(\d)$`, `(.)\1`, `^(.*)/(.*)(?<!x)$`, `(a)(?=\1)`, `^((a)|b)*\2?(?!c)`,
}

type pythonAnswer struct {
	Groups [][]*string `json:"groups"`
	Error  string      `json:"error"`
}

// TestPythonExpressions: an expression takes the same texts with the same groups as in Python, or it is said not to be one that can be
// expressed. Both engines are held to it: known expressions, and ones made at random.
func TestPythonExpressions(t *testing.T) {
	t.Parallel()
	o := startOracle(t, "re", "-")
	g := regexGenerator{rand.New(rand.NewPCG(7, 11))}
	tally := map[string]int{}
	asked := 0
	for _, pattern := range patterns {
		o.comparePattern(t, g, pattern, false, tally)
		o.comparePattern(t, g, pattern, true, tally)
	}
	for asked < expressionCount {
		asked++
		o.comparePattern(t, g, g.pattern(3), g.IntN(2) == 0, tally)
		if t.Failed() && asked > 500 {
			break
		}
	}
	t.Log(tally)
	if tally["linear"] < asked/20 || tally["backtracking"] < asked/20 {
		t.Errorf("the expressions say little: %v", tally)
	}
}

func (o *oracle) comparePattern(t *testing.T, g regexGenerator, pattern string, full bool, tally map[string]int) {
	t.Helper()
	texts := []string{"", "a", "b", "api/", "api/x", "apix", "a\n", "foo", "x foo y", "aab", "ab", "abab", "éa", "٣٤", "a/b/c", "page.html", "end", "xend", "a-a", "12/12", "123", "1234", "\n"}
	for range 12 {
		texts = append(texts, g.text())
	}
	theirs := o.python(t, pattern, full, texts)
	for i, text := range texts {
		ours, engine, err := routes.MatchPython(pattern, full, text)
		switch {
		case err != nil:
			tally["not expressed"]++
			return
		case theirs.Error != "":
			if tally["invalid in Python"]++; engine == "linear" {
				t.Logf("%q: Python says %s", pattern, theirs.Error) // such a table is never imported
			}
			return
		case engine == "stuck":
			tally["stuck"]++
			continue
		}
		tally[engine]++
		if engine == "linear" && len(ours) > 0 && len(theirs.Groups[i]) > 0 {
			ours[0], theirs.Groups[i][0] = nil, nil // "$" may have taken the newline: where the match ends is asked for includes alone, which have none
		}
		if reflect.DeepEqual(theirs.Groups[i], ours) { // cmp takes a hundred times as long
			continue
		}
		if diff := cmp.Diff(theirs.Groups[i], ours); diff != "" {
			t.Errorf("%q on %q, full %t, %s: %s", pattern, text, full, engine, diff)
			return
		}
	}
}

func (o *oracle) python(t *testing.T, pattern string, full bool, texts []string) pythonAnswer {
	t.Helper()
	line, err := json.Marshal(map[string]any{"pattern": pattern, "full": full, "texts": texts})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	var a pythonAnswer
	if !o.out.Scan() {
		t.Fatalf("the oracle ended at %q: %v", pattern, o.out.Err())
	}
	if err := json.Unmarshal(o.out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

type regexGenerator struct{ *rand.Rand }

func (g regexGenerator) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g regexGenerator) pattern(depth int) string {
	out := g.pick("^", "^", "")
	for range 1 + g.IntN(4) {
		out += g.item(depth)
	}
	return out + g.pick("$", "$", "", `\Z`)
}

func (g regexGenerator) item(depth int) string {
	if depth == 0 || g.IntN(3) > 0 {
		atom := g.pick("a", "b", "c", "/", "-", ".", `\w`, `\d`, `\s`, `\S`, `\D`, `\W`, "[ab]", "[^a]", `[\w-]`, `[^/]`, `[^\s/]`, `\.`, "é", "[a-c1]", `\b`, `\1`, "$", "^")
		if strings.Contains(`\b$^`, atom) {
			return atom
		}
		return atom + g.pick("", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{2,}", "*+", "++", "?+")
	}
	open := g.pick("(", "(", "(?:", "(?=", "(?!", "(?!", "(?<!", "(?<=", "(?>", "(?P<n"+string(rune('a'+g.IntN(26)))+">")
	inner := ""
	for range 1 + g.IntN(2) {
		inner += g.item(depth - 1)
	}
	if g.IntN(3) == 0 {
		inner += "|" + g.item(depth-1)
	}
	if strings.HasPrefix(open, "(?=") || strings.HasPrefix(open, "(?!") || strings.HasPrefix(open, "(?<") {
		return open + inner + ")"
	}
	return open + inner + ")" + g.pick("", "", "", "?", "*", "+", "{2}", "*+", "*?")
}

func (g regexGenerator) text() string {
	out := ""
	for range g.IntN(9) {
		out += g.pick("a", "a", "b", "c", "/", "-", ".", "1", "2", " ", "\n", "é", "٣", "_", "x", "A")
	}
	return out
}

// TestBacktrackingIsBounded: what takes too long or is too long is refused; no other route gets the request.
func TestBacktrackingIsBounded(t *testing.T) {
	table, _, err := routes.Parse("routes.yaml", []byte(`framework: django
converters: {slow: {regex: "(?:a|aa)+(?!x)b", exact: true}}
routes:
  - re_path: GET ^look/(?!x)(a+)+b$
  - route: GET /conv/<slow:s>/
  - GET /fast/
  - GET /<path:p>
`))
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", routes.BacktrackBytes)
	for path, want := range map[string]routes.Outcome{
		"/look/aab": routes.Matched, "/look/x": routes.Matched, "/look/" + strings.Repeat("a", 60): routes.Refused, "/look/" + long: routes.Refused,
		"/conv/aab/": routes.Matched, "/conv/" + strings.Repeat("a", 60) + "/": routes.Refused, "/fast/": routes.Matched, "/other/" + long: routes.Matched,
	} {
		start := time.Now()
		if got := table.Match("GET", "x", path); got.Outcome != want {
			t.Errorf("%.40s: %s, want %s", path, got.Outcome, want)
		}
		t.Logf("%.40s: %s", path, time.Since(start))
	}
}

// TestDigitsOfPython guards the assumption that both take \d for the category Nd.
func TestDigitsOfPython(t *testing.T) {
	for _, r := range []rune{'0', '9', '٣', '߀', '𝟘', '²', '½', 'Ⅷ', '一'} {
		got, _, err := routes.MatchPython(`^(?!x)\d$`, false, string(r))
		if err != nil || (got != nil) != unicode.Is(unicode.Nd, r) {
			t.Errorf("%q: %v %v", r, got, err)
		}
	}
}
