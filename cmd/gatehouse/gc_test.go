package main

import "testing"

func TestGrowthIsBoundedInBytes(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 10 << 20: 400, 48 << 20: 200, 96 << 20: 100, 1 << 30: 50} {
		if got := growthPercent(live); got != want {
			t.Errorf("%d live bytes may grow by %d %%, want %d %%", live, got, want)
		}
	}
}
