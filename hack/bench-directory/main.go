// Command bench-directory measures package directory beside a plain Go map and bbolt, in the same run, on this machine: what a million users
// with five million relations take in memory, how long they load, and what a question and a change cost.
//
//	go run ./hack/bench-directory               everything
//	go run ./hack/bench-directory -scale 0.01   a hundredth of the data, in a second or two
//	go run ./hack/bench-directory -edge         beside examples/flask-orders instead: gatehouse serve, the real Envoy, a million users
//	go run ./hack/bench-directory -peers=false  without the map and bbolt, which take most of the time
//
// The targets are those of two idle cores; those of memory and of loading hold for -scale 1.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/directory/format"
)

func main() {
	scale := flag.Float64("scale", 1, "how much of the data")
	peers := flag.Bool("peers", true, "measure the map and bbolt too")
	load := flag.String("load", "", "load this file and say what that takes (used by the benchmark itself)")
	beside := flag.Bool("edge", false, "measure gatehouse serve with that directory beside the Flask example instead")
	gatehouse := flag.String("gatehouse", "bin/gatehouse", "with -edge: the binary")
	flag.Parse()
	var err error
	if *beside {
		err = edge(*scale, ".", *gatehouse)
	} else {
		err = run(*scale, *peers, *load)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-directory: "+err.Error())
		os.Exit(1)
	}
}

func run(scale float64, peers bool, load string) error {
	if load != "" {
		out, err := loadHere(load)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	}
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{world: newWorld(scale), full: scale >= 1, dir: dir}
	steps := []func() error{b.build, b.file, b.lines, b.questions, b.changes, b.hub, b.reuse}
	if peers {
		steps = append(steps, b.maps, b.bolt)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return b.print(os.Stdout)
}

// loaded is what loading a file took, in a process of its own.
type loaded struct {
	Seconds  float64
	CPU      float64 // seconds, of all cores
	Heap     uint64  // after a collection
	PeakHeap uint64
	PeakRSS  uint64
	GC       float64 // milliseconds
}

func loadHere(file string) (out loaded, err error) {
	done, peak := make(chan struct{}), make(chan uint64)
	go watchHeap(done, peak)
	start := time.Now()
	s, err := format.Load(context.Background(), file, format.Options{})
	out.Seconds = time.Since(start).Seconds()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return out, err
	}
	out.CPU = (time.Duration(used.Utime.Nano()) + time.Duration(used.Stime.Nano())).Seconds()
	close(done)
	out.PeakHeap = <-peak
	if err != nil {
		return out, err
	}
	out.PeakRSS = statusBytes("VmHWM")
	out.Heap = heap()
	out.GC = collection()
	runtime.KeepAlive(s)
	return out, nil
}

// watchHeap answers with the largest heap until done.
func watchHeap(done chan struct{}, peak chan<- uint64) {
	highest := uint64(0)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		highest = max(highest, m.HeapAlloc)
		select {
		case <-done:
			peak <- highest
			return
		case <-tick.C:
		}
	}
}

// heap is what is live.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// collection is what one full collection takes, in milliseconds: the least of five.
func collection() float64 {
	best := time.Hour
	for range 5 {
		start := time.Now()
		runtime.GC()
		best = min(best, time.Since(start))
	}
	return best.Seconds() * 1000
}

// statusBytes reads a size from /proc/self/status; 0 where there is none.
func statusBytes(key string) uint64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		if fields := strings.Fields(value); name == key && len(fields) > 0 {
			n, _ := strconv.ParseUint(fields[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// machine says what the figures are of.
func machine() string {
	model := runtime.GOARCH
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%s, %d cores, load %s when it ended, %s", model, runtime.NumCPU(), first, runtime.Version())
}

func (b *bench) path() string { return filepath.Join(b.dir, "snapshot") }
