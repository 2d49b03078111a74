package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/replay/search"
	"gatehouse/report"
	"gatehouse/terminal"
)

// logStats is gatehouse log stats.
type logStats struct {
	source logSource
	query  logQuery
	top    int
	output grammar.Output
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
	f.output.Add(c, "one object")
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
	if f.output.JSON() {
		return terminal.JSON(c.OutOrStdout()).Encode(out)
	}
	o := newLogOutput(c.OutOrStdout(), false)
	_, err := io.WriteString(c.OutOrStdout(), report.Figures(&out, o.print, terminal.Is(c.OutOrStdout())))
	return err
}
