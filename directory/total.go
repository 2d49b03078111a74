package directory

import (
	"runtime"
	"slices"
)

// tally is what is known of a part of a directory by going through it.
type tally struct {
	digest digest
	counts counts
	times  []edge

	waiting []tallyEdge
	buf     []byte
	touched byte // nobody reads it, but it must be read for
}

func newTally(y *symbols) *tally {
	return &tally{counts: counts{objects: make([]int, len(y.types)), relations: make([]int, len(y.rels))}}
}

// total counts and digests everything, after a bulk build.
func (s *Snapshot) total() {
	tallies := make([]*tally, runtime.GOMAXPROCS(0))
	var work parallel
	for w := range tallies {
		tallies[w] = newTally(s.symbols)
		work.run(func() {
			for i := w; i < len(s.rows); i += len(tallies) {
				s.rows[i : i+1].each(func(_ number, p *page) bool {
					tallies[w].page(s, p)
					return true
				})
			}
		})
	}
	work.wait()
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
	t.counts.bytes += p.size()
	p.slots(func(slot number) bool {
		r := p.record(slot)
		if typ, id := r.head(); string(id) != wildcard {
			t.counts.objects[typ]++
			var d digest
			d, t.buf = s.symbols.digestRecord(t.buf, r)
			t.digest.add(d)
		}
		span := p.fwd.of(slot).all()
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			t.counts.relations[e.rel()]++
			if at != 0 {
				t.times = append(t.times, edge(at))
			}
			if t.waiting = append(t.waiting, tallyEdge{r, e, at}); len(t.waiting) == tallyEdges {
				t.edges(s)
			}
		}
		return true
	})
	t.edges(s)
}

// tallyEdge is a relation on its way into the digest.
type tallyEdge struct {
	object record
	edge   edge
	at     int64
}

const tallyEdges = 256

// edges adds relations. Their subjects are all over the memory: it is asked for many at once, so that it answers while others wait.
func (t *tally) edges(s *Snapshot) {
	var pages [tallyEdges]*page
	var subjects [tallyEdges]record
	for i, x := range t.waiting {
		pages[i] = s.rows.page(x.edge.other())
	}
	for i, x := range t.waiting {
		subjects[i] = pages[i].record(x.edge.other() & (pageSize - 1))
	}
	for i := range t.waiting {
		t.touched += subjects[i][0]
	}
	for i, x := range t.waiting {
		var d digest
		d, t.buf = s.symbols.digestEdge(t.buf, x.object, x.edge, subjects[i], x.at)
		t.digest.add(d)
	}
	t.waiting = t.waiting[:0]
}
