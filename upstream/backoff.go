package upstream

import (
	"math/rand/v2"
	"time"
)

// Backoff is how long to wait after failures in a row: longer each time, and never for all clients of a server alike.
type Backoff struct {
	First, Most time.Duration
	failures    int
}

// Failed returns the pause after a further failure.
func (b *Backoff) Failed() time.Duration {
	pause := b.First << min(b.failures, 20)
	b.failures++
	return Jitter(min(pause, b.Most))
}

// Reset says that all is well again.
func (b *Backoff) Reset() { b.failures = 0 }

// Jitter spreads the clients of one server: it takes up to a fifth off or adds it. The result is at least 200 ms.
func Jitter(d time.Duration) time.Duration {
	return max(minPause, time.Duration(float64(d)*(0.8+0.4*rand.Float64())))
}

// Shorten takes up to a tenth off, for what must not be late.
func Shorten(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/10+1))
}

const minPause = 200 * time.Millisecond // between two requests, whatever happens
