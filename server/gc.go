package server

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"
)

// What lives between requests is small, and collecting it at Go's default of 100 % growth takes a quarter of the CPU of a
// decision (make bench). With a large bundle the same share of growth would be gigabytes. So growth is bounded in bytes,
// between these two shares.
const (
	gcGrowth   = 48 << 20 // bytes
	maxPercent = 400
	minPercent = 50
)

// memoryShare is what of a container's memory Go may use; the rest is for what Go does not count, such as the pages of files.
const memoryShare = 0.9

// limitMemory tells Go how much memory the container has (in its cgroup, version 1 or 2), so that it collects harder instead of being
// killed. Where GOMEMLIMIT is set, its owner knows better; without a limit nothing changes.
func limitMemory(logger *zap.Logger, container memlimit.Provider) {
	if value, set := os.LookupEnv("GOMEMLIMIT"); set {
		logger.Info("memory limit from the environment", zap.String("GOMEMLIMIT", value))
		return
	}
	limit, err := container()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit) || err == nil && limit > maxMemory:
		return
	case err != nil: // no cgroups, as on a machine that is no Linux: there is no limit to keep to
		logger.Debug("the container's memory limit is not known", zap.Error(err))
		return
	}
	share := int64(float64(limit) * memoryShare)
	debug.SetMemoryLimit(share)
	logger.Info("memory limit from the container", zap.Uint64("container_bytes", limit), zap.Int64("limit_bytes", share))
}

// LimitMemory does the same for a process that serves something else.
func LimitMemory(logger *zap.Logger) { limitMemory(logger, memlimit.FromCgroup) }

// maxMemory is above what any machine has: cgroup version 1 says "no limit" as a number near the largest there is.
const maxMemory = 1 << 50

// PaceGC sets the collector's goal anew after each collection, for as long as the process lives. Where GOGC is set, its
// owner knows better.
func PaceGC() {
	if _, set := os.LookupEnv("GOGC"); set {
		return
	}
	p := &pacer{sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}, percent: maxPercent}
	debug.SetGCPercent(maxPercent)
	p.rearm()
}

type pacer struct {
	sample  []metrics.Sample
	percent int
}

// rearm has the next collection call collected: the sentinel that nothing refers to is its messenger.
func (p *pacer) rearm() {
	sentinel := new([16]byte)
	runtime.AddCleanup(sentinel, func(p *pacer) { p.collected() }, p)
}

func (p *pacer) collected() {
	metrics.Read(p.sample)
	// Setting the goal stops the world for a moment, so only where it matters.
	if percent := growthPercent(p.sample[0].Value.Uint64()); percent < p.percent*9/10 || percent > p.percent*11/10 {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	p.rearm()
}

// growthPercent is the share by which so many live bytes may grow until they are collected.
func growthPercent(live uint64) int {
	return int(min(max(gcGrowth*100/max(live, 1), minPercent), maxPercent))
}

// cores sees to it that requests do not wait for a large policy that is being compiled. Go runs as many threads as there are cores, and lets
// a goroutine that computes keep one for 10 ms at a time; the compiler has one of them and the garbage that it makes another, so that on two cores
// every request waits behind both. With two threads more it is the operating system that shares the cores, and it gives one to whoever has just
// been woken. Afterwards all is as it was: for requests alone threads beyond the cores are of no use.
type cores struct {
	mu   sync.Mutex // guards busy
	busy int
}

const moreThreads = 2

// begin says that something large is under way; end is called once when it is done. Where GOMAXPROCS is set, its owner knows better.
func (c *cores) begin() (end func()) {
	if _, set := os.LookupEnv("GOMAXPROCS"); set {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy++; c.busy == 1 {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + moreThreads)
	}
	return c.end
}

func (c *cores) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy--; c.busy == 0 {
		runtime.SetDefaultGOMAXPROCS() // and it follows the container's limit again
	}
}
