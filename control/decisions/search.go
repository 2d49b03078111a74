package decisions

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Filter says which decisions are wanted: those to which all that it has applies.
type Filter struct {
	Since, Until time.Time // Since <= time < Until; zero: open
	ID           string
	User         string
	Route        string
	Outcome      string
	Reason       string
	App          string
	Revision     string
	Edges        []string // ids; nil: all
	Text         string   // a part of anything that the entry has
}

// Query is a search.
type Query struct {
	Filter
	Limit int           // of entries; 0: 100
	Whole bool          // with Identity, Fixed and Rest; AppendEntry needs them
	Page  string        // Next of the page before
	Time  time.Duration // how long it may take; 0: 10 s
}

// Page is what a search found, the newest first.
type Page struct {
	Rows []Row
	Next string // "": this is the last page
	// Back is how far back the search came, where it took too long: Next goes on from there. Zero: it found all that the page has room for.
	Back time.Time
}

// Bounds of a search.
const (
	defaultLimit = 100
	MaxLimit     = 1000
	maxTime      = 30 * time.Second
	searchTime   = 10 * time.Second
	maxPage      = 4 << 20 // bytes of a page
	maxText      = 1000    // bytes of what is searched for
)

func (f *Filter) check() error {
	for _, s := range []string{f.ID, f.User, f.Route, f.Outcome, f.Reason, f.App, f.Revision, f.Text} {
		if len(s) > maxText {
			return fmt.Errorf("%w: a text of %d bytes, and %d are possible", ErrFilter, len(s), maxText)
		}
	}
	switch f.Outcome {
	case "", Allow, Deny, Gap:
		return nil
	}
	return fmt.Errorf("%w: outcome %q: there are allow, deny and gap", ErrFilter, f.Outcome)
}

// times are the first and the last ns that are wanted.
func (f *Filter) times() (from, to int64) {
	from, to = at(f.Since), math.MaxInt64
	if !f.Until.IsZero() {
		if to = at(f.Until); to > math.MinInt64 {
			to--
		}
	}
	return from, to
}

// matches reports whether a row is wanted. ends are the first and the last time.
func (f *Filter) matches(r *Row, from, to int64) bool {
	return r.Time >= from && r.Time <= to &&
		(f.ID == "" || r.ID == f.ID) && (f.User == "" || r.User == f.User) && (f.Route == "" || r.Route == f.Route) && (f.Outcome == "" || r.Outcome == f.Outcome) &&
		(f.Reason == "" || r.Reason == f.Reason) && (f.App == "" || r.App == f.App) && (f.Revision == "" || r.Revision == f.Revision) &&
		(f.Edges == nil || slices.Contains(f.Edges, r.Edge)) && (f.Text == "" || f.inText(r))
}

// textColumns are those that a text is looked for in, the cheapest first.
var textColumns = []int{colUser, colRoute, colReason, colMethod, colHost, colApp, colRevision, colRule, colClient, colIdentity, colFixed, colPath, colID, colTrace, colRest}

func (f *Filter) inText(r *Row) bool {
	for _, c := range textColumns {
		if strings.Contains(*r.text(c), f.Text) {
			return true
		}
	}
	return false
}

// in are the rows of a segment that are wanted.
func (f *Filter) in(ctx context.Context, s *Segment, o *opened, from, to int64) (sel selection, err error) {
	for _, b := range []struct {
		column int
		value  string
	}{{colID, f.ID}, {colUser, f.User}} {
		if b.value == "" {
			continue
		}
		if may, err := o.may(b.column, b.value); err != nil || !may {
			return sel, err
		}
	}
	sel = all(o.rows)
	if s.From < from || s.To > to {
		if sel, err = o.between(ctx, from, to); err != nil {
			return sel, err
		}
	}
	for _, w := range []struct {
		column int
		value  string
	}{{colID, f.ID}, {colUser, f.User}, {colReason, f.Reason}, {colRoute, f.Route}, {colRevision, f.Revision}, {colApp, f.App}} {
		if w.value == "" || sel.empty() {
			continue
		}
		if sel, err = o.filter(ctx, w.column, sel, is(w.value)); err != nil {
			return sel, err
		}
	}
	if f.Edges != nil && !sel.empty() {
		if sel, err = o.filter(ctx, colEdge, sel, func(v []byte) bool { return slices.Contains(f.Edges, string(v)) }); err != nil {
			return sel, err
		}
	}
	if f.Text != "" && !sel.empty() {
		return f.textIn(ctx, o, sel)
	}
	return sel, nil
}

