package decisionlog_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/decisionlog"
)

// TestNewSinkWhereTheFolderIsGone: a reload brings a new sink in the moment in which somebody has removed the spool's folder.
func TestNewSinkWhereTheFolderIsGone(t *testing.T) {
	dir := t.TempDir()
	cfg := small(dir)
	cfg.Sync = time.Hour // nobody makes the folder again meanwhile
	l := open(t, cfg)
	end := run(l)
	add(t, l, entry(0))
	awaitStatus(t, l, func(st decisionlog.Status) bool { return st.Spool.Unread == 0 })
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	next := cfg
	next.Sinks, next.Succeeds = []decisionlog.Sink{{Name: "other", File: filepath.Join(dir, "other.log")}}, l
	m := open(t, next)
	endNext := run(m)
	finish(t, end)
	add(t, m, entry(1))
	awaitStatus(t, m, func(st decisionlog.Status) bool { return st.Spool.Unread == 0 })
	finish(t, endNext)
	inOrder(t, cfg.File, 0, 2)
	if found := ids(t, filepath.Join(dir, "other.log")); len(found) == 0 {
		t.Error("the new sink got nothing")
	}
}
