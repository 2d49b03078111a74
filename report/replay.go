package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"gatehouse/replay"
	"gatehouse/terminal"
)

const shownGroups = 100 // groups that people are shown; JSON has all

// Replay writes what came of a replay: as text, markdown or json.
func Replay(w io.Writer, format string, expect []replay.Expected, t *replay.Report) error {
	switch format {
	case "json":
		return replayJSON(w, expect, t)
	case "markdown":
		return replayMarkdown(w, expect, t)
	}
	return replayText(w, expect, t)
}

// replayText writes it for people.
func replayText(w io.Writer, expect []replay.Expected, t *replay.Report) error {
	out := terminal.To(w)
	var b strings.Builder
	fmt.Fprintln(&b, out.Paint(terminal.Bold, summaryLine(t, expect)))
	for i, g := range t.Groups {
		if i == shownGroups {
			fmt.Fprintf(&b, "\nand %s more kinds of changes: -o json has them all\n", terminal.Thousands(len(t.Groups)-shownGroups))
			break
		}
		style := terminal.Red
		if g.To == "allow" {
			style = terminal.Green
		}
		fmt.Fprintf(&b, "\n%8s  %s  %s\n", terminal.Thousands(g.Count), out.Paint(terminal.Bold, titleOf(g)), out.Paint(style, terminal.Visible(g.From+" -> "+g.To)))
		if g.Expected {
			fmt.Fprintf(&b, "          %s\n", out.Paint(terminal.Faint, "expected: "+terminal.Visible(g.ExpectedAt)))
		}
		for _, e := range g.Examples {
			fmt.Fprintf(&b, "          %s\n", out.Paint(terminal.Faint, terminal.Visible(e.DecisionID)+"  "+terminal.Visible(e.Request)+callerText(&e)))
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

// summaryLine is the sum in one line.
func summaryLine(t *replay.Report, expect []replay.Expected) string {
	text := terminal.Thousands(t.Changed)
	if t.Changed == 0 {
		text = "none"
	}
	text += " of " + terminal.Count(t.Replayed, "decision")
	text += " would change"
	if expect != nil && t.Changed > 0 {
		text += fmt.Sprintf(", %s of them as expected", terminal.Thousands(t.Changed-t.Unexpected()))
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
	add := func(format string, args ...any) {
		lines = append(lines, fmt.Sprintf(format, terminal.VisibleArgs(args)...))
	}
	for _, e := range t.Missed(expect) {
		add("expected, and did not happen: %s: %s", e.Place, e.String())
	}
	if t.Differs > 0 {
		add("--old differs from the log in %s, such as %s: what is compared is what --old says", terminal.Count(t.Differs, "decision"), t.Differ[0].DecisionID)
	}
	if t.FactsRecorded+t.FactsCurrent > 0 {
		add("of what was asked of the directory %s came from the log, %s from the directory of today", terminal.Count(t.FactsRecorded, "answer"), terminal.Thousands(t.FactsCurrent))
	}
	if t.UsersCurrent > 0 {
		add("%s, for %s", replay.DirectoryOfNow, terminal.Count(t.UsersCurrent, "decision"))
	}
	if t.Unkept > 0 {
		add("the policy that decided is no longer kept for %s: what is compared is what was recorded", terminal.Count(t.Unkept, "decision"))
	}
	var total int64
	for _, s := range t.Skipped {
		total += s.Count
	}
	if total > 0 {
		add("not replayed: %s", terminal.Count(total, "decision"))
	}
	for _, s := range t.Skipped {
		add("%8s  %s, such as %s", terminal.Thousands(s.Count), terminal.Visible(s.Reason), s.Example)
	}
	if t.Gaps > 0 {
		add("the log has %s: it lost %s", terminal.Count(t.Gaps, "gap"), terminal.Count(t.Dropped, "decision"))
	}
	if t.Damaged > 0 {
		add("unreadable: %s of the log", terminal.Count(t.Damaged, "place"))
	}
	for _, where := range t.Damage {
		add("          %s", terminal.Visible(where))
	}
	return lines
}

func titleOf(g *replay.Group) string {
	if g.App != "" {
		return terminal.Visible(g.App + ": " + g.Route)
	}
	return terminal.Visible(g.Route)
}

// caller says who asked, "" for nobody that is known.
func callerText(e *replay.Example) string {
	switch {
	case e.Subject == "":
		return ""
	case len(e.Roles) == 0:
		return "  " + terminal.Visible(e.Subject)
	}
	return fmt.Sprintf("  %s (%s)", terminal.Visible(e.Subject), terminal.Visible(strings.Join(e.Roles, ", ")))
}

// replayMarkdown writes what came of a replay for a pull request.
func replayMarkdown(w io.Writer, expect []replay.Expected, t *replay.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**\n", summaryLine(t, expect))
	if len(t.Groups) > 0 {
		b.WriteString("\n| decisions | route | before | after | such as |\n|---:|---|---|---|---|\n")
	}
	for i, g := range t.Groups {
		if i == shownGroups {
			fmt.Fprintf(&b, "| | %s more kinds of changes | | | |\n", terminal.Thousands(len(t.Groups)-shownGroups))
			break
		}
		after := cell(g.To)
		if g.Expected {
			after += " (expected)"
		}
		e := g.Examples[0]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s%s, `%s` |\n", terminal.Thousands(g.Count), code(titleOf(g)), cell(g.From), after, code(e.Request), cell(callerText(&e)), strings.ReplaceAll(terminal.Visible(e.DecisionID), "`", "'"))
	}
	if rest := restOf(t, expect); len(rest) > 0 {
		b.WriteString("\n<details><summary>What was not replayed</summary>\n\n```\n" + strings.ReplaceAll(strings.Join(rest, "\n"), "```", "'''") + "\n```\n</details>\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is a text within a table of Markdown.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`, "_", `\_`, "`", "'", "[", `\[`).Replace(terminal.Visible(text))
}

// code is a text in a table of Markdown, as it is.
func code(text string) string {
	return "`" + strings.NewReplacer("|", `\|`, "`", "'").Replace(terminal.Visible(text)) + "`"
}

// replayJSON writes what came of a replay for programs.
func replayJSON(w io.Writer, expect []replay.Expected, t *replay.Report) error {
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
	return terminal.JSON(w).Encode(out)
}

// SizeOf is how many bytes of lines a log has; 0 where that cannot be told before it is read.
func SizeOf(file string) int64 {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	first := make([]byte, 1)
	if _, err := f.Read(first); err != nil || first[0] != '{' && first[0] != '[' { // compressed, or a segment
		return 0
	}
	return info.Size()
}

// Progress is one line: a bar where the total is known, the number of decisions, and how fast.
func Progress(events, bytes, total int64, took time.Duration) string {
	rate := float64(events) / max(took.Seconds(), 0.001)
	text := fmt.Sprintf("%s decisions, %s a second", terminal.Thousands(events), terminal.Thousands(int64(rate)))
	if total <= 0 {
		return text
	}
	return terminal.Bar(min(float64(bytes)/float64(total), 1), took, text)
}
