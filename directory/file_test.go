package directory_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"gatehouse/directory"
)

func write(t testing.TB, s *directory.Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := s.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("%d bytes of %d, %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func read(b []byte) (*directory.Snapshot, error) {
	return directory.Read(bytes.NewReader(b), directory.Limits{})
}

// randomSnapshot has hubs, expiry, everybody as a subject, and numbers without an object.
func randomSnapshot(t testing.TB, seed uint64, changes int) (*model, *directory.Snapshot) {
	t.Helper()
	d := dice{rand.New(rand.NewPCG(seed, 1))}
	m, batch := newModel(), []directory.Change{}
	for range changes {
		if c := d.change(); m.apply(c) {
			batch = append(batch, c)
		}
	}
	s, err := directory.New(directory.DefaultManifest(), directory.Limits{}).Apply(batch)
	if err != nil {
		t.Fatal(err)
	}
	return m, s
}

func TestFile(t *testing.T) {
	for _, changes := range []int{0, 1, 50, 5000} {
		m, s := randomSnapshot(t, 1, changes)
		file := write(t, s.WithRevision(77))
		got, err := directory.Read(iotest.HalfReader(bytes.NewReader(file)), directory.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Revision() != 77 || got.Digest() != s.Digest() {
			t.Errorf("revision %d, digest %s", got.Revision(), got.Digest())
		}
		m.same(t, got)
		if again := write(t, got); !bytes.Equal(again, file) {
			t.Error("written again it is another file")
		}
		// It can be changed like any other.
		next := dice{rand.New(rand.NewPCG(9, 9))}
		var batch []directory.Change
		for range 200 {
			if c := next.change(); m.apply(c) {
				batch = append(batch, c)
			}
		}
		if got, err = got.Apply(batch); err != nil {
			t.Fatal(err)
		}
		m.same(t, got)
	}
}

func TestFileDamaged(t *testing.T) {
	_, s := randomSnapshot(t, 2, 80)
	file := write(t, s)
	for n := range len(file) {
		if _, err := read(file[:n]); err == nil || !strings.Contains(err.Error(), "cut short") {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(file), err)
		}
	}
	for i := range file {
		b := bytes.Clone(file)
		b[i] ^= 1 << (i % 8)
		if _, err := read(b); err == nil {
			t.Fatalf("bit changed in byte %d of %d", i, len(file))
		}
	}
	if _, err := read(append(bytes.Clone(file), 0)); err == nil {
		t.Error("a byte after the end")
	}
	broken := errors.New("broken")
	if _, err := directory.Read(io.MultiReader(bytes.NewReader(file[:99]), iotest.ErrReader(broken)), directory.Limits{}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// forge makes a file out of blocks that are not compressed, with a right checksum.
func forge(blocks ...[]byte) []byte { return forgeVersion(2, blocks...) }

func forgeVersion(version byte, blocks ...[]byte) []byte {
	b := append([]byte("gatehdir"), version)
	for _, x := range blocks {
		b = append(b, x...)
	}
	sum := sha256.Sum256(b)
	return append(b, forgeBlock(4, 0, sum[:])...)
}

func forgeBlock(kind byte, count uint32, raw []byte) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{kind}, count)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(raw)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(raw)))
	return append(b, raw...)
}

