package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"gatehouse/terminal"
	"gatehouse/trial"
	"gatehouse/trial/logged"
)

// Retold writes what an explanation of a recorded decision says, for people.
func Retold(w io.Writer, o *logged.Explanation) error {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		if text := fmt.Sprintf(format, terminal.VisibleArgs(args)...); text != "" {
			fmt.Fprintf(&b, "  %-9s %s\n", key, text)
		}
	}
	p := terminal.To(w)
	verdict := o.Recorded.Outcome
	if verdict == "deny" {
		verdict = strings.TrimSpace(fmt.Sprintf("deny %d %s", o.Recorded.Status, o.Recorded.Reason))
	}
	if o.Recorded.DryRun {
		verdict += ", let through by dry run"
	}
	style := terminal.Red
	if o.Recorded.Outcome == "allow" {
		style = terminal.Green
	}
	fmt.Fprintln(&b, p.Paint(style, terminal.Visible(verdict)))
	line("decision", "%s at %s", o.DecisionID, o.Timestamp)
	line("request", "%s", o.Request)
	line("app", "%s", o.App)
	line("route", "%s", o.Route)
	if o.Redirect {
		line("", "the application redirects to this route's path, with or without a closing slash: its rule decided")
	}
	if len(o.May) > 0 {
		line("", "by the table as it is now any of %s may take it: the rules of all of them must allow", strings.Join(o.May, ", "))
	}
	line("cause", "%s", o.Recorded.Error)
	for _, bundle := range o.Bundles {
		line("policy", "%s", bundleWords(bundle))
	}
	line("kept", "%s", o.Kept)
	for _, part := range o.Missing {
		line("missing", "%s: the policy reads it and the log does not keep it", part)
	}
	line("user", "%s", o.User)
	switch {
	case o.Unsure != "":
		line("again", "unsure: %s", o.Unsure)
	case o.User != "" && o.Policy == nil:
		line("again", "it comes out differently now: the caller is not in the directory of now")
	case o.Policy == nil:
	case o.Reproduced && o.SamePolicy:
		line("again", "it comes out the same, with the policy that decided")
	case o.Reproduced:
		line("again", "it comes out the same, with another policy than the one that decided")
	default:
		line("again", "%s", otherwise(o))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return Explanation(w, &o.Explanation)
}

func bundleWords(b logged.Bundle) string {
	switch {
	case b.LoadedDigest == "":
		return fmt.Sprintf("%s %s decided; it is not here", b.Name, b.Recorded)
	case b.Recorded == "" && b.RecordedDigest == "":
		return fmt.Sprintf("%s %s is here; it was not there when this was decided", b.Name, b.Loaded)
	case b.RecordedDigest == b.LoadedDigest:
		return fmt.Sprintf("%s %s, the one that decided", b.Name, b.Loaded)
	case b.RecordedDigest == "":
		return fmt.Sprintf("%s %s decided, %s is here; the record has no digest to compare", b.Name, b.Recorded, b.Loaded)
	}
	return fmt.Sprintf("%s %s decided, %s is here: they differ", b.Name, b.Recorded, b.Loaded)
}

// otherwise says why it does not come out as recorded.
func otherwise(o *logged.Explanation) string {
	text := "it comes out differently now"
	switch {
	case slices.Contains([]string{"timeout", "overloaded", "unavailable", "internal", "not_ready"}, o.Recorded.Reason):
		return fmt.Sprintf("the answer was not the policy's (%s): below is what the policy says", o.Recorded.Reason)
	case !o.SamePolicy:
		text += ": this is not the policy that decided"
	case o.User != "":
		text += ": the user is the one of the directory of now"
	case len(o.Missing) > 0:
		text += ": the policy reads what the log does not keep"
	case len(o.Policy.Notes) > 0:
		text += ": see the notes below"
	}
	return text
}

// Explanation writes an explanation for people.
func Explanation(w io.Writer, e *trial.Explanation) error {
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
			b.WriteString("  " + colorize(p, terminal.Visible(strings.TrimSuffix(line, "\n"))) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// colorize colours the lines that say what came out.
func colorize(p terminal.Printer, line string) string {
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
