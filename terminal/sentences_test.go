package terminal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gatehouse/terminal"
)

// TestSentences: errors as they come from the system, wrapped and joined, in words.
func TestSentences(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	of := func(do func() error) error { return do() }
	open := func(path string) error { _, err := os.Open(path); return err }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, taken := net.Listen("tcp", l.Addr().String())
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	_, refused := net.Dial("tcp", free.Addr().String())
	_, socket := net.Dial("unix", filepath.Join(dir, "no.sock"))
	_, expression := regexp.Compile(strings.Repeat("a(", 1)) // what is broken is meant to be
	parse := func(text string) error {
		return json.Unmarshal([]byte(text), &struct{ Port int }{})
	}
	for want, err := range map[string]error{
		"this is no JSON: invalid character 'G' at byte 1":                              parse("GET /"),
		"this is no JSON: it ends too early":                                            parse(`{"port": 1`),
		"Port: the JSON at byte 14 is of the type string, and a whole number is wanted": parse(`{"port": "one"}`),
		"there is no DIR/nothing":                                                       open(filepath.Join(dir, "nothing")),
		"there is no folder DIR/no for file":                                            open(filepath.Join(dir, "no", "file")),
		"there is no DIR/there/file: a part of that path is a file":                     of(func() error { _, err := os.Stat(filepath.Join(there, "file")); return err }),
		"DIR is a folder, and a file is wanted":                                         of(func() error { _, err := os.ReadFile(dir); return err }),
		"ADDRESS is in use: another process listens there":                              taken,
		"nothing listens at FREE":                                                       refused,
		"there is no socket DIR/no.sock":                                                socket,
		`missing closing ) in "a("`:                                                     expression,
	} {
		err = errors.Join(fmt.Errorf("reading: %w\nwhat to do", err), errors.New("another"))
		got := strings.NewReplacer(dir, "DIR", l.Addr().String(), "ADDRESS", free.Addr().String(), "FREE").Replace(terminal.Sentences(err, err.Error()))
		if want := "reading: " + want + "\nwhat to do\nanother"; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}
