package policy

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/rego"
)

const (
	defaultMemo   = 16 << 20 // bytes
	minMemo       = 64 << 10 // bytes
	defaultSample = 1024
	slotBytes     = 512 // of the budget per slot: about an entry with a small result
	ways          = 8   // slots that one key may occupy
	evictSteps    = 256 // slots that one insertion checks for room before it gives up

	// One hit per this many misses is needed to pay for the keys.
	hitsPerMiss = 16
)

// pace says when an entry bypasses the memo: after a window of misses with too few hits, for rest decisions, doubled each time up to
// mostRest, before it is tried again. Together the tries cost less than a hundredth of the evaluations.
type pace struct {
	window         uint64
	rest, mostRest int64
}

// MemoConfig configures a Memo.
type MemoConfig struct {
	Bytes  int64  // maximum memory; 0: 16 MiB; the minimum is 64 KiB
	Sample int    // one hit in this many is evaluated again as a check; 0: 1024
	Stats  *Stats // counters, which outlive the memo. Required
}

// Memo caches the decisions of one snapshot: an input whose Key was seen before gets the same decision. A decision is stored only if it is a
// pure function of what the key holds and of what Facts answered: nothing that the policy can reach depends on the clock, randomness or the
// network (Entry.Memoisable), and evaluation ended normally. One with directory queries is stored with them and their answers, and is valid
// for all Facts that give the same answers. The reasons are in docs/decisions/0006-memo.md and 0014-memo-directory.md.
//
// Lookups take no lock. Memory is bounded in bytes, and an entry whose decisions rarely repeat bypasses the memo. A nil Memo stores nothing.
type Memo struct {
	snapshot    *Snapshot
	stats       *Stats
	seed        maphash.Seed
	hashMask    uint64 // all ones except in tests
	sample      uint64
	limit       int64
	pace        pace
	recheckWait time.Duration // askAgain except in tests

	slots []atomic.Pointer[memoEntry] // grouped into sets of ways
	sets  uint64                      // number of sets minus one; a power of two minus one
	bytes atomic.Int64                // of all entries, including those about to be stored
	count atomic.Int64
	hand  atomic.Uint64 // where eviction starts, as in the CLOCK algorithm

	stopped atomic.Pointer[string] // why it was disabled for good; nil while it is enabled
}

// memoEntry is one stored decision. Only used, kept and holds ever change. It shares no memory with the request that it was made for.
type memoEntry struct {
	hash     uint64
	used     atomic.Bool // since the hand last passed
	size     int64
	key      []byte
	decision *Decision // nil: the decision was undefined
	asked    []Question
	kept     atomic.Value          // Decision.AskedKept
	holds    atomic.Pointer[state] // a directory state with these answers; nil if nothing was asked
}

// state is a directory version and epoch: within it, every query has one answer. Beyond it, while the basis holds.
type state struct {
	version, epoch uint64
	basis          Dependencies // of the entry's answers; nil: unknown
}

func (f Facts) state(now time.Time) state {
	return state{version: f.Version, epoch: f.Directory.Epoch(now)}
}

// NewMemo returns an empty memo of a snapshot.
func (s *Snapshot) NewMemo(cfg MemoConfig) *Memo {
	m := &Memo{snapshot: s, stats: cfg.Stats, seed: maphash.MakeSeed(), hashMask: ^uint64(0), sample: defaultSample, limit: defaultMemo, recheckWait: askAgain,
		pace: pace{window: 8 << 10, rest: 64 << 10, mostRest: 1 << 20}}
	if cfg.Bytes > 0 {
		m.limit = max(cfg.Bytes, minMemo)
	}
	if cfg.Sample > 0 {
		m.sample = uint64(cfg.Sample)
	}
	slots := ways
	for int64(slots*2) <= m.limit/slotBytes {
		slots *= 2
	}
	m.slots = make([]atomic.Pointer[memoEntry], slots)
	m.sets = uint64(slots/ways) - 1
	m.bytes.Store(int64(slots) * 8)
	return m
}

// Of returns the memo's snapshot.
func (m *Memo) Of() *Snapshot { return m.snapshot }

// Key starts the key of an input to an entry of the memo's snapshot. It is nil if the entry's decisions are not memoised, or not at the
// moment.
func (m *Memo) Key(e *Entry) *Key {
	if m == nil || e.snapshot != m.snapshot || len(e.impure) > 0 || m.stopped.Load() != nil || e.tally.bypass() {
		return nil
	}
	k := keyPool.Get().(*Key)
	k.memo, k.entry, k.unfit = m, e, false
	k.text, k.starts = append(k.text[:0], e.prefix...), k.starts[:0]
	return k
}

