package directory

import (
	"runtime"
	"slices"
	"sync"
)

// tally is what is known of a part of a directory by going through it.
type tally struct {
	digest digest
	counts counts
	times  []edge
}

func newTally(y *symbols) *tally {
	return &tally{counts: counts{objects: make([]int, len(y.types)), relations: make([]int, len(y.rels))}}
}

// total counts and digests everything, after a bulk build.
func (s *Snapshot) total() {
	tallies := make([]*tally, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for w := range tallies {
		tallies[w] = newTally(s.symbols)
		wg.Go(func() {
			for i := w; i < len(s.rows); i += len(tallies) {
				s.rows[i : i+1].each(func(_ number, p *page) bool {
					tallies[w].page(s, p)
					return true
				})
			}
		})
	}
	wg.Wait()
	var times []edge
	for _, t := range tallies {
		s.digest.add(t.digest)
		s.counts.add(t.counts)
		times = append(times, t.times...)
	}
	slices.Sort(times)
	s.times = newTimes(times)
}

func (c *counts) add(more counts) {
	c.bytes += more.bytes
	for i, n := range more.objects {
		c.objects[i] += n
	}
	for i, n := range more.relations {
		c.relations[i] += n
	}
}

// page adds the objects of a page and their relations.
func (t *tally) page(s *Snapshot, p *page) {
	var buf []byte
	var d digest
	t.counts.bytes += p.size()
	p.slots(func(slot number) bool {
		r := p.record(slot)
		if typ, id := r.head(); string(id) != wildcard {
			t.counts.objects[typ]++
			d, buf = s.symbols.digestRecord(buf, r)
			t.digest.add(d)
		}
		span := p.fwd.of(slot).all()
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			t.counts.relations[e.rel()]++
			d, buf = s.symbols.digestEdge(buf, r, e, s.record(e.other()), at)
			t.digest.add(d)
			if at != 0 {
				t.times = append(t.times, edge(at))
			}
		}
		return true
	})
}
