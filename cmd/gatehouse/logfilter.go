package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"gatehouse/replay"
)

// logFilter picks decisions of a log.
type logFilter struct {
	since, until string
	route        string
	limit        int64

	from, to time.Time
	wanted   int64 // of limit, those that were seen; one goroutine's
}

func (f *logFilter) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.since, "since", "", "only decisions from this time on: RFC 3339, a date, or how long ago (90m, 36h, 7d)")
	flags.StringVar(&f.until, "until", "", "only decisions before this time, likewise")
	flags.StringVar(&f.route, "route", "", "only decisions of this route: its name, its template, or method and template")
	flags.Int64Var(&f.limit, "limit", 0, "at most so many decisions, from the beginning of the log (default: all)")
}

// check reads the times.
func (f *logFilter) check(now time.Time) error {
	var err, other error
	f.from, err = momentOf("--since", f.since, now)
	f.to, other = momentOf("--until", f.until, now)
	if f.limit < 0 {
		other = errors.Join(other, errors.New("--limit is not negative"))
	}
	return errors.Join(err, other)
}

// momentOf reads a time of the command line; the zero time for none.
func momentOf(flag, value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04", time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, value); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(value, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if ago, err := time.ParseDuration(value); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("%s: %q is no time: write 2026-03-01T10:00:00Z, 2026-03-01, or how long ago, such as 36h or 7d", flag, value)
}

// wants reports whether a decision is one of those asked for.
func (f *logFilter) wants(r *replay.Record) bool {
	if f.route != "" {
		if route := r.RouteOf(); !route.Named(f.route) {
			return false
		}
	}
	if f.from.IsZero() && f.to.IsZero() {
		return true
	}
	at, err := r.Time()
	return err == nil && !at.Before(f.from) && (f.to.IsZero() || at.Before(f.to))
}

// enough reports whether an event was the last one that is wanted.
func (f *logFilter) enough(event []byte) bool {
	if f.limit == 0 {
		return false
	}
	var r replay.Record
	if r.Parse(event, 0) == nil && !r.Gap.Recorded && f.wants(&r) {
		f.wanted++
	}
	return f.wanted >= f.limit
}
