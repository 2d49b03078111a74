package edge

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/policy"
)

// smokeTest runs the requests of policy.smoke against a policy that is not active yet, with everything else as it is
// active. Only the verdict counts: dry_run does not apply, and nothing is logged.
func (e *engine) smokeTest(ctx context.Context, s *policy.Snapshot) error {
	base := e.parts(false)
	if e.gate != nil {
		if v := e.gate.View(); v.Settings != nil && v.Settings.Verifier == e.settings.Verifier { // our settings, perhaps with newer descriptors
			base = func(next *gate.View) {
				next.Settings, next.Keys, next.Routes, next.Directory = v.Settings, v.Keys, v.Routes, v.Directory
			}
		}
	}
	g, err := gate.New(gate.Config{Registerer: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = panics.LoopError(ctx, "trying a policy", g.Run) }) // ends with ctx, without an error
	defer running.Wait()
	defer stop()
	if err := g.Publish(ctx, base, func(v *gate.View) {
		settings := *v.Settings
		settings.Log, settings.DryRun, settings.DryRunExtension = nil, false, false
		v.Settings, v.Policy = &settings, s
	}); err != nil {
		return err
	}
	return e.smoke(ctx, g)
}
