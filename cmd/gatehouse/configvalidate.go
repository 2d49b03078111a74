package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/nearest"
	"gatehouse/server"
	"gatehouse/terminal"
	"gatehouse/trial/node"
)

func configCommand() *cobra.Command {
	return grammar.Family(&cobra.Command{Use: "config", Short: "Check the configuration, and look up its keys"}, configValidateCommand(), configExplainCommand())
}

// configExplainCommand is kubectl explain for gatehouse.yaml.
func configExplainCommand() *cobra.Command {
	var output grammar.Output
	c := &cobra.Command{
		Use:   "explain [KEY]",
		Short: "Show what a key of gatehouse.yaml means, its type and default",
		Long: `Prints what docs/config.md says of a key, and the keys directly below it; without KEY the sections of gatehouse.yaml.

Exit code: 0 printed, 1 there is no such key.`,
		Example: `  gatehouse config explain decision_log
  gatehouse config explain identity.jwt.audiences`,
		Args: grammar.Arguments("", 0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			found := config.NamedKeys(name)
			if len(found) == 0 {
				var all []string
				for _, k := range config.AllKeys() {
					all = append(all, k.Path)
				}
				text := fmt.Sprintf("gatehouse.yaml has no key %q", name)
				if near := nearest.Word(name, all, max(1, len(name)/3)+1); near != "" {
					text += fmt.Sprintf("\ndid you mean %s?", near)
				} else {
					text += "\ngatehouse config explain lists its sections"
				}
				return grammar.Negative(errors.New(text))
			}
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(found)
			}
			for i, k := range found {
				if i > 0 {
					fmt.Fprintln(c.OutOrStdout())
				}
				fmt.Fprintf(c.OutOrStdout(), "%s (%s)\n%s\n", k.Path, k.Type, terminal.Wrap(k.Doc, 100, "  "))
			}
			return nil
		},
	}
	output.Add(c, "a list of keys")
	return c
}

func configValidateCommand() *cobra.Command {
	var src config.Source
	var output grammar.Output
	c := &cobra.Command{
		Use:   "validate [FILE]",
		Short: "Check all that gatehouse serve would check, and start nothing",
		Long: `Reads the configuration, keys, certificates, route tables, the directory and the policy like gatehouse serve, and runs the policy's tests and
policy.smoke. It opens no port and writes nothing. Keys and bundles at a URL are fetched; those that do not answer are named, and are no
mistake. gatehouse serve --check is the same.

Exit code: 0 fine, 1 something is wrong, 2 it could not be checked.`,
		Example: `  gatehouse config validate
  gatehouse config validate /etc/gatehouse/gatehouse.yaml -o json`,
		Args: grammar.Arguments("", 0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && src.File != "" {
				return errors.New("give one configuration, as FILE or with --config")
			} else if len(args) == 1 {
				src.File = args[0]
			}
			return validate(c, server.Config{Source: src}, output.JSON())
		},
	}
	c.Flags().StringVarP(&src.File, "config", "c", "", "configuration file (default: gatehouse.yaml)")
	c.Flags().StringVarP(&src.Bundle, "bundle", "b", "", "policy directory or tarball, in addition to the configuration's")
	output.Add(c, "one object")
	return c
}

// validate prints what is wrong with a configuration.
func validate(c *cobra.Command, with server.Config, asJSON bool) error {
	var err error
	if with.Source, err = with.Source.OrDefault(); err != nil {
		return errors.New("nothing to check: give --config gatehouse.yaml, or --bundle DIR to check with defaults")
	}
	with.Version, with.Smoke = version(), node.ReadSmoke
	found, err := server.Check(c.Context(), with)
	if err != nil {
		return err
	}
	if err = found.Write(c.OutOrStdout(), c.ErrOrStderr(), with.Source.File, asJSON); err == nil && len(found.Problems) > 0 {
		return grammar.ErrReported
	}
	return err
}
