package main

import (
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

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
	if err != nil || limit > 1<<50 {
		return math.MaxInt64
	}
	return float64(int64(float64(limit) * 0.9))
}
