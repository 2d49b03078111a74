package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/replay/search"
	"gatehouse/terminal"
	"gatehouse/trial/logged"
	"gatehouse/trial/node"
)

// fromLog are the flags by which gatehouse test makes a table of a log.
type fromLog struct {
	log    string
	output string
	filter search.Filter
}

func (f *fromLog) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.log, "from-log", "", "do not run tests; make a table from the decisions in this log (a file, a folder, a spool, or - for standard input), one row for each route, verdict and set of roles")
	flags.StringVarP(&f.output, "output", "o", "", "with --from-log: file to write the table to (default: standard output)")
	addFilter(flags, &f.filter)
}

// given reports a flag that means nothing without --from-log.
func (f *fromLog) given(c *cobra.Command) error {
	for _, name := range []string{"output", "since", "until", "route", "limit"} {
		if f.log == "" && c.Flags().Changed(name) {
			return fmt.Errorf("--%s is for --from-log FILE", name)
		}
	}
	return f.filter.Check(time.Now())
}

// write makes the table and says on stderr what is in it.
func (f *fromLog) write(c *cobra.Command, t *node.Node) error {
	log, err := node.OpenLogAt(f.log, c.InOrStdin())
	if err != nil {
		return err
	}
	defer log.Close()
	made := logged.New(t.Trial, t.Gate.View())
	if err := made.Take(c.Context(), log, f.filter.Wants, f.filter.Enough); err != nil {
		return err
	}
	if made.Made+made.Left == 0 {
		return fmt.Errorf("there are no such decisions in %s (%d events)", f.log, made.Read)
	}
	out := tableText(made, f.log)
	if f.output == "" {
		_, err = c.OutOrStdout().Write(out)
	} else {
		err = os.WriteFile(f.output, out, 0o644)
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s of %s; left out: %d\n", terminal.Count(made.Made, "row"), terminal.Count(made.Read, "event"), made.Left)
	if made.Bad > 0 {
		fmt.Fprintf(c.ErrOrStderr(), "notice: unreadable: %s of the log\n", terminal.Count(made.Bad, "place"))
	}
	return err
}

// tableText is the whole file.
func tableText(m *logged.Table, from string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Made of %s by gatehouse test --from-log: the first decision of each route, verdict and set of roles.\n", terminal.Visible(from))
	out.WriteString("tests:")
	if m.Made == 0 {
		out.WriteString(" []")
	}
	out.WriteString("\n")
	for _, r := range m.Rows {
		fmt.Fprintf(&out, "\n  # %s at %s\n", terminal.Visible(r.DecisionID), terminal.Visible(r.Timestamp))
		for _, note := range r.Notes {
			fmt.Fprintf(&out, "  # not in the row, and the policy reads it: %s\n", terminal.Visible(note))
		}
		if r.Problem != "" {
			fmt.Fprintf(&out, "  # left out: %s\n  #", terminal.Visible(r.Problem))
		}
		out.WriteString("  - " + r.Line)
	}
	return out.Bytes()
}
