package server

import (
	"errors"
	"math"
	"os"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"
)

func TestGrowthIsBoundedInBytes(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 10 << 20: 400, 32 << 20: 150, 64 << 20: 75, 1 << 30: 50} {
		if got := growthPercent(live); got != want {
			t.Errorf("%d live bytes may grow by %d %%, want %d %%", live, got, want)
		}
	}
}

func TestMemoryLimitOfTheContainer(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	for _, tt := range []struct {
		name      string
		container memlimit.Provider
		env       string
		want      int64
	}{
		{"a limit", memlimit.Limit(1000 << 20), "", 900 << 20},
		{"none, as version 2 says it", func() (uint64, error) { return 0, memlimit.ErrNoLimit }, "", math.MaxInt64},
		{"none, as version 1 says it", memlimit.Limit(9223372036854771712), "", math.MaxInt64},
		{"no cgroups", func() (uint64, error) { return 0, errors.New("cgroups are not supported") }, "", math.MaxInt64},
		{"its owner knows better", memlimit.Limit(1000 << 20), "123MiB", math.MaxInt64}, // Go itself reads the variable, at the start
	} {
		t.Run(tt.name, func(t *testing.T) {
			debug.SetMemoryLimit(math.MaxInt64)
			t.Setenv("GOMEMLIMIT", tt.env)
			if tt.env == "" {
				os.Unsetenv("GOMEMLIMIT")
			}
			if limitMemory(zap.NewNop(), tt.container); debug.SetMemoryLimit(-1) != tt.want {
				t.Errorf("the limit is %d, want %d", debug.SetMemoryLimit(-1), tt.want)
			}
		})
	}
}
