//go:build !race

package decisionlog_test

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/hack/allocations"
)

// TestAllocations is what appending a decision costs its request. Nobody empties the logs, so that what the writer allocates is not counted.
func TestAllocations(t *testing.T) {
	log := func(cfg decisionlog.Config) *decisionlog.Log {
		cfg.File, cfg.Stdout, cfg.MaxWait = "-", io.Discard, time.Minute
		l, err := decisionlog.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	e, ctx := usual(), context.Background()
	appendTo := func(l *decisionlog.Log) func() {
		return func() {
			if err := l.Append(ctx, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	allocations.Compare(t, map[string]func(){
		"append to the queue": appendTo(log(decisionlog.Config{})),
		"append to the spool": appendTo(log(decisionlog.Config{Dir: filepath.Join(t.TempDir(), "spool")})),
	})
}
