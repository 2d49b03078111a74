package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	swapConfig = `listen:
  grpc: ["unix:gatehouse.sock"]
  admin: "ADMIN"
policy:
  bundles: [{name: users, path: policy}]
log: {level: warn}
`
	// The revision is in the rules, at the top of the data and in each of its entries: an answer made of two revisions would show
	// two numbers.
	swapRego = `package envoy.authz

user := data.users[trim_prefix(input.attributes.request.http.path, "/users/")]

allow := {"allowed": user.active, "headers": {"x-rules": "%s", "x-data": data.rev, "x-entry": user.rev}}
`
	swapEntries = 200_000 // about 18 MB of JSON
	swapMark    = "#####" // stands for the revision
)

// swapData is the data of every revision, made once: writing it must not take the callers' time.
func swapData() []byte {
	data := fmt.Appendf(nil, `{"rev": "%s", "users": {`, swapMark)
	for i := range swapEntries {
		if i > 0 {
			data = append(data, ",\n"...)
		}
		data = fmt.Appendf(data, `"user-%06d": {"active": true, "department": "dept-%03d", "level": %d, "rev": "%s"}`, i, i%500, i%9, swapMark)
	}
	return append(data, "}}"...)
}

// swaps replaces a large bundle again and again while callers ask without pause. What it measures is next to the same
// load without swaps, before and after, in the same run.
type swaps struct {
	bench
	dir      string
	template []byte // swapData
	conn     *grpc.ClientConn
	newest   atomic.Int64 // revision seen in an answer
}

func (b bench) measureSwaps(ctx context.Context, out *os.File, count int) error {
	dir, err := os.MkdirTemp("", "gatehouse-swaps-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &swaps{bench: b, dir: dir, template: swapData()}
	if err := os.WriteFile(filepath.Join(dir, "gatehouse.yaml"), []byte(swapConfig), 0o644); err != nil {
		return err
	}
	if err := s.write(0); err != nil {
		return err
	}
	subject, err := startGatehouse(ctx, b.gatehouse, dir)
	if err != nil {
		return err
	}
	defer subject.stop()
	if s.conn, err = dial(subject.socket); err != nil {
		return err
	}
	defer s.conn.Close()
	if _, err := s.during(ctx, s.rest); err != nil { // warms up
		return err
	}
	before, err := s.during(ctx, s.rest)
	if err != nil {
		return err
	}
	memory := make([]int64, count+1)
	swapping, err := s.during(ctx, func(ctx context.Context) error { return s.swap(ctx, subject, memory) })
	if err != nil {
		return err
	}
	after, err := s.during(ctx, s.rest)
	if err != nil {
		return err
	}
	return s.report(out, memory, before, swapping, after)
}

// rest lets the load run as it is.
func (s *swaps) rest(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * s.length):
		return nil
	}
}

// swap swaps until memory is full, each time as soon as the swap before is seen in an answer.
func (s *swaps) swap(ctx context.Context, server *server, memory []int64) error {
	for revision := 1; revision < len(memory); revision++ {
		if err := s.write(revision); err != nil {
			return err
		}
		deadline := time.Now().Add(time.Minute)
		for s.newest.Load() < int64(revision) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("revision %d does not decide a minute after the swap", revision)
			}
			time.Sleep(time.Millisecond)
		}
		memory[revision], _ = server.resident()
	}
	return nil
}

// write swaps a revision in.
func (s *swaps) write(revision int) error {
	mark := fmt.Sprintf("%05d", revision)
	return swapIn(filepath.Join(s.dir, "policy"), revision, map[string][]byte{
		"policy.rego": fmt.Appendf(nil, swapRego, mark),
		"data.json":   bytes.ReplaceAll(s.template, []byte(swapMark), []byte(mark)),
	})
}

