package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// scalePairs and scaleLength are those of one point: there are many.
const (
	scalePairs  = 3
	scaleLength = 600 * time.Millisecond
)

// axis is one thing that grows while the rest stays as usual.
type axis struct {
	name    string
	points  []int
	label   func(int) string
	shape   func(int) shape
	callers bool // the points are callers and not a shape
}

var axes = []axis{
	{name: "callers", points: []int{1, 4, 16, 64, 256}, label: plainNumber, callers: true},
	{name: "further rules of the policy", points: []int{10, 100, 1000, 10000}, label: plainNumber, shape: func(n int) shape { return shape{rules: n} }},
	{name: "roles, and all of them the caller's", points: []int{1, 10, 100, 1000}, label: plainNumber, shape: func(n int) shape { return shape{roles: n} }},
	{name: "data", points: []int{1e3, 100e3, 10e6, 100e6}, label: size, shape: func(n int) shape { return shape{data: n} }},
	{name: "token", points: []int{500, 1000, 2000, 4000, 8000}, label: size, shape: func(n int) shape { return shape{token: n} }},
	{name: "headers", points: []int{5, 20, 50, 100}, label: plainNumber, shape: func(n int) shape { return shape{headers: n} }},
}

func plainNumber(n int) string { return fmt.Sprint(n) }

func size(n int) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%d MB", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%d KB", n/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// point is what one point of an axis came to: the no-op, which gets the same messages, and Gatehouse, all over TCP.
type point struct {
	noop, repeated   []sample
	noopFresh, fresh []sample
	ready            time.Duration
	resident         int64
}

// measureScale prints a table for each axis whose name contains only, as soon as it is measured.
func (b bench) measureScale(ctx context.Context, out io.Writer, only string) error {
	v := versions(b.gatehouse, "")
	fmt.Fprintf(out, "%s\nGo %s, gRPC %s, OPA %s. CPU per decision in microseconds; medians of %d runs of %s, over TCP, %d callers unless they are what grows.\n",
		machine(), v["go"], v["grpc"], v["opa"], scalePairs, scaleLength, b.callers)
	for _, a := range axes {
		if !strings.Contains(a.name, only) {
			continue
		}
		fmt.Fprintln(out)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(w, "%s\tno-op\trepeated\tratio\tmemo hits\tnew\tratio\tready ms\tMB resident\t\n", a.name)
		for _, n := range a.points {
			p, err := b.measurePoint(ctx, a, n)
			if err != nil {
				return fmt.Errorf("%s %s: %w", a.name, a.label(n), err)
			}
			fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2fx\t%s\t%.1f\t%.2fx\t%d\t%d\t\n", a.label(n), median(p.noop, cpu.get), median(p.repeated, cpu.get), ratio(p.repeated, p.noop, cpu.get),
				percent(share(p.repeated, func(s sample) float64 { return s.memo })), median(p.fresh, cpu.get), ratio(p.fresh, p.noopFresh, cpu.get), p.ready.Milliseconds(), p.resident/1e6)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func (b bench) measurePoint(ctx context.Context, a axis, n int) (p point, err error) {
	dir, err := os.MkdirTemp("", "gatehouse-scale-")
	if err != nil {
		return p, err
	}
	defer os.RemoveAll(dir)
	var s shape
	if a.callers {
		b.callers = n
	} else {
		s = a.shape(n)
	}
	f, err := newFixture(filepath.Join(dir, "gatehouse"), s)
	if err != nil {
		return p, err
	}
	repeated, err1 := f.repeated()
	fresh, err2 := f.fresh()
	if err := errors.Join(err1, err2); err != nil {
		return p, err
	}
	noop, err := startNoop(ctx, dir)
	if err != nil {
		return p, err
	}
	defer noop.stop()
	subject, err := startGatehouse(ctx, b.gatehouse, f.dir)
	if err != nil {
		return p, err
	}
	defer subject.stop()
	p.ready = subject.took
	if err := subject.awaitIdle(ctx); err != nil {
		return p, err
	}
	// One kind after the other: whether it is worth to remember decisions is learnt from what comes.
	for _, kind := range []struct {
		work       workload
		noop, into *[]sample
	}{{repeated, &p.noop, &p.repeated}, {fresh, &p.noopFresh, &p.fresh}} {
		if _, err := overGRPC(ctx, subject, subject.tcp, b.callers, time.Minute, limited(kind.work, users*paths)); err != nil { // warms up
			return p, err
		}
		for range scalePairs {
			for server, into := range map[*server]*[]sample{noop: kind.noop, subject: kind.into} {
				s, err := overGRPC(ctx, server, server.tcp, b.callers, scaleLength, kind.work)
				if err != nil {
					return p, err
				}
				*into = append(*into, s)
			}
		}
	}
	p.resident, _ = subject.resident()
	return p, nil
}

// limited is the first so many messages of a workload.
func limited(work workload, count int64) workload {
	var n atomic.Int64
	return func() []byte {
		if n.Add(1) > count {
			return nil
		}
		return work()
	}
}
