// Package pyregex matches as Python's re does: it says an expression of Python's in the syntax of Go's engine, or of one that backtracks under
// limits, and never says one only nearly. It imports nothing of ours.
package pyregex

import (
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
	backtrackTime     = 30 * time.Millisecond
	backtrackTries    = 3
	MaxBacktrackBytes = 4096
)

// Matcher is a compiled expression: Go's own where that can say it, which takes linear time; else, for lookarounds and what
// else only a backtracking engine has, one under limits.
type Matcher struct {
	re   *regexp.Regexp
	back *regexp2.Regexp
}

// Expression is a regular expression of Python's in the syntax of both engines.
type Expression struct {
	RE2  string // "" where only the backtracking engine can say it
	Back string
}

// Backtracks reports whether only the backtracking engine can say it.
func (e Expression) Backtracks() bool { return e.RE2 == "" && e.Back != "" }

// Linear is a Matcher of an expression of Go's.
func Linear(re *regexp.Regexp) *Matcher { return &Matcher{re: re} }

// Backtracks reports whether the backtracking engine is used.
func (m *Matcher) Backtracks() bool { return m.back != nil }

var tickOnce sync.Once

// Compile compiles e for the engine that can say it.
func Compile(e Expression) (*Matcher, error) {
	if !e.Backtracks() {
		re, err := regexp.Compile(e.RE2)
		return &Matcher{re: re}, err
	}
	// The library looks at a clock that ticks every 100 ms unless told otherwise.
	tickOnce.Do(func() { regexp2.SetTimeoutCheckPeriod(backtrackTime / 6) })
	back, err := regexp2.Compile(e.Back, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("can't be expressed: %w", err)
	}
	back.MatchTimeout = backtrackTime
	return &Matcher{back: back}, nil
}

// Match reports whether s matches. stuck is set where that can't be said within the limits.
func (m *Matcher) Match(s string, stuck *bool) bool {
	if m.re != nil {
		return m.re.MatchString(s)
	}
	return m.Find(s, stuck) != nil
}

// Find returns where the match and its groups are, as FindStringSubmatchIndex does.
func (m *Matcher) Find(s string, stuck *bool) []int {
	if m.re != nil {
		return m.re.FindStringSubmatchIndex(s)
	}
	if *stuck || len(s) > MaxBacktrackBytes {
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

// Plus is the expression followed by what reads the same in both.
func (e Expression) Plus(s string) Expression { return Expression{RE2: e.RE2 + s, Back: e.Back + s} }
