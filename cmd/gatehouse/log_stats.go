package main

import (
	"cmp"
	"container/heap"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/decisionlog"
	"gatehouse/trial/logged"
)

// logStats is gatehouse log stats.
type logStats struct {
	source logSource
	query  logQuery
	top    int
	json   bool
}

func logStatsCommand() *cobra.Command {
	var f logStats
	c := &cobra.Command{
		Use:   "stats [FILE...]",
		Short: "Count decisions: by verdict, route, reason, caller and policy, and how long they took",
		Example: `  gatehouse log stats --since 24h
  gatehouse log stats --denied --top 20 /var/log/gatehouse`,
		RunE: f.run,
	}
	f.source.flags(c)
	f.query.flags(c)
	c.Flags().IntVar(&f.top, "top", 10, "how many of each kind are shown")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object")
	return c
}

func (f *logStats) run(c *cobra.Command, args []string) error {
	if f.top < 1 || f.top > mostKept {
		return usageError{fmt.Errorf("--top %d: between 1 and %d", f.top, mostKept)}
	}
	if err := f.query.compile(); err != nil {
		return usageError{err}
	}
	if err := f.source.open(c, args); err != nil {
		return err
	}
	defer f.source.close()
	var t counts
	if err := f.query.each(c.Context(), &f.source, &recorded{}, nil, func(_ []byte, e *recorded) error { t.add(e); return nil }); err != nil {
		return err
	}
	f.source.told()
	out := t.figures(f.top)
	out.Unreadable = f.source.damaged
	if out.Decisions+out.Gaps.Count == 0 {
		f.query.nothing(&f.source)
	}
	if f.json {
		e := json.NewEncoder(jsonWriter{c.OutOrStdout()})
		e.SetEscapeHTML(false)
		return e.Encode(out)
	}
	o := newLogOutput(c.OutOrStdout(), false)
	_, err := io.WriteString(c.OutOrStdout(), out.text(o.print, isTerminal(c.OutOrStdout())))
	return err
}

// figures are what gatehouse log stats prints.
type figures struct {
	Since      string         `json:"since,omitempty"` // of the first decision in time, and the last
	Until      string         `json:"until,omitempty"`
	Decisions  int64          `json:"decisions"`
	Allowed    int64          `json:"allowed"`
	Denied     int64          `json:"denied"`
	DryRun     int64          `json:"dry_run"` // of the denials, those let through by dry run
	Other      int64          `json:"other"`   // neither: Open Policy Agent's answers to other questions
	Gaps       gapFigures     `json:"gaps"`
	Unreadable int64          `json:"unreadable"` // places that could not be read
	Latency    latencyFigures `json:"latency_ns"`
	Reasons    ranking        `json:"reasons"`
	Routes     ranking        `json:"routes"`
	Subjects   ranking        `json:"subjects"`
	Revisions  ranking        `json:"revisions"`
}

type gapFigures struct {
	Count      int64  `json:"count"`
	Dropped    uint64 `json:"dropped"`
	Damaged    uint64 `json:"damaged_bytes"`
	Unfinished uint64 `json:"unfinished_bytes"`
}

// latencyFigures are in nanoseconds, the quantiles to within 2 %.
type latencyFigures struct {
	Count int64 `json:"count"`
	P50   int64 `json:"p50"`
	P90   int64 `json:"p90"`
	P99   int64 `json:"p99"`
	P999  int64 `json:"p999"`
	Max   int64 `json:"max"`
}

type ranking struct {
	Top         []rank `json:"top"`
	More        int    `json:"more,omitempty"`        // names that are not shown
	Approximate bool   `json:"approximate,omitempty"` // there were more names than are kept: see the rank's AtMostOver
}

type rank struct {
	Name       string `json:"name"`
	Decisions  int64  `json:"decisions"`
	Denied     int64  `json:"denied"`
	AtMostOver int64  `json:"at_most_over,omitempty"` // Decisions may be too many by this
}

// counts counts as events come.
type counts struct {
	counted                             figures
	first, last                         time.Time
	latency                             histogram
	reasons, routes, subjects, revision topList
}

