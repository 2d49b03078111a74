package journal

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/directory"
)

// FuzzJournal: whatever stands in a journal, it is read or refused, and what is read is written the same.
func FuzzJournal(f *testing.F) {
	snapshot := directory.New(directory.DefaultManifest(), directory.Limits{}).WithRevision(1)
	e := entry{by: "key", changes: []directory.Change{{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: "a"}}},
		{SetRelation: &directory.Relation{Object: directory.Ref{Type: "group", ID: "g"}, Relation: "member", Subject: directory.Ref{Type: "user", ID: "a"}, Expires: time.Unix(5, 0)}}}}
	for _, entries := range [][]entry{{e}, {{manifest: []byte("model: {version: 3}\ntypes: {user: {}}\n"), force: true}}, nil} {
		b, err := appendFrame(nil, &frame{revision: 2, at: time.Unix(0, 0), entries: entries})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b[frameHead:])
	}
	dir := f.TempDir()
	with := Config{Dir: dir, Seed: func(context.Context) (*directory.Snapshot, error) { return snapshot, nil }}
	s, err := Open(context.Background(), with)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Run(ctx, directory.Limits{}, func(*directory.Snapshot) error { return nil })
	path := filepath.Join(dir, journalFile)
	head, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, tail, payload []byte) {
		if got, err := parsePayload(payload); err == nil {
			b, err := appendFrame(nil, got)
			if err != nil {
				t.Fatal(err)
			}
			again, err := parsePayload(b[frameHead:])
			if err != nil || again.revision != got.revision || len(again.entries) != len(got.entries) {
				t.Fatalf("%v: %+v, then %+v", err, got, again)
			}
		}
		if err := os.WriteFile(path, append(head[:headSize:headSize], tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := load(t.Context(), dir, directory.Limits{}); err == nil && int(l.end)+len(l.tail) != headSize+len(tail) {
			t.Fatalf("%d bytes and a tail of %d, of %d", l.end, len(l.tail), headSize+len(tail))
		}
	})
}
