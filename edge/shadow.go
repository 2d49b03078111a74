package edge

import (
	"context"
	"path/filepath"

	"gatehouse/bundles"
	"gatehouse/gate"
	"gatehouse/policy"
)

// defaultSample is the share of the requests that a shadow policy decides about.
const defaultSample = 0.1

// newShadow makes the manager of the shadow policy's bundles; nil where there is none. It is another than that of the
// active policy, with a folder of its own and no metrics: whatever becomes of it changes nothing of the active one.
func (e *engine) newShadow(with Config) (*bundles.Manager, error) {
	x := with.Config.Policy.Shadow
	if x == nil || len(x.Bundles) == 0 { // the latter is reported by who checks the configuration
		return nil, nil
	}
	sample := x.Sample
	if _, said := with.Found.Doc.Lines["policy.shadow.sample"]; !said {
		sample = defaultSample
	}
	c := BundlesConfig(with.Config, e.logger.Named("shadow"), nil, func(ctx context.Context, s *policy.Snapshot) error {
		var next *gate.Shadow
		if s != nil {
			next = &gate.Shadow{Policy: s, Sample: sample}
		}
		return e.publisher.publish(ctx, e, func(v *gate.View) { v.Shadow = next })
	})
	c.Sources = sources(with.Config, x.Bundles)
	c.Keep, c.Archive, c.Report, c.Busy = -1, bundles.Archive{}, nil, with.Busy
	if c.Dir != "" {
		c.Dir = filepath.Join(filepath.Dir(c.Dir), "bundles-shadow")
	}
	return bundles.New(c)
}

// ShadowStatus is the shadow policy's part of the status page.
type ShadowStatus struct {
	Bundles   []bundles.Status   `json:"bundles"`
	Decisions *gate.ShadowStatus `json:"decisions,omitempty"` // nil: it has not decided yet
}

// Shadow is the state of the shadow policy; nil where none is configured.
func (n *Node) Shadow() *ShadowStatus {
	e := n.current.Load()
	if e.shadow == nil {
		return nil
	}
	return &ShadowStatus{Bundles: e.shadow.Status(), Decisions: n.publisher.gate.ShadowStatus()}
}
