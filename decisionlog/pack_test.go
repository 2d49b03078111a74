package decisionlog

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testCodec() (*codec, *packer) {
	cfg := Config{MaxEntry: defaultMaxEntry}
	c := newCodec(&cfg)
	return &c, &packer{redact: newRedactor(cfg.Redact), max: cfg.MaxEntry}
}

type tree struct{ v any }

func (d tree) JSON() (any, error) { return d.v, nil }

// packed is a packed entry that has something of everything.
func packed() []byte {
	_, p := testCodec()
	endpoint := Endpoint{Host: "h", Port: 1, Labels: map[string]string{"a": "b"}, Principal: "p"}
	e := &Entry{DecisionID: "d", Time: time.Unix(17, 5), Path: "/a?token=s3cret", Params: []Param{{"a", "b"}}, Bundles: []Bundle{{"a", "b", "c"}},
		Error: "e", Asked: true, Result: tree{[]any{nil, true, false, json.Number("1.5"), "s", map[string]any{"a": 1}}},
		Input: Input{Headers: []Header{{"cookie", "s3cret"}, {"a", "b"}, {"a", "c"}}, HeaderMap: true, Time: time.Unix(1, 2), Source: endpoint,
			Destination: Endpoint{Other: map[string]any{"pipe": "x"}}, Metadata: map[string]any{"filterMetadata": map[string]any{jwtAuthn: 1, "x": 2.5}},
			Body: tree{map[string]any{"password": "s3cret"}}, TLS: true, HasBody: true, Matched: true, Peer: Peer{SANs: []string{"a"}}}}
	var o packing
	p.pack(&o, e)
	return o.buf
}

// TestPackedHoldsNoSecret looks at the bytes themselves.
func TestPackedHoldsNoSecret(t *testing.T) {
	if b := packed(); bytes.Contains(b, []byte("s3cret")) || !bytes.Contains(b, []byte("cookie")) {
		t.Errorf("%q", b)
	}
}

// FuzzUnpack gives the reader bytes that nobody packed: it says so, or makes one line of JSON of them.
func FuzzUnpack(f *testing.F) {
	f.Add(packed())
	f.Add([]byte{packVersion, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _ := testCodec()
		line, err := c.appendLine(nil, b)
		if err != nil {
			return
		}
		if !json.Valid(line) || bytes.IndexByte(line, '\n') != len(line)-1 || len(line) > c.max {
			t.Errorf("%d bytes: %s", len(line), line)
		}
	})
}

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
		s.put(segmentHeader, frameEntry, []byte("first"))
		s.put(last, frameEntry, []byte("last"))
		begin := segmentHeader + int(at)%(last-segmentHeader)
		noise = noise[:min(len(noise), last-begin)]
		copy(s.data[begin:], noise)
		s.close()
		old, err := openSegment(dir, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer old.close()
		c := cursor{s: old, off: segmentHeader}
		found := false
		for range size {
			p, ok := c.next()
			if !ok {
				break
			}
			found = string(p.payload) == "last"
		}
		if !found || c.off > old.size() {
			t.Errorf("the last frame was not found, at %d", c.off)
		}
	})
}

// TestHole has a reservation that was never filled, as after a kill: what is behind it is read, and the hole is named as no damage.
func TestHole(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{File: filepath.Join(dir, "d.log"), Dir: filepath.Join(dir, "spool")}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	sp, err := openSpool(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	sp.append(frameEntry, packed())
	sp.current.Load().tail.Add(frameSize(1000))
	sp.append(frameEntry, packed())
	sp.close()
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
