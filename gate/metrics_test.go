package gate

import (
	"testing"
	"time"
)

// BenchmarkObserve is the cost of metrics for one decision, from one goroutine and from many.
func BenchmarkObserve(b *testing.B) {
	m, err := newMetrics(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.observe(outcomeAllow, None, 40*time.Microsecond)
		}
	})
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				m.observe(outcomeAllow, None, 40*time.Microsecond)
			}
		})
	})
}
