package main

import (
	"fmt"
	"io"
	"strings"

	"gatehouse/terminal"
	"gatehouse/trial"
)

// printExplanation writes an explanation for people.
func printExplanation(w io.Writer, e *trial.Explanation) error {
	p := terminal.To(w)
	var b strings.Builder
	fmt.Fprintf(&b, "\nwhy\n  caller: %s\n", terminal.Visible(e.Caller))
	switch {
	case e.Policy == nil && e.Stopped != "":
		fmt.Fprintf(&b, "  the policy was not asked: %s\n", terminal.Visible(e.Stopped))
	case e.Policy == nil:
		b.WriteString("  the policy was not asked\n")
	default:
		for line := range strings.Lines(e.Policy.Text()) {
			b.WriteString("  " + shade(p, terminal.Visible(strings.TrimSuffix(line, "\n"))) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shade colours the lines that say what came out.
func shade(p terminal.Printer, line string) string {
	switch {
	case strings.HasPrefix(line, "allowed"):
		return p.Paint(terminal.Green, line)
	case strings.HasPrefix(line, "denied"):
		return p.Paint(terminal.Red, line)
	case strings.HasPrefix(line, "would be"), strings.HasPrefix(line, "note:"):
		return p.Paint(terminal.Amber, line)
	case strings.HasPrefix(line, "      ") && !strings.Contains(line, " fails at line "):
		return p.Paint(terminal.Faint, line)
	}
	return line
}
