package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// errorsSeen collects what commands print on standard error where a script expects that they do not end with 0.
type errorsSeen struct {
	mu   sync.Mutex
	seen []string // guarded by mu: the command, and below it the error
}

// noMessage is what no message may have in it: types, values and traces of the languages that it was written in.
var noMessage = regexp.MustCompile(`Traceback \(most recent|goroutine \d|runtime error|<nil>|%!\w?\(|\*?\b(ast|yaml|json|config|errors|fs|os|http)\.[A-Z]\w+|\bmap\[|\binterface \{|0xc0[0-9a-f]{6}|(?m)^gatehouse: *$`)

// collectErrors is a testscript's setup that has exits record into e; at the end of the test all that was recorded is looked at, and written to
// testdata/errors-NAME.md where ERRORS_SEEN is set (make errors-seen): so that all errors can be read at once.
func collectErrors(t *testing.T) *errorsSeen {
	t.Helper()
	e := &errorsSeen{}
	t.Cleanup(func() {
		slices.Sort(e.seen)
		e.seen = slices.Compact(e.seen)
		for _, one := range e.seen {
			if found := noMessage.FindString(one); found != "" {
				t.Errorf("a message has %q in it:\n%s", found, one)
			}
		}
		if os.Getenv("ERRORS_SEEN") == "" {
			return
		}
		page := "# Errors that the scripts of " + t.Name() + " provoke\n\nMade by `make errors-seen`.\n\n" + strings.Join(e.seen, "\n")
		if err := os.WriteFile(filepath.Join("testdata", "errors-"+t.Name()+".md"), []byte(page), 0o644); err != nil {
			t.Error(err)
		}
	})
	return e
}

// exits is the script command of that name: see exits.
func (e *errorsSeen) exits(ts *testscript.TestScript, neg bool, args []string) {
	exits(ts, neg, args)
	text := strings.TrimSpace(ts.ReadFile("stderr"))
	if text == "" || args[1] != "gatehouse" {
		return
	}
	steady := strings.NewReplacer(ts.Getenv("WORK"), "/work", ts.Getenv("PYTHON"), "python")
	text = changing.ReplaceAllString(steady.Replace(text), "N")
	command := changing.ReplaceAllString(steady.Replace(strings.Join(args[1:], " ")), "N")
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, fmt.Sprintf("### `%s` (exit code %s)\n\n```\n%s\n```\n", command, args[0], text))
}

// changing is what differs from run to run: ports, ids, times and digests.
var changing = regexp.MustCompile(`\b127\.0\.0\.1:\d{4,5}|\b[0-9a-f]{12,64}\b|\b20\d\d-\d\d-\d\dT[\d:.]+Z|eyJ[\w.-]+|\b[0-9A-HJKMNP-TV-Z]{26}\b`)
