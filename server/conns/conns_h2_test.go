package conns

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/config"
)

// TestFramesInAnyPieces holds that what is found does not depend on how the bytes come: all at once, or a few at a time. In the end nothing is left on
// the books.
func TestFramesInAnyPieces(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		frames := func(bytes []byte) []byte {
			for range 100 {
				n, kind, id := r.IntN(30)*r.IntN(2), byte(r.IntN(10)), byte(r.IntN(12))
				bytes = append(bytes, 0, 0, byte(n), kind, byte(r.IntN(8)), byte(r.IntN(2)<<7), 0, 0, id)
				bytes = append(bytes, make([]byte, n)...)
			}
			return bytes
		}
		in, out := frames(make([]byte, h2Preface)), frames(nil)
		whole, pieces := newWatched(), newWatched()
		whole.received(in)
		whole.sent(out)
		for piece := range slices.Chunk(in, 1+r.IntN(40)) {
			pieces.received(piece)
		}
		for piece := range slices.Chunk(out, 1+r.IntN(40)) {
			pieces.sent(piece)
		}
		if !slices.Equal(whole.streams, pieces.streams) || whole.bytes != pieces.bytes || whole.answered.Load() != pieces.answered.Load() {
			t.Fatalf("seed %d: %v %d, in pieces %v %d", seed, whole.streams, whole.bytes, pieces.streams, pieces.bytes)
		}
		for _, w := range []*h2Watch{whole, pieces} {
			if got := w.all.requests.Load(); got != int64(len(w.streams)) || w.all.bytes.Load() != w.bytes {
				t.Fatalf("seed %d: %d requests of %d streams are counted", seed, got, len(w.streams))
			}
			if !slices.IsSortedFunc(w.streams, func(a, b h2Stream) int { return int(a.id) - int(b.id) }) {
				t.Fatalf("seed %d: %v", seed, w.streams)
			}
			w.release()
			if w.all.requests.Load() != 0 || w.all.bytes.Load() != 0 {
				t.Fatalf("seed %d: %d requests and %d bytes stay", seed, w.all.requests.Load(), w.all.bytes.Load())
			}
		}
	}
}

func newWatched() *h2Watch {
	c := &Conn{all: New(config.Listen{MaxConnections: 10, MaxRequests: 1000, MaxPending: 1 << 20}, prometheus.NewRegistry()), listener: "grpc"}
	return WatchH2(c, c).(*h2Watch)
}

// TestShedSparesWhoseRestIsOnTheWay has peers whose answers nobody takes hold more than there may be. A request that has begun a moment ago on another
// connection is no reason to cut that one; as many as are more than an equal part are.
func TestShedSparesWhoseRestIsOnTheWay(t *testing.T) {
	all := New(config.Listen{MaxConnections: 10, MaxRequests: 1000, MaxPending: 1 << 20}, prometheus.NewRegistry())
	begun := func(requests int, flags byte) *Conn {
		mine, theirs := net.Pipe()
		t.Cleanup(func() { mine.Close(); theirs.Close() })
		c := &Conn{Conn: mine, all: all, listener: "grpc", since: time.Now()}
		w := WatchH2(c, c).(*h2Watch)
		all.admit(c)
		frames := make([]byte, h2Preface)
		for id := range requests {
			frames = binary.BigEndian.AppendUint32(append(frames, 0, 0, 0, h2Headers, flags), uint32(2*id+1))
		}
		if w.received(frames) {
			all.shed()
		}
		return c
	}
	for range 3 {
		begun(400, h2EndStream)
	}
	if good := begun(1, 0); good.cutOnce.Load() {
		t.Error("a connection was cut for one request whose rest is on its way")
	}
	if bad := begun(300, 0); !bad.cutOnce.Load() {
		t.Error("a connection with 300 of 1,000 requests that do not get on stays, with five there")
	}
}
