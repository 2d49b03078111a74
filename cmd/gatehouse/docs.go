package main

import (
	_ "embed"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/policy/bounds"
)

// docsCommand writes the pages of docs that are generated. It is for developers: make docs.
func docsCommand() *cobra.Command {
	var output string
	docs := &cobra.Command{Use: "docs", Short: "Write the generated pages of docs", Hidden: true}
	page := &cobra.Command{
		Use:   "config",
		Short: "Print docs/config.md",
		Args:  cobra.NoArgs,
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
	page.Flags().StringVarP(&output, "output", "o", "-", "file to write; - is standard output")
	docs.AddCommand(page, &cobra.Command{
		Use:   "builtins",
		Short: "Print docs/builtins.md",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := io.WriteString(c.OutOrStdout(), bounds.Page())
			return err
		},
	})
	return docs
}