// swapIn lays a revision of a bundle out as Kubernetes does for a ConfigMap: one rename of a link swaps all files.
func swapIn(top string, revision int, files map[string][]byte) error {
	version := filepath.Join(top, fmt.Sprintf("..version-%d", revision))
	errs := []error{os.MkdirAll(version, 0o755)}
	for name, text := range files {
		errs = append(errs, os.WriteFile(filepath.Join(version, name), text, 0o644))
	}
	draft := filepath.Join(top, "..data_tmp")
	return errors.Join(append(errs,
		os.Symlink(filepath.Base(version), draft),
		os.Rename(draft, filepath.Join(top, "..data")),
		os.RemoveAll(filepath.Join(top, fmt.Sprintf("..version-%d", revision-1))))...)
}

// during calls from all callers for as long as what takes, and fails on the first wrong answer.
func (s *swaps) during(ctx context.Context, what func(context.Context) error) (sample, error) {
	load, stop := context.WithCancelCause(ctx)
	var wait sync.WaitGroup
	latencies := make([][]time.Duration, s.callers)
	begin := time.Now()
	for i := range s.callers {
		wait.Go(func() {
			for load.Err() == nil {
				at := time.Now()
				if err := s.ask(ctx); err != nil {
					stop(err)
					return
				}
				latencies[i] = append(latencies[i], time.Since(at))
			}
		})
	}
	err := what(load)
	stop(nil)
	wait.Wait()
	if cause := context.Cause(load); cause != context.Canceled {
		err = cause
	}
	all := slices.Concat(latencies...)
	if err != nil || len(all) == 0 {
		return sample{}, errors.Join(err, ctx.Err())
	}
	slices.Sort(all)
	return distribution(all, time.Since(begin)), nil
}

// ask sends one request and checks that the answer is an allow made of one revision.
func (s *swaps) ask(ctx context.Context) error {
	wire, err := proto.Marshal(request("none", fmt.Sprintf("/users/user-%06d", rand.IntN(swapEntries)), 20))
	if err != nil {
		return err
	}
	var reply []byte
	if err := s.conn.Invoke(ctx, checkMethod, wire, &reply); err != nil {
		return err
	}
	var answer authv3.CheckResponse
	if err := proto.Unmarshal(reply, &answer); err != nil {
		return err
	}
	seen := map[string]string{}
	for _, h := range answer.GetOkResponse().GetHeaders() {
		seen[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	if seen["x-rules"] == "" || seen["x-rules"] != seen["x-data"] || seen["x-data"] != seen["x-entry"] {
		return fmt.Errorf("not an answer of one revision: %v", &answer)
	}
	revision, err := strconv.ParseInt(seen["x-rules"], 10, 64)
	if err != nil {
		return err
	}
	for newest := s.newest.Load(); revision > newest && !s.newest.CompareAndSwap(newest, revision); newest = s.newest.Load() {
	}
	return nil
}

func (s *swaps) report(out *os.File, memory []int64, before, swapping, after sample) error {
	fmt.Fprintf(out, "%s/%s, %d CPUs, %s, %d callers; %d swaps of %d entries, no error and no mixed answer.\n",
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), s.callers, len(memory)-1, swapEntries)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tdecisions/s\tp50\tp99\tp99.9\t")
	for _, r := range []struct {
		name string
		sample
	}{{"before", before}, {"during the swaps", swapping}, {"after", after}} {
		fmt.Fprintf(w, "%s\t%.0f\t%s\t%s\t%s\t\n", r.name, r.rate, r.p50.Round(time.Microsecond), r.p99.Round(time.Microsecond), r.p999.Round(time.Microsecond))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	steady := max(before.p999, after.p999)
	fifth, last := memory[min(5, len(memory)-1)], memory[len(memory)-1]
	fmt.Fprintf(out, "p99.9 during the swaps is %.2fx the steady one. Resident memory: %d MB after the fifth swap, %d MB after the last (%+.0f %%), %d MB at most.\n",
		float64(swapping.p999)/float64(steady), fifth>>20, last>>20, 100*float64(last-fifth)/float64(fifth), slices.Max(memory)>>20)
	return nil
}
