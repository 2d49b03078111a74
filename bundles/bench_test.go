package bundles_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/policy"
)

// BenchmarkActivation measures from a changed source to a publishable snapshot, with all stages. Compare the CPU time: unlike the elapsed
// time it does not depend on the machine's other load.
func BenchmarkActivation(b *testing.B) {
	for _, shape := range []struct {
		name  string
		files map[string]string
	}{
		{"2000 Rego files", manyModules(2000, false)},
		{"2000 Rego files with tests", manyModules(2000, true)},
		{"200000 entries of data", map[string]string{"authz.rego": answering(1), "grants/data.json": entries(200_000)}},
	} {
		dir, archive := b.TempDir(), filepath.Join(b.TempDir(), "app.tar.gz")
		write(b, dir, shape.files)
		must(b, os.WriteFile(archive, packed(b, shape.files), 0o644))
		for kind, path := range map[string]string{"directory": dir, "archive": archive} {
			b.Run(shape.name+"/"+kind, func(b *testing.B) {
				before := cpuTime(b)
				for b.Loop() {
					m, err := bundles.New(bundles.Config{Sources: one(path), Policy: policy.Config{Decision: "authz/allow"}})
					must(b, err)
					_, err = m.Load(context.Background())
					must(b, err)
				}
				b.ReportMetric((cpuTime(b)-before).Seconds()/float64(b.N), "cpu-s/op")
			})
		}
	}
}

func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// manyModules returns n packages that call one another, like a generated policy.
func manyModules(n int, tests bool) map[string]string {
	files := map[string]string{"authz.rego": answering(1)}
	for i := range n {
		files[fmt.Sprintf("lib/p%d/m%d.rego", i%50, i)] = fmt.Sprintf(`package lib.p%d.m%d

import data.lib.p%d.m%d as next

default allow := false

allow if {
	input.attributes.request.http.method == "GET"
	some role in input.identity.roles
	role == "role%d"
}

allow if next.owner(input.identity.subject)

owner(subject) if subject == data.owners["o%d"]
`, i%50, i, (i+1)%n%50, (i+1)%n, i, i)
		if tests && i%10 == 0 {
			files[fmt.Sprintf("lib/p%d/m%d_test.rego", i%50, i)] = fmt.Sprintf("package lib.p%d.m%d_test\n\ntest_denies if not data.lib.p%d.m%d.allow\n", i%50, i, i%50, i)
		}
	}
	return files
}

// entries returns a JSON object of n grants, about 90 bytes each.
func entries(n int) string {
	var out strings.Builder
	out.WriteString("{")
	for i := range n {
		if i > 0 {
			out.WriteString(",")
		}
		fmt.Fprintf(&out, `"user%06d@example.com":{"roles":["viewer","editor"],"orders":[%d,%d,%d],"level":%d}`, i, i, i+1, i+2, i%7)
	}
	out.WriteString("}")
	return out.String()
}
