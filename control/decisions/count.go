package decisions

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"strconv"

	"github.com/parquet-go/parquet-go"
)

// Count is how many decisions have something in common.
type Count struct {
	Value              string
	Allow, Deny, Gap   int64
	P50, P99, Max      int64 // of how long they took, ns
	FirstTime, LastNew int64 // ns since 1970
	times              *quantiles
}

// Counts is what Count found.
type Counts struct {
	List   []Count // the most frequent first
	Total  Count
	Values int // how many values there are
}

// Bounds of counting.
const (
	maxValues    = 10_000
	defaultTop   = 20
	quantileBits = 4 // a bucket is at most 1/16 wider than where it begins
)

// quantiles counts times in buckets whose width grows with them.
type quantiles struct {
	counts [64 << quantileBits]uint32
	n      int64
}

func bucket(ns int64) int {
	if ns < 1<<quantileBits {
		return int(max(ns, 0))
	}
	shift := bits.Len64(uint64(ns)) - 1 - quantileBits
	return (shift+1)<<quantileBits + int(ns>>shift) - 1<<quantileBits
}

// upper is the largest time of a bucket.
func upper(b int) int64 {
	if b < 1<<quantileBits {
		return int64(b)
	}
	shift := b>>quantileBits - 1
	return (int64(b&(1<<quantileBits-1))+1<<quantileBits+1)<<shift - 1
}

func (q *quantiles) add(ns int64) {
	q.counts[bucket(ns)]++
	q.n++
}

func (q *quantiles) at(share float64) int64 {
	left := int64(share * float64(q.n))
	for b, n := range q.counts {
		if left -= int64(n); left < 0 {
			return upper(b)
		}
	}
	return 0
}

// by are the columns that can be counted by.
var by = map[string]int{"route": colRoute, "reason": colReason, "user": colUser, "app": colApp, "edge": colEdge, "revision": colRevision, "rule": colRule, "method": colMethod,
	"host": colHost, "status": colStatus, "outcome": colOutcome}

// counting collects counts.
type counting struct {
	column int
	values map[string]*Count
	total  Count
	more   int // values beyond the bound
}

func newCounting(column int) *counting {
	return &counting{column: column, values: map[string]*Count{}, total: Count{times: &quantiles{}}}
}

func (c *counting) of(value string) *Count {
	one := c.values[value]
	if one == nil {
		if len(c.values) >= maxValues {
			c.more++
			return nil
		}
		one = &Count{Value: value}
		if len(c.values) < MaxLimit {
			one.times = &quantiles{}
		}
		c.values[value] = one
	}
	return one
}

func (c *Count) add(outcome string, time, took int64) {
	if c == nil {
		return
	}
	switch outcome {
	case Allow:
		c.Allow++
	case Deny:
		c.Deny++
	default:
		c.Gap++
	}
	if c.FirstTime == 0 || time < c.FirstTime {
		c.FirstTime = time
	}
	c.LastNew = max(c.LastNew, time)
	if took > 0 {
		c.Max = max(c.Max, took)
		if c.times != nil {
			c.times.add(took)
		}
	}
}

func (c *Count) finish() {
	if c.times != nil && c.times.n > 0 {
		c.P50, c.P99 = min(c.times.at(0.5), c.Max), min(c.times.at(0.99), c.Max)
	}
	c.times = nil
}

// valueOf is what a row is counted by.
func (c *counting) valueOf(r *Row) string {
	if c.column == colStatus {
		return strconv.Itoa(int(r.Status))
	}
	return *r.text(c.column)
}

