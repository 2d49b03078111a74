package controlcmd

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/control/cli"
)

func syncCommand() *cobra.Command {
	var f planeFlags
	var with cli.Sync
	var every grammar.Duration
	c := f.client("sync FOLDER", "Make what a source owns the same as its files, deletions included", "gatehouse control directory sync ./hr --source hr --dry-run", func(c *cobra.Command, k *cli.Client, args []string) error {
		with.Environment, with.JSON = f.environment, f.output.JSON()
		switch {
		case with.Delete < 0 || with.Delete > 100:
			return errors.New("--max-delete is a share in per cent, from 0 to 100")
		case every != 0 && with.DryRun:
			return errors.New("give --every or --dry-run")
		case every != 0 && time.Duration(every) < time.Second:
			return errors.New("--every is a second or more")
		case every != 0:
			return k.SyncEvery(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), args[0], time.Duration(every), with)
		}
		return k.SyncFile(c.Context(), c.OutOrStdout(), args[0], with)
	})
	c.Long = `Makes what a source owns at control the same as a folder or file in any of the formats of docs/directory.md: what is new or
changed is written, what is not there any more is deleted. What other sources own stays as it is. The manifest is control's.

A file that was cut would delete half of the users. So a run that would delete more than --max-delete per cent of the
source's objects, or of its relations, changes nothing and says so.`
	f.addEnvironment(c)
	c.Flags().StringVar(&with.Source, "source", "", "the name of the source, such as hr: everything that it wrote and that is not in the files is deleted")
	c.Flags().BoolVar(&with.DryRun, "dry-run", false, "change nothing, and print what would be changed")
	c.Flags().IntVar(&with.Delete, "max-delete", 10, "per cent of the source's objects, or of its relations, that one run may delete")
	c.Flags().Var(&every, "every", "do it again and again, at this interval; what fails is reported and tried again")
	_ = c.MarkFlagRequired("source") // it is defined above
	return c
}
