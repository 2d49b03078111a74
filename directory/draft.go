package directory

import (
	"cmp"
	"slices"
	"strings"
)

// draft is a page while a batch changes it. Records are changed in the draft's copy of the page; lists of relations
// are copied on their first change, and written back together by freeze.
type draft struct {
	page     *page
	bytes    []byte // the page's records, once it is a copy
	fwd, rev draftSide
}

// draftSide is the changed lists of a side.
type draftSide struct {
	index   [pageSize]uint8 // by slot: 1 + the index in changed
	changed []draftList
}

type draftList struct {
	slot number
	list list      // a copy, while there is no hub
	hub  *draftHub // nil for short lists
}

func (d *draft) side(rev bool) (*draftSide, side) {
	if rev {
		return &d.rev, side{d.page, true}
	}
	return &d.fwd, side{d.page, false}
}

// setRecord replaces the record of a slot. An empty one deletes the object. It spoils records read from the draft before.
func (d *draft) setRecord(slot number, r record) {
	p := d.page
	if d.bytes == nil {
		d.bytes = append(make([]byte, 0, len(p.records)+len(r)), p.records...)
	}
	from, to := p.starts[slot].record, p.starts[slot+1].record
	d.bytes = slices.Replace(d.bytes, int(from), int(to), []byte(r)...)
	p.records = alias(d.bytes)
	for i := slot + 1; i <= pageSize; i++ {
		p.starts[i].record += uint32(len(r)) - (to - from)
	}
	if p.used |= 1 << slot; len(r) == 0 {
		p.used &^= 1 << slot
	}
}

// of is the list of a slot, for reading.
func (d *draftSide) of(slot number, base side) edges {
	i := d.index[slot]
	if i == 0 {
		return base.of(slot)
	}
	l := &d.changed[i-1]
	switch {
	case l.hub == nil:
		return edges{list: l.list}
	case l.hub.n == 0: // a hub that can be searched is not empty
		return edges{}
	}
	l.hub.count()
	return edges{hub: &l.hub.hub}
}

// take is the list of a slot, for writing.
func (d *draftSide) take(slot number, base side) *draftList {
	if i := d.index[slot]; i != 0 {
		return &d.changed[i-1]
	}
	l := draftList{slot: slot}
	if e := base.of(slot); e.hub != nil {
		l.hub = newDraftHub(e.hub, hubChunk)
	} else {
		l.list = e.clone(1)
	}
	d.changed = append(d.changed, l)
	d.index[slot] = uint8(len(d.changed))
	return &d.changed[len(d.changed)-1]
}

// set adds an edge, or changes its expiry. It returns the previous expiry, if the edge existed.
func (l *draftList) set(e edge, at int64) (before int64, was bool) {
	if l.hub != nil {
		return l.hub.set(e, at)
	}
	i, ok := l.list.search(e)
	if ok {
		return l.list.setExpiry(i, at), true
	}
	l.list.insert(i, e, at)
	if len(l.list.edges) > 2*hubChunk {
		l.hub, l.list = newDraftHub(newHub(l.list), hubChunk), list{}
	}
	return 0, false
}

// remove removes an edge. It returns its expiry, if it existed.
func (l *draftList) remove(e edge) (before int64, was bool) {
	if l.hub != nil {
		c, i, ok := l.hub.find(e)
		if !ok {
			return 0, false
		}
		before = l.hub.chunks[c].expires(i)
		l.hub.remove(c, i)
		return before, true
	}
	i, ok := l.list.search(e)
	if !ok {
		return 0, false
	}
	before = l.list.expires(i)
	l.list.remove(i)
	return before, true
}

// setExpiry changes the expiry of edge i of a list that is not shared.
func (l *list) setExpiry(i int, at int64) (before int64) {
	before = l.expires(i)
	if at != before {
		if l.at == nil {
			l.at = make([]int64, len(l.edges), cap(l.edges))
		}
		l.at[i] = at
	}
	return before
}

// freeze writes the changed lists back.
func (d *draft) freeze() *page {
	p := d.page
	if cap(d.bytes) > len(d.bytes)+len(d.bytes)/8 {
		p.records = strings.Clone(p.records)
	}
	d.fwd.freeze(side{p, false})
	d.rev.freeze(side{p, true})
	return p
}

