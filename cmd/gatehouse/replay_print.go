package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"gatehouse/replay"
)

const shownGroups = 100 // groups that people are shown; JSON has all

// printTable writes what came of a replay for people.
func printTable(w io.Writer, expect []replay.Expected, t *replay.Report) error {
	out := printer{w: w, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	var b strings.Builder
	fmt.Fprintln(&b, out.paint(bold, headline(t, expect)))
	for i, g := range t.Groups {
		if i == shownGroups {
			fmt.Fprintf(&b, "\nand %s more kinds of changes: --format json has them all\n", thousands(int64(len(t.Groups)-shownGroups)))
			break
		}
		style := red
		if g.To == "allow" {
			style = green
		}
		fmt.Fprintf(&b, "\n%8s  %s  %s\n", thousands(g.Count), out.paint(bold, titleOf(g)), out.paint(style, visible(g.From+" -> "+g.To)))
		if g.Expected {
			fmt.Fprintf(&b, "          %s\n", out.paint(faint, "expected: "+visible(g.ExpectedAt)))
		}
		for _, e := range g.Examples {
			fmt.Fprintf(&b, "          %s\n", out.paint(faint, visible(e.DecisionID)+"  "+visible(e.Request)+callerText(&e)))
		}
	}
	rest := restOf(t, expect)
	if len(rest) > 0 {
		b.WriteString("\n")
	}
	for _, line := range rest {
		fmt.Fprintln(&b, line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// headline is the sum in one line.
func headline(t *replay.Report, expect []replay.Expected) string {
	text := thousands(t.Changed)
	if t.Changed == 0 {
		text = "none"
	}
	text += " of " + counted(t.Replayed, "decision")
	text += " would change"
	if expect != nil && t.Changed > 0 {
		text += fmt.Sprintf(", %s of them as expected", thousands(t.Changed-t.Unexpected()))
	}
	if since, until := day(t.Since), day(t.Until); since != "" && since == until {
		text += " (" + since + ")"
	} else if since != "" {
		text += " (" + since + " to " + until + ")"
	}
	return text
}

func day(timestamp string) string {
	if at, err := time.Parse(time.RFC3339Nano, timestamp); err == nil {
		return at.UTC().Format(time.DateOnly)
	}
	return ""
}

// restOf is what there is to say beside the changes, a line each: what was expected in vain, what was not replayed, and what the log lacks.
func restOf(t *replay.Report, expect []replay.Expected) (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, visibleArgs(args)...)) }
	for _, e := range t.Missed(expect) {
		add("expected, and did not happen: %s: %s", e.Place, e.String())
	}
	if t.Differs > 0 {
		add("--old differs from the log in %s, such as %s: what is compared is what --old says", counted(t.Differs, "decision"), t.Differ[0].DecisionID)
	}
	if t.FactsRecorded+t.FactsCurrent > 0 {
		add("of what was asked of the directory %s came from the log, %s from the directory of today", counted(t.FactsRecorded, "answer"), thousands(t.FactsCurrent))
	}
	if t.Unkept > 0 {
		add("the policy that decided is no longer kept for %s: what is compared is what was recorded", counted(t.Unkept, "decision"))
	}
	var total int64
	for _, s := range t.Skipped {
		total += s.Count
	}
	if total > 0 {
		add("not replayed: %s", counted(total, "decision"))
	}
	for _, s := range t.Skipped {
		add("%8s  %s, such as %s", thousands(s.Count), visible(s.Reason), s.Example)
	}
	if t.Gaps > 0 {
		add("the log has %s: it lost %s", counted(t.Gaps, "gap"), counted(t.Dropped, "decision"))
	}
	if t.Damaged > 0 {
		add("unreadable: %s of the log", counted(t.Damaged, "place"))
	}
	for _, where := range t.Damage {
		add("          %s", visible(where))
	}
	return lines
}

func titleOf(g *replay.Group) string {
	if g.App != "" {
		return visible(g.App + ": " + g.Route)
	}
	return visible(g.Route)
}

// caller says who asked, "" for nobody that is known.
func callerText(e *replay.Example) string {
	switch {
	case e.Subject == "":
		return ""
	case len(e.Roles) == 0:
		return "  " + visible(e.Subject)
	}
	return fmt.Sprintf("  %s (%s)", visible(e.Subject), visible(strings.Join(e.Roles, ", ")))
}

// counted is a number with what it counts.
func counted(n int64, word string) string {
	if n != 1 {
		word += "s"
	}
	return thousands(n) + " " + word
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// printMarkdown writes what came of a replay for a pull request.
func printMarkdown(w io.Writer, expect []replay.Expected, t *replay.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**\n", headline(t, expect))
	if len(t.Groups) > 0 {
		b.WriteString("\n| decisions | route | before | after | such as |\n|---:|---|---|---|---|\n")
	}
	for i, g := range t.Groups {
		if i == shownGroups {
			fmt.Fprintf(&b, "| | %s more kinds of changes | | | |\n", thousands(int64(len(t.Groups)-shownGroups)))
			break
		}
		after := cell(g.To)
		if g.Expected {
			after += " (expected)"
		}
		e := g.Examples[0]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s%s, `%s` |\n", thousands(g.Count), code(titleOf(g)), cell(g.From), after, code(e.Request), cell(callerText(&e)), strings.ReplaceAll(visible(e.DecisionID), "`", "'"))
	}
	if rest := restOf(t, expect); len(rest) > 0 {
		b.WriteString("\n<details><summary>What was not replayed</summary>\n\n```\n" + strings.ReplaceAll(strings.Join(rest, "\n"), "```", "'''") + "\n```\n</details>\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is a text within a table of Markdown.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`, "_", `\_`, "`", "'", "[", `\[`).Replace(visible(text))
}

// code is a text in a table of Markdown, as it is.
func code(text string) string {
	return "`" + strings.NewReplacer("|", `\|`, "`", "'").Replace(visible(text)) + "`"
}

// printReplayJSON writes what came of a replay for programs.
func printReplayJSON(w io.Writer, expect []replay.Expected, t *replay.Report) error {
	type missed struct {
		At     string `json:"at"`
		Change string `json:"change"`
	}
	out := struct {
		*replay.Report
		Unexpected int64    `json:"unexpected"`
		Missed     []missed `json:"expected_and_missed"`
	}{Report: t, Unexpected: t.Unexpected(), Missed: []missed{}}
	for _, e := range t.Missed(expect) {
		out.Missed = append(out.Missed, missed{e.Place, e.String()})
	}
	if out.Groups == nil {
		out.Groups = []*replay.Group{}
	}
	if out.Skipped == nil {
		out.Skipped = []*replay.Skipped{}
	}
	return jsonLines(w).Encode(out)
}
