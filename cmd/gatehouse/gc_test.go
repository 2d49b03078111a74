package main

import (
	"errors"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
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

func TestServeKeepsToTheMemoryThatThereIs(t *testing.T) {
	const config = "listen: {grpc: [$GRPC], admin: $ADMIN}\npolicy: {bundles: [{name: p, path: policy}]}\n"
	t.Setenv("GOMEMLIMIT", "") // has it put back
	os.Unsetenv("GOMEMLIMIT")
	if got, want := newProcess(t, config).ready().memoryLimit(), kernelsLimit(t); got != want {
		t.Errorf("the limit is %g, want %g", got, want)
	}
	t.Setenv("GOMEMLIMIT", "123MiB")
	if got := newProcess(t, config).ready().memoryLimit(); got != 123<<20 {
		t.Errorf("with GOMEMLIMIT the limit is %g, want 123 MiB", got)
	}
}

// memoryLimit is what /metrics tells.
func (p *process) memoryLimit() float64 {
	_, page := p.get("/metrics")
	_, rest, _ := strings.Cut(page, "\ngo_gc_gomemlimit_bytes ")
	line, _, _ := strings.Cut(rest, "\n")
	limit, err := strconv.ParseFloat(line, 64)
	if err != nil {
		p.t.Fatalf("go_gc_gomemlimit_bytes: %v", err)
	}
	return limit
}

// kernelsLimit is the limit that a process started here is to have.
func kernelsLimit(t *testing.T) float64 {
	t.Helper()
	limit, err := memlimit.FromCgroup()
	if err != nil || limit > mostMemory {
		return math.MaxInt64
	}
	return float64(int64(float64(limit) * memoryShare))
}
