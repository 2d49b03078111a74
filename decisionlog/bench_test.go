package decisionlog_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/input"
)

// BenchmarkAppend is what a request pays: a queue that has room, nobody on the
// other side.
func BenchmarkAppend(b *testing.B) {
	l, err := decisionlog.New(decisionlog.Config{File: "-", Stdout: io.Discard, Queue: 1 << 24, QueueBytes: 1 << 60})
	if err != nil {
		b.Fatal(err)
	}
	e := &decisionlog.Entry{Asked: true, InputSize: 1000}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(ctx, e); err != nil {
			b.StopTimer()
			l, _ = decisionlog.New(decisionlog.Config{File: "-", OnFull: "drop", Stdout: io.Discard, Queue: 1 << 24, QueueBytes: 1 << 60})
			b.StartTimer()
		}
	}
}

// usual is an entry of the usual size: a request with 20 headers.
func usual() *decisionlog.Entry {
	e := &decisionlog.Entry{DecisionID: "OPXCZ3VQJZ6LTJ3V2ZJCDSR5WA", Time: time.Unix(1767225600, 5), Outcome: "allow", Status: 200,
		App: "orders", Route: "orders.show", Revision: "v17", Bundles: bundles, Asked: true, Result: allowed,
		Input: decisionlog.Input{Request: input.Request{Method: "GET", Host: "orders.example.com", Path: "/orders/17?expand=lines", Scheme: "https",
			Protocol: "HTTP/2", ID: "13359530607844510314", Headers: headers, Time: time.Unix(1767225600, 4),
			Source:      decisionlog.Endpoint{Address: input.Address{Host: "10.0.0.1", Port: 4711}},
			Destination: decisionlog.Endpoint{Address: input.Address{Host: "10.0.0.2", Port: 443}}}, DecisionPath: "envoy/authz/allow",
			Identity: decisionlog.Identity{Type: "jwt", Identity: "ann", Subject: "ann", Issuer: "https://issuer.example.com", Roles: roles, Authenticated: true},
			Matched:  true, RouteName: "orders.show", RouteTemplate: "/orders/{id}"}}
	e.AddParam("id", "17")
	return e
}

type yes struct{}

func (*yes) JSON() (any, error) { return true, nil }

var (
	allowed = &yes{}
	roles   = []string{"viewer"}
	bundles = []decisionlog.Bundle{{Name: "app", Revision: "v17", Digest: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}}
	headers = append([]decisionlog.Header{
		{Name: ":authority", Value: "orders.example.com"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: "/orders/17?expand=lines"},
		{Name: ":scheme", Value: "https"}, {Name: "accept", Value: "application/json"}, {Name: "accept-encoding", Value: "gzip, br"},
		{Name: "authorization", Value: "Bearer " + jwt}, {Name: "user-agent", Value: "Mozilla/5.0 (X11; Linux x86_64)"},
		{Name: "x-forwarded-for", Value: "10.0.0.1"}, {Name: "x-forwarded-proto", Value: "https"},
		{Name: "x-request-id", Value: "9f2b7a4e-7b3a-4f0e-a7a1-3a1f2f9c0e11"},
	}, custom(9)...)
)

func custom(n int) (list []decisionlog.Header) {
	for i := range n {
		list = append(list, decisionlog.Header{Name: fmt.Sprint("x-custom-", i), Value: "a value of usual length"})
	}
	return list
}

// valve is a sink that takes nothing while somebody holds it.
type valve struct{ sync.Mutex }

func (v *valve) Write(p []byte) (int, error) {
	v.Lock()
	defer v.Unlock()
	return len(p), nil
}

// BenchmarkSpool is what a request pays with a spool: the entry, and its way to where a kill does not lose it. The sink stands still
// meanwhile, so that what the writer costs is not counted.
func BenchmarkSpool(b *testing.B) {
	var out valve
	l, err := decisionlog.New(decisionlog.Config{File: "-", Stdout: &out, Dir: filepath.Join(b.TempDir(), "spool"), MaxWait: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	end := run(l)
	ctx := context.Background()
	out.Lock()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%8192 == 0 {
			b.StopTimer()
			out.Unlock()
			for l.Status().Spool.Unread > 0 {
				time.Sleep(time.Millisecond)
			}
			out.Lock()
			b.StartTimer()
		}
		if err := l.Append(ctx, usual()); err != nil {
			b.Fatal(err)
		}
	}
	out.Unlock()
	if err := end(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkWriteSpool is what one entry costs from Append through the spool to the file.
func BenchmarkWriteSpool(b *testing.B) {
	dir := b.TempDir()
	l, err := decisionlog.New(decisionlog.Config{File: filepath.Join(dir, "d.log"), Dir: filepath.Join(dir, "spool"), MaxWait: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	end := run(l)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(ctx, usual()); err != nil {
			b.Fatal(err)
		}
	}
	for l.Status().Spool.Unread > 0 {
		time.Sleep(time.Millisecond)
	}
	if err := end(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkWrite is what one entry costs from Append to the file, with the
// queue as the only brake: the most entries that one core can write.
func BenchmarkWrite(b *testing.B) {
	l, err := decisionlog.New(decisionlog.Config{File: filepath.Join(b.TempDir(), "d.log"), MaxWait: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	end := run(l)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(ctx, usual()); err != nil {
			b.Fatal(err)
		}
	}
	if err := end(); err != nil {
		b.Fatal(err)
	}
}
