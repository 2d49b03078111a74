package envoy_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// handedOut is every credential that a test of this package got hold of.
var handedOut credentials

// credentials is a set of what must not be in any log: tokens, each of their segments, and keys.
type credentials struct {
	mu    sync.Mutex
	parts map[fingerprint]bool // guarded by mu
}

// fingerprint is how a part of a credential begins. A log that has so much of it has too much. What is shorter occurs by chance.
type fingerprint [16]byte

// canary begins claims' values that no log may hold either.
const canary = "canary-"

var (
	partOfToken = regexp.MustCompile(fmt.Sprintf(`[A-Za-z0-9_-]{%d,}`, len(fingerprint{})))
	anyJWT      = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}`) // also one that was cut, and one that nobody told us of
)

func (c *credentials) add(tokens ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parts == nil {
		c.parts = map[fingerprint]bool{}
	}
	for _, token := range tokens {
		for _, part := range partOfToken.FindAllString(token, -1) {
			c.parts[fingerprint([]byte(part[:len(fingerprint{})]))] = true
		}
	}
}

// in reports whether a part of a credential is anywhere in the text, whatever is written around it.
func (c *credentials) in(line []byte) bool {
	for _, word := range partOfToken.FindAll(line, -1) {
		for i := range len(word) - len(fingerprint{}) + 1 {
			if c.parts[fingerprint(word[i:i+len(fingerprint{})])] {
				return true
			}
		}
	}
	return false
}

// leak is the first thing in text that must not be in a log, with its line; empty where there is none.
func (c *credentials) leak(text []byte) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for line := range bytes.Lines(text) {
		n++
		what := ""
		switch {
		case bytes.Contains(line, []byte(canary)):
			what = "a marked claim"
		case anyJWT.Match(line):
			what = "a token's text"
		case c.in(line):
			what = "a part of a credential"
		}
		if what != "" {
			return fmt.Sprintf("%d: %s: %.300s", n, what, line)
		}
	}
	return ""
}

// workDir is a folder for what a test's processes write. When they have ended, every log in it is searched for credentials.
// Whoever starts a process there must do so after this call, so that it ends before the search.
func workDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		for _, problem := range leaksIn(t, dir) {
			t.Error(problem)
		}
	})
	return dir
}

// leaksIn names file and line for each log below dir that holds a credential.
func leaksIn(t *testing.T, dir string) (problems []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !isLog(file) {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if found := handedOut.leak(text); found != "" {
			problems = append(problems, file+":"+found)
		}
		searched.add(len(text))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return problems
}

// isLog reports whether a process writes the file to tell somebody something: its output, decisions, or what it keeps of both.
func isLog(file string) bool { return strings.Contains(filepath.Base(file), ".log") }

// searched counts the logs that were looked at, so that the search cannot be empty without anybody noticing.
var searched logCount

type logCount struct {
	mu           sync.Mutex
	files, bytes int // guarded by mu
}

func (l *logCount) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("searched %d logs (%d bytes) for credentials", l.files, l.bytes)
}

func (l *logCount) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes == 0
}

func (l *logCount) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files++
	l.bytes += n
}

// What a process logs is searched: each of these lines is found, in its file and at its number, and what looks like it is not.
func TestCredentialsAreFoundInLogs(t *testing.T) {
	handedOut.add("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ2ZXJhIiwiYSI6MX0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg", "opaque_0123456789abcdef", "short")
	for line, want := range map[string]string{
		`{"msg":"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ2ZXJhIiwiYSI6MX0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"}`: "a token's text",
		`claims eyJzdWIiOiJ2ZX...`:                       "a token's text",
		`signature=c2lnbmF0dXJlLW9mLXRoZS10b2tlbg`:       "a part of a credential",
		`signature: c2lnbmF0dXJlLW9mLXRo...`:             "a part of a credential",
		`GET /orders?key=%22opaque_0123456789abcdef%22`:  "a part of a credential",
		`"token": "opaque_0123456789abcdef", "more": ""`: "a part of a credential",
		`{"note": "canary-of-the-sandbox"}`:              "a marked claim",
		`{"decision_id": "c2lnbmF0dXJlLW9", "digest": "sha256:0123456789abcdef0123456789abcdef", "key": "short"}`: "",
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "gatehouse.log"), "first\n"+line+"\n")
		write(t, filepath.Join(dir, "input.json"), line)
		found := leaksIn(t, dir)
		if want == "" && len(found) > 0 || want != "" && (len(found) != 1 || !strings.Contains(found[0], "gatehouse.log:2: "+want)) {
			t.Errorf("%s: found %q, want %q", line, found, want)
		}
	}
}
