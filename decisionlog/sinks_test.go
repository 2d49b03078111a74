package decisionlog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/decisionlog"
)

// inOrder checks that a file has the entries from first to n, once each and in order.
func inOrder(t *testing.T, file string, first, n int) {
	t.Helper()
	all := lines(t, file)
	for i, line := range all {
		if line["decision_id"] != fmt.Sprint(first+i) {
			t.Fatalf("%s: line %d is entry %v", filepath.Base(file), i, line["decision_id"])
		}
	}
	if len(all) != n-first {
		t.Fatalf("%s: %d entries, want %d", filepath.Base(file), len(all), n-first)
	}
}

// TestSinks has one sink hang while another takes everything: appends do not wait, and the one that hung catches up, in order.
func TestSinks(t *testing.T) {
	const n = 1000 // several segments, and less than the spool holds
	cfg := small(t.TempDir())
	cfg.OnFull = "drop"
	out := &gate{sink: newSink(), open: make(chan struct{})}
	reg := prometheus.NewRegistry()
	cfg.Sinks, cfg.Stdout, cfg.Registerer = []decisionlog.Sink{{File: "-"}, {Name: "more", File: cfg.File + "2"}}, out, reg
	l := open(t, cfg)
	end := run(l)
	for i := range n {
		add(t, l, entry(i))
	}
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Sinks[0].Unread == 0 && st.Sinks[2].Unread == 0 })
	st := l.Status()
	if st.Sinks[1].Name != "stdout" || st.Sinks[1].Unread == 0 || st.Spool.Unread != st.Sinks[1].Unread || st.Dropped != 0 {
		t.Errorf("%+v %+v", st, st.Spool)
	}
	if got := bySink(t, reg, "gatehouse_decision_log_written_total"); got["file"] != n || got["stdout"] != 0 || got["more"] != n {
		t.Errorf("written: %v", got)
	}
	close(out.open)
	finish(t, end)
	inOrder(t, cfg.File, 0, n)
	inOrder(t, cfg.File+"2", 0, n)
	if err := os.WriteFile(cfg.File+".out", out.text, 0o600); err != nil {
		t.Fatal(err)
	}
	inOrder(t, cfg.File+".out", 0, n)
}

// TestSinksWakeUp lets all sinks fall asleep between two entries.
func TestSinksWakeUp(t *testing.T) {
	cfg := small(t.TempDir())
	cfg.Sinks = []decisionlog.Sink{{Name: "more", File: cfg.File + "2"}, {Name: "most", File: cfg.File + "3"}}
	l := open(t, cfg)
	end := run(l)
	for i := range uint64(5) {
		add(t, l, usual())
		awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Written == i+1 && st.Spool.Oldest.IsZero() })
	}
	finish(t, end)
}

// awaitStatus waits for a log to be in a state. It asks again whenever the writers may have come further.
func awaitStatus(t *testing.T, l *decisionlog.Log, is func(decisionlog.Status) bool) {
	t.Helper()
	for !is(l.Status()) {
		if t.Context().Err() != nil {
			t.Fatalf("%+v", l.Status())
		}
		time.Sleep(time.Millisecond)
	}
}

// bySink returns a metric's values by sink.
func bySink(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// TestSinksChange adds, reorders and removes sinks from start to start, and from log to log as a reload does.
func TestSinksChange(t *testing.T) {
	file := func(name string) decisionlog.Sink { return decisionlog.Sink{Name: name, File: name} }
	for _, reload := range []bool{false, true} {
		t.Run(fmt.Sprintf("reload %v", reload), func(t *testing.T) {
			t.Chdir(t.TempDir())
			cfg := small(".")
			cfg.File, cfg.DrainTimeout = "", 100*time.Millisecond // for the sink that takes nothing
			n := 0
			var l *decisionlog.Log
			var end func() error
			start := func(sinks ...decisionlog.Sink) {
				before := end
				if cfg.Sinks = sinks; reload {
					cfg.Succeeds = l
				} else if end != nil {
					finish(t, end)
				}
				l = open(t, cfg)
				end = run(l)
				if reload && before != nil {
					finish(t, before)
				}
				for range 50 {
					add(t, l, entry(n))
					n++
				}
			}
			start(file("a"), decisionlog.Sink{Name: "b", File: "/dev/full"})
			cfg.DrainTimeout = time.Minute
			start(file("b"), file("a")) // b takes up what it refused
			awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Sinks[0].Unread == 0 })
			start(file("a"))
			for range 2000 { // many segments: nothing is held back for b
				add(t, l, entry(n))
				n++
			}
			start(file("c"), file("a"))
			finish(t, end)
			inOrder(t, "a", 0, n)
			inOrder(t, "b", 0, 100)
			first := 0
			if _, err := fmt.Sscan(fmt.Sprint(lines(t, "c")[0]["decision_id"]), &first); err != nil || first < 150 || first > n-50 {
				t.Errorf("a new sink begins with %d: %v", first, err)
			}
			inOrder(t, "c", first, n)
		})
	}
}

// TestSinkOfBefore takes over the position that was kept when there was one sink, without a name.
func TestSinkOfBefore(t *testing.T) {
	cfg := small(t.TempDir())
	l := open(t, cfg)
	end := run(l)
	for i := range 100 {
		add(t, l, entry(i))
	}
	finish(t, end)
	if err := os.Rename(filepath.Join(cfg.Dir, "position.file"), filepath.Join(cfg.Dir, "position")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(cfg.File); err != nil { // so that its end does not tell
		t.Fatal(err)
	}
	finish(t, run(open(t, cfg)))
	inOrder(t, cfg.File, 0, 0)
}

func TestSinksRefused(t *testing.T) {
	dir := t.TempDir()
	file := decisionlog.Sink{File: filepath.Join(dir, "d.log")}
	many := make([]decisionlog.Sink, 17)
	for _, tt := range []struct {
		name  string
		dir   string
		sinks []decisionlog.Sink
		want  string
	}{
		{"no directory", "", []decisionlog.Sink{file, {File: "-"}}, "several sinks, need a spool"},
		{"one name", dir, []decisionlog.Sink{file, file}, `two sinks are named "file"`},
		{"a name", dir, []decisionlog.Sink{{Name: "../x", File: "-"}}, `name "../x" is not`},
		{"nothing", dir, []decisionlog.Sink{{Name: "x"}}, "sink 1 has no destination"},
		{"many", dir, many, "17 sinks are too many"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decisionlog.New(decisionlog.Config{Dir: tt.dir, Sinks: tt.sinks}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