// MemoHit is a decision found in the memo.
type MemoHit struct {
	Decision Decision // shared, except for Metadata: its slices must not be changed
	Err      error    // ErrUndefined if there was no decision
	Sample   bool     // this hit is to be checked: see Key.Recheck
	entry    *memoEntry
}

// Lookup looks the key up. A decision with directory queries is only returned if they have the same answers now; they are sent again if the
// directory's version or epoch has changed.
func (k *Key) Lookup(facts Facts, now time.Time) (found MemoHit, ok bool) {
	m := k.memo
	if k.unfit {
		m.stats.unfit.Add(1)
		return MemoHit{}, false
	}
	k.hash = k.hashed(m.seed) & m.hashMask
	entry := m.find(k)
	if entry == nil || entry.asked != nil && !entry.stillValid(facts, now, m.recheckWait) {
		m.stats.misses.Add(1)
		k.entry.tally.missed(&m.pace)
		return MemoHit{}, false
	}
	if !entry.used.Load() {
		entry.used.Store(true)
	}
	k.entry.tally.hit(k.hash)
	found.entry = entry
	found.Sample = m.stats.hit(k.hash)%m.sample == 0
	if entry.decision == nil {
		found.Err = ErrUndefined
	} else {
		found.Decision = *entry.decision
	}
	if entry.asked != nil {
		found.Decision.Asked, found.Decision.AskedKept = entry.asked, &entry.kept
	}
	if found.Decision.Metadata != nil { // the receiver owns Metadata
		found.Decision.Metadata = rego.CopyJSON(found.Decision.Metadata).(map[string]any)
	}
	return found, true
}

// stillValid reports whether these facts give all recorded answers.
func (r *memoEntry) stillValid(facts Facts, now time.Time, within time.Duration) bool {
	if facts.Directory == nil || facts.Version == 0 {
		return false
	}
	is, held := facts.state(now), r.holds.Load()
	if held.version == is.version && held.epoch == is.epoch || held.basis != nil && held.basis.Holds(facts.Directory, now) {
		return true
	}
	same, on := facts.sameAnswers(r.asked, now, within)
	if !same {
		return false
	}
	r.holds.Store(&state{is.version, is.epoch, on}) // a concurrent store is as good
	return true
}

// find looks for a key. The hash only selects the set: the whole key is compared.
func (m *Memo) find(k *Key) *memoEntry {
	set := m.set(k.hash)
	for i := range set {
		if r := set[i].Load(); r != nil && r.hash == k.hash && string(r.key) == string(k.text) {
			return r
		}
	}
	return nil
}

func (m *Memo) set(hash uint64) []atomic.Pointer[memoEntry] {
	at := (hash & m.sets) * ways
	return m.slots[at : at+ways]
}

// Decide is Entry.DecideWithin for the key's entry, and stores the decision if allowed.
func (k *Key) Decide(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, clean, err := k.entry.decide(ctx, timeout, input, facts, now)
	return k.keep(d, clean, err, facts, now)
}

// keep stores a decision if allowed.
func (k *Key) keep(d Decision, clean bool, err error, facts Facts, now time.Time) (Decision, error) {
	asked := len(d.Asked) > 0 || d.AskedTruncated
	if !clean || k.unfit || err != nil && !errors.Is(err, ErrUndefined) || asked && (facts.Version == 0 || d.AskedTruncated) {
		return d, err
	}
	r := &memoEntry{hash: k.hash}
	if asked {
		var ok bool
		if r.asked, r.size, ok = facts.detachedQuestions(d.Asked); !ok {
			return d, err
		}
		r.size += min(r.size, MaxKept) + dependencyBytes
		is := facts.state(now)
		r.holds.Store(&is)
	}
	k.memo.remember(k, r, &d, err)
	return d, err
}

// remember stores a decision, unless it is too large or no room can be made.
func (m *Memo) remember(k *Key, r *memoEntry, d *Decision, err error) {
	if err == nil {
		var size int64
		r.decision, size = detached(d)
		if r.size += size; r.decision == nil || r.size > m.limit/8 {
			m.stats.unfit.Add(1)
			return
		}
	}
	r.key = append(make([]byte, 0, len(k.text)), k.text...)
	r.size += entryBytes + int64(len(r.key))
	if !m.reserve(r.size) {
		m.bytes.Add(-r.size)
		m.stats.unfit.Add(1)
		return
	}
	m.place(r)
}

