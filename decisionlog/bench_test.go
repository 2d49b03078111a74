package decisionlog_test

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/decisionlog"
)

// BenchmarkAppend is what a request pays: a queue that has room, nobody on the
// other side.
func BenchmarkAppend(b *testing.B) {
	l, err := decisionlog.New(decisionlog.Config{File: "-", Stdout: io.Discard, Queue: 1 << 24, QueueBytes: 1 << 60})
	if err != nil {
		b.Fatal(err)
	}
	e := &decisionlog.Entry{Input: doc(`{}`), InputSize: 1000}
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

// tree is a document of the usual size that costs nothing to decode, so that
// the benchmark is ours alone.
type tree struct{}

func (tree) JSON() (any, error) {
	headers := map[string]any{
		":authority": "orders.example.com", ":method": "GET", ":path": "/orders/17?expand=lines", ":scheme": "https",
		"accept": "application/json", "accept-encoding": "gzip, br", "authorization": "Bearer " + jwt,
		"user-agent": "Mozilla/5.0 (X11; Linux x86_64)", "x-forwarded-for": "10.0.0.1", "x-forwarded-proto": "https",
		"x-request-id": "9f2b7a4e-7b3a-4f0e-a7a1-3a1f2f9c0e11",
	}
	return map[string]any{
		"attributes": map[string]any{
			"source": map[string]any{"address": map[string]any{"socketAddress": map[string]any{"address": "10.0.0.1", "portValue": 4711}}},
			"request": map[string]any{"http": map[string]any{
				"id": "1234", "method": "GET", "path": "/orders/17?expand=lines", "host": "orders.example.com",
				"scheme": "https", "protocol": "HTTP/2", "headers": headers,
			}},
		},
		"parsed_path":  []any{"orders", "17"},
		"parsed_query": map[string]any{"expand": []any{"lines"}},
		"parsed_body":  nil,
		"identity":     map[string]any{"subject": "ann", "roles": []any{"viewer"}, "claims": map[string]any{"sub": "ann"}},
	}, nil
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
		e := &decisionlog.Entry{
			DecisionID: "9f2b7a4e-7b3a-4f0e-a7a1-3a1f2f9c0e11", Outcome: "allow", Status: 200, App: "orders",
			Method: "GET", Path: "/orders/17?expand=lines", Input: tree{}, Result: doc(`true`),
			Identity: decisionlog.Identity{Type: "jwt", Subject: "ann", Roles: []string{"viewer"}, Authenticated: true},
		}
		if err := l.Append(ctx, e); err != nil {
			b.Fatal(err)
		}
	}
	if err := end(); err != nil {
		b.Fatal(err)
	}
}
