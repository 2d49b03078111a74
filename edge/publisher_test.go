package edge

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gatehouse/gate"
	"gatehouse/identity"
)

// TestHandOver replaces engines while the old one publishes: nothing of it overwrites its successor's parts, and
// where the successor cannot be published the old one continues.
func TestHandOver(t *testing.T) {
	g, err := gate.New(gate.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = g.Run(ctx) })
	defer running.Wait()
	defer stop()
	p := &publisher{gate: g}
	engines := make([]*engine, 20)
	keys := make([]*identity.Keys, len(engines))
	for i := range engines {
		engines[i], keys[i] = &engine{}, &identity.Keys{}
		engines[i].begin(ctx)
	}
	put := func(i int) gate.Part { return func(v *gate.View) { v.Keys = keys[i] } }
	if err := p.handOver(ctx, nil, engines[0], put(0)); err != nil {
		t.Fatal(err)
	}
	var sources sync.WaitGroup
	defer sources.Wait()
	defer stop()
	for i, e := range engines {
		sources.Go(func() {
			for e.ctx.Err() == nil {
				_ = p.publish(e.ctx, e, put(i))
			}
		})
	}
	for i := 1; i < len(engines); i++ {
		if err := p.handOver(ctx, engines[i-1], engines[i], put(i), func(*gate.View) { panic("it does not fit") }); err == nil {
			t.Fatal("published what does not fit")
		}
		if engines[i-1].ctx.Err() != nil || p.publish(ctx, engines[i-1], put(i-1)) != nil {
			t.Fatal("the old one does not go on where the new one cannot be published")
		}
		if err := p.handOver(ctx, engines[i-1], engines[i], put(i)); err != nil {
			t.Fatal(err)
		}
		if err := p.publish(ctx, engines[i-1], put(i-1)); !errors.Is(err, context.Canceled) || g.View().Keys != keys[i] || engines[i-1].ctx.Err() == nil {
			t.Fatalf("the old one goes on: %v", err)
		}
	}
}

// TestWhoPublishes holds that this package alone hands parts to a gate.
func TestWhoPublishes(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		ours := strings.HasPrefix(path, "../edge/") || strings.HasPrefix(path, "../gate/") || strings.HasPrefix(path, "../bundles/") || strings.HasPrefix(path, "../hack/")
		if err != nil || d.IsDir() || ours || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if path == "../control/judge/judge.go" { // to a gate of its own, in a process that checks one bundle and decides nothing else
			return err
		}
		if strings.Contains(string(text), ".Publish(") {
			t.Errorf("%s publishes: only package edge may", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
