package decisionlog

import (
	"fmt"
	"time"
)

const (
	behindAfter = time.Minute // a sink that has not got what is older
	lossFor     = time.Minute // how long a loss is said after it happened
)

// Degraded lists what the log cannot do right now, one sentence each: record, deliver, catch up. It may be called at any time.
func (l *Log) Degraded() []string {
	if l == nil || len(l.sinks) == 0 {
		return nil
	}
	var list []string
	say := func(format string, args ...any) { list = append(list, "decision log: "+fmt.Sprintf(format, args...)) }
	if l.spool != nil {
		for _, text := range l.spool.Degraded() {
			say("%s", text)
		}
	} else if n := len(l.queue); n > 0 && n == cap(l.queue) {
		say("the queue is full: %d decisions wait", n)
	}
	for _, s := range l.sinks {
		l.mu.Lock()
		refusal := s.lastErr
		l.mu.Unlock()
		age := time.Duration(0)
		if t := s.oldest(); !t.IsZero() {
			age = time.Since(t)
		}
		switch {
		case refusal != "" && l.spool != nil:
			say("sink %q refuses decisions, which wait in the spool: %s", s.cfg.Name, refusal)
		case refusal != "":
			say("sink %q refuses decisions: %s", s.cfg.Name, refusal)
		case age > behindAfter:
			say("sink %q is %s behind", s.cfg.Name, age.Round(time.Second))
		}
	}
	if at := l.lostAt.Load(); at != nil && time.Since(*at) < lossFor {
		say("decisions were not recorded, the last at %s (%d since the start)", at.UTC().Format(time.RFC3339), l.dropped.Load())
	}
	return list
}
