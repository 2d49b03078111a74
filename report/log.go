package report

import (
	"fmt"
	"strconv"
	"strings"

	"gatehouse/decisionlog/events"
	"gatehouse/replay/search"
	"gatehouse/terminal"
)

const lineTime = "2006-01-02T15:04:05.000Z"

// Event tells an event in one line: time, verdict, status, method and path, route, subject, reason, id.
func Event(r *search.Event, p terminal.Printer) string {
	at := "-"
	if t := r.When(); !t.IsZero() {
		at = t.UTC().Format(lineTime)
	}
	if r.Gap.Recorded {
		return p.Paint(terminal.Faint, fmt.Sprintf("%-24s", at)) + "  " + p.Paint(terminal.Amber, "gap    "+gapText(&r.Gap))
	}
	outcome, reason, code := r.Outcomes()
	verdict, style, status := fmt.Sprintf("%-5s", terminal.Word(outcome)), terminal.Red, "-"
	switch {
	case outcome == "allow":
		style = terminal.Green
	case r.DryRun:
		verdict, style = "deny*", terminal.Amber // let through by dry run
	}
	if code > 0 {
		status = strconv.Itoa(code)
	}
	return fmt.Sprintf("%s  %s  %3s  %-6s %-24s  %-16s  %-12s  %-12s  %s", p.Paint(terminal.Faint, fmt.Sprintf("%-24s", at)), p.Paint(style, verdict), status,
		terminal.Word(r.Request.Method.Decode()), terminal.Word(r.Request.Path.Decode()), terminal.Word(r.Route.Decode()), terminal.Word(r.Identity.Subject.Decode()), terminal.Word(reason), p.Paint(terminal.Faint, terminal.Word(r.DecisionID.Decode())))
}

// gapText say what a gap is, and where.
func gapText(g *events.Gap) string {
	text := gapSum(g)
	if len(g.Segment) > 0 {
		text += " in segment " + terminal.Word(g.Segment.Decode())
	}
	return text + " since " + terminal.Word(g.Since.Decode())
}

// gapSum says how much is missing.
func gapSum(g *events.Gap) string {
	var parts []string
	if g.Dropped > 0 {
		parts = append(parts, terminal.Count(g.Dropped, "decision")+" not recorded")
	}
	if g.Damaged > 0 {
		parts = append(parts, terminal.Count(g.Damaged, "byte")+" damaged")
	}
	if g.Unfinished > 0 {
		parts = append(parts, terminal.Count(g.Unfinished, "byte")+" never finished")
	}
	return strings.Join(parts, ", ")
}

const barWidth = 30

// Figures tells the figures to people, with bars where they can be seen.
func Figures(f *search.Figures, p terminal.Printer, bars bool) string {
	var b strings.Builder
	bar := func(n, of, denied int64) string {
		if !bars || of == 0 {
			return ""
		}
		width := int((n*barWidth + of - 1) / of)
		part := int(denied * int64(width) / max(1, n))
		text := "  "
		if part < width {
			text += p.Paint(terminal.Green, strings.Repeat("█", width-part))
		}
		if part > 0 {
			text += p.Paint(terminal.Red, strings.Repeat("▒", part))
		}
		return text
	}
	row := func(name string, n int64, rest string) { fmt.Fprintf(&b, "%-11s %10d%s\n", name, n, rest) }
	share := func(n int64) string { return fmt.Sprintf("  %5.1f %%", 100*float64(n)/float64(max(1, f.Decisions))) }
	if f.Since != "" {
		fmt.Fprintf(&b, "from %s to %s\n", terminal.Visible(f.Since), terminal.Visible(f.Until))
	}
	row("decisions", f.Decisions, "")
	row("  allow", f.Allowed, share(f.Allowed)+bar(f.Allowed, f.Decisions, 0))
	row("  deny", f.Denied, share(f.Denied)+bar(f.Denied, f.Decisions, f.Denied))
	if f.DryRun > 0 {
		row("    dry run", f.DryRun, "  let through all the same")
	}
	if f.Other > 0 {
		row("  other", f.Other, share(f.Other))
	}
	if f.Gaps.Count > 0 {
		g := events.Gap{Dropped: f.Gaps.Dropped, Damaged: f.Gaps.Damaged, Unfinished: f.Gaps.Unfinished}
		row("gaps", f.Gaps.Count, "  "+p.Paint(terminal.Amber, gapSum(&g)))
	}
	if f.Unreadable > 0 {
		row("unreadable", f.Unreadable, "  "+p.Paint(terminal.Amber, "places in the log, passed over"))
	}
	if l := f.Latency; l.Count > 0 {
		fmt.Fprintf(&b, "%-11s p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n", "latency", terminal.Duration(l.P50), terminal.Duration(l.P90), terminal.Duration(l.P99), terminal.Duration(l.P999), terminal.Duration(l.Max))
	}
	for _, group := range []struct {
		title string
		*search.Ranking
	}{{"reasons", &f.Reasons}, {"routes", &f.Routes}, {"subjects", &f.Subjects}, {"policies", &f.Revisions}} {
		if len(group.Top) == 0 {
			continue
		}
		title := group.title
		if group.Approximate {
			title += fmt.Sprintf("  (approximate: more than %d of them)", search.MostNames)
		}
		fmt.Fprintf(&b, "\n%s\n", p.Paint(terminal.Bold, title))
		for _, r := range group.Top {
			text := fmt.Sprintf("%10d  %9d denied", r.Decisions, r.Denied)
			if r.AtMostOver > 0 {
				text = fmt.Sprintf("%10d  at most %d too many", r.Decisions, r.AtMostOver)
			}
			fmt.Fprintf(&b, "  %-30s %s%s\n", terminal.Word(r.Name), text, bar(r.Decisions, group.Top[0].Decisions, r.Denied))
		}
		if group.More > 0 {
			fmt.Fprintf(&b, "  and %d more\n", group.More)
		}
	}
	return b.String()
}
