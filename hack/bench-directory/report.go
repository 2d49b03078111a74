package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// row is one line of the table. A target of 0 is none.
type row struct {
	what, unit string
	value      float64
	target     float64
	peers      []float64 // map, bbolt; 0: not measured
	atMost     float64   // of the map's
}

func (b *bench) add(what, unit string, value, target float64) *row {
	b.rows = append(b.rows, &row{what: what, unit: unit, value: value, target: target, peers: make([]float64, 2)})
	return b.rows[len(b.rows)-1]
}

// find is a row that there is, for what the peers come to.
func (b *bench) find(what string) *row {
	i := slices.IndexFunc(b.rows, func(r *row) bool { return r.what == what })
	return b.rows[i]
}

func (b *bench) print(w io.Writer) error {
	s := b.snapshot.Stats()
	fmt.Fprintf(w, "%s\n%d objects, %d relations, of which %d expire\n\n", machine(), s.Objects, s.Relations, s.Expiring)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "measure\tunit\tdirectory\tmap\tbbolt\ttarget\t\t")
	missed := 0
	for _, r := range b.rows {
		target, met := "", ""
		if r.target > 0 {
			target, met = fmt.Sprintf("<= %g", r.target), verdict(r.value <= r.target, &missed)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.what, r.unit, number(r.value), peer(r.peers[0]), peer(r.peers[1]), target, met)
		if r.atMost > 0 && r.peers[0] > 0 {
			ratio := r.value / r.peers[0]
			fmt.Fprintf(t, "\tof the map's\t%.2f\t\t\t<= %g\t%s\t\n", ratio, r.atMost, verdict(ratio <= r.atMost, &missed))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if missed > 0 {
		fmt.Fprintf(w, "\n%d targets missed\n", missed)
	}
	return nil
}

func verdict(met bool, missed *int) string {
	if met {
		return "met"
	}
	*missed++
	return "MISSED"
}

func peer(v float64) string {
	if v == 0 {
		return ""
	}
	return number(v)
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// sample times calls one by one, and is the 50th and the 99th percentile in microseconds.
func sample(n int, do func(i int) error) (p50, p99 float64, err error) {
	times := make([]time.Duration, n)
	for i := range n {
		start := time.Now()
		err := do(i)
		times[i] = time.Since(start)
		if err != nil {
			return 0, 0, err
		}
	}
	slices.Sort(times)
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return us(times[n/2]), us(times[n*99/100]), nil
}
