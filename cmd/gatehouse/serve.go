package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/server"
	"gatehouse/terminal"
	"gatehouse/trial/node"
)

func serveCommand() *cobra.Command {
	var src config.Source
	var check bool
	var with server.Config
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer Envoy's authorization requests",
		Long: `Answers Envoy's authorization requests until it is stopped.

Where the policy cannot be used as it is, nothing is started: exit code 2, and every error with file and line. With --wait-for-policy it
starts and denies every request (503 not_ready) until the policy is mended: under a supervisor, which would start it again and again. A
bundle that is to be fetched is waited for in any case.`,
		Example: `  gatehouse serve --config gatehouse.yaml
  gatehouse serve --bundle ./policy`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			with.Source = src
			if check {
				return validate(c, with, false)
			}
			server.PaceGC()
			src, err := src.OrDefault()
			if err != nil {
				return errors.New("nothing to serve: give --config gatehouse.yaml, or --bundle DIR to run with defaults")
			}
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP) // first of all: one that comes while we start must not end the process
			defer signal.Stop(hangups)
			with.Source, with.Reloads, with.Version, with.Smoke, with.Console = src, hangups, version(), node.ReadSmoke, terminal.Is(c.ErrOrStderr())
			s, err := server.New(c.Context(), with)
			if _, broken := errors.AsType[*edge.BrokenError](err); broken {
				return fmt.Errorf("%w\nmend it, or start with --wait-for-policy, which denies every request (503 not_ready) until it is mended", err)
			} else if err != nil {
				return err
			}
			return s.Run(c.Context())
		},
	}
	c.Flags().StringVarP(&src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	c.Flags().StringVarP(&src.Bundle, "bundle", "b", "", "policy directory or tarball, with --config in addition to its bundles, else instead of those of gatehouse.yaml")
	c.Flags().StringVar(&src.Policy, "policy", "", "where the one bundle of the configuration comes from instead: oci://IMAGE, a URL, a folder or a tarball; its name and signing keys stay")
	c.Flags().BoolVar(&check, "check", false, "check all of it and start nothing, like gatehouse config validate")
	c.Flags().StringVar(&with.LogLevel, "log-level", "", "debug, info, warn or error (default: log.level of the configuration)")
	c.Flags().StringVar(&with.LogFormat, "log-format", "", "json or console (default: log.format of the configuration; without that console on a terminal, else json)")
	c.Flags().BoolVar(&with.WaitForPolicy, "wait-for-policy", false, "start also with a policy or a directory that cannot be used, and answer not_ready until it can")
	c.Flags().BoolVar(&src.Plain, "plain", false, "reference mode: decide without optimisations (remembered decisions, partial input, own wire format)")
	return c
}
