package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gatehouse/identity/mint"
)

const (
	starts      = 7               // of the example, for the median
	idleFor     = 2 * time.Second // after the start, until memory is read
	fullLoadFor = 4 * time.Second // each of the two loads that fill the caches
	fullCallers = 64
	issuerName  = "http://localhost/issuer"
)

// addFootprint adds what is not measured in pairs: memory, the start, allocations.
func (b bench) addFootprint(ctx context.Context, out *result, l *lineup, dir string) error {
	full, err := l.fullMemory(ctx)
	if err != nil {
		return fmt.Errorf("memory under full load: %w", err)
	}
	idle, ready, err := b.example(ctx, filepath.Join(dir, "example"))
	if err != nil {
		return fmt.Errorf("the example: %w", err)
	}
	allocations, err := b.allocations(ctx)
	if err != nil {
		return err
	}
	out.add(row{Case: "allocations per repeated decision in the gate", Measure: "allocations", Value: allocations, Target: 5})
	out.add(row{Case: "memory, idle with the example", Measure: "MB resident", Value: float64(idle) / 1e6, Target: 40})
	out.add(row{Case: "memory, full load, all caches full", Measure: "MB resident at most", Value: float64(full) / 1e6, Target: 150})
	out.add(row{Case: "start to ready with the example", Measure: "ms", Value: ready.Seconds() * 1e3, Target: 300})
	return nil
}

// fullMemory is the most memory that a Gatehouse ever had whose cache of tokens the first sights have filled, and whose memo this fills.
func (l *lineup) fullMemory(ctx context.Context) (int64, error) {
	for _, work := range []workload{l.orders, l.requests} {
		if _, err := overGRPC(ctx, l.sights, l.sights.socket, fullCallers, fullLoadFor, work); err != nil {
			return 0, err
		}
	}
	_, most := l.sights.resident()
	return most, nil
}

// example starts the example in testdata/orders again and again: memory at rest, and the median of the times from start to ready.
func (b bench) example(ctx context.Context, dir string) (idle int64, ready time.Duration, err error) {
	took := make([]float64, starts)
	for i := range starts {
		if err := copyExample(b.root, dir); err != nil {
			return 0, 0, err
		}
		s, err := startGatehouse(ctx, b.gatehouse, dir)
		if err != nil {
			return 0, 0, err
		}
		took[i] = float64(s.took)
		if i == starts-1 {
			time.Sleep(idleFor)
			idle, _ = s.resident()
		}
		s.stop()
	}
	return idle, time.Duration(middle(took)), nil
}

// copyExample makes a folder of testdata/orders as its user would have it, but for the ports. It is examples/flask-orders as it was before it had a
// directory, so that the figures stay comparable.
func copyExample(root, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	from := filepath.Join(root, "hack", "bench", "testdata", "orders")
	if err := os.CopyFS(filepath.Join(dir, "policy"), os.DirFS(filepath.Join(from, "policy"))); err != nil {
		return err
	}
	if _, err := mint.OpenLocalIssuer(dir, issuerName); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(from, "gatehouse.yaml"))
	if err != nil {
		return err
	}
	changed := strings.NewReplacer("127.0.0.1:9191", "GRPC", "127.0.0.1:9192", "ADMIN").Replace(string(text))
	return os.WriteFile(filepath.Join(dir, "gatehouse.yaml"), []byte(changed), 0o644)
}

// allocations asks the test that counts them.
func (b bench) allocations(ctx context.Context) (float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^TestAllocations$", "./gate")
	cmd.Dir = b.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("counting allocations: %w\n%s", err, out)
	}
	const mark = "repeated decision: "
	_, rest, found := strings.Cut(string(out), mark)
	if !found {
		return 0, fmt.Errorf("counting allocations: the test does not say %q", mark)
	}
	return strconv.ParseFloat(strings.Fields(rest)[0], 64)
}
