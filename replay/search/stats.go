package search

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"strings"
	"time"
)

// Figures are the output of gatehouse log stats.
type Figures struct {
	Since      string         `json:"since,omitempty"` // time of the first decision, and of the last
	Until      string         `json:"until,omitempty"`
	Decisions  int64          `json:"decisions"`
	Allowed    int64          `json:"allowed"`
	Denied     int64          `json:"denied"`
	DryRun     int64          `json:"dry_run"` // denials let through by dry run
	Other      int64          `json:"other"`   // neither: Open Policy Agent's answers to other queries
	Gaps       GapFigures     `json:"gaps"`
	Unreadable int64          `json:"unreadable"` // unreadable places
	Latency    LatencyFigures `json:"latency_ns"`
	Reasons    Ranking        `json:"reasons"`
	Routes     Ranking        `json:"routes"`
	Subjects   Ranking        `json:"subjects"`
	Revisions  Ranking        `json:"revisions"`
}

// GapFigures describe the gaps of the log.
type GapFigures struct {
	Count      int64  `json:"count"`
	Dropped    uint64 `json:"dropped"`
	Damaged    uint64 `json:"damaged_bytes"`
	Unfinished uint64 `json:"unfinished_bytes"`
}

// LatencyFigures are in nanoseconds, the quantiles to within 2 %.
type LatencyFigures struct {
	Count int64 `json:"count"`
	P50   int64 `json:"p50"`
	P90   int64 `json:"p90"`
	P99   int64 `json:"p99"`
	P999  int64 `json:"p999"`
	Max   int64 `json:"max"`
}

// Ranking lists the most frequent names of one kind.
type Ranking struct {
	Top         []Rank `json:"top"`
	More        int    `json:"more,omitempty"`        // names not shown
	Approximate bool   `json:"approximate,omitempty"` // more names than are counted exactly: see AtMostOver
}

// Rank is a name and its count.
type Rank struct {
	Name       string `json:"name"`
	Decisions  int64  `json:"decisions"`
	Denied     int64  `json:"denied"`
	AtMostOver int64  `json:"at_most_over,omitempty"` // Decisions may be too high by up to this
}

// Counts accumulates the figures.
type Counts struct {
	counted                             Figures
	first, last                         time.Time
	latency                             histogram
	reasons, routes, subjects, revision topList
}

// Add counts an event.
func (t *Counts) Add(e *Event) {
	if e.Gap.Recorded {
		g, sum := &e.Gap, &t.counted.Gaps
		sum.Count++
		sum.Dropped, sum.Damaged, sum.Unfinished = sum.Dropped+g.Dropped, sum.Damaged+g.Damaged, sum.Unfinished+g.Unfinished
		return
	}
	t.counted.Decisions++
	outcome, reason, _ := e.Outcomes()
	switch outcome {
	case "deny":
		t.counted.Denied++
		if e.DryRun {
			t.counted.DryRun++
		}
	case "allow":
		t.counted.Allowed++
	default:
		t.counted.Other++
	}
	if at := e.When(); !at.IsZero() {
		if t.first.IsZero() || at.Before(t.first) {
			t.first = at
		}
		if at.After(t.last) {
			t.last = at
		}
	}
	if ns := e.HandlerTime().Nanoseconds(); ns > 0 {
		t.latency.add(ns)
	}
	denied := outcome == "deny"
	if reason != "" {
		t.reasons.add(reason, denied)
	}
	t.routes.add(cmp.Or(e.Route.Decode(), "-"), denied)
	t.subjects.add(cmp.Or(e.Identity.Subject.Decode(), "-"), denied)
	t.revision.add(e.revision(), denied)
}

// Figures returns the figures, with the top names of each kind.
func (t *Counts) Figures(top int) Figures {
	f := t.counted
	if !t.first.IsZero() {
		f.Since, f.Until = t.first.UTC().Format(time.RFC3339Nano), t.last.UTC().Format(time.RFC3339Nano)
	}
	f.Latency = t.latency.figures()
	f.Reasons, f.Routes, f.Subjects, f.Revisions = t.reasons.ranking(top), t.routes.ranking(top), t.subjects.ranking(top), t.revision.ranking(top)
	return f
}

// histogram counts nanoseconds in steps of 2 %, from 1 ns to two hours.
type histogram struct {
	buckets    [1500]int64
	count, max int64
}

const histogramStep = 1.02

func (h *histogram) add(ns int64) {
	i := int(math.Log(float64(ns)) / math.Log(histogramStep))
	h.buckets[min(i, len(h.buckets)-1)]++
	h.count++
	h.max = max(h.max, ns)
}

// quantile is the middle of the quantile's bucket.
func (h *histogram) quantile(q float64) int64 {
	rank, seen := int64(math.Ceil(q*float64(h.count))), int64(0)
	for i, n := range h.buckets {
		if seen += n; seen >= rank && n > 0 {
			return min(h.max, int64(math.Pow(histogramStep, float64(i)+0.5)))
		}
	}
	return 0
}

func (h *histogram) figures() LatencyFigures {
	if h.count == 0 {
		return LatencyFigures{}
	}
	return LatencyFigures{Count: h.count, P50: h.quantile(0.5), P90: h.quantile(0.9), P99: h.quantile(0.99), P999: h.quantile(0.999), Max: h.max}
}

const (
	// MostNames is how many names of one kind are counted.
	MostNames = 10_000

	maxNameLen = 256 // bytes of one
)

// topList counts names in bounded memory (Metwally, Agrawal, El Abbadi: Space-Saving). Up to MostNames it is exact;
// beyond, a new name replaces the rarest and inherits its count as its error bound.
type topList struct {
	names map[string]*topName
	heap  topHeap // rarest first
	more  bool    // a name was replaced
}

type topName struct {
	name                string
	count, denied, over int64
	at                  int // index in the heap
}

func (t *topList) add(name string, denied bool) {
	if len(name) > maxNameLen {
		name = strings.ToValidUTF8(name[:maxNameLen], "") + "..."
	}
	n := t.names[name]
	switch {
	case n != nil:
	case len(t.heap) < MostNames:
		if t.names == nil {
			t.names = map[string]*topName{}
		}
		n = &topName{name: strings.Clone(name)}
		t.names[n.name] = n
		heap.Push(&t.heap, n)
	default:
		t.more = true
		n = t.heap[0]
		delete(t.names, n.name)
		n.name, n.over, n.denied = strings.Clone(name), n.count, 0
		t.names[n.name] = n
	}
	n.count++
	if denied {
		n.denied++
	}
	heap.Fix(&t.heap, n.at)
}

func (t *topList) ranking(top int) Ranking {
	all := slices.Clone(t.heap)
	slices.SortFunc(all, func(a, b *topName) int { return cmp.Or(cmp.Compare(b.count, a.count), strings.Compare(a.name, b.name)) })
	r := Ranking{Top: []Rank{}, More: max(0, len(all)-top), Approximate: t.more}
	for _, n := range all[:min(top, len(all))] {
		r.Top = append(r.Top, Rank{Name: n.name, Decisions: n.count, Denied: n.denied, AtMostOver: n.over})
	}
	return r
}

// topHeap implements heap.Interface.
type topHeap []*topName

func (h topHeap) Len() int           { return len(h) }
func (h topHeap) Less(i, j int) bool { return h[i].count < h[j].count }
func (h topHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].at, h[j].at = i, j }
func (h *topHeap) Push(x any)        { n := x.(*topName); n.at = len(*h); *h = append(*h, n) }
func (h *topHeap) Pop() any          { panic("nothing is taken out") }
