package server

import (
	"os"
	"runtime"
	"sync"
)

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
