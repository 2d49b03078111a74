package running

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"gatehouse/bundles"
	"gatehouse/cmd/grammar"
	"gatehouse/terminal"

	"github.com/spf13/cobra"
)

// BundleCommands are those of gatehouse bundle that speak to a running process.
func BundleCommands() []*cobra.Command {
	var f Flags
	var to string
	rollback := &cobra.Command{
		Use:   "rollback",
		Short: "Roll back to an earlier policy",
		Long: `Activates an earlier policy of the running process, after all checks with the current configuration, and pins the bundles that changed:
the rolled back policy is not activated again. The pin ends when the bundle's source offers another bundle, or with
gatehouse bundle unpin.`,
		Example: `  gatehouse bundle rollback
  gatehouse bundle rollback --to v41 --control unix:/run/gatehouse/control.sock`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			control, err := f.control()
			if err != nil {
				return err
			}
			a, err := control.Rollback(c.Context(), to)
			if err != nil {
				return err
			}
			if f.output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(a)
			}
			fmt.Fprintf(c.OutOrStdout(), "active: %s\n", terminal.Visible(a.Active.Revision))
			if len(a.Pinned) > 0 {
				fmt.Fprintf(c.OutOrStdout(), "pinned until another bundle arrives, or gatehouse bundle unpin: %s\n", terminal.Visible(strings.Join(a.Pinned, ", ")))
			}
			return nil
		},
	}
	rollback.Flags().StringVar(&to, "to", "", "revision, or at least the first six digits of a digest (default: the previous policy)")
	unpin := &cobra.Command{
		Use:     "unpin",
		Short:   "End a rollback: activate the sources' current bundles again",
		Example: `  gatehouse bundle unpin`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			control, err := f.control()
			if err != nil {
				return err
			}
			a, err := control.Unpin(c.Context())
			if err != nil {
				return err
			}
			if f.output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(a)
			}
			for _, h := range a.History {
				if h.Active {
					fmt.Fprintf(c.OutOrStdout(), "active: %s\n", terminal.Visible(h.Revision))
				}
			}
			return nil
		},
	}
	history := &cobra.Command{
		Use:     "history",
		Short:   "List the policies of the running process that can be rolled back to",
		Example: `  gatehouse bundle history`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			control, err := f.control()
			if err != nil {
				return err
			}
			a, err := control.History(c.Context())
			if err != nil {
				return err
			}
			if f.output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(a)
			}
			return printHistory(c.OutOrStdout(), a.History)
		},
	}
	list := []*cobra.Command{rollback, unpin, history}
	for _, c := range list {
		f.add(c)
	}
	return list
}

// printHistory shows one policy a line, the newest first, the active one with a star.
func printHistory(w io.Writer, list []bundles.Activation) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, " \tREVISION\tFIRST ACTIVE\tDIGESTS")
	for _, h := range list {
		mark := " "
		if h.Active {
			mark = "*"
		}
		var digests []string
		for _, b := range h.Bundles {
			digests = append(digests, b.Name+"="+b.Digest[:12])
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", mark, terminal.Visible(h.Revision), h.Since.UTC().Format(time.RFC3339), terminal.Visible(strings.Join(digests, " ")))
	}
	return t.Flush()
}
