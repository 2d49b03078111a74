package follow

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"

	"gatehouse/control/api"
	"gatehouse/control/wire"
	"gatehouse/directory"
)

// history is a directory with the changes that led to it.
func history(t testing.TB, n int) (first *directory.Snapshot, changes []*api.Changes, all []*directory.Snapshot) {
	t.Helper()
	first = directory.New(directory.DefaultManifest(), directory.Limits{}).WithRevision(1)
	s := first
	all = append(all, s)
	for i := range n {
		list := []directory.Change{{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: fmt.Sprint("u", i)}}}}
		ops, err := wire.Encode(list)
		if err != nil {
			t.Fatal(err)
		}
		next, err := s.Apply(list)
		if err != nil {
			t.Fatal(err)
		}
		s = next.WithRevision(s.Revision() + 1)
		digest, _ := hex.DecodeString(s.Digest())
		changes = append(changes, &api.Changes{Epoch: "e", From: s.Revision() - 1, To: s.Revision(), Digest: digest, Ops: [][]byte{ops}})
		all = append(all, s)
	}
	return first, changes, all
}

func newCopy(t testing.TB, dir string) *ownCopy {
	c := &ownCopy{dir: dir, logger: zap.NewNop()}
	t.Cleanup(c.close)
	return c
}

// TestCopy: what was added is read back, whatever a crash leaves at the end of the tail; damage in the middle is said.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	first, changes, all := history(t, 4)
	c := newCopy(t, dir)
	if s, _, err := c.load(directory.Limits{}); s != nil || err != nil {
		t.Fatalf("an empty folder: %v, %v", s, err)
	}
	if err := c.rewrite(first, "e"); err != nil {
		t.Fatal(err)
	}
	ends := []int64{c.size} // of the tail after each change
	for i, m := range changes {
		if err := c.add(m, all[i+1]); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, c.size)
	}
	other := newCopy(t, dir)
	if err := other.begin(); !errors.Is(err, errLocked) {
		t.Errorf("a second writer: %v", err)
	}
	c.close()
	tail := filepath.Join(dir, "1"+tailEnds)
	whole, err := os.ReadFile(tail)
	if err != nil {
		t.Fatal(err)
	}
	// Cut at every byte: what was whole before it is there.
	for cut := ends[0]; cut <= int64(len(whole)); cut++ {
		if err := os.WriteFile(tail, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := 0
		for want+1 < len(ends) && ends[want+1] <= cut {
			want++
		}
		s, epoch, err := newCopy(t, dir).load(directory.Limits{})
		if err != nil || epoch != "e" || s.Revision() != all[want].Revision() || s.Digest() != all[want].Digest() {
			t.Fatalf("cut at %d: %v, epoch %q; want revision %d", cut, err, epoch, all[want].Revision())
		}
	}
	// After an unfinished frame the tail goes on where the last whole one ended.
	if err := os.WriteFile(tail, whole[:ends[3]-1], 0o600); err != nil {
		t.Fatal(err)
	}
	c = newCopy(t, dir)
	if s, _, _ := c.load(directory.Limits{}); s.Revision() != all[2].Revision() {
		t.Fatalf("revision %d", s.Revision())
	}
	for i := 2; i < 4; i++ {
		if err := c.add(changes[i], all[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	c.close()
	if s, _, err := newCopy(t, dir).load(directory.Limits{}); err != nil || s.Digest() != all[4].Digest() {
		t.Fatalf("%v, %v", s, err)
	}
	// A changed byte in the middle: the rest does not count, and that is said.
	damaged := append([]byte(nil), whole...)
	damaged[ends[2]-1] ^= 1
	if err := os.WriteFile(tail, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	c = newCopy(t, dir)
	s, _, err := c.load(directory.Limits{})
	if !errors.Is(err, errTail) || s.Revision() != all[1].Revision() {
		t.Fatalf("%v, %v", s, err)
	}
	if err := c.add(changes[1], all[2]); err != nil { // written anew, as a whole
		t.Fatal(err)
	}
	c.close()
	if s, _, err := newCopy(t, dir).load(directory.Limits{}); err != nil || s.Digest() != all[2].Digest() {
		t.Fatalf("%v, %v", s, err)
	}
	if _, err := os.Stat(tail); err == nil {
		t.Error("the earlier generation is still there")
	}
}

// FuzzTail: no tail makes load fail in another way than by an error, and what it gives is a directory that control had.
func FuzzTail(f *testing.F) {
	first, changes, all := history(f, 3)
	dir := f.TempDir()
	c := newCopy(f, dir)
	if err := c.rewrite(first, "e"); err != nil {
		f.Fatal(err)
	}
	for i, m := range changes {
		if err := c.add(m, all[i+1]); err != nil {
			f.Fatal(err)
		}
	}
	c.close()
	tail := filepath.Join(dir, "1"+tailEnds)
	whole, err := os.ReadFile(tail)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(tail, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, _ := newCopy(t, dir).load(directory.Limits{})
		if s == nil {
			return
		}
		for _, known := range all {
			if known.Digest() == s.Digest() {
				return
			}
		}
		if s.Stats().Objects == 0 {
			return // the fuzzer may write changes of its own, with their digest
		}
	})
}

// TestDamagedLastFrame: a last change that is damaged, and not only unfinished, is said.
func TestDamagedLastFrame(t *testing.T) {
	dir := t.TempDir()
	first, changes, all := history(t, 4)
	c := newCopy(t, dir)
	if err := c.rewrite(first, "e"); err != nil {
		t.Fatal(err)
	}
	for i, m := range changes {
		if err := c.add(m, all[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	path := c.path(c.generation, tailEnds)
	c.close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-1] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, _, err := newCopy(t, dir).load(directory.Limits{}); s.Revision() != 4 || !errors.Is(err, errTail) {
		t.Errorf("revision %d, error %v", s.Revision(), err)
	}
}
