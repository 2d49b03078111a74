package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// What tests print is searched whether they pass or not; what is passed on is what go test itself would print.
func TestTokensAreFoundInOutput(t *testing.T) {
	const part = "eyJhbGciOiJub" + "25lIn0"
	events := strings.NewReplacer("TOKEN", part).Replace(`{"Action":"build-output","ImportPath":"p","Output":"p.go:1: unused\n"}
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestChatty","Output":"got TOKEN.x\n"}
{"Action":"pass","Package":"p","Test":"TestChatty"}
{"Action":"output","Package":"p","Test":"TestMint","Output":"TOKEN\n"}
{"Action":"pass","Package":"p","Test":"TestMint"}
{"Action":"output","Package":"p","Test":"TestBad","Output":"wrong\n"}
{"Action":"fail","Package":"p","Test":"TestBad"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
not json
`)
	for allowed, want := range map[string]int{"^$": 2, "^p TestMint$": 1, "^p Test(Mint|Chatty)": 0} {
		var out strings.Builder
		if got := read(strings.NewReader(events), &out, regexp.MustCompile(allowed)); got != want {
			t.Errorf("%s: %d finds, want %d", allowed, got, want)
		}
		for line, want := range map[string]bool{"p.go:1: unused": true, "wrong": true, "ok  \tp\t0.1s": true, "not json": true, "quiet": false, "PASS": false} {
			if got := strings.Contains(out.String(), line+"\n"); got != want {
				t.Errorf("%s: %q is passed on: %t, want %t", allowed, line, got, want)
			}
		}
	}
}

func TestTheSlowestTestsAreNamed(t *testing.T) {
	var events, out strings.Builder
	for i := range 15 {
		fmt.Fprintf(&events, `{"Action":"pass","Package":"p","Test":"Test%d","Elapsed":%d.5}`+"\n", i, i)
	}
	events.WriteString(`{"Action":"pass","Package":"p","Test":"Test14/sub","Elapsed":99}
{"Action":"fail","Package":"q","Test":"TestBad","Elapsed":20}
{"Action":"pass","Package":"p","Elapsed":100}
`)
	read(strings.NewReader(events.String()), &out, regexp.MustCompile("^$"))
	_, table, found := strings.Cut(out.String(), "slowest tests:\n")
	lines := strings.Split(strings.TrimRight(table, "\n"), "\n")
	if !found || len(lines) != 10 || strings.TrimSpace(lines[0]) != "20.0s  q TestBad" || strings.TrimSpace(lines[9]) != "6.5s  p Test6" {
		t.Errorf("printed:\n%s", out.String())
	}
}