func (f *Filter) textIn(ctx context.Context, o *opened, sel selection) (selection, error) {
	wanted, found, left := []byte(f.Text), []int32(nil), sel
	for _, c := range textColumns {
		hit, err := o.filter(ctx, c, left, func(v []byte) bool { return bytes.Contains(v, wanted) })
		if err != nil {
			return sel, err
		}
		if hit.empty() {
			continue
		}
		found = append(found, hit.list...)
		rest, n := []int32{}, 0
		for i := range left.len() {
			row := left.at(i)
			if n < len(hit.list) && hit.list[n] == row {
				n++
				continue
			}
			rest = append(rest, row)
		}
		if left = (selection{list: rest}); left.empty() {
			break
		}
	}
	slices.Sort(found)
	return selection{list: append([]int32{}, found...)}, nil
}

// cursor is where a page ended: what follows is before it, in the order of time, id and edge.
type cursor struct {
	Time int64  `json:"t"`
	ID   string `json:"i,omitempty"`
	Edge string `json:"e,omitempty"`
}

func (c *cursor) String() string {
	text, _ := json.Marshal(c) // it can be
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseCursor(text string) (c cursor, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		return c, fmt.Errorf("%w: its page is none that a search gave", ErrFilter)
	}
	return c, nil
}

// after reports whether a row comes on a later page.
func (c *cursor) after(r *Row) bool {
	return cmp.Or(cmp.Compare(r.Time, c.Time), cmp.Compare(r.ID, c.ID), cmp.Compare(r.Edge, c.Edge)) < 0
}

// hit is a row that is wanted: of a table, or one of which only time, id and edge are known yet.
type hit struct {
	Row
	segment *Segment // nil: the row is whole
	row     int32
}

// best are the newest hits, so many as a page has and one.
type best struct {
	hits []hit
	most int
}

// full reports whether a time is too old to count.
func (b *best) full(t int64) bool {
	return len(b.hits) == b.most && b.hits[len(b.hits)-1].Time > t
}

func (b *best) add(h hit) (added bool) {
	at, _ := slices.BinarySearchFunc(b.hits, h, func(a, h hit) int { return before(&h.Row, &a.Row) })
	if at >= b.most {
		return false
	}
	if len(b.hits) == b.most {
		b.hits = b.hits[:b.most-1]
	}
	b.hits = slices.Insert(b.hits, at, h)
	return true
}

// view is what an environment has at one moment.
type view struct {
	tables   [][]Row
	segments []*Segment // the newest To first
}

func (e *Environment) view() view {
	e.mu.RLock()
	defer e.mu.RUnlock()
	v := view{segments: e.segments}
	for _, t := range []*table{e.table, e.full} {
		if t != nil && len(t.rows) > 0 {
			v.tables = append(v.tables, t.rows[:len(t.rows):len(t.rows)])
		}
	}
	return v
}

// begin takes one of the places for searches.
func (s *Store) begin(ctx context.Context) (done func(), err error) {
	select {
	case s.search <- struct{}{}:
		return func() { <-s.search }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for other searches: %w", ctx.Err())
	}
}

