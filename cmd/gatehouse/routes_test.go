package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/routes"
)

func parsed(t testing.TB, text string) *routes.Table {
	t.Helper()
	table, _, err := routes.Parse("routes.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestMatchAnswersAtOnce holds that a program may ask one request after the other over a pipe.
func TestMatchAnswersAtOnce(t *testing.T) {
	in, ask := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- matchLines(parsed(t, "framework: flask\nroutes:\n  - GET /orders/<int:id>\n"), "", in, out, io.Discard)
		out.Close()
	}()
	lines := bufio.NewScanner(answers)
	for path, want := range map[string]string{
		"/orders/1": `{"outcome":"match","template":"/orders/<int:id>","params":{"id":"1"}}`,
		"/orders":   `{"outcome":"404","template":"","params":{}}`,
	} {
		if _, err := io.WriteString(ask, `{"method": "GET", "path": "`+path+`"}`+"\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("%s: %q, want %s", path, lines.Text(), want)
		}
	}
	ask.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMatchBoundsItsLines(t *testing.T) {
	long := `{"method": "GET", "path": "/` + strings.Repeat("x", 3*maxRequestLine) + `"}`
	fits := `{"method": "GET", "path": "/` + strings.Repeat("x", maxRequestLine/2) + `"}`
	var out, problems bytes.Buffer
	err := matchLines(parsed(t, "framework: flask\nroutes:\n  - GET /\n"), "", strings.NewReader(long+"\n"+fits+"\n"+long), &out, &problems)
	if err == nil || !strings.HasPrefix(err.Error(), "not a request: 2 lines\n") {
		t.Error(err)
	}
	want := `{"error":"line 1: longer than 1048576 bytes"}
{"outcome":"404","template":"","params":{}}
{"error":"line 3: longer than 1048576 bytes"}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	if got := strings.Count(problems.String(), "\n"); got != 2 {
		t.Errorf("%d lines of problems: %s", got, problems.String())
	}
}

// failing takes no byte.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestMatchStopsWhereNobodyReads(t *testing.T) {
	err := matchLines(parsed(t, "framework: flask\nroutes:\n  - GET /\n"), "", strings.NewReader(`{"method": "GET", "path": "/"}`+"\n"), failing{}, io.Discard)
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
