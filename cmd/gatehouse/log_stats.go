package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/decisionlog/events"
	"gatehouse/replay/search"
	"gatehouse/terminal"
)

// logStats is gatehouse log stats.
type logStats struct {
	source logSource
	query  logQuery
	top    int
	output outputFlags
}

func logStatsCommand() *cobra.Command {
	var f logStats
	c := &cobra.Command{
		Use:   "stats [FILE...]",
		Short: "Count decisions: by verdict, route, reason, caller and policy, and how long they took",
		Example: `  gatehouse log stats --since 24h
  gatehouse log stats --denied --top 20 /var/log/gatehouse`,
		RunE: f.run,
	}
	f.source.flags(c)
	f.query.flags(c)
	c.Flags().IntVar(&f.top, "top", 10, "number of rows of each kind")
	f.output.add(c, "one object")
	return c
}

func (f *logStats) run(c *cobra.Command, args []string) error {
	if f.top < 1 || f.top > search.MostNames {
		return fmt.Errorf("--top %d: between 1 and %d", f.top, search.MostNames)
	}
	if err := f.query.Compile(); err != nil {
		return err
	}
	if err := f.source.open(c, args); err != nil {
		return err
	}
	defer f.source.Close()
	var t search.Counts
	if err := f.query.Each(c.Context(), &f.source.Source, &search.Event{}, nil, func(_ []byte, e *search.Event) error { t.Add(e); return nil }); err != nil {
		return err
	}
	f.source.stopWarnings()
	out := t.Figures(f.top)
	out.Unreadable = f.source.Damaged
	if out.Decisions+out.Gaps.Count == 0 {
		f.query.nothing(&f.source)
	}
	if f.output.json() {
		return terminal.JSON(c.OutOrStdout()).Encode(out)
	}
	o := newLogOutput(c.OutOrStdout(), false)
	_, err := io.WriteString(c.OutOrStdout(), statsText(&out, o.print, terminal.Is(c.OutOrStdout())))
	return err
}

const barWidth = 30

// statsText tells the figures to people, with bars where they can be seen.
func statsText(f *search.Figures, p terminal.Printer, bars bool) string {
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