// Search finds decisions, the newest first.
func (e *Environment) Search(ctx context.Context, q Query) (out *Page, err error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	if q.Limit < 0 || q.Limit > MaxLimit || q.Time < 0 || q.Time > maxTime {
		return nil, fmt.Errorf("%w: a page has up to %d entries, and up to %v", ErrFilter, MaxLimit, maxTime)
	}
	q.Limit, q.Time = cmp.Or(q.Limit, defaultLimit), cmp.Or(q.Time, searchTime)
	from, to := q.times()
	start := cursor{Time: math.MaxInt64}
	if q.Page != "" {
		if start, err = parseCursor(q.Page); err != nil {
			return nil, err
		}
		to = min(to, start.Time)
	}
	done, err := e.store.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	limit, stop := context.WithTimeout(ctx, q.Time)
	defer stop()
	found := &best{most: q.Limit + 1}
	v := e.view()
	for _, rows := range v.tables {
		for i := range rows {
			if r := &rows[i]; !found.full(r.Time) && q.matches(r, from, to) && start.after(r) {
				found.add(hit{Row: *r})
			}
		}
	}
	tried := false
	for _, s := range v.segments {
		if s.From > to || s.To < from || q.Outcome != "" && q.Outcome != s.Outcome {
			continue
		}
		if found.full(s.To) {
			break
		}
		with := limit
		if !tried { // however long it takes: the next page is to be another one
			with, tried = ctx, true
		}
		err := e.searchSegment(with, s, &q.Filter, from, to, start, found)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil { // what is newer than this segment is known
			found.hits = slices.DeleteFunc(found.hits, func(h hit) bool { return h.Time <= s.To })
			if len(found.hits) <= q.Limit {
				out, err := e.page(ctx, found.hits, q)
				if err == nil && out.Next == "" {
					out.Next, out.Back = (&cursor{Time: s.To + 1}).String(), time.Unix(0, s.To).UTC()
				}
				return out, err
			}
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return e.page(ctx, found.hits, q)
}

// searchSegment adds a segment's newest hits.
func (e *Environment) searchSegment(ctx context.Context, s *Segment, f *Filter, from, to int64, start cursor, found *best) error {
	o, err := e.read(s)
	if err != nil || o == nil {
		return err
	}
	defer e.store.files.release(o)
	sel, err := f.in(ctx, s, o, from, to)
	if err != nil {
		return err
	}
	for end := sel.len(); end > 0; {
		begin := max(0, end-found.most)
		part := sel.slice(begin, end)
		rows, err := o.load(ctx, part, colTime, colID, colEdge)
		if err != nil {
			return err
		}
		for i := len(rows) - 1; i >= 0; i-- {
			if start.after(&rows[i]) && !found.add(hit{Row: rows[i], segment: s, row: part.at(i)}) {
				return nil // what is before it is older
			}
		}
		end = begin
	}
	return nil
}

// page makes a page of hits, which may have one more than the page.
func (e *Environment) page(ctx context.Context, hits []hit, q Query) (*Page, error) {
	more := len(hits) > q.Limit
	hits = hits[:min(len(hits), q.Limit)]
	known := map[int]string{colID: q.ID, colUser: q.User, colReason: q.Reason, colRoute: q.Route, colRevision: q.Revision, colApp: q.App}
	wanted := slices.DeleteFunc(slices.Clone(everyColumn), func(c int) bool {
		switch c {
		case colTime, colID, colEdge, colOutcome: // a hit has them
			return true
		case colIdentity, colFixed, colRest:
			return !q.Whole
		}
		return known[c] != "" // by the filter; a dictionary is read for nothing else
	})
	bySegment := map[*Segment][]int{}
	for i := range hits {
		if s := hits[i].segment; s != nil {
			bySegment[s] = append(bySegment[s], i)
		}
	}
	for s, list := range bySegment {
		if err := e.fill(ctx, s, hits, list, wanted, known); err != nil {
			return nil, err
		}
	}
	out := &Page{}
	bytes := 0
	for i := range hits {
		r := &hits[i].Row
		if !q.Whole {
			r.Identity, r.Fixed, r.Rest = "", "", ""
		}
		if bytes += r.size() + len(r.Fixed); bytes > maxPage && i > 0 {
			more = true
			break
		}
		out.Rows = append(out.Rows, *r)
	}
	if more && len(out.Rows) > 0 {
		last := &out.Rows[len(out.Rows)-1]
		out.Next = (&cursor{last.Time, last.ID, last.Edge}).String()
	}
	return out, nil
}

// fill reads the rows of hits in one segment.
func (e *Environment) fill(ctx context.Context, s *Segment, hits []hit, list, wanted []int, known map[int]string) error {
	o, err := e.read(s)
	if err != nil || o == nil {
		return err
	}
	defer e.store.files.release(o)
	slices.SortFunc(list, func(a, b int) int { return cmp.Compare(hits[a].row, hits[b].row) })
	sel := selection{list: make([]int32, len(list))}
	for i, n := range list {
		sel.list[i] = hits[n].row
	}
	rows, err := o.load(ctx, sel, wanted...)
	for i := range rows {
		r, h := &rows[i], &hits[list[i]].Row
		for c, value := range known {
			if value != "" {
				*r.text(c) = value
			}
		}
		r.Time, r.ID, r.Edge, r.Outcome = h.Time, h.ID, h.Edge, s.Outcome
		*h = *r
	}
	return err
}
