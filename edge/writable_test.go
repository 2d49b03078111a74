package edge

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/directory"
	"gatehouse/directory/journal"
)

const writableConfig = "policy: {bundles: [{path: policy}]}\nstate_dir: state\ndirectory: {writable: true, file: people}\n"

// admin adds ann to the admins, or removes her.
func admin(is bool) journal.Write {
	r := &directory.Relation{Object: directory.Ref{Type: "role", ID: "admin"}, Relation: "member", Subject: directory.Ref{Type: "user", ID: "ann"}}
	return journal.Write{By: "test", Make: func(*directory.Snapshot) (journal.Edit, error) {
		if is {
			return journal.Edit{Changes: []directory.Change{{SetRelation: r}}}, nil
		}
		return journal.Edit{Changes: []directory.Change{{DeleteRelation: r}}}, nil
	}}
}

// TestWritable: a directory that is written begins with its file, and is what was written from then on: after reloads, which change the limits or
// the file, and after restarts.
func TestWritable(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPlace(t, "")
	p.write("gatehouse.yaml", writableConfig)
	n, end := p.start()
	defer func() { end() }()
	write := func(is bool, want string) {
		t.Helper()
		after, err := n.Write(t.Context(), admin(is))
		if err != nil {
			t.Fatal(err)
		}
		if s := n.Directory(); answer(n) != want || s.Revision != after.Revision() || !s.Writable || s.Digest != after.Digest() {
			t.Fatalf("%s, want %s: %+v", answer(n), want, *s)
		}
	}
	reload := func(text string) error {
		p.write("gatehouse.yaml", text)
		cfg, found := p.read()
		_, err := n.Reload(t.Context(), cfg, found)
		return err
	}
	write(true, "allow")
	p.write("people/relations.jsonl", someRelations) // nobody looks at it any more
	if err := reload(strings.Replace(writableConfig, "file: people", "file: people, limits: {depth: 50}", 1)); err != nil || answer(n) != "allow" {
		t.Fatalf("%s, %v", answer(n), err)
	}
	write(false, "denied")
	write(true, "allow")
	if err := reload(strings.Replace(writableConfig, ", file: people", "", 1)); err != nil || answer(n) != "allow" {
		t.Fatalf("%s, %v", answer(n), err)
	}
	end()
	n, end = p.start()
	if answer(n) != "allow" {
		t.Fatalf("after a restart: %s", answer(n))
	}
	if err := reload(strings.Replace(writableConfig, "writable: true, ", "", 1)); err != nil || answer(n) != "denied" {
		t.Fatalf("from the file: %s, %v", answer(n), err)
	}
	if _, err := n.Write(t.Context(), admin(true)); !errors.Is(err, journal.ErrReadOnly) {
		t.Errorf("got %v", err)
	}
	if err := reload(writableConfig); err != nil || answer(n) != "allow" {
		t.Fatalf("written again: %s, %v", answer(n), err)
	}
	write(false, "denied")
	if degraded := n.Degraded().Directory; len(degraded) > 0 {
		t.Error(degraded)
	}
}

// TestWritableThatCannotBeRead: nothing is decided, the reason is reported, and a reload reads it again.
func TestWritableThatCannotBeRead(t *testing.T) {
	p := newPlace(t, "")
	p.write("gatehouse.yaml", writableConfig)
	n, end := p.start()
	if _, err := n.Write(t.Context(), admin(true)); err != nil {
		t.Fatal(err)
	}
	end()
	file := filepath.Join(p.dir, "state", "directory", "written.journal")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte{}, good...)
	bad[len(bad)-5] ^= 1
	if err := os.WriteFile(file, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	n, end = p.start()
	defer end()
	if degraded := strings.Join(n.Degraded().Directory, "; "); answer(n) != "not_ready" || !strings.Contains(degraded, "written.journal: offset ") {
		t.Errorf("%s, degraded %s", answer(n), degraded)
	}
	if _, err := n.Write(context.Background(), admin(true)); !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, found := p.read()
	if _, err := n.Reload(t.Context(), cfg, found); err != nil || answer(n) != "allow" {
		t.Errorf("%s, %v", answer(n), err)
	}
}
