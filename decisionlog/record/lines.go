package record

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/spool"
	"gatehouse/panics"
)

// Ruling is what the policy says of an event.
type Ruling struct {
	Drop      bool  // it is not recorded
	Masks     any   // plain JSON: a list of JSON pointers and of {op, path, value}, as in OPA; nil: none
	DropError error // why the policy could not say whether to drop it: it is recorded
	MaskError error // why it could not say what to mask: the event loses its input and its result
}

// Lines makes the line of each entry, for all sinks: where several read at about the same pace, once.
type Lines struct {
	masks   events.Masks // of the configuration
	rules   func(ctx context.Context, event []byte) Ruling
	max     int
	clock   func() time.Time
	log     *zap.Logger
	errors  *prometheus.CounterVec // by rule
	dropped atomic.Uint64          // events that the policy does not want

	mu     sync.Mutex // guards what follows; held while a line is made, never while it is written
	codec  codec
	cache  []cachedLine // by where the entry is in the spool; nil where there is one sink
	warned time.Time    // when operators were last told of a rule that fails
}

// cachedLine is the line of an entry that another sink may be about to ask for; empty where the policy does not want it.
type cachedLine struct {
	segment, off uint64 // where the entry ends
	line         []byte
}

// The policy's rules: the closed list of values of the metric's label.
const (
	ruleMask = "mask"
	ruleDrop = "drop"
)

const (
	cachedLines  = 512
	largestKept  = 16 << 10    // a longer line is made again
	warnInterval = time.Minute // operators, of a rule that fails
)

// NewLines is for so many sinks.
func NewLines(cfg Config, sinks int) (*Lines, error) {
	l := &Lines{rules: cfg.Rules, max: cfg.MaxEntry, clock: cfg.Clock, log: cfg.Logger, codec: newCodec(&cfg)}
	l.errors = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_decision_log_rule_errors_total",
		Help: "Failed evaluations of the policy's decision log rules, by rule."}, []string{"rule"})
	for _, rule := range []string{ruleMask, ruleDrop} {
		l.errors.WithLabelValues(rule)
	}
	var err error
	if l.masks, err = events.CheckMasks(cfg.Masks); err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	if sinks > 1 {
		l.cache = make([]cachedLine, cachedLines)
	}
	return l, nil
}

// Append appends the line of a packed entry that ends at a place in the spool, or nothing where the policy does not want it recorded. An
// error is [ErrPacked], or the context's: then it is not known what the line is.
func (l *Lines) Append(ctx context.Context, dst []byte, at spool.Cursor, packed []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.kept(at)
	if kept != nil && kept.segment == at.Segment() && kept.off == at.Offset() {
		return append(dst, kept.line...), nil
	}
	from := len(dst)
	dst, err := l.codec.appendLine(dst, packed)
	if err != nil {
		return dst, err
	}
	if l.masks != nil || l.rules != nil {
		if dst, err = l.rule(ctx, dst, from); err != nil {
			return dst[:from], err
		}
	}
	if line := dst[from:]; kept != nil && len(line) <= largestKept {
		kept.segment, kept.off, kept.line = at.Segment(), at.Offset(), append(kept.line[:0], line...)
	}
	return dst, nil
}

// AppendSafely is Append, for entries that make it panic: that costs one of them, and not the log.
func (l *Lines) AppendSafely(ctx context.Context, dst []byte, at spool.Cursor, packed []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			if spool.IsFault(p) {
				panic(p) // that is the segment's, not the entry's
			}
			panics.Report("making a line of the decision log", p)
			out, err = dst, ErrPacked
		}
	}()
	return l.Append(ctx, dst, at, packed)
}

// Collectors are the metrics of the policy's rules. They count by evaluation: what two sinks ask for at different times counts twice.
func (l *Lines) Collectors() []prometheus.Collector {
	return []prometheus.Collector{l.errors, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "gatehouse_decision_log_unwanted_total",
		Help: "Decisions left out of a sink by the policy's rule data.system.log.drop."}, func() float64 { return float64(l.dropped.Load()) })}
}

// kept is the only place of the cache where an entry's line may be; nil: there is none.
func (l *Lines) kept(at spool.Cursor) *cachedLine {
	if l.cache == nil {
		return nil
	}
	return &l.cache[at.Offset()/8*0x9e3779b97f4a7c15>>55] // 9 bits: frames begin at multiples of 8
}

// rule does to the line at the end of dst what configuration and policy want.
func (l *Lines) rule(ctx context.Context, dst []byte, from int) ([]byte, error) {
	var said Ruling
	if l.rules != nil {
		said = l.rules(ctx, dst[from:])
	}
	if err := ctx.Err(); err != nil {
		return dst, err
	}
	if said.DropError != nil {
		l.failed(ruleDrop, said.DropError)
	} else if said.Drop {
		l.dropped.Add(1)
		return dst[:from], nil
	}
	masks, err := events.ParseMasks(said.Masks)
	if err == nil {
		err = said.MaskError
	}
	if err != nil {
		l.failed(ruleMask, err)
	}
	if len(l.masks)+len(masks) == 0 && err == nil {
		return dst, nil
	}
	ev, broken := events.ParseLine(dst[from:])
	if broken == nil {
		broken = l.mask(ev, masks, err != nil)
	}
	var line []byte
	if broken == nil {
		line, broken = l.fit(ev)
	}
	if broken != nil { // cannot be: the line is our own
		l.failed(ruleMask, broken)
		return dst[:from], broken
	}
	return append(dst[:from], line...), nil
}

// mask changes an event. One whose policy fails loses what the policy might have taken out.
func (l *Lines) mask(ev *events.Line, masks events.Masks, fails bool) error {
	if err := ev.Mask(slices.Concat(l.masks, masks)); err != nil {
		return err
	}
	if fails {
		ev.Erase("input")
		ev.Erase("result")
		ev.Erase("facts")
	}
	return nil
}

// fit writes an event, without its documents where they have become too large.
func (l *Lines) fit(ev *events.Line) (line []byte, err error) {
	for _, large := range []string{"input", "result", "facts", ""} {
		if line, err = ev.Append(nil); err != nil || len(line) <= l.max || large == "" {
			return line, err
		}
		ev.Erase(large)
	}
	return line, err
}

// failed counts a rule that failed, and tells operators once a minute.
func (l *Lines) failed(rule string, err error) {
	l.errors.WithLabelValues(rule).Inc()
	if now := l.clock(); l.warned.IsZero() || now.Sub(l.warned) >= warnInterval {
		l.warned = now
		l.log.Error("a rule about the decision log failed; decisions are recorded all the same, without input and result where it is the mask",
			zap.String("rule", rule), zap.Error(err))
	}
}

// AppendGap appends the line that stands for lost entries.
func (l *Lines) AppendGap(dst []byte, g Gap) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.codec.appendGap(dst, g)
}
