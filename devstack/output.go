package devstack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/children"
	"gatehouse/terminal"
)

const (
	maxLine   = 8 << 10 // bytes of one line that are shown
	lastLines = 15      // of a program that are kept for when it ends
)

// output shows what all three say, line by line, each line behind the name of who says it.
type output struct {
	out     terminal.Printer
	reloads chan<- os.Signal // of Gatehouse
	unread  func()           // ends all, where nobody reads any more
	failed  atomic.Bool      // Gatehouse has said that something does not work

	mu sync.Mutex // guards writing to out
}

// styles are the colours of the names.
func style(name string) string {
	switch name {
	case "app":
		return terminal.Green
	case "envoy":
		return terminal.Amber
	}
	return terminal.Bold
}

const widest = len("gatehouse")

// say shows lines of one of them.
func (o *output) say(name, text string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = o.visible(strings.ReplaceAll(strings.TrimRight(line, "\r\n"), "\t", "    "))
		b.WriteString(o.out.Paint(style(name), fmt.Sprintf("%-*s |", widest, name)) + " " + line + "\n")
	}
	o.raw(b.String())
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]{0,20}m")

// visible is a line of a program, in its own colours where we have some.
func (o *output) visible(line string) string {
	if !o.out.Colour {
		return terminal.Visible(colours.ReplaceAllString(line, ""))
	}
	var b strings.Builder
	coloured := false
	for line != "" {
		at := colours.FindStringIndex(line)
		if at == nil {
			b.WriteString(terminal.Visible(line))
			break
		}
		b.WriteString(terminal.Visible(line[:at[0]]) + line[at[0]:at[1]])
		line, coloured = line[at[1]:], true
	}
	if coloured {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// note shows a word of our own.
func (o *output) note(text string) {
	o.raw(o.out.Paint(terminal.Faint, fmt.Sprintf("%-*s |", widest, "up")) + " " + terminal.Visible(text) + "\n")
}

func (o *output) raw(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.out.W.Write([]byte(text)); err != nil {
		o.unread()
	}
}

// program is one of the two that are processes, with what it said last.
type program struct {
	*children.Child
	name string
	out  *output

	mu   sync.Mutex // guards what follows
	rest []byte     // of a line that is not complete
	last []string
}

// chatter is what development servers and Envoy say each time, and that is not so here: Ctrl-C is for gatehouse up, which nobody takes for production.
var chatter = []string{"Press CTRL+C to quit", "(Press CTRL+C to quit)", "Quit the server with CONTROL-C", "Quit the server with CTRL-BREAK",
	"WARNING: This is a development server.", "For more information on production servers see:", "caught ENVOY_SIGTERM"}

// start starts a program; end is told when it ends, whatever the reason.
func (o *output) start(c children.Command, name string, end context.CancelCauseFunc) (*program, error) {
	p := &program{name: name, out: o}
	c.Output, c.Whole = p, true
	child, err := children.Start(c)
	if err != nil {
		return nil, err
	}
	p.Child = child
	go func() { // goroutine: ends with the child, which stop awaits
		<-child.Done()
		p.flush()
		end(fmt.Errorf("%s ended by itself (%s)%s", full(name), child.State(), p.lastOutput()))
	}()
	return p, nil
}

// full is a name in a sentence.
func full(name string) string {
	if name == "app" {
		return "the application"
	}
	return name
}

func (p *program) lastOutput() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.last) == 0 {
		return "; it said nothing"
	}
	return "; its last lines:\n  " + strings.Join(p.last, "\n  ")
}

// Write shows complete lines.
func (p *program) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, text...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 && len(p.rest) < maxLine {
			return len(text), nil
		}
		if i < 0 || i > maxLine {
			i = maxLine - 1
		}
		p.line(string(p.rest[:i+1]))
		p.rest = append(p.rest[:0], p.rest[i+1:]...)
	}
}

// flush shows a last line without an end.
func (p *program) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) > 0 {
		p.line(string(p.rest))
		p.rest = nil
	}
}

func (p *program) line(text string) {
	if text = strings.TrimRight(text, "\r\n"); text == "" {
		return
	}
	if len(p.last) == lastLines {
		p.last = append(p.last[:0], p.last[1:]...)
	}
	p.last = append(p.last, text)
	if !slices.ContainsFunc(chatter, func(c string) bool { return strings.Contains(text, c) }) {
		p.out.say(p.name, text)
	}
}

func (p *program) stop(grace time.Duration) error { return p.Stop(grace) }
