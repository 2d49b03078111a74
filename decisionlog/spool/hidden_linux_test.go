package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestSegmentRemovedWhileTheFolderIsCovered: a segment that is not needed any more while its name cannot be seen is removed when it can.
func TestSegmentRemovedWhileTheFolderIsCovered(t *testing.T) {
	home := filepath.Join(t.TempDir(), "spool")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := newSegment(home, 1, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(home, home+".below")
	left, err := s.remove()
	s.close()
	if left == nil || err != nil {
		t.Fatalf("what is left is %v, error %v", left, err)
	}
	sp := &Spool{hidden: []hiddenFile{{s.path, left}}}
	sp.removeHidden()
	if len(sp.hidden) != 1 {
		t.Fatal("it is forgotten while it cannot be seen")
	}
	move(home+".below", home)
	move(s.path, s.path+".own")
	if err := os.WriteFile(s.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sp.removeHidden()
	if _, err := os.Stat(s.path); err != nil || len(sp.hidden) != 1 {
		t.Fatalf("another file of this name: %v", err)
	}
	move(s.path+".own", s.path)
	sp.removeHidden()
	if _, err := os.Stat(s.path); !errors.Is(err, fs.ErrNotExist) || len(sp.hidden) != 0 {
		t.Errorf("after it can be seen again: %v", err)
	}
}
