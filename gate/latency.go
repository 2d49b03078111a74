package gate

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// latencyBounds are the upper bounds of a histogram's buckets.
var latencyBounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, time.Second,
}

// latencies is a histogram for the decision path: two additions, without a lock and without a loop until nobody else has written. Calls
// at the same time mostly write to different shards; a scrape adds them up. Prometheus' own histograms cost more than 1 % of a decision that
// is remembered, about 1 µs: 50 ns with fixed buckets and 150 ns with native ones, against 25 ns here. The page is the same:
// TestLatenciesAreThoseOfTheLibrary.
type latencies struct {
	desc   *prometheus.Desc
	shards []latencyShard // a power of two
}

type latencyShard struct {
	counts [len(latencyBounds) + 1]atomic.Uint64
	nanos  atomic.Uint64
	_      [120]byte // no two shards share a cache line, nor a pair of them
}

func newLatencies(name, help string) *latencies {
	shards := 1
	for shards < 4*min(runtime.GOMAXPROCS(0), 64) {
		shards *= 2
	}
	return &latencies{desc: prometheus.NewDesc(name, help, nil, nil), shards: make([]latencyShard, shards)}
}

func (l *latencies) observe(took time.Duration) {
	shard := &l.shards[rand.Uint32()&uint32(len(l.shards)-1)]
	bucket := 0
	for bucket < len(latencyBounds) && took > latencyBounds[bucket] {
		bucket++
	}
	shard.counts[bucket].Add(1)
	shard.nanos.Add(uint64(max(took, 0))) // a clock that was set back
}

// Describe implements prometheus.Collector.
func (l *latencies) Describe(out chan<- *prometheus.Desc) { out <- l.desc }

// Collect implements prometheus.Collector.
func (l *latencies) Collect(out chan<- prometheus.Metric) {
	var count, nanos uint64
	buckets := make(map[float64]uint64, len(latencyBounds))
	for i := range len(latencyBounds) + 1 {
		for s := range l.shards {
			count += l.shards[s].counts[i].Load()
		}
		if i < len(latencyBounds) {
			buckets[latencyBounds[i].Seconds()] = count
		}
	}
	for s := range l.shards {
		nanos += l.shards[s].nanos.Load()
	}
	out <- prometheus.MustNewConstHistogram(l.desc, count, time.Duration(nanos).Seconds(), buckets)
}
