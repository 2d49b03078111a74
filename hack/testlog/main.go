// Command testlog runs `go test` and searches all that the tests print, of those that pass too, for tokens: what begins as a JSON
// Web Token does, and claims that tests mark as such. It prints what go test prints without -v and then the ten slowest tests, and
// fails where go test does.
//
//	go run ./hack/testlog [-except REGEXP] -- [go test's arguments]
//
// -except names tests whose output is meant to hold a token, as "package/path TestName/sub".
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// token is what must not be printed: a part of a JSON Web Token, or a claim that only a token has.
var token = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}|canary-`)

// maxHeld bounds what is kept of one test's output until it is known whether the test passes, in bytes.
const maxHeld = 4 << 20

func main() {
	except := flag.String("except", "^$", "tests that may print tokens, as \"package TestName\"")
	flag.Parse()
	allowed, err := regexp.Compile(*except)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlog: -except:", err)
		os.Exit(2)
	}
	leaks, err := run(flag.Args(), allowed)
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		os.Exit(failed.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "testlog:", err)
		os.Exit(2)
	case leaks > 0:
		fmt.Printf("FAIL: tests printed tokens in %d places\n", leaks)
		os.Exit(1)
	}
}

// run runs go test and returns in how many lines there was a token.
func run(args []string, allowed *regexp.Regexp) (leaks int, err error) {
	c := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	leaks = read(out, os.Stdout, allowed)
	return leaks, c.Wait()
}

// event is one line of go test -json (go doc test2json). Elapsed is in seconds.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

func (e event) name() string { return strings.TrimSpace(e.Package + " " + e.Test) }

// read passes on what go test would print, and tells of tokens.
func read(from io.Reader, to io.Writer, allowed *regexp.Regexp) (leaks int) {
	held := map[string]*strings.Builder{} // output by test, until that ends
	var times slowest
	defer func() { times.print(to) }()
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		var e event
		if line != "" && json.Unmarshal([]byte(line), &e) != nil {
			e = event{Action: "build-output", Output: line}
		}
		if token.MatchString(e.Output) && !allowed.MatchString(e.name()) {
			leaks++
			fmt.Fprintf(to, "token in the output of %s: %.200s\n", e.name(), strings.TrimSpace(e.Output))
		}
		switch e.Action {
		case "build-output":
			fmt.Fprint(to, e.Output)
		case "output":
			if held[e.name()] == nil {
				held[e.name()] = &strings.Builder{}
			}
			if b := held[e.name()]; b.Len() < maxHeld && !strings.HasPrefix(e.Output, "=== ") { // === RUN and its kin are of -v
				b.WriteString(e.Output)
			}
		case "pass", "skip", "fail":
			times.add(e)
			if b := held[e.name()]; b != nil && (e.Action == "fail" || e.Test == "") {
				fmt.Fprint(to, summary(b.String(), e.Action == "fail"))
			}
			delete(held, e.name())
		}
		if err != nil {
			return leaks
		}
	}
}

// summary is what there is to say of a package that passed: its last line.
func summary(output string, failed bool) string {
	if failed {
		return output
	}
	output = strings.TrimRight(output, "\n")
	return output[strings.LastIndexByte(output, '\n')+1:] + "\n"
}

// maxSlow is how many of the slowest tests are named, minSlow the time in seconds below which none is worth it.
const (
	maxSlow = 10
	minSlow = 1
)

// slowest are the tests that took longest, without their subtests. Tests that run in parallel count the time they waited.
type slowest []event

func (s *slowest) add(e event) {
	if e.Test == "" || strings.Contains(e.Test, "/") || e.Elapsed < minSlow {
		return
	}
	*s = append(*s, e)
	slices.SortStableFunc(*s, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	*s = (*s)[:min(len(*s), maxSlow)]
}

func (s slowest) print(to io.Writer) {
	if len(s) == 0 {
		return
	}
	fmt.Fprintln(to, "slowest tests:")
	for _, e := range s {
		fmt.Fprintf(to, "%8.1fs  %s\n", e.Elapsed, e.name())
	}
}