// reserve adds to the bytes in use and makes room for them before anything is stored, so that entries never exceed the limit.
func (m *Memo) reserve(size int64) bool {
	over := m.bytes.Add(size) > m.limit
	for steps := 0; over && steps < evictSteps; steps++ {
		slot := &m.slots[m.hand.Add(1)%uint64(len(m.slots))]
		if r := slot.Load(); r != nil && !r.used.Swap(false) {
			m.drop(slot, r, nil)
		}
		over = m.bytes.Load() > m.limit
	}
	return !over
}

// drop replaces an entry in its slot, or removes it.
func (m *Memo) drop(slot *atomic.Pointer[memoEntry], old, instead *memoEntry) bool {
	if !slot.CompareAndSwap(old, instead) {
		return false
	}
	if old != nil {
		m.bytes.Add(-old.size)
		m.count.Add(-1)
		m.stats.evicted.Add(1)
	}
	if instead != nil {
		m.count.Add(1)
	}
	return true
}

// place puts an entry, whose bytes are reserved, into its set: in place of one with its key, else into an empty slot, else in place of one
// not used recently.
func (m *Memo) place(r *memoEntry) {
	set := m.set(r.hash)
	for range ways {
		at := m.victim(set, r)
		if m.drop(at, at.Load(), r) {
			return
		}
	}
	m.bytes.Add(-r.size) // other goroutines won each time
}

func (m *Memo) victim(set []atomic.Pointer[memoEntry], r *memoEntry) *atomic.Pointer[memoEntry] {
	var free, unused *atomic.Pointer[memoEntry]
	for i := range set {
		switch old := set[i].Load(); {
		case old == nil:
			free = &set[i]
		case old.hash == r.hash && string(old.key) == string(r.key):
			return &set[i]
		case unused == nil && !old.used.Swap(false):
			unused = &set[i]
		}
	}
	switch {
	case free != nil:
		return free
	case unused != nil:
		return unused
	}
	return &set[r.hash>>32%ways]
}

// Recheck is a hit to be evaluated again.
type Recheck struct {
	memo  *Memo
	entry *Entry
	input rego.Value
	facts Facts
	now   time.Time
	found *memoEntry
}

// Recheck takes a hit and the whole input that it was for, which it copies.
func (k *Key) Recheck(found MemoHit, input rego.Value, facts Facts, now time.Time) (Recheck, bool) {
	size := int64(0)
	own, ok := rego.Copy(input, &size)
	return Recheck{memo: k.memo, entry: k.entry, input: own, facts: facts, now: now, found: found.entry}, ok
}

// Run evaluates the decision again, without the memo. An error describes the difference, and the memo is disabled from then on. nil also
// means that ctx ended before there was a result.
func (r *Recheck) Run(ctx context.Context) error {
	d, _, err := r.entry.decide(ctx, 0, r.input, r.facts, r.now)
	was, is := "no decision", "no decision"
	if r.found.decision != nil {
		was = r.found.decision.Result.String()
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		is = d.Result.String()
	case !errors.Is(err, ErrUndefined):
		is = err.Error()
	}
	r.memo.stats.rechecks.Add(1)
	if was == is {
		return nil
	}
	r.memo.stats.mismatches.Add(1)
	wrong := fmt.Errorf("a remembered decision of %v is not what the policy decides: remembered %.200q, decided %.200q", r.entry.path, was, is)
	why := wrong.Error()
	r.memo.stopped.CompareAndSwap(nil, &why)
	return wrong
}

// MemoStatus is a memo's state.
type MemoStatus struct {
	Stopped string // why it was disabled for good, "" while it is enabled
	Entries int64
	Bytes   int64
	Limit   int64
}

// Status of a nil Memo is the zero value.
func (m *Memo) Status() MemoStatus {
	if m == nil {
		return MemoStatus{}
	}
	s := MemoStatus{Entries: m.count.Load(), Bytes: m.bytes.Load(), Limit: m.limit}
	if why := m.stopped.Load(); why != nil {
		s.Stopped = *why
	}
	return s
}

// stripes are separate counters that keep processors from contending for one cache line.
const stripes = 16

type stripe struct {
	hits atomic.Uint64
	_    [56]byte
}

// Stats counts memo lookups. It outlives memos: each policy has a new memo, but counters must not decrease. The zero value is ready.
type Stats struct {
	striped [stripes]stripe
	misses, unfit, evicted,
	rechecks, mismatches atomic.Uint64
}

// hit counts one, and returns its stripe's count.
func (s *Stats) hit(hash uint64) uint64 { return s.striped[hash>>40%stripes].hits.Add(1) }

