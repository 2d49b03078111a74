package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// result is the whole table, as make bench-json prints it.
type result struct {
	Time     time.Time         `json:"time"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Method   string            `json:"method"`
	Noop     map[string]plain  `json:"noop"`
	Rows     []row             `json:"rows"`
	Missed   int               `json:"missed"`
}

// plain is what a run came to in absolute figures.
type plain struct {
	CPU  float64 `json:"cpu_us"`
	Rate float64 `json:"per_second"`
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
}

// row is one line of the table. Base and Ratio are zero where nothing is divided.
type row struct {
	Case    string   `json:"case"`
	Measure string   `json:"measure"`
	Value   float64  `json:"value"`
	Base    float64  `json:"noop,omitempty"`
	Ratio   float64  `json:"ratio,omitempty"`
	AtLeast bool     `json:"at_least,omitempty"` // the target is a lower bound
	Target  float64  `json:"target"`
	Met     bool     `json:"met"`
	Memo    *float64 `json:"memo_hits,omitempty"` // per decision; nil: not known
	Tokens  *float64 `json:"token_cache_hits,omitempty"`
}

func (r *result) add(w row) {
	figure := w.Value
	if w.Base != 0 {
		figure = w.Ratio
	}
	if w.Met = figure <= w.Target; w.AtLeast {
		w.Met = figure >= w.Target
	}
	if !w.Met {
		r.Missed++
	}
	r.Rows = append(r.Rows, w)
}

var (
	cpu  = measure1{"CPU us", func(s sample) float64 { return s.cpu }}
	rate = measure1{"per second", func(s sample) float64 { return s.rate }}
	p50  = measure1{"p50 us", func(s sample) float64 { return micros(s.p50) }}
	p99  = measure1{"p99 us", func(s sample) float64 { return micros(s.p99) }}
)

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// measure1 is one figure of a sample.
type measure1 struct {
	name string
	get  func(sample) float64
}

// newResult divides every run by the no-op over TCP.
func (b bench) newResult(l *lineup, runs []*run) *result {
	samples := map[string][]sample{}
	for _, r := range runs {
		samples[r.name] = r.samples
	}
	out := &result{Time: time.Now().UTC().Truncate(time.Second), Machine: machine(), Versions: versions(b.gatehouse, l.envoy.version), Noop: map[string]plain{},
		Method: fmt.Sprintf("%d callers where nothing else is said; medians of %d interleaved runs of %s; 20 headers, RS256 token, route table, role policy, "+
			"decision log to a file through a spool, metrics on", b.callers, b.pairs, b.length)}
	for _, name := range []string{noopTCP, noopUnix, noopOne, noopEnvoy} {
		s := samples[name]
		out.Noop[name] = plain{median(s, cpu.get), median(s, rate.get), median(s, p50.get), median(s, p99.get)}
	}
	for _, w := range []struct {
		run, base string
		m         measure1
		target    float64
		atLeast   bool
	}{
		{againUnix, noopTCP, cpu, .85, false}, {againUnix, noopTCP, rate, 1.1, true}, {againTCP, noopTCP, cpu, 1, false},
		{newUnix, noopTCP, cpu, 1.5, false}, {newTCP, noopTCP, cpu, 1.5, false},
		{firstUnix, noopTCP, cpu, 2.2, false}, {firstTCP, noopTCP, cpu, 2.2, false},
		{throughUnix, noopEnvoy, rate, .95, true}, {throughUnix, noopEnvoy, p99, 1.15, false},
		{throughTCP, noopEnvoy, rate, .95, true}, {throughTCP, noopEnvoy, p99, 1.15, false},
		{oneUnix, noopOne, p50, 1.1, false}, {oneTCP, noopOne, p50, 1.1, false},
	} {
		s, base := samples[w.run], samples[w.base]
		out.add(row{Case: w.run, Measure: w.m.name, Value: median(s, w.m.get), Base: median(base, w.m.get), Ratio: ratio(s, base, w.m.get),
			Target: w.target, AtLeast: w.atLeast, Memo: share(s, func(s sample) float64 { return s.memo }), Tokens: share(s, func(s sample) float64 { return s.tokens })})
	}
	return out
}

// share is the median of a ratio of hits, nil where the server did not tell.
func share(samples []sample, get func(sample) float64) *float64 {
	if v := median(samples, get); v >= 0 {
		return &v
	}
	return nil
}

func (r *result) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *result) write(out io.Writer) error {
	fmt.Fprintf(out, "%s\n", r.Machine)
	fmt.Fprintf(out, "Go %s, gRPC %s, OPA %s, Envoy %s (one worker)\n%s.\n\n", r.Versions["go"], r.Versions["grpc"], r.Versions["opa"], r.Versions["envoy"], r.Method)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "the no-op itself\tCPU us\tper second\tp50 us\tp99 us\t")
	for _, name := range []string{noopTCP, noopUnix, noopOne, noopEnvoy} {
		p := r.Noop[name]
		fmt.Fprintf(w, "%s\t%.1f\t%.0f\t%.0f\t%.0f\t\n", name, p.CPU, p.Rate, p.P50, p.P99)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintln(w, "case\tmeasure\tvalue\tno-op\tratio\ttarget\t\tmemo hits\ttoken hits\t")
	for _, row := range r.Rows {
		fmt.Fprintln(w, row.String())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d of %d targets met.\n", len(r.Rows)-r.Missed, len(r.Rows))
	return err
}

// String is the row as cells for a tabwriter.
func (w row) String() string {
	sign, mark, unit := "<=", "met", ""
	if w.AtLeast {
		sign = ">="
	}
	if !w.Met {
		mark = "MISSED"
	}
	base, divided := "", ""
	if w.Base != 0 {
		base, divided, unit = fmt.Sprintf("%.1f", w.Base), fmt.Sprintf("%.2fx", w.Ratio), "x"
	}
	return fmt.Sprintf("%s\t%s\t%.1f\t%s\t%s\t%s %g%s\t%s\t%s\t%s\t", w.Case, w.Measure, w.Value, base, divided, sign, w.Target, unit, mark, percent(w.Memo), percent(w.Tokens))
}

func percent(v *float64) string {
	if v == nil {
		return "n/a"
	}
	return fmt.Sprintf("%.1f %%", *v*100)
}

// versions are those of the measured binary, not of this one.
func versions(binary, envoy string) map[string]string {
	out := map[string]string{"go": strings.TrimPrefix(runtime.Version(), "go"), "envoy": envoy}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return out
	}
	out["go"] = strings.TrimPrefix(info.GoVersion, "go")
	for _, d := range info.Deps {
		switch d.Path {
		case "google.golang.org/grpc":
			out["grpc"] = d.Version
		case "github.com/open-policy-agent/opa":
			out["opa"] = d.Version
		}
	}
	return out
}

// machine is one line about where this was measured.
func machine() string {
	cpu := field("/proc/cpuinfo", "model name")
	memory := field("/proc/meminfo", "MemTotal")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s/%s, %d CPUs, %s, %s of memory, kernel %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpu, memory, strings.TrimSpace(string(kernel)))
}

// field is the first value of a key in a file of "key : value" lines.
func field(file, key string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == key {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "unknown"
}
