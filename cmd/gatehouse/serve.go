package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/server"
	"gatehouse/trial/node"
)

func serveCommand() *cobra.Command {
	var src config.Source
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer Envoy's authorization requests",
		Example: `  gatehouse serve --config gatehouse.yaml
  gatehouse serve --bundle ./policy`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			server.PaceGC()
			src, err := src.OrDefault()
			if err != nil {
				return errors.New("nothing to serve: give --config gatehouse.yaml, or --bundle DIR to run with defaults")
			}
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP) // first of all: one that comes while we start must not end the process
			defer signal.Stop(hangups)
			s, err := server.New(c.Context(), server.Config{Source: src, Reloads: hangups, Version: version(), Smoke: node.ReadSmoke})
			if err != nil {
				return err
			}
			return s.Run(c.Context())
		},
	}
	c.Flags().StringVarP(&src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	c.Flags().StringVarP(&src.Bundle, "bundle", "b", "", "policy directory or tarball, with --config in addition to its bundles, else instead of those of gatehouse.yaml")
	c.Flags().StringVar(&src.Policy, "policy", "", "where the one bundle of the configuration comes from instead: oci://IMAGE, a URL, a folder or a tarball; its name and signing keys stay")
	c.Flags().BoolVar(&src.Plain, "plain", false, "reference mode: decide without optimisations (remembered decisions, partial input, own wire format)")
	return c
}
