package search

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Query selects events of a log.
type Query struct {
	Denied, Allowed                          bool
	Subjects, Routes, Apps, Reasons, Methods []string // any of these; empty: all
	Path                                     string   // a prefix
	Since, Until                             string   // as Moment reads them

	from, to time.Time
	needles  [][]byte // byte strings that every matching event contains
}

// Compile parses the times, and prepares the byte strings that every matching event contains.
func (q *Query) Compile() (err error) {
	if q.Denied && q.Allowed {
		return errors.New("--denied and --allowed: a decision is one of the two, leave one out")
	}
	now := time.Now()
	if q.from, err = Moment("--since", q.Since, now); err != nil {
		return err
	}
	if q.to, err = Moment("--until", q.Until, now); err != nil {
		return err
	}
	for i := range q.Methods {
		q.Methods[i] = strings.ToUpper(q.Methods[i])
	}
	for _, values := range [][]string{q.Subjects, q.Apps} {
		if len(values) == 1 && isWord(values[0]) {
			q.needles = append(q.needles, []byte(strconv.Quote(values[0])))
		}
	}
	return nil
}

// isWord reports whether every JSON encoder writes the text alike.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && r != '@' && r != ':' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// everything reports whether only the time is restricted.
func (q *Query) everything() bool {
	return !q.Denied && !q.Allowed && q.Path == "" && len(q.Subjects)+len(q.Routes)+len(q.Apps)+len(q.Reasons)+len(q.Methods) == 0
}

// All reports whether every event matches.
func (q *Query) All() bool { return q.everything() && q.from.IsZero() && q.to.IsZero() }

// May reports whether an unparsed line could match.
func (q *Query) May(line []byte) bool {
	return !slices.ContainsFunc(q.needles, func(needle []byte) bool { return !bytes.Contains(line, needle) })
}

// During reports whether an event is within the time range.
func (q *Query) During(e *Event) bool {
	if q.from.IsZero() && q.to.IsZero() {
		return true
	}
	at := e.When()
	return !at.Before(q.from) && (q.to.IsZero() || at.Before(q.to))
}

// Wants reports whether an event matches. A gap matches every query that is not about particular decisions.
func (q *Query) Wants(e *Event) bool {
	if !q.During(e) {
		return false
	}
	if e.Gap.Recorded {
		return q.everything()
	}
	if q.Denied || q.Allowed || len(q.Reasons) > 0 {
		outcome, reason, _ := e.Outcomes()
		if q.Denied && outcome != "deny" || q.Allowed && outcome != "allow" || !oneOf(q.Reasons, reason) {
			return false
		}
	}
	return oneOf(q.Subjects, e.Identity.Subject.Decode()) && oneOf(q.Apps, e.App.Decode()) && oneOf(q.Methods, e.Request.Method.Decode()) &&
		strings.HasPrefix(e.Request.Path.Decode(), q.Path) && q.matchesRoute(e)
}

// oneOf reports whether a value is in the list; an empty list matches all.
func oneOf(asked []string, is string) bool { return len(asked) == 0 || slices.Contains(asked, is) }

// matchesRoute matches a route by any of its names.
func (q *Query) matchesRoute(e *Event) bool {
	if len(q.Routes) == 0 {
		return true
	}
	at := e.RouteOf()
	return slices.Contains(q.Routes, e.Route.Decode()) || slices.ContainsFunc(q.Routes, at.Named)
}

// Each calls use with every matching event, up to the end of the log. e is overwritten for each; a nil e skips
// parsing, and is only valid where everything matches.
func (q *Query) Each(ctx context.Context, l *Source, e *Event, pattern *regexp.Regexp, use func([]byte, *Event) error) error {
	may := func(line []byte) bool { return q.May(line) && (pattern == nil || pattern.Match(line)) }
	for {
		line, err := l.Next(ctx, e, may)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && (e == nil || q.Wants(e)) {
			err = use(line, e)
		}
		if err != nil {
			return err
		}
	}
}
