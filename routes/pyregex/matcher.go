// Package pyregex matches like Python's re: it translates a Python expression to the syntax of Go's engine, or of a
// backtracking one with limits, and rejects what it cannot translate exactly. It imports no other package of this
// module.
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

// Bounds of backtracking. Beyond them the result is unknown: the request is refused, and never passed to the next
// route. A timeout is retried, because on a busy machine the library's clock may lag and then jump over a fresh
// deadline.
const (
	backtrackTime     = 30 * time.Millisecond
	backtrackTries    = 3
	MaxBacktrackBytes = 4096
)

// Matcher is a compiled expression: Go's linear-time engine where it supports the expression; otherwise (lookarounds
// and the like) a backtracking engine with limits.
type Matcher struct {
	re   *regexp.Regexp
	back *regexp2.Regexp
}

// Expression is a Python regular expression in the syntax of both engines.
type Expression struct {
	RE2          string // "" where only the backtracking engine supports it
	Backtracking string
}

// Backtracks reports whether only the backtracking engine supports it.
func (e Expression) Backtracks() bool { return e.RE2 == "" && e.Backtracking != "" }

// Linear is a Matcher of a Go expression.
func Linear(re *regexp.Regexp) *Matcher { return &Matcher{re: re} }

// Backtracks reports whether the backtracking engine is used.
func (m *Matcher) Backtracks() bool { return m.back != nil }

var tickOnce sync.Once

// Compile compiles e for the engine that supports it.
func Compile(e Expression) (*Matcher, error) {
	if !e.Backtracks() {
		re, err := regexp.Compile(e.RE2)
		return &Matcher{re: re}, err
	}
	// The library's clock ticks every 100 ms by default.
	tickOnce.Do(func() { regexp2.SetTimeoutCheckPeriod(backtrackTime / 6) })
	back, err := regexp2.Compile(e.Backtracking, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("can't be expressed: %w", err)
	}
	back.MatchTimeout = backtrackTime
	return &Matcher{back: back}, nil
}

// Match reports whether s matches. stuck is set where the limits were exceeded.
func (m *Matcher) Match(s string, stuck *bool) bool {
	if m.re != nil {
		return m.re.MatchString(s)
	}
	return m.Find(s, stuck) != nil
}

// Find returns the positions of the match and its groups, like FindStringSubmatchIndex.
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

// runeOffset is the byte offset of the rune with this number.
func runeOffset(s string, rune int) int {
	at := 0
	for ; rune > 0 && at < len(s); rune-- {
		_, size := utf8.DecodeRuneInString(s[at:])
		at += size
	}
	return at
}

// Append appends text that means the same in both syntaxes.
func (e Expression) Append(s string) Expression {
	return Expression{RE2: e.RE2 + s, Backtracking: e.Backtracking + s}
}
