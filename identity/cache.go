package identity

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"gatehouse/identity/credential"
)

const (
	cacheWays     = 4       // places where one token may be
	bytesPerSlot  = 2 << 10 // of the limit: small tokens fill the slots, large ones the limit
	minCacheSlots = 64
	refusedShare  = 8               // this part of the limit is for tokens that failed
	refusedFor    = 5 * time.Second // how long those are cached
)

// cache keeps the results of verification: a set-associative table of immutable entries behind atomic pointers, so that neither a
// hit nor a miss takes a lock. Its reader decides whether an entry is still valid; the cache only finds it.
//
// The hash is seeded anew in each process. Nobody outside can aim at a slot, or learn a cached token by timing the
// comparison, which happens only after 64 bits of the hash have matched.
type cache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[verdict] // a power of two; nil = no cache
	limit int64                     // bytes
	used  atomic.Int64              // bytes, the sum of what is in slots
	hand  atomic.Uint64             // next slot to evict
}

// newCache makes a cache that holds about limit bytes; one of 0 or fewer keeps nothing.
func newCache(limit int64) *cache {
	c := &cache{seed: maphash.MakeSeed(), limit: limit}
	if limit <= 0 {
		return c
	}
	slots := minCacheSlots
	for int64(slots)*bytesPerSlot < limit {
		slots *= 2
	}
	c.slots = make([]atomic.Pointer[verdict], slots)
	return c
}

// hash is for all caches of one Verifier: it is made by one of them and used in each.
func (c *cache) hash(t credential.Token) uint64 {
	if c.slots == nil {
		return 0
	}
	return maphash.String(c.seed, t.Raw)
}

func (c *cache) bucket(hash uint64) []atomic.Pointer[verdict] {
	base := hash & uint64(len(c.slots)-1) &^ (cacheWays - 1)
	return c.slots[base : base+cacheWays]
}

// get finds the entry of exactly this token, or nil.
func (c *cache) get(hash uint64, t credential.Token) *verdict {
	if c.slots == nil {
		return nil
	}
	ways := c.bucket(hash)
	for i := range ways {
		if e := ways[i].Load(); e != nil && e.hash == hash && e.token.Raw == t.Raw {
			return e
		}
	}
	return nil
}

// put stores an entry in place of an older one of the same token, an empty or expired one, or else any of its ways, and then
// evicts round robin until the limit holds.
func (c *cache) put(e *verdict, now time.Time) {
	if c.slots == nil || int64(e.memory) > c.limit/cacheWays {
		return
	}
	ways := c.bucket(e.hash)
	victim := int(e.hash>>32+c.hand.Load()) % cacheWays
	for i := range ways {
		old := ways[i].Load()
		if old != nil && old.hash == e.hash && old.token.Raw == e.token.Raw {
			victim = i
			break
		}
		if old == nil || !now.Before(old.until) {
			victim = i
		}
	}
	c.swap(&ways[victim], e)
	for range c.slots {
		if c.used.Load() <= c.limit {
			return
		}
		c.swap(&c.slots[c.hand.Add(1)&uint64(len(c.slots)-1)], nil)
	}
}

// swap keeps used exact whoever else stores into the slot at the same time.
func (c *cache) swap(slot *atomic.Pointer[verdict], e *verdict) {
	var change int64
	if e != nil {
		change = int64(e.memory)
	}
	if old := slot.Swap(e); old != nil {
		change -= int64(old.memory)
	}
	c.used.Add(change)
}
