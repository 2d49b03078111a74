package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"gatehouse/trial"
)

// printExplanation writes an explanation for people.
func printExplanation(w io.Writer, e *trial.Explanation) error {
	p := printer{w: w, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	var b strings.Builder
	fmt.Fprintf(&b, "\nwhy\n  caller: %s\n", visible(e.Caller))
	switch {
	case e.Policy == nil && e.Stopped != "":
		fmt.Fprintf(&b, "  the policy was not asked: %s\n", visible(e.Stopped))
	case e.Policy == nil:
		b.WriteString("  the policy was not asked\n")
	default:
		for line := range strings.Lines(e.Policy.Text()) {
			b.WriteString("  " + p.shade(visible(strings.TrimSuffix(line, "\n"))) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shade colours the lines that say what came out.
func (p printer) shade(line string) string {
	switch {
	case strings.HasPrefix(line, "allowed"):
		return p.paint(green, line)
	case strings.HasPrefix(line, "denied"):
		return p.paint(red, line)
	case strings.HasPrefix(line, "would be"), strings.HasPrefix(line, "note:"):
		return p.paint(amber, line)
	case strings.HasPrefix(line, "      ") && !strings.Contains(line, " fails at line "):
		return p.paint(faint, line)
	}
	return line
}
