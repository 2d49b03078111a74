// Package bench measures how fast a policy decides: requests put to a gate one after another, for a while. It prints nothing. Behind `gatehouse
// bench`. It may import gate, and what gate imports.
package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"gatehouse/gate"
	"gatehouse/terminal"
)

// Result is what a run came to.
type Result struct {
	Requests  int     `json:"requests"` // different ones
	Decisions int     `json:"decisions"`
	PerSecond float64 `json:"per_second"` // on one core
	P50       int64   `json:"p50_ns"`
	P99       int64   `json:"p99_ns"`
	Max       int64   `json:"max_ns"`
	Allocs    float64 `json:"allocs"` // of memory, for one decision
	Bytes     float64 `json:"bytes"`
	Allowed   int     `json:"allowed"` // of the decisions
}

// maxSamples bounds how many decisions are timed one by one: the first ones.
const maxSamples = 1 << 20

// Run puts the requests to the gate in turn until the time is over, after each of them once to warm up.
func Run(ctx context.Context, g *gate.Gate, requests []*gate.Request, long time.Duration) (Result, error) {
	out := Result{Requests: len(requests)}
	for _, r := range requests {
		g.Check(ctx, r)
	}
	var before, after runtime.MemStats
	samples := make([]int64, 0, 1<<16)
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	for took := time.Duration(0); took < long && ctx.Err() == nil; took = time.Since(began) {
		for _, r := range requests {
			start := time.Now()
			answer := g.Check(ctx, r)
			if took := time.Since(start); len(samples) < maxSamples {
				samples = append(samples, int64(took))
			}
			if out.Decisions++; answer.Allow {
				out.Allowed++
			}
		}
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	n := float64(out.Decisions)
	out.PerSecond = n / took.Seconds()
	out.Allocs, out.Bytes = float64(after.Mallocs-before.Mallocs)/n, float64(after.TotalAlloc-before.TotalAlloc)/n
	slices.Sort(samples)
	out.P50, out.P99, out.Max = samples[len(samples)/2], samples[len(samples)*99/100], samples[len(samples)-1]
	return out, ctx.Err()
}

// Rows are the result as a table for people.
func (result *Result) Rows() [][]string {
	return [][]string{
		{"decisions", terminal.Thousands(result.Decisions), fmt.Sprintf("of %s, %d%% allowed", terminal.Count(result.Requests, "request"), 100*result.Allowed/max(1, result.Decisions))},
		{"per second", terminal.Thousands(int64(result.PerSecond)), "on one core"},
		{"latency", terminal.Duration(result.P50), "half of them; p99 " + terminal.Duration(result.P99) + ", max " + terminal.Duration(result.Max)},
		{"memory", terminal.Thousands(int64(result.Bytes)), fmt.Sprintf("bytes in %.1f allocations, each", result.Allocs)},
	}
}
