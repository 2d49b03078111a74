package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// sightsPerRun is how many tokens that were never seen a run of "first sight" shows: a token costs a millisecond to sign.
const sightsPerRun = 1500

// lineup is every process of the table, and what is asked of it.
type lineup struct {
	bench
	noop                       *server
	repeated, fresh, sights    *server // Gatehouses, one for each kind of work: the caches of one must not weigh on another
	requests, orders           workload
	firstUnix, firstTCP, first []workload // one for each round
	envoy                      *proxy
	backends                   []backend
	http                       func() []byte
}

// run is one cell of the table's measurements: made in each round, next to all others.
type run struct {
	name    string
	do      func(ctx context.Context, round int) (sample, error)
	samples []sample
}

// measureTable makes the whole table.
func (b bench) measureTable(ctx context.Context) (*result, error) {
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l := &lineup{bench: b}
	err = l.start(ctx, dir)
	defer l.stop()
	if err != nil {
		return nil, err
	}
	runs := l.runs()
	for round := range b.pairs + 1 {
		for _, r := range runs {
			s, err := r.do(ctx, round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			if round > 0 { // the first round warms up
				r.samples = append(r.samples, s)
			}
		}
	}
	out := b.newResult(l, runs)
	return out, b.addFootprint(ctx, out, l, dir)
}

// start mints what is needed and starts everything.
func (l *lineup) start(ctx context.Context, dir string) error {
	f, err := newFixture(filepath.Join(dir, "repeated"), shape{})
	if err != nil {
		return err
	}
	if l.requests, err = f.repeated(); err != nil {
		return err
	}
	if l.orders, err = f.fresh(); err != nil {
		return err
	}
	if l.http, err = f.httpRequests(); err != nil {
		return err
	}
	if err := l.mintSights(f); err != nil {
		return err
	}
	if l.noop, err = startNoop(ctx, dir); err != nil {
		return err
	}
	for _, p := range []struct {
		server **server
		name   string
	}{{&l.repeated, "repeated"}, {&l.fresh, "fresh"}, {&l.sights, "sights"}} {
		own, err := f.copyTo(filepath.Join(dir, p.name))
		if err != nil {
			return err
		}
		if *p.server, err = startGatehouse(ctx, l.gatehouse, own.dir); err != nil {
			return err
		}
	}
	l.backends = []backend{{Name: "noop_tcp", At: l.noop.tcp}, {Name: "gatehouse_unix", At: l.repeated.socket}, {Name: "gatehouse_tcp", At: l.repeated.tcp}}
	l.envoy, err = startEnvoy(ctx, l.root, dir, l.backends)
	return err
}

// mintSights makes the tokens of all rounds beforehand, so that no run pays for it.
func (l *lineup) mintSights(f *fixture) error {
	tokens, err := f.mint(users, 2*(l.pairs+1)*sightsPerRun)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(tokens, sightsPerRun) {
		work, err := f.firstSights(chunk)
		if err != nil {
			return err
		}
		l.first = append(l.first, work)
	}
	l.firstUnix, l.firstTCP = l.first[:l.pairs+1], l.first[l.pairs+1:]
	return nil
}

func (l *lineup) stop() {
	for _, s := range []*server{l.noop, l.repeated, l.fresh, l.sights} {
		s.stop()
	}
	if l.envoy != nil {
		l.envoy.stop()
	}
}

const (
	noopTCP      = "no-op, TCP"
	noopUnix     = "no-op, unix socket"
	noopOne      = "no-op, TCP, 1 caller"
	noopEnvoy    = "Envoy with no-op over TCP"
	againUnix    = "repeated decision, unix socket"
	againTCP     = "repeated decision, TCP"
	newUnix      = "new decision every time, unix socket"
	newTCP       = "new decision every time, TCP"
	firstUnix    = "first sight of each token, unix socket"
	firstTCP     = "first sight of each token, TCP"
	oneUnix      = "1 caller, unix socket"
	oneTCP       = "1 caller, TCP"
	throughUnix  = "through Envoy, unix socket"
	throughTCP   = "through Envoy, TCP"
	oneOfLength  = 2 // a run with one caller is so many times shorter
	envoyLengths = 1 // and one through Envoy so many times longer
)

func (l *lineup) runs() []*run {
	grpc := func(name string, s *server, target string, callers int, length time.Duration, work func(round int) workload) *run {
		return &run{name: name, do: func(ctx context.Context, round int) (sample, error) {
			return overGRPC(ctx, s, target, callers, length, work(round))
		}}
	}
	same := func(w workload) func(int) workload { return func(int) workload { return w } }
	envoy := func(name string, b backend, s *server) *run {
		return &run{name: name, do: func(ctx context.Context, _ int) (sample, error) {
			return overHTTP(ctx, s, b, l.callers, envoyLengths*l.length, l.http)
		}}
	}
	again, fresh := same(l.requests), same(l.orders)
	return []*run{
		grpc(againUnix, l.repeated, l.repeated.socket, l.callers, l.length, again),
		grpc(noopTCP, l.noop, l.noop.tcp, l.callers, l.length, again),
		grpc(againTCP, l.repeated, l.repeated.tcp, l.callers, l.length, again),
		grpc(noopUnix, l.noop, l.noop.socket, l.callers, l.length, again),
		grpc(newUnix, l.fresh, l.fresh.socket, l.callers, l.length, fresh),
		grpc(newTCP, l.fresh, l.fresh.tcp, l.callers, l.length, fresh),
		grpc(firstUnix, l.sights, l.sights.socket, l.callers, time.Minute, func(round int) workload { return l.firstUnix[round] }),
		grpc(firstTCP, l.sights, l.sights.tcp, l.callers, time.Minute, func(round int) workload { return l.firstTCP[round] }),
		grpc(oneUnix, l.repeated, l.repeated.socket, 1, l.length/oneOfLength, again),
		grpc(noopOne, l.noop, l.noop.tcp, 1, l.length/oneOfLength, again),
		grpc(oneTCP, l.repeated, l.repeated.tcp, 1, l.length/oneOfLength, again),
		envoy(throughUnix, l.backends[1], l.repeated),
		envoy(noopEnvoy, l.backends[0], l.noop),
		envoy(throughTCP, l.backends[2], l.repeated),
	}
}

// median of one figure of samples.
func median(samples []sample, get func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = get(s)
	}
	return middle(values)
}

// ratio is the median of the ratios of runs that were made next to each other.
func ratio(a, b []sample, get func(sample) float64) float64 {
	ratios := make([]float64, min(len(a), len(b)))
	for i := range ratios {
		ratios[i] = get(a[i]) / get(b[i])
	}
	return middle(ratios)
}

func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// repoRoot is where go.mod is, from here upwards.
func repoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("go.mod not found: run this in a checkout of Gatehouse")
		}
	}
}