// Counts is a copy of Stats.
type Counts struct {
	Hits, Misses uint64
	Unfit        uint64 // neither: a key over 8 KiB, or a decision too large to store
	Evicted      uint64
	Rechecks     uint64 // hits evaluated again as a check
	Mismatches   uint64 // rechecks with another result; must be 0
}

// Counts returns the current counts.
func (s *Stats) Counts() Counts {
	c := Counts{Misses: s.misses.Load(), Unfit: s.unfit.Load(), Evicted: s.evicted.Load(), Rechecks: s.rechecks.Load(), Mismatches: s.mismatches.Load()}
	for i := range s.striped {
		c.Hits += s.striped[i].hits.Load()
	}
	return c
}

// tally judges whether memoising an entry's decisions pays. Its counts may be slightly off: nothing else depends on them.
type tally struct {
	striped [4]stripe
	misses  atomic.Uint64
	before  atomic.Uint64 // hits at the end of the last window
	rest    atomic.Int64  // decisions left to make without the memo
	next    atomic.Int64  // length of the next rest; 0: pace.rest
}

// bypass reports whether this decision bypasses the memo.
func (t *tally) bypass() bool { return t.rest.Load() > 0 && t.rest.Add(-1) >= 0 }

func (t *tally) hit(hash uint64) { t.striped[hash>>44%4].hits.Add(1) }

// missed counts a miss, and judges at the end of each window.
func (t *tally) missed(p *pace) {
	if t.misses.Add(1)%p.window != 0 {
		return
	}
	var hits uint64
	for i := range t.striped {
		hits += t.striped[i].hits.Load()
	}
	if hits-t.before.Swap(hits) >= p.window/hitsPerMiss {
		t.next.Store(0)
		return
	}
	long := max(t.next.Load(), p.rest)
	t.next.Store(min(2*long, p.mostRest))
	t.rest.Store(long)
}

// Bypassed reports whether the entry bypasses the memo for now, because its decisions rarely repeat.
func (e *Entry) Bypassed() bool { return e.tally.rest.Load() > 0 }

// Memory of an entry's parts, in bytes, rounded up. A basis is the directory's.
const (
	entryBytes      = 160 // remembered and its slot
	decisionBytes   = 320
	dependencyBytes = 256
	questionBytes   = 104 + preparedBytes // with its slice of arguments
	preparedBytes   = 80
)

// plainDecisions are the decisions of policies that return only true or false.
var plainDecisions = map[bool]*Decision{
	true:  {Allowed: true, Result: ast.InternedBooleanTrueValue},
	false: {Result: ast.InternedBooleanFalseValue},
}

// detached copies a decision, so that it shares no memory with the request, and returns its approximate size in bytes. It returns nil if the
// decision is nested too deeply.
func detached(d *Decision) (*Decision, int64) {
	if b, ok := d.Result.(ast.Boolean); ok && bool(b) == d.Allowed {
		return plainDecisions[d.Allowed], 0
	}
	size := int64(decisionBytes)
	result, ok := rego.Copy(d.Result, &size)
	if !ok {
		return nil, 0
	}
	size += min(size, MaxKept)
	text := func(s string) string {
		size += int64(len(s)) + 8
		return strings.Clone(s)
	}
	headers := func(list []Header) []Header {
		list = slices.Clone(list)
		for i, h := range list {
			size += 48
			list[i] = Header{Name: text(h.Name), Value: text(h.Value), AppendAction: text(h.AppendAction)}
		}
		return list
	}
	names := func(list []string) []string {
		list = slices.Clone(list)
		for i, s := range list {
			size += 16
			list[i] = text(s)
		}
		return list
	}
	own := &Decision{Allowed: d.Allowed, Reason: text(d.Reason), Headers: headers(d.Headers), ResponseHeaders: headers(d.ResponseHeaders),
		RemoveHeaders: names(d.RemoveHeaders), SetQuery: slices.Clone(d.SetQuery), RemoveQuery: names(d.RemoveQuery), Body: text(d.Body),
		Status: d.Status, Result: result, Kept: new(atomic.Value)}
	for i, q := range own.SetQuery {
		size += 32
		own.SetQuery[i] = QueryParameter{Name: text(q.Name), Value: text(q.Value)}
	}
	if d.Metadata != nil {
		plain, err := rego.JSON(member(result.(ast.Object), "dynamic_metadata"))
		if err != nil {
			return nil, 0
		}
		own.Metadata, _ = plain.(map[string]any)
		size += size / 2 // the same data again, as plain JSON
	}
	return own, size
}