// TestFileHostile: with a right checksum too, nothing is taken that Builder and Apply would not take.
func TestFileHostile(t *testing.T) {
	manifest := "model: {version: 3}\ntypes:\n  user: {}\n  doc: {relations: {owner: user}}\n"
	text := func(s string) []byte { return append(binary.AppendUvarint(nil, uint64(len(s))), s...) }
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	digest := make([]byte, 32)
	head := forgeBlock(1, 0, cat([]byte{1}, digest, text(manifest), []byte{2}, text("user"), text("doc"), []byte{1, 2}, text("owner")))
	record := func(typ byte, id, rest string) []byte {
		return text(string(cat([]byte{typ}, text(id), []byte{0}, []byte(rest))))
	}
	u, d := record(1, "u", ""), record(2, "d", "")
	objects := forgeBlock(2, 2, cat(u, d))
	for name, c := range map[string]struct {
		file []byte
		err  string
	}{
		"another file":          {[]byte("SQLite format 3"), "no directory snapshot"},
		"another version":       {[]byte("gatehdir\x03"), "version 3"},
		"no head":               {forge(objects), "not the head"},
		"no blocks":             {forge(), "not the head"},
		"a length":              {append([]byte("gatehdir\x02"), 1, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255), "cannot be"},
		"a ratio":               {append([]byte("gatehdir\x02"), 1, 0, 0, 0, 0, 0, 0, 16, 0, 1, 0, 0, 0), "cannot be"},
		"a count":               {forge(head, forgeBlock(2, 1<<30, u)), "cannot have"},
		"manifest":              {forge(forgeBlock(1, 0, cat([]byte{1}, digest, text("]"), []byte{0, 0}))), "manifest"},
		"number of types":       {forge(forgeBlock(1, 0, cat([]byte{1}, digest, text(manifest), []byte{200, 200, 3}))), "number of types"},
		"type of a relation":    {forge(forgeBlock(1, 0, cat([]byte{1}, digest, text(manifest), []byte{0, 1, 9}, text("owner")))), "relation's type"},
		"digest":                {forge(head, objects), "digest"},
		"unknown type":          {forge(head, forgeBlock(2, 1, record(9, "u", ""))), "type is 9"},
		"type 0":                {forge(head, forgeBlock(2, 1, record(0, "u", ""))), "unknown type"},
		"empty id":              {forge(head, forgeBlock(2, 1, record(1, "", ""))), "id of 0 bytes"},
		"id":                    {forge(head, forgeBlock(2, 1, record(1, "\xff", ""))), "UTF-8"},
		"properties":            {forge(head, forgeBlock(2, 1, record(1, "u", `{"a":01}`))), "valid JSON"},
		"properties of nothing": {forge(head, forgeBlock(2, 1, record(1, "u", `{}`))), "is none"},
		"everybody has a name":  {forge(head, forgeBlock(2, 1, record(1, "*", `{"a":1}`))), "no object"},
		"twice":                 {forge(head, forgeBlock(2, 2, cat(u, u))), "object user:u already there"},
		"fewer than it says":    {forge(head, forgeBlock(2, 2, u)), "ends within"},
		"more than it says":     {forge(head, forgeBlock(2, 1, cat(u, d))), "too many"},
		"objects after a part":  {forge(head, objects, forgeBlock(2, 1, record(1, "v", ""))), "after the last"},
		"objects, later":        {forge(head, objects, forgeBlock(3, 0, nil), objects), "of kind 2"},
		"object of a relation":  {forge(head, objects, forgeBlock(3, 1, []byte{7, 1, 0, 2, 0, 0})), "object 7 of 2"},
		"subject":               {forge(head, objects, forgeBlock(3, 1, []byte{1, 1, 0, 2, 7, 0})), "subject 7 of 2"},
		"relation":              {forge(head, objects, forgeBlock(3, 1, []byte{1, 9, 0, 2, 0, 0})), "a relation is 9"},
		"of another type":       {forge(head, objects, forgeBlock(3, 1, []byte{0, 1, 0, 2, 0, 0})), "not allow"},
		"not allowed":           {forge(head, objects, forgeBlock(3, 1, []byte{1, 1, 0, 2, 1, 0})), "not allow"},
		"subject relation":      {forge(head, objects, forgeBlock(3, 1, []byte{1, 1, 1, 2, 0, 0})), "not allow"},
		"relation twice":        {forge(head, objects, forgeBlock(3, 2, []byte{1, 1, 0, 4, 0, 0, 0})), "already there"},
		"empty run":             {forge(head, objects, forgeBlock(3, 0, []byte{1, 1, 0, 0, 0})), "no relations"},
		"object twice":          {forge(head, objects, forgeBlock(3, 1, []byte{1, 1, 0, 2, 0, 0, 0, 0})), "twice"},
		"relations, too few":    {forge(head, objects, forgeBlock(3, 2, []byte{1, 1, 0, 2, 0, 0})), "has 1 relations"},
		"relations, cut":        {forge(head, objects, forgeBlock(3, 1, []byte{1, 1, 0, 2})), "ends within"},
		"kind":                  {forge(head, objects, forgeBlock(9, 0, nil)), "of kind 9"},
	} {
		s, err := read(c.file)
		if err == nil || !strings.Contains(err.Error(), c.err) || s != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFileVersion1: in files of before, an object is counted from the last one of the block before, and the digest is
// of another kind.
func TestFileVersion1(t *testing.T) {
	text := func(s string) []byte { return append(binary.AppendUvarint(nil, uint64(len(s))), s...) }
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	manifest := "model: {version: 3}\ntypes:\n  user: {}\n  doc: {relations: {owner: user}}\n"
	head := forgeBlock(1, 0, cat([]byte{9}, make([]byte, 32), text(manifest), []byte{2}, text("user"), text("doc"), []byte{1, 2}, text("owner")))
	var objects []byte
	for _, o := range []string{"\x02\x01a\x00", "\x01\x01u\x00", "\x02\x01b\x00", "\x02\x01c\x00"} {
		objects = append(objects, text(o)...)
	}
	first := []byte{0, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 0} // a, and b two after it
	second := []byte{1, 1, 0, 2, 1, 0}                  // c, one after that
	s, err := read(forgeVersion(1, head, forgeBlock(2, 4, objects), forgeBlock(3, 2, first), forgeBlock(3, 1, second)))
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []string{"a", "b", "c"} {
		if yes, err := s.Check(directory.Question{Object: ref("doc", doc), Relation: "owner", Subject: ref("user", "u")}, epoch); !yes || err != nil {
			t.Error(doc, yes, err)
		}
	}
	again, err := read(write(t, s))
	if err != nil || again.Digest() != s.Digest() || again.Revision() != 9 {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	for changes := range 4 {
		_, s := randomSnapshot(f, uint64(changes), changes*20)
		file := write(f, s)
		f.Add(file)
		f.Add(file[:len(file)-20])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// A fuzzer does not guess checksums: the last block gets the right one.
		if n := len(b) - 45; n > 0 && b[n] == 4 {
			sum := sha256.Sum256(b[:n])
			b = append(bytes.Clone(b[:n+13]), sum[:]...)
		}
		s, err := read(b)
		if err != nil {
			return
		}
		again, err := read(write(t, s))
		if err != nil || again.Digest() != s.Digest() {
			t.Fatal(fmt.Errorf("read, but not written: %w", err))
		}
	})
}
