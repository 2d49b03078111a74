package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/pprof/profile"
)

// profiled is how long one profile runs.
const profiled = 10 * time.Second

// profile says where the CPU of a decision goes, for repeated and for new decisions, and leaves both profiles beside the binary for
// `go tool pprof`. The binary must be one with /debug/pprof (build tag pprof).
func (b bench) profile(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "gatehouse-profile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := newFixture(filepath.Join(dir, "gatehouse"), shape{})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n%d callers, unix socket, %s each.\n", machine(), b.callers, profiled)
	for _, kind := range []struct {
		name, file string
		work       func() (workload, error)
	}{{"repeated decision", "repeated.pprof", f.repeated}, {"new decision every time", "new.pprof", f.fresh}} {
		work, err := kind.work()
		if err != nil {
			return err
		}
		text, cost, err := b.profileOf(ctx, f, work)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		p, err := profile.ParseData(text)
		if err != nil {
			return fmt.Errorf("%s: the profile (was the binary built with -tags pprof?): %w", kind.name, err)
		}
		path := filepath.Join(filepath.Dir(b.gatehouse), kind.file)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(out, "\n%s: %.1f us of CPU; go tool pprof -http=127.0.0.1: %s\n", kind.name, cost, path)
		if err := writeShares(out, p, cost); err != nil {
			return err
		}
	}
	return nil
}

// profileOf is the CPU profile of one load, with what a decision cost meanwhile.
func (b bench) profileOf(ctx context.Context, f *fixture, work workload) (text []byte, cost float64, err error) {
	own, err := f.copyTo(f.dir)
	if err != nil {
		return nil, 0, err
	}
	s, err := startGatehouse(ctx, b.gatehouse, own.dir)
	if err != nil {
		return nil, 0, err
	}
	defer s.stop()
	if _, err := overGRPC(ctx, s, s.socket, b.callers, time.Second, work); err != nil { // warms up
		return nil, 0, err
	}
	type answer struct {
		text []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		text, err := s.get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%.0f", profiled.Seconds()))
		done <- answer{text, err}
	}()
	load, err := overGRPC(ctx, s, s.socket, b.callers, profiled, work)
	got := <-done
	if err != nil || got.err != nil {
		return nil, 0, fmt.Errorf("%v, %v", err, got.err)
	}
	return got.text, load.cpu, nil
}

// frames are a sample's functions, the outermost first.
func frames(s *profile.Sample) (names []string) {
	for _, location := range slices.Backward(s.Location) {
		for _, line := range slices.Backward(location.Line) {
			names = append(names, line.Function.Name)
		}
	}
	return names
}

// owner is who a sample is charged to: the innermost package that is not of Go's own library; else what of the runtime it is.
func owner(names []string) string {
	for _, name := range slices.Backward(names) {
		pkg := packageOf(name)
		if first, _, _ := strings.Cut(pkg, "/"); strings.Contains(first, ".") || first == "gatehouse" {
			return group(pkg)
		}
	}
	all := strings.Join(names, " ")
	for _, part := range [][2]string{{"runtime.gcBgMark", "Go: collector"}, {"runtime.bgs", "Go: collector"}, {"runtime.sysmon", "Go: sysmon"},
		{"runtime.mcall", "Go: scheduler"}, {"runtime.mstart", "Go: scheduler"}} {
		if strings.Contains(all, part[0]) {
			return part[1]
		}
	}
	return "Go: other"
}

// group puts packages that belong together under one name.
func group(pkg string) string {
	for _, prefix := range []string{"google.golang.org/grpc", "golang.org/x/net/http2", "github.com/open-policy-agent/opa", "google.golang.org/protobuf", "github.com/prometheus"} {
		if strings.HasPrefix(pkg, prefix) {
			return prefix
		}
	}
	return pkg
}

// packageOf takes "a.b/c/d" out of "a.b/c/d.(*T).method[...]".
func packageOf(function string) string {
	function, _, _ = strings.Cut(function, "[")
	slash := strings.LastIndexByte(function, '/') + 1
	dot := strings.IndexByte(function[slash:], '.')
	if dot < 0 {
		return function
	}
	return function[:slash+dot]
}

// writeShares prints what each package's part is, with what it calls of Go's own library; and across these what allocating, system
// calls and the like come to.
func writeShares(out io.Writer, p *profile.Profile, cost float64) error {
	owners, across := map[string]int64{}, map[string]int64{}
	var total int64
	value := len(p.SampleType) - 1
	for _, s := range p.Sample {
		names, v := frames(s), s.Value[value]
		total += v
		owners[owner(names)] += v
		all := strings.Join(names, " ") + " "
		for mark, name := range map[string]string{"runtime.mallocgc ": "allocating", "runtime.gcBgMarkWorker": "collecting, beside", "Syscall6 ": "system calls",
			"runtime.schedule ": "scheduling", "runtime.morestack": "growing stacks"} {
			if strings.Contains(all, mark) {
				across[name] += v
			}
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, table := range []map[string]int64{owners, across} {
		fmt.Fprintln(w, []string{"package, with what it calls of Go's library", "of all that, wherever it happens"}[i]+"\tus\t%\t")
		for _, name := range byValue(table) {
			if part := float64(table[name]) / float64(max(total, 1)); part >= .005 {
				fmt.Fprintf(w, "%s\t%.1f\t%.1f\t\n", name, part*cost, part*100)
			}
		}
	}
	return w.Flush()
}

func byValue(m map[string]int64) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(m[b] - m[a]) })
	return names
}
