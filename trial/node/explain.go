package node

import (
	"context"
	"fmt"
	"strings"

	"gatehouse/config"
	"gatehouse/decisionlog/events"
	"gatehouse/edge"
	"gatehouse/replay"
	"gatehouse/trial/logged"
)

// ExplainLogged evaluates a record again, with what a configuration says.
func ExplainLogged(ctx context.Context, src config.Source, r *logged.Decision, notice func(string)) (*logged.Explanation, error) {
	out := r.Recorded()
	if r.Input == nil {
		return out, nil
	}
	at, err := r.Time()
	if err != nil {
		return nil, err
	}
	t, err := New(ctx, src, nil, func(cfg *config.Config) { askAsRecorded(cfg, src, r) }, notice)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if src.Bundle == "" {
		out.Kept = t.useKept(ctx, src, r)
	}
	with := logged.With{Trial: t.Trial, View: t.Gate.View(), Redact: edge.LogConfig(t.Config, nil, nil).Redact}
	for _, known := range t.Static.Tables {
		with.Tables = append(with.Tables, logged.RouteTable{App: known.App, Table: known.Table})
	}
	return out, r.Explain(ctx, at, with, out)
}

// useKept takes the policy that decided, where it is kept and is not the configuration's any more, and says what came of that.
func (t *Node) useKept(ctx context.Context, src config.Source, r *logged.Decision) string {
	cfg, _, err := src.Read()
	if err != nil || cfg.StateDir == "" {
		return ""
	}
	now := t.Static.Policy
	switch err := t.usePast(ctx, cfg, r.Bundles); {
	case err != nil:
		return err.Error()
	case t.Static.Policy != now:
		return "taken from " + cfg.ArchiveDir()
	}
	return ""
}

// usePast puts the policy that decided in the place of the configuration's, where that is another one and the former is kept.
func (t *Node) usePast(ctx context.Context, cfg *config.Config, decided map[string]events.Bundle) error {
	if replay.IsMadeOf(t.Static.Policy, decided) {
		return nil
	}
	archive := Archive(cfg)
	s, err := archive.Snapshot(ctx, decided)
	if err != nil {
		return err
	}
	if err := t.Static.Use(ctx, s); err != nil {
		return fmt.Errorf("the kept policy does not fit the configuration: %w", err)
	}
	return nil
}

// askAsRecorded makes a bundle by itself answer what the record asked.
func askAsRecorded(cfg *config.Config, src config.Source, r *logged.Decision) {
	if src.File != "" && src.Bundle != "" {
		cfg.Policy.Bundles = cfg.Policy.Bundles[len(cfg.Policy.Bundles)-1:] // the one that was named
	}
	if src.File != "" {
		return
	}
	cfg.Policy.Decision = r.Path
	if !strings.Contains(r.Path, "/") && strings.Contains(r.Path, ".") {
		cfg.Policy.Decision = strings.ReplaceAll(r.Path, ".", "/") + "/allowed"
	}
}