func (d *draftSide) freeze(base side) {
	if len(d.changed) == 0 {
		return
	}
	slices.SortFunc(d.changed, func(a, b draftList) int { return cmp.Compare(a.slot, b.slot) })
	was, shared := base.lists(), base.rest().hubs
	room, expiring := len(was.edges), was.at != nil
	hubs := shared
	for i := range d.changed {
		l := &d.changed[i]
		h := l.freeze()
		hubs = withHub(hubs, shared, l.slot, h)
		room += len(l.list.edges)
		expiring = expiring || l.list.at != nil
	}
	out := list{edges: make([]edge, 0, room)}
	if expiring {
		out.at = make([]int64, 0, room)
	}
	var to ends
	slot := number(0)
	copyTo := func(until number) { // copies the unchanged lists up to a slot
		shift := len(out.edges) - base.start(slot)
		out.add(was.slice(base.start(slot), base.start(until)))
		for ; slot < until; slot++ {
			to[slot] = uint16(base.start(slot+1) + shift)
		}
	}
	for i := range d.changed {
		copyTo(d.changed[i].slot)
		out.add(d.changed[i].list)
		to[slot] = uint16(len(out.edges))
		slot++
	}
	copyTo(pageSize)
	if !out.expiring() {
		out.at = nil
	}
	if cap(out.edges) > len(out.edges)+len(out.edges)/8+4 {
		out = out.clone(0)
	}
	base.set(out, &to, hubs)
}

// freeze chooses between list and hub.
func (l *draftList) freeze() *hub {
	switch {
	case l.hub != nil && l.hub.n >= hubBack:
		return l.hub.freeze()
	case l.hub != nil:
		l.list, l.hub = l.hub.flat(), nil
	case len(l.list.edges) > hubMin:
		h := newHub(l.list)
		l.list = list{}
		return h
	}
	return nil
}

// withHub sets or removes the hub of a slot. It writes to hubs only if that is not base.
func withHub(hubs, base []slotHub, slot number, h *hub) []slotHub {
	i, ok := slices.BinarySearchFunc(hubs, slot, func(h slotHub, slot number) int { return cmp.Compare(number(h.slot), slot) })
	if !ok && h == nil {
		return hubs
	}
	if len(hubs) == 0 {
		return []slotHub{{uint8(slot), h}}
	}
	if len(base) > 0 && &hubs[0] == &base[0] {
		hubs = slices.Clone(hubs)
	}
	switch {
	case !ok:
		return slices.Insert(hubs, i, slotHub{uint8(slot), h})
	case h == nil:
		return slices.Delete(hubs, i, i+1)
	}
	hubs[i].hub = h
	return hubs
}

// draftHub is a hub while a batch changes it. Each chunk is copied once.
type draftHub struct {
	hub
	size int    // of a chunk, which is split at twice that
	own  []bool // by chunk: it is a copy
}

func newDraftHub(h *hub, size int) *draftHub {
	return &draftHub{hub: hub{n: h.n, chunks: slices.Clone(h.chunks)}, size: size, own: make([]bool, len(h.chunks))}
}

// find is search for a hub that may be empty.
func (h *draftHub) find(e edge) (c, i int, ok bool) {
	if len(h.chunks) == 0 {
		return 0, 0, false
	}
	return h.search(e)
}

func (h *draftHub) chunk(c int) *chunk {
	if !h.own[c] {
		h.chunks[c].list = h.chunks[c].clone(8)
		h.own[c] = true
	}
	return &h.chunks[c]
}

func (h *draftHub) set(e edge, at int64) (before int64, was bool) {
	c, i, ok := h.find(e)
	if ok {
		return h.chunk(c).setExpiry(i, at), true
	}
	h.insert(c, i, e, at)
	return 0, false
}

func (h *draftHub) insert(c, i int, e edge, at int64) {
	h.n++
	if len(h.chunks) == 0 {
		h.chunks, h.own = []chunk{{}}, []bool{true}
	}
	x := h.chunk(c)
	x.insert(i, e, at)
	x.first = x.edges[0]
	if n := len(x.edges); n >= 2*h.size {
		more := newChunk(x.slice(n/2, n).clone(8))
		x.list = x.slice(0, n/2).clone(8)
		h.chunks, h.own = slices.Insert(h.chunks, c+1, more), slices.Insert(h.own, c+1, true)
	}
}

// remove removes an edge. A small chunk is merged with the next one.
func (h *draftHub) remove(c, i int) {
	h.n--
	x := h.chunk(c)
	x.remove(i)
	switch n := len(x.edges); {
	case n == 0:
		h.drop(c)
	case n < h.size/4 && c+1 < len(h.chunks) && n+len(h.chunks[c+1].edges) <= h.size:
		x.add(h.chunks[c+1].list)
		x.first = x.edges[0]
		h.drop(c + 1)
	default:
		x.first = x.edges[0]
	}
}

func (h *draftHub) drop(c int) {
	h.chunks, h.own = slices.Delete(h.chunks, c, c+1), slices.Delete(h.own, c, c+1)
}

// freeze returns the immutable hub. Copied chunks are trimmed.
func (h *draftHub) freeze() *hub {
	for c := range h.chunks {
		l := &h.chunks[c].list
		if h.own[c] && l.at != nil && !l.expiring() {
			l.at = nil
		}
		if h.own[c] && cap(l.edges) > len(l.edges)+len(l.edges)/8 {
			*l = l.clone(0)
		}
	}
	h.count()
	return &h.hub
}
