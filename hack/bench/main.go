// Command bench measures `gatehouse serve` next to a gRPC server that answers OK without looking at the request, in the
// same run, on this machine. Both are processes of their own; the CPU is what the kernel says each has used (Linux).
// docs/performance.md explains what it prints.
//
//	go run ./hack/bench -gatehouse bin/gatehouse           one table with everything, and whether each target is met
//	go run ./hack/bench -gatehouse bin/gatehouse -scale    how the cost grows with callers, rules, roles, data, tokens, headers
//	go run ./hack/bench -gatehouse bin/gatehouse -log      what the decision log does to latencies, also while a sink hangs
//	go run ./hack/bench -gatehouse bin/gatehouse -directory  a decision that asks the directory, next to one that does not, while it changes
//	go run ./hack/bench -gatehouse bin/gatehouse -module bin/libgatehouse.so
//	go run ./hack/bench -gatehouse bin/gatehouse -swaps 200
//	go run ./hack/bench -gatehouse bin/gatehouse -soak 30m
//	go run ./hack/bench -gatehouse bin/gatehouse-pprof -profile
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

// bench is what all measurements have in common.
type bench struct {
	root      string // the checkout
	gatehouse string // the binary to measure
	callers   int    // at once
	pairs     int    // interleaved runs of each kind
	length    time.Duration
}

func main() {
	var b bench
	noop := flag.String("noop", "", "serve the no-op server at these addresses (used by the benchmark itself)")
	flag.StringVar(&b.gatehouse, "gatehouse", "bin/gatehouse", "the binary to measure")
	flag.IntVar(&b.callers, "callers", 16, "concurrent callers")
	flag.IntVar(&b.pairs, "pairs", 7, "interleaved pairs of runs")
	flag.DurationVar(&b.length, "time", time.Second, "length of one run")
	asJSON := flag.Bool("json", false, "print the table as JSON")
	swaps := flag.Int("swaps", 0, "measure so many swaps of a large bundle instead")
	scale := flag.Bool("scale", false, "measure how the cost grows instead")
	soak := flag.Duration("soak", 0, "load it for so long instead, with swaps, key rotation and malformed requests")
	logs := flag.Bool("log", false, "measure what the decision log does to latencies instead, also while a sink hangs")
	directories := flag.Bool("directory", false, "compare a decision that asks the directory with one that does not instead, while it changes")
	profiles := flag.Bool("profile", false, "say where the CPU goes instead; the binary must be built with -tags pprof")
	module := flag.String("module", "", "measure this libgatehouse.so in Envoy instead, beside Envoy's own filters and ext_authz")
	only := flag.String("axis", "", "with -scale: only what has this in its name")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := b.locate()
	switch {
	case err != nil:
	case *noop != "":
		err = serveNoop(ctx, *noop)
	case *module != "":
		err = b.measureModule(ctx, os.Stdout, *module)
	case *scale:
		err = b.measureScale(ctx, os.Stdout, *only)
	case *logs:
		err = b.measureLog(ctx, os.Stdout)
	case *directories:
		err = b.measureDirectory(ctx, os.Stdout)
	case *profiles:
		err = b.profile(ctx, os.Stdout)
	case *soak > 0:
		err = b.soak(ctx, os.Stdout, *soak)
	case *swaps > 0:
		err = b.measureSwaps(ctx, os.Stdout, *swaps)
	default:
		err = b.table(ctx, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

// locate makes the paths absolute: processes are started in other folders.
func (b *bench) locate() (err error) {
	if b.gatehouse, err = filepath.Abs(b.gatehouse); err != nil {
		return err
	}
	b.root, err = repoRoot()
	return err
}

func (b bench) table(ctx context.Context, asJSON bool) error {
	out, err := b.measureTable(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return out.writeJSON(os.Stdout)
	}
	return out.write(os.Stdout)
}
