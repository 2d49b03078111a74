package search

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gatehouse/replay"
)

// Filter selects decisions of a log.
type Filter struct {
	Since, Until string // as Moment reads them
	Route        string // by any of its names; "": all
	Limit        int64  // maximum number; 0: no limit

	from, to time.Time
	wanted   int64 // seen so far; used by one goroutine
}

// Check parses the times.
func (f *Filter) Check(now time.Time) error {
	var err, other error
	f.from, err = Moment("--since", f.Since, now)
	f.to, other = Moment("--until", f.Until, now)
	if f.Limit < 0 {
		other = errors.Join(other, errors.New("--limit is not negative"))
	}
	return errors.Join(err, other)
}

// Moment parses a time flag; zero for an empty value.
func Moment(flag, value string, now time.Time) (time.Time, error) {
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
	return time.Time{}, fmt.Errorf("%s: %q is not a time: write 2026-03-01T10:00:00Z, 2026-03-01, or how long ago, such as 36h or 7d", flag, value)
}

// Wants reports whether a decision matches the filter.
func (f *Filter) Wants(r *replay.Record) bool {
	if f.Route != "" {
		if route := r.RouteOf(); !route.Named(f.Route) {
			return false
		}
	}
	if f.from.IsZero() && f.to.IsZero() {
		return true
	}
	at, err := r.Time()
	return err == nil && !at.Before(f.from) && (f.to.IsZero() || at.Before(f.to))
}

// Enough reports whether an event was the last one within the limit.
func (f *Filter) Enough(event []byte) bool {
	if f.Limit == 0 {
		return false
	}
	var r replay.Record
	if r.Parse(event, 0) == nil && !r.Gap.Recorded && f.Wants(&r) {
		f.wanted++
	}
	return f.wanted >= f.Limit
}
