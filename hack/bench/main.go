// Command bench measures `gatehouse serve` next to a gRPC server that answers OK without looking at the request, in the
// same run, on this machine: CPU per decision, throughput and latency, and the ratio of the two. Both are processes of
// their own; the CPU is what the kernel says each has used (Linux).
//
//	go run ./hack/bench -gatehouse bin/gatehouse
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

func main() {
	noop := flag.String("noop", "", "serve the no-op server at this address (used by the benchmark itself)")
	gatehouse := flag.String("gatehouse", "bin/gatehouse", "the binary to measure")
	callers := flag.Int("callers", 16, "concurrent callers")
	pairs := flag.Int("pairs", 5, "interleaved pairs of runs")
	length := flag.Duration("time", 2*time.Second, "length of one run")
	swaps := flag.Int("swaps", 0, "measure so many swaps of a large bundle instead")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := bench{gatehouse: *gatehouse, callers: *callers, pairs: *pairs, length: *length}
	var err error
	switch {
	case *noop != "":
		err = serveNoop(ctx, *noop)
	case *swaps > 0:
		err = b.measureSwaps(ctx, os.Stdout, *swaps)
	default:
		err = b.run(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

type bench struct {
	gatehouse string
	callers   int
	pairs     int
	length    time.Duration
}

// sample is what one run of one server came to.
type sample struct {
	cpu            float64 // microseconds per decision, of the server's process
	rate           float64 // decisions per second
	p50, p99, p999 time.Duration
}

func (b bench) run(ctx context.Context, out *os.File) error {
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	requests, err := writeCase(dir)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	base, err := start(ctx, "", filepath.Join(dir, "noop.sock"), self, "-noop", "unix:"+filepath.Join(dir, "noop.sock"), "")
	if err != nil {
		return err
	}
	defer base.stop()
	baseTCP, err := start(ctx, "127.0.0.1:19490", "", self, "-noop", "127.0.0.1:19490")
	if err != nil {
		return err
	}
	defer baseTCP.stop()
	subject, err := start(ctx, "", filepath.Join(dir, "gatehouse.sock"), b.gatehouse, "serve", "--config", filepath.Join(dir, "gatehouse.yaml"))
	if err != nil {
		return err
	}
	defer subject.stop()
	if err := awaitReady(ctx, "http://127.0.0.1:19492/readyz"); err != nil {
		return err
	}
	rows := []struct {
		name   string
		server *server
		target string
	}{
		{"no-op, TCP", baseTCP, "127.0.0.1:19490"},
		{"no-op, unix socket", base, "unix:" + filepath.Join(dir, "noop.sock")},
		{"gatehouse, TCP", subject, "127.0.0.1:19491"},
		{"gatehouse, unix socket", subject, "unix:" + filepath.Join(dir, "gatehouse.sock")},
	}
	samples := make([][]sample, len(rows))
	for pair := range b.pairs + 1 {
		for i, r := range rows {
			s, err := b.load(ctx, r.server, r.target, requests)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			if pair > 0 { // the first round warms up
				samples[i] = append(samples[i], s)
			}
		}
	}
	fmt.Fprintf(out, "%s/%s, %d CPUs, %s, %d callers, %d interleaved runs of %s; medians. 20 headers, RS256 token, RBAC policy, decision log to a file.\n",
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), b.callers, b.pairs, b.length)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "server\tCPU us/decision\tratio\tdecisions/s\tratio\tp50\tp99\tp99.9\t")
	for i, r := range rows {
		fmt.Fprintf(w, "%s\t%.1f\t%.2fx\t%.0f\t%.2fx\t%s\t%s\t%s\t\n", r.name,
			median(samples[i], func(s sample) float64 { return s.cpu }),
			ratio(samples[i], samples[0], func(s sample) float64 { return s.cpu }),
			median(samples[i], func(s sample) float64 { return s.rate }),
			ratio(samples[i], samples[0], func(s sample) float64 { return s.rate }),
			took(samples[i], func(s sample) time.Duration { return s.p50 }),
			took(samples[i], func(s sample) time.Duration { return s.p99 }),
			took(samples[i], func(s sample) time.Duration { return s.p999 }))
	}
	return w.Flush()
}

func median(samples []sample, get func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = get(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// ratio is the median of the ratios of runs that were made next to each other.
func ratio(a, b []sample, get func(sample) float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = get(a[i]) / get(b[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

func took(samples []sample, get func(sample) time.Duration) time.Duration {
	return time.Duration(median(samples, func(s sample) float64 { return float64(get(s)) })).Round(time.Microsecond)
}

// load calls a server from all callers at once for the length of a run.
func (b bench) load(ctx context.Context, s *server, target string, requests [][]byte) (sample, error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		return sample{}, err
	}
	defer conn.Close()
	var wait sync.WaitGroup
	latencies := make([][]time.Duration, b.callers)
	errs := make([]error, b.callers)
	before, begin := s.cpu(), time.Now()
	for i := range b.callers {
		wait.Go(func() {
			for n := i; time.Since(begin) < b.length && ctx.Err() == nil; n += 7 {
				at := time.Now()
				var reply []byte
				if err := conn.Invoke(ctx, checkMethod, requests[n%len(requests)], &reply); err != nil {
					errs[i] = err
					return
				}
				if !slices.Equal(reply[:min(len(reply), 2)], []byte{0x0a, 0x00}) { // status {} comes first: OK
					errs[i] = fmt.Errorf("denied: %q", reply)
					return
				}
				latencies[i] = append(latencies[i], time.Since(at))
			}
		})
	}
	wait.Wait()
	elapsed := time.Since(begin)
	for _, err := range errs {
		if err != nil {
			return sample{}, err
		}
	}
	all := slices.Concat(latencies...)
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[min(int(q*float64(len(all))), len(all)-1)] }
	return sample{cpu: (s.cpu() - before).Seconds() * 1e6 / float64(len(all)), rate: float64(len(all)) / elapsed.Seconds(),
		p50: at(.5), p99: at(.99), p999: at(.999)}, ctx.Err()
}

// server is a process under measurement.
type server struct{ cmd *exec.Cmd }

// start runs a server and waits until something listens at its address or socket.
func start(ctx context.Context, address, socket, name string, args ...string) (*server, error) {
	cmd := exec.CommandContext(ctx, name, slices.DeleteFunc(args, func(a string) bool { return a == "" })...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(runtime.GOMAXPROCS(0)))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	target := address
	if socket != "" {
		target = "unix:" + socket
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = conn.Invoke(deadline, "/grpc.health.v1.Health/Check", []byte(nil), new([]byte), grpc.ForceCodec(bytesCodec{}), grpc.WaitForReady(true))
	if deadline.Err() != nil {
		return nil, fmt.Errorf("%s does not listen: %w", name, err)
	}
	return &server{cmd: cmd}, nil
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	_ = s.cmd.Wait()
}

// cpu is the time that all threads of the process have used, from /proc/PID/stat: user and system, in ticks of 10 ms.
func (s *server) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func awaitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready in time", url)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bytesCodec sends and receives messages as the bytes that they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return nil, nil
}

func (bytesCodec) Unmarshal(data []byte, v any) error {
	if b, ok := v.(*[]byte); ok {
		*b = slices.Clone(data)
	}
	return nil
}