func (t *counts) add(e *recorded) {
	if e.Gap.Recorded {
		g, sum := &e.Gap, &t.counted.Gaps
		sum.Count++
		sum.Dropped, sum.Damaged, sum.Unfinished = sum.Dropped+g.Dropped, sum.Damaged+g.Damaged, sum.Unfinished+g.Unfinished
		return
	}
	t.counted.Decisions++
	outcome, reason, _ := logged.Outcomes(&e.Record)
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
	if at := e.when(); !at.IsZero() {
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
	t.revision.add(e.revisionOf(), denied)
}

// revisionOf names the policy that decided.
func (r *recorded) revisionOf() string {
	if r.Revision != nil || r.Bundles == nil {
		return cmp.Or(r.Revision.Decode(), "-")
	}
	bundles, err := r.DecodeBundles()
	if err != nil {
		return "-"
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		all = append(all, name+"="+bundles[name].Revision)
	}
	return strings.Join(all, ",")
}

func (t *counts) figures(top int) figures {
	f := t.counted
	if !t.first.IsZero() {
		f.Since, f.Until = t.first.UTC().Format(time.RFC3339Nano), t.last.UTC().Format(time.RFC3339Nano)
	}
	f.Latency = t.latency.figures()
	f.Reasons, f.Routes, f.Subjects, f.Revisions = t.reasons.ranking(top), t.routes.ranking(top), t.subjects.ranking(top), t.revision.ranking(top)
	return f
}

// histogram counts nanoseconds in steps of 2 %: its buckets reach from 1 ns to two hours.
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

// quantile is the middle of the bucket that it falls into.
func (h *histogram) quantile(q float64) int64 {
	rank, seen := int64(math.Ceil(q*float64(h.count))), int64(0)
	for i, n := range h.buckets {
		if seen += n; seen >= rank && n > 0 {
			return min(h.max, int64(math.Pow(histogramStep, float64(i)+0.5)))
		}
	}
	return 0
}

func (h *histogram) figures() latencyFigures {
	if h.count == 0 {
		return latencyFigures{}
	}
	return latencyFigures{Count: h.count, P50: h.quantile(0.5), P90: h.quantile(0.9), P99: h.quantile(0.99), P999: h.quantile(0.999), Max: h.max}
}

const (
	mostKept    = 10_000 // names of one kind
	mostKeptLen = 256    // bytes of one
)

// topList counts names in bounded memory. Up to mostKept of them it is exact; then the rarest makes room for a new one, which takes over its
// count as what it may be over by (Metwally, Agrawal, El Abbadi: Space-Saving).
type topList struct {
	names map[string]*topName
	heap  topHeap // the rarest first
	more  bool    // one had to make room
}

type topName struct {
	name                string
	count, denied, over int64
	at                  int // in the heap
}

func (t *topList) add(name string, denied bool) {
	if len(name) > mostKeptLen {
		name = strings.ToValidUTF8(name[:mostKeptLen], "") + "..."
	}
	n := t.names[name]
	switch {
	case n != nil:
	case len(t.heap) < mostKept:
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

func (t *topList) ranking(top int) ranking {
	all := slices.Clone(t.heap)
	slices.SortFunc(all, func(a, b *topName) int { return cmp.Or(cmp.Compare(b.count, a.count), strings.Compare(a.name, b.name)) })
	r := ranking{Top: []rank{}, More: max(0, len(all)-top), Approximate: t.more}
	for _, n := range all[:min(top, len(all))] {
		r.Top = append(r.Top, rank{Name: n.name, Decisions: n.count, Denied: n.denied, AtMostOver: n.over})
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

const barWidth = 30

// text tells the figures to people, with bars where they can be seen.
func (f *figures) text(p printer, bars bool) string {
	var b strings.Builder
	bar := func(n, of, denied int64) string {
		if !bars || of == 0 {
			return ""
		}
		width := int((n*barWidth + of - 1) / of)
		part := int(denied * int64(width) / max(1, n))
		text := "  "
		if part < width {
			text += p.paint(green, strings.Repeat("█", width-part))
		}
		if part > 0 {
			text += p.paint(red, strings.Repeat("▒", part))
		}
		return text
	}
	row := func(name string, n int64, rest string) { fmt.Fprintf(&b, "%-11s %10d%s\n", name, n, rest) }
	share := func(n int64) string { return fmt.Sprintf("  %5.1f %%", 100*float64(n)/float64(max(1, f.Decisions))) }
	if f.Since != "" {
		fmt.Fprintf(&b, "from %s to %s\n", visible(f.Since), visible(f.Until))
	}
	row("decisions", f.Decisions, "")
	row("  allow", f.Allowed, share(f.Allowed)+bar(f.Allowed, f.Decisions, 0))
	row("  deny", f.Denied, share(f.Denied)+bar(f.Denied, f.Decisions, f.Denied))
	if f.DryRun > 0 {
		row("    dry run", f.DryRun, "  let through all the same")
	}
	if f.Other > 0 {
		row("  other", f.Other, share(f.Other))
	}
	if f.Gaps.Count > 0 {
		g := decisionlog.EventGap{Dropped: f.Gaps.Dropped, Damaged: f.Gaps.Damaged, Unfinished: f.Gaps.Unfinished}
		row("gaps", f.Gaps.Count, "  "+p.paint(amber, gapSum(&g)))
	}
	if f.Unreadable > 0 {
		row("unreadable", f.Unreadable, "  "+p.paint(amber, "places in the log, passed over"))
	}
	if l := f.Latency; l.Count > 0 {
		fmt.Fprintf(&b, "%-11s p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n", "latency", threeDigits(l.P50), threeDigits(l.P90), threeDigits(l.P99), threeDigits(l.P999), threeDigits(l.Max))
	}
	for _, group := range []struct {
		title string
		*ranking
	}{{"reasons", &f.Reasons}, {"routes", &f.Routes}, {"subjects", &f.Subjects}, {"policies", &f.Revisions}} {
		if len(group.Top) == 0 {
			continue
		}
		title := group.title
		if group.Approximate {
			title += fmt.Sprintf("  (approximate: more than %d of them)", mostKept)
		}
		fmt.Fprintf(&b, "\n%s\n", p.paint(bold, title))
		for _, r := range group.Top {
			text := fmt.Sprintf("%10d  %9d denied", r.Decisions, r.Denied)
			if r.AtMostOver > 0 {
				text = fmt.Sprintf("%10d  at most %d too many", r.Decisions, r.AtMostOver)
			}
			fmt.Fprintf(&b, "  %-30s %s%s\n", column(r.Name), text, bar(r.Decisions, group.Top[0].Decisions, r.Denied))
		}
		if group.More > 0 {
			fmt.Fprintf(&b, "  and %d more\n", group.More)
		}
	}
	return b.String()
}

// threeDigits is a time to three digits.
func threeDigits(ns int64) string {
	d := time.Duration(ns)
	for unit := time.Duration(1); ; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
}
