package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/migrate"
	"gatehouse/terminal"
)

func migrateCommand() *cobra.Command {
	var bundles []string
	var output string
	var strict bool
	c := &cobra.Command{
		Use:   "migrate OPA-CONFIG",
		Short: "Convert the configuration of opa-envoy-plugin to a gatehouse.yaml",
		Long: `Reads the configuration file of an OPA with opa-envoy-plugin and writes an equivalent gatehouse.yaml.
Settings without a counterpart are listed on standard error, and in a comment of the result, with line and
alternative. Secrets are never printed: for each one in OPA's file, the output names the file to put it into. If the policy is available (--bundle, as given to opa run, or file:// bundles of the configuration), it
also lists parts of the policy that Gatehouse would refuse, such as built-in functions that are off by default.

Relative paths in the OPA configuration, and those given to --bundle, are relative to the current directory.`,
		Example: `  gatehouse migrate opa-config.yaml --bundle ./policy --out gatehouse.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("give one OPA configuration file: gatehouse migrate opa-config.yaml --out gatehouse.yaml")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			text, err := config.ReadBounded(args[0])
			if err != nil {
				return fmt.Errorf("reading the OPA configuration: %w", err)
			}
			result, err := migrate.Run(c.Context(), migrate.Config{File: args[0], Text: text, Output: output, Bundles: bundles})
			if err != nil {
				return err
			}
			return deliverMigration(c, result, output, strict)
		},
	}
	grammar.OutFlag(c, &output, migrate.Stdout, "file to write, which must not exist yet; - is standard output")
	c.Flags().StringArrayVarP(&bundles, "bundle", "b", nil, "policy directory, may be repeated")
	c.Flags().BoolVar(&strict, "strict", false, "exit with 1 if a setting has no counterpart")
	return c
}

// deliverMigration writes the result, and on standard error what to know about it.
func deliverMigration(c *cobra.Command, result *migrate.Result, output string, strict bool) error {
	if err := result.Write(); err != nil {
		return err
	}
	if output == migrate.Stdout {
		fmt.Fprint(c.OutOrStdout(), result.Text)
	}
	lost := 0
	for _, f := range result.Findings {
		fmt.Fprintln(c.ErrOrStderr(), terminal.Visible(f.String()))
		if f.Lost {
			lost++
		}
	}
	if output != migrate.Stdout {
		fmt.Fprintf(c.ErrOrStderr(), "wrote %s, with %s\n", output, countLost(lost))
	}
	if strict && lost > 0 {
		return grammar.Negative(fmt.Errorf("%s\nsee above; without --strict this is no failure", countLost(lost)))
	}
	return nil
}

func countLost(lost int) string {
	switch lost {
	case 0:
		return "everything carried over"
	case 1:
		return "1 thing that has no counterpart"
	default:
		return fmt.Sprintf("%d things that have no counterpart", lost)
	}
}
