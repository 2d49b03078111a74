package decisionlog

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/decisionlog/record"
	"gatehouse/decisionlog/spool"
)

// TestHole has a reservation that was never filled, as after a kill: what is behind it is read, and the hole is named as no damage.
func TestHole(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{File: filepath.Join(dir, "d.log"), Dir: filepath.Join(dir, "spool")}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	sp, err := spool.New(cfg.spool())
	if err != nil {
		t.Fatal(err)
	}
	var entry record.Packing
	record.NewPacker(cfg.Record()).Pack(&entry, &record.Entry{DecisionID: "d"})
	sp.Append(record.KindEntry, entry.Bytes())
	never := bytes.Repeat([]byte("never "), 1000)[:1000]
	sp.Append(record.KindEntry, never)
	sp.Append(record.KindEntry, entry.Bytes())
	sp.Close()
	unwrite(t, filepath.Join(cfg.Dir, "0000000000000001.seg"), never)
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), `{"decision_id":"d"`) != 2 || strings.Count(string(text), `"unfinished_bytes":1016`) != 1 || strings.Contains(string(text), "damaged") {
		t.Errorf("%s", text)
	}
}

// unwrite puts zeros where a record is in a segment, and where the header of its frame is, of 16 bytes.
func unwrite(t *testing.T, segment string, record []byte) {
	t.Helper()
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, record)
	if at < 0 {
		t.Fatal("the record is not there")
	}
	clear(b[at-16 : at+len(record)])
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
