package envoy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The example of a directory: groups in groups and folders in folders decide. Then the directory changes while Envoy asks: a file is shared, a line
// is wrong, a user goes.
func TestDriveExample(t *testing.T) {
	t.Parallel()
	dir := copyOf(t, "rebac-drive")
	if own, shared := read(t, filepath.Join(dir, "requirements.txt")), read(t, filepath.Join(root, "examples", "fastapi-items", "requirements.txt")); own != shared {
		t.Error("requirements.txt is not that of fastapi-items, whose Python is used here")
	}
	s := startStack(t, dir, map[int]int{8000: serve(t, "uvicorn", dir, uvicorn(pythonOf(t, "fastapi-items"), "app:app"))})
	const host, text, draft = "drive.example.com", `{"text": "Hello."}`, `{"name": "poster", "text": "A circle."}`
	s.play(t, host, "drive", []scene{
		{request: "GET /healthz", want: "app 200"},
		{request: "GET /files/welcome", want: "gatehouse 401"},
		{"carol", "", "GET /files/roadmap", "app 200", ""},
		{"carol", "", "GET /folders/engineering", "app 200", ""},
		{"carol", "", "POST /folders/designs/files", "app 201", draft},
		{"carol", "", "GET /files/poster", "gatehouse 403", ""}, // the application has it, the directory does not
		{"carol", "", "GET /files/salaries", "gatehouse 403", ""},
		{"carol", "", "GET /files/ROADMAP", "gatehouse 403", ""},
		{"carol", "", "GET /files/salaries/../roadmap", "app 200", ""},
		{"carol", "", "GET /files/roadmap/../salaries", "gatehouse 403", ""},
		{"carol", "", "GET /files/roadmap%2fx", "envoy 400", ""},
		{"dave", "", "PUT /files/salaries", "app 200", text},
		{"alice", "", "GET /files/salaries", "app 200", ""},
		{"bob", "", "GET /files/roadmap", "gatehouse 403", ""},
		{"bob", "", "PUT /files/logo", "app 200", text},
		{"bob", "", "DELETE /files/logo", "gatehouse 403", ""},
		{"erin", "", "GET /files/welcome", "app 200", ""},
		{"erin", "", "PUT /files/welcome", "gatehouse 403", text},
		{"erin", "", "GET /files/*", "gatehouse 403", ""},
		{"mallory", "admin", "GET /files/welcome", "gatehouse 403", ""},
		{"*", "", "GET /files/welcome", "gatehouse 403", ""},
	})

	const share = `{"object_type": "file", "object_id": "logo", "relation": "viewer", "subject_type": "user", "subject_id": "erin"}` + "\n"
	file := filepath.Join(dir, "directory", "relations.jsonl")
	relations := read(t, file)
	replace := func(file, text string) {
		t.Helper()
		write(t, file+".draft", text)
		if err := os.Rename(file+".draft", file); err != nil {
			t.Fatal(err)
		}
	}
	token := "Authorization: Bearer " + s.token("drive", "erin")
	s.awaitAnswer(t, "GET /files/logo", host, "gatehouse 403", token)
	started := time.Now()
	add(t, file, share)
	s.awaitAnswer(t, "GET /files/logo", host, "app 200", token)
	t.Logf("a line added to relations.jsonl was in force after %v", time.Since(started))
	started = time.Now()
	replace(file, relations)
	s.awaitAnswer(t, "GET /files/logo", host, "gatehouse 403", token)
	t.Logf("a relations.jsonl put in place of the other was in force after %v", time.Since(started))

	// Files that cannot be used change nothing, although what is good in them would share the logo.
	seen := len(s.gatehouse.Log())
	broken := relations + share + strings.Replace(share, `"viewer"`, `"veiwer"`, 1)
	where := fmt.Sprintf("relations.jsonl:%d: ", strings.Count(broken, "\n"))
	replace(file, broken)
	if line := s.awaitLog(t, seen, "the directory changed and cannot be used"); !contains(logged(t, line), where) {
		t.Errorf("the log says %s, want %q", line, where)
	}
	if page := s.status(t); page.Directory == nil || !page.Directory.Loaded || !contains(page.Directory.Error, where) {
		t.Errorf("/status says of the directory %+v, want %q", page.Directory, where)
	}
	s.play(t, host, "drive", []scene{{"erin", "", "GET /files/logo", "gatehouse 403", ""}, {"erin", "", "GET /files/welcome", "app 200", ""}})
	replace(file, relations+share)
	s.awaitAnswer(t, "GET /files/logo", host, "app 200", token)
	s.awaitLog(t, seen, `"relations":26,`)
	if page := s.status(t); page.Directory == nil || page.Directory.Error != "" {
		t.Errorf("/status says of the mended directory %+v", page.Directory)
	}

	// A user goes, and what was shared with everybody is not for her any more.
	seen = len(s.gatehouse.Log())
	replace(file, without(relations, `"erin"`))
	objects := filepath.Join(dir, "directory", "objects.jsonl")
	replace(objects, without(read(t, objects), `"erin"`))
	s.awaitLog(t, seen, `"objects":21,`)
	s.play(t, host, "drive", []scene{
		{"erin", "", "GET /files/welcome", "gatehouse 403", ""},
		{"erin", "", "GET /files/logo", "gatehouse 403", ""},
		{"carol", "", "GET /files/roadmap", "app 200", ""},
	})
}

// add writes text at the end of a file, as an editor of one line does.
func add(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// without is text without the lines that hold part.
func without(text, part string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !contains(line, part) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
