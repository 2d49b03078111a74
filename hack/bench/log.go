package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	logCallers = 8
	logPause   = 4 * time.Millisecond // between two requests of one caller: what is measured is waiting, not a full machine
	logLength  = 3 * time.Second
)

// measureLog compares the latencies of requests without a decision log, with one, and with one of whose sinks hangs: a server that takes
// connections and never answers.
func (b bench) measureLog(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "gatehouse-log-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer hanging.Close() // the kernel takes the connections; nobody reads
	first, err := newFixture(filepath.Join(dir, "off"), shape{})
	if err != nil {
		return err
	}
	work, err := first.repeated()
	if err != nil {
		return err
	}
	kinds := []struct{ name, log string }{
		{"no decision log", ""},
		{"to a file", logLine},
		{"to a file and a server that hangs", "decision_log: {dir: spool, sinks: [{file: log/decisions.log}, {opa: {url: \"http://" + hanging.Addr().String() + "/logs\"}}]}"},
	}
	samples := make([][]sample, len(kinds))
	servers := make([]*server, len(kinds))
	for i, kind := range kinds {
		f, err := first.copyTo(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		text := strings.Replace(config, logLine, kind.log, 1)
		if err := os.WriteFile(filepath.Join(f.dir, "gatehouse.yaml"), []byte(text), 0o644); err != nil {
			return err
		}
		if servers[i], err = startGatehouse(ctx, b.gatehouse, f.dir); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		defer servers[i].stop()
	}
	for range b.pairs {
		for i := range kinds {
			s, err := paced(ctx, servers[i].socket, work)
			if err != nil {
				return fmt.Errorf("%s: %w", kinds[i].name, err)
			}
			samples[i] = append(samples[i], s)
		}
	}
	fmt.Fprintf(out, "%s\n%d callers with a pause of %s, unix socket; medians of %d interleaved runs of %s, ratios to no decision log.\n\n", machine(), logCallers, logPause, b.pairs, logLength)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "decision log\tp50 us\tratio\tp99 us\tratio\tp99.9 us\tratio\t")
	for i, kind := range kinds {
		fmt.Fprintf(w, "%s\t", kind.name)
		for _, get := range []func(sample) float64{
			func(s sample) float64 { return micros(s.p50) }, func(s sample) float64 { return micros(s.p99) }, func(s sample) float64 { return micros(s.p999) }} {
			fmt.Fprintf(w, "%.0f\t%.2fx\t", median(samples[i], get), ratio(samples[i], samples[0], get))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// paced is one run of callers that pause.
func paced(ctx context.Context, target string, work workload) (sample, error) {
	conn, err := dial(target)
	if err != nil {
		return sample{}, err
	}
	defer conn.Close()
	conn.Connect()
	callers := make([]caller, logCallers)
	for i := range callers {
		callers[i] = func(ctx context.Context, until time.Time) ([]time.Duration, error) {
			return check(ctx, conn, until, func() []byte { time.Sleep(logPause); return work() })
		}
	}
	begin := time.Now()
	latencies, err := runCallers(ctx, begin.Add(logLength), callers)
	if err != nil {
		return sample{}, err
	}
	return distribution(latencies, time.Since(begin)), nil
}
