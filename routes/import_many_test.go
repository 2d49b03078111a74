package routes_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/routes"
)

// TestManyRoutes: reading and matching a table grows with its routes, not with their square. What is measured is the process's own time.
func TestManyRoutes(t *testing.T) {
	for name, line := range map[string]string{
		"templates":   "  - GET /app%d/<int:id>/\n",
		"expressions": "  - re_path: GET ^app%d/(?P<id>[0-9]+)/$\n",
		"lookarounds": "  - re_path: GET ^app%d/(?!x)(?P<id>[0-9]+)/$\n",
		"includes":    "  - {include: /app%d/, routes: [{re_path: 'GET ^(?P<id>[0-9]+)/$'}]}\n",
		"one prefix":  "  - GET /shared/<int:id>/x%d/\n",
	} {
		t.Run(name, func(t *testing.T) {
			table := func(n int) (*routes.Table, time.Duration) {
				var text strings.Builder
				text.WriteString("framework: django\nroutes:\n")
				for i := range n {
					fmt.Fprintf(&text, line, i)
				}
				start := cpu(t)
				table, _, err := routes.Parse("routes.yaml", []byte(text.String()))
				if err != nil {
					t.Fatal(err)
				}
				if changes := routes.Diff(table, table); len(changes) > 0 {
					t.Fatal(changes[0])
				}
				return table, cpu(t) - start
			}
			_, small := table(500)
			large, took := table(4000)
			if took > 8*4*small+500*time.Millisecond {
				t.Errorf("500 routes take %s, 4000 take %s", small, took)
			}
			path := map[bool]string{true: "/shared/17/x3999/", false: "/app3999/17/"}[name == "one prefix"]
			if m := large.Match("GET", "x", path); m.Outcome != routes.Matched {
				t.Errorf("%s: %s", path, m.Outcome)
			}
			t.Logf("500: %s, 4000: %s", small, took)
		})
	}
}

// cpu is the time that this process has worked.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
