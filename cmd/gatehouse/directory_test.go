package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/directory"
	"gatehouse/directory/journal"
)

// TestDirectoryArgumentsInTheWrongPlace: what cannot be meant is told, with what to do.
func TestDirectoryArgumentsInTheWrongPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	for name, text := range map[string]string{
		"manifest.yaml": "model: {version: 3}\ntypes:\n  user: {}\n  group: {relations: {member: user | group#member}}\n" +
			"  doc: {relations: {viewer: user | group#member}, permissions: {can_read: viewer}}\n",
		"objects.jsonl":   `{"type":"user","id":"alice"}` + "\n" + `{"type":"group","id":"eng"}` + "\n" + `{"type":"doc","id":"7"}` + "\n",
		"relations.jsonl": `{"object_type":"doc","object_id":"7","relation":"viewer","subject_type":"user","subject_id":"alice"}` + "\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	const swapped = "object and subject are in each other's place"
	for _, test := range []struct {
		command string
		code    int
		want    string
	}{
		{"graph DIR doc:7 user can_read", 2, `"can_read" is a relation or permission, and "user" is none: they are in each other's place; the order is FOLDER OBJECT RELATION SUBJECT`},
		{"graph DIR can_read doc:7 user", 2, `"doc:7" is an object, where the name of a relation or permission should be`},
		{"graph DIR can_read user doc:7", 2, `"can_read" is a relation or permission, and "user" is none: they are in each other's place`},
		{"graph DIR user can_read doc:7", 2, `"can_read" is of type doc: ` + swapped},
		{"graph DIR doc:7 can_read alice", 2, `"alice" has no type: write TYPE:ID; the types are user, group, doc`},
		{"graph DIR doc:7 can_read viewer", 2, `"viewer" is a relation or permission, where an object should be`},
		{"graph DIR doc:7 can_fly user", 2, `unknown relation or permission "can_fly" of type "doc" (known: can_read, viewer)`},
		{"graph DIR doc can_read user", 2, "one of the object's and the subject's id is needed"},
		{"graph DIR group:eng can_read user:alice", 2, `"can_read" is of type doc`},
		{"who DIR doc:7 can_read", 2, `the order is FOLDER can_read doc:7`},
		{"who DIR can_read alice", 2, `"alice" has no type: write TYPE:ID`},
		{"who DIR doc can_read", 2, `"can_read" is a relation or permission, and "doc" is none: they are in each other's place; the order is FOLDER RELATION OBJECT`},
		{"who DIR can_read user:alice", 2, `"can_read" is of type doc`},
		{"who DIR can_read doc:7 --type car", 2, `unknown type "car" (known: doc, group, user)`},
		{"what DIR can_read alice", 2, `"can_read" is a relation or permission, and "alice" is none: they are in each other's place; the order is FOLDER SUBJECT RELATION`},
		{"what DIR alice doc:7", 2, `the order is FOLDER alice can_read`},
		{"what DIR alice can_read --type user", 2, `"can_read" is of type doc`},
		{"what DIR car:1 can_read", 2, `unknown type "car"`},
		{"what DIR group:eng#member can_read", 0, "group:eng#member is one object here, and does not exist"},
		{"check DIR user:alice#can_read@doc:7", 2, `"can_read" is of type doc: ` + swapped},
		{"check DIR doc:7@user:alice#can_read", 2, "is not in the short form object#relation@subject"},
		{"check DIR doc:7#can_read@alice", 2, "is not in the short form object#relation@subject"},
		{"check DIR doc:7#user@user:alice", 2, `unknown relation or permission "user" of type "doc"`},
		{"check DIR doc:7#can_read@group:eng#member", 1, "--subject-relation member"},
		{"check doc:7#can_read@user:alice DIR", 2, "is not in the short form object#relation@subject"},
		{"why DIR user:alice#can_read@doc:7", 2, swapped},
		{"why DIR doc:7#can_read@group:eng#member", 1, "--subject-relation member"},
		{"get DIR doc", 1, "user:doc does not exist; doc is a type: write doc:ID"},
		{"get DIR car:1", 2, `unknown type "car" (known: user, group, doc)`},
		{"get DIR doc:7#viewer", 1, "doc:7#viewer does not exist; an object is TYPE:ID, without a relation"},
		{"get user:alice DIR", 2, "there is no folder user:alice: the folder comes first, then what is asked"},
	} {
		code, stdout, stderr := command(t, append([]string{"directory"}, strings.Fields(strings.ReplaceAll(test.command, "DIR", dir))...)...)
		if code != test.code || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: %d, want %d\n%s%s\nwant %s", test.command, code, test.code, stdout, stderr, test.want)
		}
	}
}

// TestDirectoryOfAWritableNode: the commands read what a node writes, while it runs, and leave it as it is.
func TestDirectoryOfAWritableNode(t *testing.T) {
	state := t.TempDir()
	dir := filepath.Join(state, journal.StateFolder)
	s, err := journal.Open(t.Context(), journal.Config{Dir: dir, CompactAt: 3000, Seed: func(context.Context) (*directory.Snapshot, error) {
		return directory.New(directory.DefaultManifest(), directory.Limits{}).WithRevision(1), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // goroutine: of a test, which a panic may end
		defer close(ended)
		s.Run(ctx, directory.Limits{}, func(*directory.Snapshot) error { return nil })
	}()
	defer func() { cancel(); <-ended }()
	for i := range 60 {
		user := directory.Object{Ref: directory.Ref{Type: "user", ID: fmt.Sprint("u", i)}}
		if _, err := s.Write(t.Context(), journal.Write{Make: func(*directory.Snapshot) (journal.Edit, error) {
			return journal.Edit{Changes: []directory.Change{{SetObject: &user}}}, nil
		}}); err != nil {
			t.Fatal(err)
		}
		if i%20 != 7 {
			continue
		}
		for _, folder := range []string{state, dir} {
			if code, stdout, stderr := command(t, "directory", "get", folder, user.String()); code != 0 || !strings.Contains(stdout, user.ID) {
				t.Fatalf("after %d writes: %d %s%s", i+1, code, stdout, stderr)
			}
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{{"export", state, "--out", out}, {"diff", state, out}, {"stats", dir}, {"import", dir, "--out", out + ".snapshot"}, {"validate", out + ".snapshot"}} {
		if code, stdout, stderr := command(t, append([]string{"directory"}, args...)...); code != 0 {
			t.Errorf("%v: %d %s%s", args, code, stdout, stderr)
		}
	}
	cancel()
	<-ended
	journalFile := filepath.Join(dir, "written.journal")
	b, err := os.ReadFile(journalFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, journalFile, string(b[:40]))
	if code, _, stderr := command(t, "directory", "stats", state); code != 2 || !strings.Contains(stderr, "written.journal: offset 0") {
		t.Errorf("a damaged one: %d %s", code, stderr)
	}
}
