package main

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/doctor"
	"gatehouse/policy/bounds"
)

// docsCommand writes the pages of docs that are generated. It is for developers: make docs.
func docsCommand() *cobra.Command {
	var output string
	docs := &cobra.Command{Use: "docs", Short: "Write the generated pages of docs", Hidden: true}
	page := &cobra.Command{
		Use:     "config",
		Short:   "Print docs/config.md",
		Example: `  gatehouse docs config > docs/config.md`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if output == "-" {
				_, err := io.WriteString(c.OutOrStdout(), config.Page())
				return err
			}
			if err := os.WriteFile(output, []byte(config.Page()), 0o644); err != nil {
				return fmt.Errorf("writing the page: %w", err)
			}
			return nil
		},
	}
	grammar.OutFlag(page, &output, "-", "file to write; - is standard output")
	pages := []*cobra.Command{page, {
		Use:     "builtins",
		Short:   "Print docs/builtins.md",
		Example: `  gatehouse docs builtins > docs/builtins.md`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := io.WriteString(c.OutOrStdout(), bounds.Page())
			return err
		},
	}, {
		Use:     "doctor",
		Short:   "Print docs/doctor.md",
		Example: `  gatehouse docs doctor > docs/doctor.md`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := io.WriteString(c.OutOrStdout(), doctor.Page())
			return err
		},
	}, {
		Use:     "cli",
		Short:   "Print docs/cli.md",
		Example: `  gatehouse docs cli > docs/cli.md`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := io.WriteString(c.OutOrStdout(), cliPage(c.Root()))
			return err
		},
	}, {
		Use:     "man DIR",
		Short:   "Write a manual page for each command",
		Example: `  gatehouse docs man /usr/local/share/man/man1`,
		Args:    grammar.Arguments("", 1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("writing the manual pages: %w", err)
			}
			c.Root().DisableAutoGenTag = true // neither a date nor a generator's name: the same commands are the same pages
			epoch := time.Unix(0, 0).UTC()
			if err := doc.GenManTree(c.Root(), &doc.GenManHeader{Title: "GATEHOUSE", Section: "1", Source: "gatehouse", Manual: "Gatehouse", Date: &epoch}, args[0]); err != nil {
				return fmt.Errorf("writing the manual pages: %w", err)
			}
			return nil
		},
	}}
	return grammar.Family(docs, pages...)
}
