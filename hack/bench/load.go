package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

// sample is what one run of one server came to. The ratios of hits are negative where the server does not tell.
type sample struct {
	cpu            float64 // microseconds per decision, of all threads of the server
	rate           float64 // decisions per second
	p50, p99, p999 time.Duration
	memo, tokens   float64 // hits per decision
}

// caller makes requests until its run ends, and returns how long each took.
type caller func(ctx context.Context, until time.Time) ([]time.Duration, error)

// measure runs callers against a server for a length of time and counts what the server used: until its decision log has it all.
func measure(ctx context.Context, s *server, length time.Duration, callers []caller) (sample, error) {
	counted, err := s.metrics(ctx)
	if err != nil {
		return sample{}, err
	}
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	begin := time.Now()
	latencies, err := runCallers(ctx, begin.Add(length), callers)
	if err != nil {
		return sample{}, err
	}
	elapsed := time.Since(begin)
	if err := s.awaitLog(ctx); err != nil {
		return sample{}, err
	}
	after, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	out := distribution(latencies, elapsed)
	out.cpu = (after - before).Seconds() * 1e6 / float64(len(latencies))
	if err := out.hits(ctx, s, counted); err != nil {
		return sample{}, err
	}
	return out, s.truncateLog()
}

// runCallers runs all callers at once and returns their latencies, sorted.
func runCallers(ctx context.Context, until time.Time, callers []caller) ([]time.Duration, error) {
	latencies, errs := make([][]time.Duration, len(callers)), make([]error, len(callers))
	var wait sync.WaitGroup
	for i, call := range callers {
		wait.Go(func() { latencies[i], errs[i] = call(ctx, until) })
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	all := slices.Concat(latencies...)
	slices.Sort(all)
	if len(all) == 0 {
		return nil, fmt.Errorf("no request was made: %w", context.Cause(ctx))
	}
	return all, ctx.Err()
}

// distribution is what sorted latencies come to.
func distribution(sorted []time.Duration, elapsed time.Duration) sample {
	at := func(q float64) time.Duration { return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)] }
	return sample{rate: float64(len(sorted)) / elapsed.Seconds(), p50: at(.5), p99: at(.99), p999: at(.999)}
}

// hits reads what share of the decisions came from the memo, and of the tokens from their cache.
func (s *sample) hits(ctx context.Context, server *server, before series) error {
	after, err := server.metrics(ctx)
	if err != nil {
		return err
	}
	grown := func(metric string) float64 {
		a, _ := after.sum(metric)
		b, _ := before.sum(metric)
		return a - b
	}
	s.memo, s.tokens = -1, -1
	if _, ok := after.sum("gatehouse_memo_hits_total"); ok {
		hits := grown("gatehouse_memo_hits_total")
		s.memo = hits / max(grown("gatehouse_decisions_total"), 1)
	}
	if _, ok := after.sum("gatehouse_identity_tokens_total"); ok {
		s.tokens = grown(`gatehouse_identity_tokens_total{result="cached"}`) / max(grown("gatehouse_identity_tokens_total"), 1)
	}
	return nil
}

// overGRPC calls a server as one worker of Envoy does: all callers share one connection.
func overGRPC(ctx context.Context, s *server, target string, count int, length time.Duration, work workload) (sample, error) {
	conn, err := dial(target)
	if err != nil {
		return sample{}, err
	}
	defer conn.Close()
	conn.Connect()
	callers := make([]caller, count)
	for i := range callers {
		callers[i] = func(ctx context.Context, until time.Time) ([]time.Duration, error) {
			return check(ctx, conn, until, work)
		}
	}
	return measure(ctx, s, length, callers)
}

func dial(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{}), grpc.MaxCallSendMsgSize(64<<20)))
}

// check asks one question after the other. Anything but an allow is an error.
func check(ctx context.Context, conn *grpc.ClientConn, until time.Time, work workload) ([]time.Duration, error) {
	var latencies []time.Duration
	for ctx.Err() == nil && time.Now().Before(until) {
		message := work()
		if message == nil {
			break
		}
		at := time.Now()
		var reply []byte
		if err := conn.Invoke(ctx, checkMethod, message, &reply); err != nil {
			return nil, err
		}
		if !allowed(reply) {
			return nil, fmt.Errorf("denied: %q", reply)
		}
		latencies = append(latencies, time.Since(at))
	}
	return latencies, nil
}

// allowed reports whether an answer begins with an empty status: OK.
func allowed(reply []byte) bool { return len(reply) >= 2 && reply[0] == 0x0a && reply[1] == 0 }

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
