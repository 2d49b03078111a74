package scaffold

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/routes"
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
		s, err := New(t.Context(), Config{Name: "app", Rules: rules, Table: parsed(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		return s.tried
	}
	for _, rules := range []string{PerRoute, RoleTable} {
		few, many := tried(manyTable(100), rules), tried(manyTable(1000), rules)
		if many > 11*few || many > 20*1000 {
			t.Errorf("%s: %d requests for 100 routes, %d for 1000", rules, few, many)
		}
	}
	hidden := "framework: django\nroutes:\n  - re_path: ANY ^.*$\n" + strings.TrimPrefix(manyTable(500), "framework: django\nroutes:\n")
	if n := tried(hidden, RoleTable); n > 2*maxSamples+2*samplesEach*500 {
		t.Errorf("%d requests for 500 routes that nothing reaches", n)
	}
}

// TestInitInterrupted holds that an interrupted command writes nothing at all.
func TestInitInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	s, err := New(ctx, Config{Name: "app", Rules: PerRoute, Table: parsed(t, manyTable(20)), Try: func(ctx context.Context, _ string) error { return ctx.Err() }})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := s.Write(dir, false); !errors.Is(err, ErrInterrupted) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was written", err)
	}
	if _, err := New(ctx, Config{Name: "app", Rules: PerRoute, Table: parsed(t, manyTable(20)), Try: func(ctx context.Context, _ string) error { return ctx.Err() }}); !errors.Is(err, ErrInterrupted) {
		t.Error(err)
	}
}

func parsed(t testing.TB, text string) *routes.Table {
	t.Helper()
	table, _, err := routes.Parse("routes.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}
