package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/decisionlog/read"
	"gatehouse/report"
	"gatehouse/terminal"
	"gatehouse/trial/logged"
	"gatehouse/trial/node"
)

// explainFlags are those of gatehouse explain.
type explainFlags struct {
	src    config.Source
	log    string
	output grammar.Output
}

func explainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain DECISION_ID",
		Short: "Explain a decision in the log",
		Long: `Finds a decision in the decision log and evaluates it again: the recorded input, at the recorded time, with the policy of the
configuration or of --bundle. It shows whether that is the policy that decided, which rule allowed, or why each rule
did not, and what would have been allowed. Values that are not logged, such as claims and secrets, are missing in the
evaluation; if the policy reads them, it is noted.

DECISION_ID may be the beginning of an id, in any case, as long as no other id begins so.

Exit code: 0 explained, 1 not in the log or decided differently now, 2 wrong command line or
configuration.`,
		Example: `  gatehouse explain 7J4TQXZB2M --log decisions.log
  zcat decisions-*.gz | gatehouse explain 7J4TQXZB2M --log - --bundle policy-1.4.tar.gz`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New("give the id of one decision: a denial tells it in the header x-decision-id and in its body")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args[0]) },
	}
	flags := c.Flags()
	flags.StringVarP(&f.src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	flags.StringVarP(&f.src.Bundle, "bundle", "b", "", "policy to evaluate instead of the configuration's: a directory or a .tar.gz")
	flags.StringVar(&f.log, "log", "", "decision log: a file, a spool or a folder of rotated files; - is standard input (default: the configuration's)")
	f.output.Add(c, "one object")
	return c
}

func (f *explainFlags) run(c *cobra.Command, id string) error {
	src, err := f.src.OrDefault()
	if err != nil {
		return err
	}
	log, name, err := f.openLog(c.Context(), src, c.InOrStdin())
	if err != nil {
		return err
	}
	record, err := logged.Find(log, name, id)
	log.Close()
	if errors.Is(err, logged.ErrNoRecord) {
		return grammar.Negative(err)
	} else if err != nil {
		return err
	}
	out, err := node.ExplainLogged(c.Context(), src, record, grammar.Notices(c.ErrOrStderr()))
	if err != nil {
		return err
	}
	if f.output.JSON() {
		err = terminal.JSON(c.OutOrStdout()).Encode(out)
	} else {
		err = report.Retold(c.OutOrStdout(), out)
	}
	if err == nil && !out.Reproduced {
		return grammar.ErrReported
	}
	return err
}

// openLog opens the log to look into.
func (f *explainFlags) openLog(ctx context.Context, src config.Source, stdin io.Reader) (log *read.Reader, name string, err error) {
	if f.log != "" {
		log, err = node.OpenLogAt(f.log, stdin)
		return log, f.log, err
	}
	log, err = openLogOf(ctx, src)
	return log, "the decision log of " + src.File, err
}
