package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func bundleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Work with bundles of policy",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for gatehouse bundle\ngatehouse bundle --help lists them", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(bundleControlCommands()...)
	return c
}
