package routes

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// Bounds of an expression that needs backtracking. Beyond them nothing is said about a path: the request is refused, and
// never handed to the next route. The time is tried again, because the library's clock may lag behind on a busy machine and
// then leap over a deadline that was set a moment ago.
const (
	backtrackTime  = 30 * time.Millisecond
	backtrackTries = 3
	backtrackBytes = 4096
)

// matcher is a compiled expression: Go's own where that can say it, which takes linear time; else, for lookarounds and what
// else only a backtracking engine has, one under limits.
type matcher struct {
	re   *regexp.Regexp
	back *regexp2.Regexp
}

// expression is a regular expression of Python's in the syntax of both engines.
type expression struct {
	re2  string // "" where only the backtracking engine can say it
	back string
}

// backtracks reports whether only the backtracking engine can say it.
func (e expression) backtracks() bool { return e.re2 == "" && e.back != "" }

var tickOnce sync.Once

// compileMatcher compiles e for the engine that can say it.
func compileMatcher(e expression) (*matcher, error) {
	if !e.backtracks() {
		re, err := regexp.Compile(e.re2)
		return &matcher{re: re}, err
	}
	// The library looks at a clock that ticks every 100 ms unless told otherwise.
	tickOnce.Do(func() { regexp2.SetTimeoutCheckPeriod(backtrackTime / 6) })
	back, err := regexp2.Compile(e.back, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("can't be expressed: %w", err)
	}
	back.MatchTimeout = backtrackTime
	return &matcher{back: back}, nil
}

// match reports whether s matches. stuck is set where that can't be said within the limits.
func (m *matcher) match(s string, stuck *bool) bool {
	if m.re != nil {
		return m.re.MatchString(s)
	}
	return m.find(s, stuck) != nil
}

// find returns where the match and its groups are, as FindStringSubmatchIndex does.
func (m *matcher) find(s string, stuck *bool) []int {
	if m.re != nil {
		return m.re.FindStringSubmatchIndex(s)
	}
	if *stuck || len(s) > backtrackBytes {
		*stuck = true
		return nil
	}
	var found *regexp2.Match
	err := errors.New("not tried")
	for try := 0; err != nil; try++ {
		if try == backtrackTries {
			*stuck = true
			return nil
		}
		found, err = m.back.FindStringMatch(s)
	}
	if found == nil {
		return nil
	}
	out := make([]int, 0, 2*found.GroupCount())
	for _, g := range found.Groups() {
		if len(g.Captures) == 0 {
			out = append(out, -1, -1)
			continue
		}
		out = append(out, runeOffset(s, g.Index), runeOffset(s, g.Index+g.Length))
	}
	return out
}

// runeOffset is the byte where the rune with this number begins.
func runeOffset(s string, rune int) int {
	at := 0
	for ; rune > 0 && at < len(s); rune-- {
		_, size := utf8.DecodeRuneInString(s[at:])
		at += size
	}
	return at
}

// plus is the expression followed by what reads the same in both.
func (e expression) plus(s string) expression { return expression{re2: e.re2 + s, back: e.back + s} }

// exprBuilder puts an expression together out of text and converters.
type exprBuilder struct {
	both       expression
	backtracks bool
}

func (b *exprBuilder) raw(s string) { b.both = b.both.plus(s) }

// converter puts a converter's expression in, as group number n.
func (b *exprBuilder) converter(c *converter, n int) {
	b.both.re2 += fmt.Sprintf("(?P<p%d>%s)", n, c.expr)
	b.both.back += fmt.Sprintf("(?<p%d>%s)", n, cmp.Or(c.back, c.expr))
	b.backtracks = b.backtracks || c.backtracks
}

// compile gives what was put together to the engine that can say it.
func (b *exprBuilder) compile() (*matcher, error) {
	if b.backtracks {
		return compileMatcher(expression{back: b.both.back})
	}
	return compileMatcher(expression{re2: b.both.re2})
}