// Count counts the decisions of a filter by what a column has. newSince "" counts all of them; otherwise those of this revision,
// and of their values only such as no other revision has.
func (e *Environment) Count(ctx context.Context, f Filter, what, newSince string, limit int) (*Counts, error) {
	column, ok := by[what]
	if !ok {
		return nil, fmt.Errorf("%w: decisions are not counted by %q", ErrFilter, what)
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	if limit < 0 || limit > MaxLimit {
		return nil, fmt.Errorf("%w: at most %d counts", ErrFilter, MaxLimit)
	}
	done, err := e.store.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, stop := context.WithTimeout(ctx, maxTime)
	defer stop()
	var old *counting
	if newSince != "" {
		old = newCounting(column)
		if f.Revision != "" && f.Revision != newSince {
			return nil, fmt.Errorf("%w: two revisions", ErrFilter)
		}
		f.Revision = ""
		if err := e.count(ctx, f, old, newSince, true); err != nil {
			return nil, err
		}
		f.Revision = newSince
	}
	c := newCounting(column)
	if err := e.count(ctx, f, c, "", false); err != nil {
		return nil, err
	}
	out := &Counts{}
	for value, one := range c.values {
		if old != nil && old.values[value] != nil {
			continue
		}
		out.List = append(out.List, *one)
	}
	out.Values = len(out.List) + c.more
	slices.SortFunc(out.List, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Deny+b.Allow+b.Gap, a.Deny+a.Allow+a.Gap), cmp.Compare(a.Value, b.Value))
	})
	out.List = out.List[:min(len(out.List), cmp.Or(limit, defaultTop))]
	for i := range out.List {
		out.List[i].finish()
	}
	c.total.finish()
	out.Total = c.total
	return out, nil
}

// count counts what a filter finds, but for entries of a revision where without is set.
func (e *Environment) count(ctx context.Context, f Filter, c *counting, revision string, without bool) error {
	from, to := f.times()
	v := e.view()
	for _, rows := range v.tables {
		for i := range rows {
			if r := &rows[i]; f.matches(r, from, to) && !(without && r.Revision == revision) {
				c.of(c.valueOf(r)).add(r.Outcome, r.Time, r.Duration)
				c.total.add(r.Outcome, r.Time, r.Duration)
			}
		}
	}
	for _, s := range v.segments {
		if s.From > to || s.To < from || f.Outcome != "" && f.Outcome != s.Outcome {
			continue
		}
		if err := e.countSegment(ctx, s, &f, from, to, c, revision, without); err != nil {
			return err
		}
	}
	return nil
}

func (e *Environment) countSegment(ctx context.Context, s *Segment, f *Filter, from, to int64, c *counting, revision string, without bool) error {
	o, err := e.read(s)
	if err != nil || o == nil {
		return err
	}
	defer e.store.files.release(o)
	sel, err := f.in(ctx, s, o, from, to)
	if err == nil && without && !sel.empty() {
		sel, err = o.filter(ctx, colRevision, sel, func(v []byte) bool { return string(v) != revision })
	}
	if err != nil || sel.empty() {
		return err
	}
	rows, err := o.load(ctx, sel, colTime, colDuration)
	if err != nil {
		return err
	}
	if c.column == colStatus || c.column == colOutcome {
		for i := range rows {
			rows[i].Outcome = s.Outcome
		}
		if c.column == colStatus {
			if err := o.statuses(ctx, sel, rows); err != nil {
				return err
			}
		}
		for i := range rows {
			c.of(c.valueOf(&rows[i])).add(s.Outcome, rows[i].Time, rows[i].Duration)
			c.total.add(s.Outcome, rows[i].Time, rows[i].Duration)
		}
		return nil
	}
	var byCode []*Count
	var looked []bool
	return o.pages(ctx, c.column, sel, func(p parquet.Page, first, at, end int) error {
		t := textsOf(p)
		if t.dict != nil && byCode == nil {
			byCode, looked = make([]*Count, t.dict.Len()), make([]bool, t.dict.Len())
		}
		for i := at; i < end; i++ {
			value, code := t.at(int(sel.at(i)) - first)
			var one *Count
			switch {
			case code < 0:
				one = c.of(string(value))
			case looked[code]:
				one = byCode[code]
			default:
				one = c.of(string(value))
				byCode[code], looked[code] = one, true
			}
			one.add(s.Outcome, rows[i].Time, rows[i].Duration)
			c.total.add(s.Outcome, rows[i].Time, rows[i].Duration)
		}
		return nil
	})
}

// statuses reads the status of rows that were loaded.
func (o *opened) statuses(ctx context.Context, sel selection, rows []Row) error {
	list, err := o.load(ctx, sel, colStatus)
	for i := range list {
		rows[i].Status = list[i].Status
	}
	return err
}
