// Package allocations holds counts of allocations to what is recorded, for tests. They are exact where times are not, so that a change
// which costs one more is seen in the change itself. They do not hold under the race detector: the tests that use this are not
// built there.
package allocations

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// File is where a package keeps its counts, RecordKey the environment variable that has them written instead of compared.
const (
	File      = "testdata/allocations.txt"
	RecordKey = "GATEHOUSE_RECORD_ALLOCATIONS"
	head      = "# Allocations of one call each, without the race detector. To record them anew: make allocations\n"
)

// Compare counts the allocations of each case and holds them to the file of the test's package.
func Compare(t *testing.T, cases map[string]func()) {
	t.Helper()
	got := map[string]int{}
	for name, f := range cases {
		got[name] = int(testing.AllocsPerRun(1000, f))
		t.Logf("%s: %d allocations", name, got[name])
	}
	if os.Getenv(RecordKey) != "" {
		if err := write(got); err != nil {
			t.Fatal(err)
		}
		return
	}
	recorded, err := read()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		was, known := recorded[name]
		switch {
		case !known:
			t.Errorf("%s: %d allocations, and none are recorded in %s; record them with: make allocations", name, got[name], File)
		case got[name] != was:
			t.Errorf("%s: was %d allocations, is %d. Where that is as it should be, record it with: make allocations", name, was, got[name])
		}
		delete(recorded, name)
	}
	for name := range recorded {
		t.Errorf("%s is recorded in %s and not counted any more; record what is with: make allocations", name, File)
	}
}

func write(counts map[string]int) error {
	if err := os.MkdirAll(filepath.Dir(File), 0o755); err != nil {
		return err
	}
	text := []byte(head)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		text = fmt.Appendf(text, "%s: %d\n", name, counts[name])
	}
	return os.WriteFile(File, text, 0o644)
}

func read() (map[string]int, error) {
	text, err := os.ReadFile(File)
	if err != nil {
		return nil, fmt.Errorf("reading recorded allocations: %w; record them with: make allocations", err)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, count, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if out[name], err = strconv.Atoi(count); err != nil {
			return nil, fmt.Errorf("%s: %q is not \"name: count\"", File, line)
		}
	}
	return out, nil
}
