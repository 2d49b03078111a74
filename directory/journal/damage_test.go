package journal_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/directory/journal"
)

// TestTornTail: wherever the write of the last record ended, also where its place has zeros, what was written whole before is there; and what is
// written next is too.
func TestTornTail(t *testing.T) {
	with, whole, ends := written(t)
	path := filepath.Join(with.Dir, journalFile)
	first := len(whole)
	for end := range ends {
		first = min(first, end)
	}
	want, acknowledged := ends[first], first
	for n := first; n <= len(whole); n++ {
		if ends[n] != nil {
			want, acknowledged = ends[n], n
		}
		part := append([]byte{}, whole[:n]...)
		journal.SetLength(part, acknowledged)
		put(t, path, part)
		same(t, fmt.Sprintf("%d of %d bytes", n, len(whole)), open(t, with).Snapshot(), want)
		put(t, path, append(part, make([]byte, 700)...))
		same(t, fmt.Sprintf("%d of %d bytes and zeros", n, len(whole)), open(t, with).Snapshot(), want)
		if n%40 != 0 {
			continue
		}
		r := run(t, with)
		after := r.write(t, user("next"))
		r.stop()
		if after.Revision() != want.Revision()+1 {
			t.Fatalf("revision %d after %d", after.Revision(), want.Revision())
		}
		same(t, "written after a cut", open(t, with).Snapshot(), after)
	}
}

// TestLostTail: a journal whose end lost what was acknowledged is refused, whether zeros are there or nothing, wherever they begin.
func TestLostTail(t *testing.T) {
	with, whole, ends := written(t)
	path := filepath.Join(with.Dir, journalFile)
	refused := func(what string, b []byte) {
		t.Helper()
		put(t, path, b)
		if _, err := journal.Open(t.Context(), with); err == nil || !strings.Contains(err.Error(), path+": offset ") || !strings.Contains(err.Error(), "put the folder back from a backup") {
			t.Fatalf("%s: %v", what, err)
		}
	}
	bounds := []int{journal.HeadSize}
	for end := range ends {
		bounds = append(bounds, end)
	}
	slices.Sort(bounds)
	for i, from := range bounds {
		for _, to := range bounds[i+1:] {
			b := append([]byte{}, whole...)
			clear(b[from:to])
			refused(fmt.Sprintf("zeros from %d to %d of %d", from, to, len(whole)), b)
		}
	}
	for n := journal.HeadSize; n < len(whole); n++ {
		zeros := append(append([]byte{}, whole[:n]...), make([]byte, len(whole)-n)...)
		if string(zeros) == string(whole) {
			continue // its last bytes are zeros
		}
		refused(fmt.Sprintf("%d of %d bytes", n, len(whole)), whole[:n])
		refused(fmt.Sprintf("%d of %d bytes, then zeros", n, len(whole)), zeros)
		refused(fmt.Sprintf("%d of %d bytes, then more zeros", n, len(whole)), append(zeros, make([]byte, 5000)...))
	}
	put(t, path, whole)
	same(t, "whole", open(t, with).Snapshot(), ends[len(whole)])
}

// TestDamage: a bit that is another one is refused with its place, wherever it is, and so is a file that is not there.
func TestDamage(t *testing.T) {
	with, whole, _ := written(t)
	path := filepath.Join(with.Dir, journalFile)
	for at := range whole {
		b := append([]byte{}, whole...)
		b[at] ^= 1 << (at % 8)
		put(t, path, b)
		if _, err := journal.Open(t.Context(), with); err == nil || !strings.Contains(err.Error(), path+": offset ") {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	for name, change := range map[string]func(){
		"no journal":       func() { _ = os.Remove(path) },
		"no snapshot":      func() { put(t, path, whole); _ = os.Remove(filepath.Join(with.Dir, snapshotFile)) },
		"a short snapshot": func() { put(t, filepath.Join(with.Dir, snapshotFile), []byte("gatehdir")) },
		"a folder":         func() { _ = os.Remove(path); _ = os.Mkdir(path, 0o700) },
	} {
		_ = name
		change()
		if _, err := journal.Open(t.Context(), with); err == nil || !strings.Contains(err.Error(), with.Dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoSnapshot: a journal in which nothing is since the last snapshot does not stand for a directory that was never written to. Only the
// first start, which may end at any step, leaves it so.
func TestNoSnapshot(t *testing.T) {
	with := config(t.TempDir())
	with.CompactAt = 1
	r := run(t, with)
	r.write(t, user("a"))
	r.stop()
	if err := os.Remove(filepath.Join(with.Dir, snapshotFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(t.Context(), with); err == nil || !strings.Contains(err.Error(), "put it back from a backup") {
		t.Errorf("got %v", err)
	}
	put(t, filepath.Join(with.Dir, journalFile), nil)
	if _, err := journal.Open(t.Context(), with); err == nil {
		t.Error("an empty journal is taken for a first start")
	}
	marker := filepath.Join(with.Dir, "written.new")
	put(t, marker, nil)
	r = run(t, with)
	r.write(t, user("b"))
	if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the first start has not ended: %v", err)
	}
}

// TestOldSnapshot: a snapshot from before the journal is refused.
func TestOldSnapshot(t *testing.T) {
	with := config(t.TempDir())
	with.CompactAt = 1
	r := run(t, with)
	r.write(t, user("a"))
	old := read(t, filepath.Join(with.Dir, snapshotFile))
	r.write(t, user("b"))
	r.stop()
	put(t, filepath.Join(with.Dir, snapshotFile), old)
	if _, err := journal.Open(t.Context(), with); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("got %v", err)
	}
}

// TestOldJournal: a journal of the version before is read, and written anew.
func TestOldJournal(t *testing.T) {
	with, whole, ends := written(t)
	path := filepath.Join(with.Dir, journalFile)
	put(t, path, journal.Old(whole))
	same(t, "read", open(t, with).Snapshot(), ends[len(whole)])
	r := run(t, with)
	last := r.write(t, user("next"))
	r.stop()
	same(t, "written", open(t, with).Snapshot(), last)
	if b := read(t, path); b[8] != 2 {
		t.Errorf("version %d", b[8])
	}
}
