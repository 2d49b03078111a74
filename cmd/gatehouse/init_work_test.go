package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// manyTable is a Django table of n routes of any method, under as many applications.
func manyTable(n int) string {
	var b strings.Builder
	b.WriteString("framework: django\nroutes:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - route: ANY /app%d/<int:id>/\n    name: r%d\n", i, i)
	}
	return b.String()
}

// TestInitWorkGrowsWithRoutes holds that twice the routes are twice the work, counted in requests that the table is asked about, and
// that routes which nothing reaches are given up.
func TestInitWorkGrowsWithRoutes(t *testing.T) {
	tried := func(text string, rules string) int {
		s, err := newScaffold(t.Context(), "app", &initOptions{rules: rules}, parsed(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return s.tried
	}
	for _, rules := range []string{perRoute, rbac} {
		few, many := tried(manyTable(100), rules), tried(manyTable(1000), rules)
		if many > 11*few || many > 20*1000 {
			t.Errorf("%s: %d requests for 100 routes, %d for 1000", rules, few, many)
		}
	}
	hidden := "framework: django\nroutes:\n  - re_path: ANY ^.*$\n" + strings.TrimPrefix(manyTable(500), "framework: django\nroutes:\n")
	if n := tried(hidden, rbac); n > 2*mostSamples+2*samplesEach*500 {
		t.Errorf("%d requests for 500 routes that nothing reaches", n)
	}
}

// TestInitInterrupted holds that an interrupted command writes nothing at all.
func TestInitInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	s, err := newScaffold(ctx, "app", &initOptions{rules: perRoute}, parsed(t, manyTable(20)))
	if err != nil {
		t.Fatal(err)
	}
	stop()
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := s.write(dir, false); !errors.Is(err, errInterrupted) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was written", err)
	}
	if _, err := newScaffold(ctx, "app", &initOptions{rules: perRoute}, parsed(t, manyTable(20))); !errors.Is(err, errInterrupted) {
		t.Error(err)
	}
}

// BenchmarkInit2000 is everything but the application's own import.
func BenchmarkInit2000(b *testing.B) {
	text := manyTable(2000)
	for b.Loop() {
		s, err := newScaffold(b.Context(), "app", &initOptions{rules: perRoute}, parsed(b, text))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.write(b.TempDir(), false); err != nil {
			b.Fatal(err)
		}
	}
}
