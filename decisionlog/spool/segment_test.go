package spool

import (
	"bytes"
	"testing"
	"time"
)

// FuzzSegment puts bytes behind the header of a segment that has a frame at its beginning and one at its end: the reader comes to an end, and
// finds the last frame wherever the bytes do not lie over it.
func FuzzSegment(f *testing.F) {
	f.Add([]byte("noise"), uint16(128))
	f.Add(bytes.Repeat([]byte{0x9e, 0xc3, 0xf5, 0xa7}, 100), uint16(64))
	f.Fuzz(func(t *testing.T, noise []byte, at uint16) {
		dir := t.TempDir()
		const size, last = 8192, 8192 - 64
		s, err := newSegment(dir, 1, size)
		if err != nil {
			t.Fatal(err)
		}
		s.put(segmentHeader, 1, []byte("first"))
		s.put(last, 1, []byte("last"))
		begin := segmentHeader + int(at)%(last-segmentHeader)
		noise = noise[:min(len(noise), last-begin)]
		copy(s.data[begin:], noise)
		s.close()
		old, err := openSegment(dir, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer old.close()
		old.time = func(Kind, []byte) (time.Time, bool) { return time.Time{}, false }
		c := Cursor{s: old, off: segmentHeader}
		found := false
		for range size {
			p, ok := c.Next()
			if !ok {
				break
			}
			found = string(p.Record) == "last"
		}
		if !found || c.off > old.size() {
			t.Errorf("the last frame was not found, at %d", c.off)
		}
	})
}
