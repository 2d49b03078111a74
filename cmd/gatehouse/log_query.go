package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/trial/logged"
)

// logQuery says which events of a log are asked for.
type logQuery struct {
	denied, allowed                        bool
	subjects, routes, apps, reasons, verbs []string
	path, since, until                     string

	from, to time.Time
	needles  [][]byte // an event without all of these is none that is asked for
}

func (q *logQuery) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&q.denied, "denied", false, "only denials, those of a dry run too")
	f.BoolVar(&q.allowed, "allowed", false, "only what was allowed")
	f.StringArrayVar(&q.subjects, "subject", nil, "only this caller; may be repeated")
	f.StringArrayVar(&q.routes, "route", nil, "only this route: its name, its template, or method and template; may be repeated")
	f.StringArrayVar(&q.apps, "app", nil, "only this application; may be repeated")
	f.StringArrayVar(&q.reasons, "reason", nil, "only this reason, such as denied or no_route; may be repeated")
	f.StringArrayVar(&q.verbs, "method", nil, "only this method; may be repeated")
	f.StringVar(&q.path, "path", "", "only paths that begin like this")
	f.StringVar(&q.since, "since", "", "only from this time on: RFC 3339, a date, or how long ago (90m, 36h, 7d)")
	f.StringVar(&q.until, "until", "", "only before this time, likewise")
}

// compile reads the times, and finds what every event that is asked for has in its text.
func (q *logQuery) compile() (err error) {
	if q.denied && q.allowed {
		return errors.New("--denied and --allowed: a decision is one of the two, leave one out")
	}
	now := time.Now()
	if q.from, err = momentOf("--since", q.since, now); err != nil {
		return err
	}
	if q.to, err = momentOf("--until", q.until, now); err != nil {
		return err
	}
	for i := range q.verbs {
		q.verbs[i] = strings.ToUpper(q.verbs[i])
	}
	for _, values := range [][]string{q.subjects, q.apps} {
		if len(values) == 1 && isWord(values[0]) {
			q.needles = append(q.needles, []byte(strconv.Quote(values[0])))
		}
	}
	return nil
}

// isWord reports whether every encoder of JSON writes the text alike.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && r != '@' && r != ':' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// everything reports whether nothing but the time is asked for.
func (q *logQuery) everything() bool {
	return !q.denied && !q.allowed && q.path == "" && len(q.subjects)+len(q.routes)+len(q.apps)+len(q.reasons)+len(q.verbs) == 0
}

// may reports whether a line, not yet parsed, could be asked for.
func (q *logQuery) may(line []byte) bool {
	return !slices.ContainsFunc(q.needles, func(needle []byte) bool { return !bytes.Contains(line, needle) })
}

// during reports whether an event is of the time that is asked for.
func (q *logQuery) during(e *recorded) bool {
	if q.from.IsZero() && q.to.IsZero() {
		return true
	}
	at := e.when()
	return !at.Before(q.from) && (q.to.IsZero() || at.Before(q.to))
}

// wants reports whether an event is asked for. A gap is part of every answer that is not about certain decisions.
func (q *logQuery) wants(e *recorded) bool {
	if !q.during(e) {
		return false
	}
	if e.Gap.Recorded {
		return q.everything()
	}
	if q.denied || q.allowed || len(q.reasons) > 0 {
		outcome, reason, _ := logged.Outcomes(&e.Record)
		if q.denied && outcome != "deny" || q.allowed && outcome != "allow" || !oneOf(q.reasons, reason) {
			return false
		}
	}
	return oneOf(q.subjects, e.Identity.Subject.Decode()) && oneOf(q.apps, e.App.Decode()) && oneOf(q.verbs, e.Request.Method.Decode()) &&
		strings.HasPrefix(e.Request.Path.Decode(), q.path) && q.onRoute(e)
}

// oneOf reports whether a value is among those that are asked for, which are all where none is named.
func oneOf(asked []string, is string) bool { return len(asked) == 0 || slices.Contains(asked, is) }

// onRoute takes a route by any of its names.
func (q *logQuery) onRoute(e *recorded) bool {
	if len(q.routes) == 0 {
		return true
	}
	at := e.RouteOf()
	return slices.Contains(q.routes, e.Route.Decode()) || slices.ContainsFunc(q.routes, at.Named)
}

// each calls use with every event that is asked for, up to the end of the log. e is written anew for each; where it is nil, nothing but
// everything can be asked for, and nothing is parsed.
func (q *logQuery) each(ctx context.Context, l *logSource, e *recorded, pattern *regexp.Regexp, use func([]byte, *recorded) error) error {
	may := func(line []byte) bool { return q.may(line) && (pattern == nil || pattern.Match(line)) }
	for {
		line, err := l.next(ctx, e, may)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && (e == nil || q.wants(e)) {
			err = use(line, e)
		}
		if err != nil {
			return err
		}
	}
}

// nothing says that nothing was found, and in how much.
func (q *logQuery) nothing(l *logSource) {
	text := fmt.Sprintf("nothing found: %s in %s", plural(int(l.events+l.gaps), "event"), l.name())
	if l.events > 0 {
		text += "; none of them is asked for"
	}
	fmt.Fprintln(l.stderr, visible(text))
}
