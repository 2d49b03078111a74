package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// What lives between requests is small, and collecting it at Go's default of 100 % growth takes a quarter of the CPU of a
// decision (make bench). With a large bundle the same share of growth would be gigabytes. So growth is bounded in bytes,
// between these two shares.
const (
	gcGrowth     = 96 << 20 // bytes
	mostPercent  = 400
	leastPercent = 50
)

// paceGC sets the collector's goal anew after each collection, for as long as the process lives. Where GOGC is set, its
// owner knows better.
func paceGC() {
	if _, set := os.LookupEnv("GOGC"); set {
		return
	}
	p := &pacer{sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}, percent: mostPercent}
	debug.SetGCPercent(mostPercent)
	p.again()
}

type pacer struct {
	sample  []metrics.Sample
	percent int
}

// again has the next collection call collected: the sentinel that nothing refers to is its messenger.
func (p *pacer) again() {
	sentinel := new([16]byte)
	runtime.AddCleanup(sentinel, func(p *pacer) { p.collected() }, p)
}

func (p *pacer) collected() {
	metrics.Read(p.sample)
	// Setting the goal stops the world for a moment, so only where it matters.
	if percent := growthPercent(p.sample[0].Value.Uint64()); percent < p.percent*9/10 || percent > p.percent*11/10 {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	p.again()
}

// growthPercent is the share by which so many live bytes may grow until they are collected.
func growthPercent(live uint64) int {
	return int(min(max(gcGrowth*100/max(live, 1), leastPercent), mostPercent))
}
