package edge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"weak"

	"go.uber.org/zap"

	"gatehouse/decisionlog"
	"gatehouse/durable"
	"gatehouse/gate"
	"gatehouse/policy"
)

const (
	policyWait = time.Minute // how long entries of an earlier run wait for a policy, which may mask them
	ruleTime   = time.Second // for both rules on one event
)

var errNoPolicyYet = errors.New("no policy is active yet, and the last one had masks: what it might have taken out is taken out")

// logRules evaluates the active policy's log rules on events of one decision log. One goroutine at a time calls rule.
type logRules struct {
	marker string // a file that exists while the active policy has log rules; "" where nothing is persisted
	logger *zap.Logger
	gate   atomic.Pointer[gate.Gate] // nil until the log runs

	until    time.Time        // after it, events no longer wait for a policy
	snapshot *policy.Snapshot // the policy for a log on disk; nil in a running process
	// seen is the policy of rules. It is weak: without rules, or without a decision to log, a replaced policy must not
	// stay in memory.
	seen  weak.Pointer[policy.Snapshot]
	rules *policy.LogRules // nil: it has none
	err   error            // why they could not be compiled
}

func newLogRules(dir string, logger *zap.Logger) *logRules {
	r := &logRules{logger: logger}
	if dir != "" {
		r.marker = filepath.Join(dir, "rules")
	}
	return r
}

// rule is decisionlog.Config.Rules.
func (r *logRules) rule(ctx context.Context, event []byte) (out decisionlog.Ruling) {
	if out.MaskError = r.refresh(ctx); out.MaskError != nil || r.rules == nil {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, ruleTime)
	defer cancel()
	ev, err := r.rules.Event(event, time.Now())
	if err != nil {
		out.MaskError = err
		return out
	}
	if out.Drop, out.DropError = ev.Drop(ctx); !out.Drop {
		out.Masks, out.MaskError = ev.Mask(ctx)
	}
	return out
}

// refresh loads the rules of the active policy. Without an active policy the previous rules stay.
func (r *logRules) refresh(ctx context.Context) error {
	if r.snapshot != nil {
		return r.err // a log on disk: no policy will follow
	}
	now := r.active()
	if now == nil && r.seen == (weak.Pointer[policy.Snapshot]{}) {
		if now = r.await(ctx); now == nil {
			if r.marked() {
				return errNoPolicyYet
			}
			return nil
		}
	}
	if now != nil && r.seen != weak.Make(now) {
		r.seen = weak.Make(now)
		if r.rules, r.err = now.LogRules(); r.err != nil {
			r.err = fmt.Errorf("the policy's rules about the decision log: %w", r.err)
		}
		r.mark(r.rules != nil || r.err != nil)
	}
	return r.err
}

func (r *logRules) active() *policy.Snapshot {
	if g := r.gate.Load(); g != nil {
		return g.View().Policy
	}
	return nil
}

// await waits for the first policy after a start, where the previous one had rules: entries in the spool may depend
// on them.
func (r *logRules) await(ctx context.Context) *policy.Snapshot {
	if !r.marked() {
		return nil
	}
	if r.until.IsZero() {
		r.until = time.Now().Add(policyWait)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(r.until) {
		if s := r.active(); s != nil {
			return s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	return r.active()
}

// marked reports whether the last policy had log rules.
func (r *logRules) marked() bool {
	if r.marker == "" {
		return false
	}
	_, err := os.Stat(r.marker)
	return !errors.Is(err, os.ErrNotExist)
}

// mark records for the next start whether the policy has log rules.
func (r *logRules) mark(has bool) {
	if r.marker == "" || has == r.marked() {
		return
	}
	err := os.Remove(r.marker)
	if has {
		err = durable.WriteFile(r.marker, nil, 0o600)
	}
	if err != nil {
		r.logger.Error("the decision log's folder: a note for the next start that the policy has masks", zap.Error(err))
	}
}

// HasLogRules reports whether the policy of a decision log's folder has log rules.
func HasLogRules(dir string) bool { return newLogRules(dir, nil).marked() }

// LogRules are the rules of a policy about a log on disk: [decisionlog.Config.Rules].
func LogRules(s *policy.Snapshot) func(context.Context, []byte) decisionlog.Ruling {
	r := &logRules{snapshot: s}
	r.rules, r.err = s.LogRules()
	return r.rule
}
