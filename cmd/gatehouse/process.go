package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/server"
	"gatehouse/terminal"
	"gatehouse/trial/node"
)

// addAdmin adds the flags, and --admin of the commands that the admin port can answer too.
func (f *controlFlags) addAdmin(c *cobra.Command) {
	f.add(c)
	c.Flags().StringVar(&f.admin, "admin", "", "address of the running process's admin port, where it has no control socket (default: listen.admin of the configuration)")
}

// process is how to reach the process: its control socket, or else its admin port.
func (f *controlFlags) process() (server.Control, error) {
	if f.socket != "" {
		return f.control()
	}
	if f.admin != "" {
		return server.Control{Admin: f.admin}, nil
	}
	src, err := config.Source{File: f.config}.OrDefault()
	if err != nil {
		return server.Control{}, errors.New("which process? give --admin ADDRESS, --control unix:/path.sock, or --config FILE")
	}
	cfg, doc, err := src.Read()
	if err != nil {
		return server.Control{}, err
	}
	if path, ok := config.CutUnix(cfg.Listen.Control); ok {
		return server.Control{Socket: path}, nil
	}
	if cfg.Listen.Admin == "" {
		return server.Control{}, fmt.Errorf("%s: neither listen.control nor listen.admin is set, so the process cannot be asked", doc.File)
	}
	return server.Control{Admin: cfg.Listen.Admin}, nil
}

func statusCommand() *cobra.Command {
	var f controlFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how a running process is: ready, degraded, its policy, directory, keys and log",
		Long: `Asks the running process for its status, over its control socket or its admin port: whether it is ready, what is degraded and why, bundles,
route tables, directory, keys, memo and decision log.

Exit code: 0 ready, 1 not ready, 2 it does not answer.`,
		Example: `  gatehouse status
  gatehouse status --admin 127.0.0.1:9192 -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			process, err := f.process()
			if err != nil {
				return err
			}
			s, err := process.Status(c.Context())
			if err != nil {
				return err
			}
			if f.output.json() {
				err = terminal.JSON(c.OutOrStdout()).Encode(s)
			} else {
				err = s.Write(c.OutOrStdout(), time.Now())
			}
			if err == nil && !s.Ready {
				return errReported
			}
			return err
		},
	}
	f.addAdmin(c)
	return c
}

func reloadCommand() *cobra.Command {
	var f controlFlags
	var pid int
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have a running process read its configuration again, and wait for the outcome",
		Long: `Asks the running process over its control socket to read its configuration, keys and policy again, and waits until it has. What it refuses is
printed, and changes nothing. With --pid it gets SIGHUP instead, and its admin port says how that ended.

Exit code: 0 reloaded, 1 refused, 2 it does not answer.`,
		Example: `  gatehouse reload
  gatehouse reload --pid "$(pidof gatehouse)" --admin 127.0.0.1:9192`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := f.reload(c.Context(), pid)
			if refused, ok := errors.AsType[*server.RefusedError](err); ok {
				return negativeError{fmt.Errorf("the reload was refused:\n%w", refused)}
			} else if err != nil {
				return err
			}
			if f.output.json() {
				return terminal.JSON(c.OutOrStdout()).Encode(a)
			}
			fmt.Fprintln(c.OutOrStdout(), "reloaded")
			for _, key := range a.NeedsRestart {
				fmt.Fprintf(c.ErrOrStderr(), "notice: %s changed, and needs a restart\n", key)
			}
			return nil
		},
	}
	f.addAdmin(c)
	c.Flags().IntVar(&pid, "pid", 0, "process to send SIGHUP to, instead of the control socket")
	return c
}

func (f *controlFlags) reload(ctx context.Context, pid int) (server.Answer, error) {
	if pid == 0 {
		control, err := f.control()
		if err != nil {
			return server.Answer{}, fmt.Errorf("%w\nor give --pid", err)
		}
		return control.Reload(ctx)
	}
	process, err := f.process()
	if err != nil {
		return server.Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return server.Answer{}, process.ReloadBySignal(ctx, pid)
}

func configCommand() *cobra.Command {
	return family(&cobra.Command{Use: "config", Short: "Check the configuration"}, configValidateCommand())
}

func configValidateCommand() *cobra.Command {
	var src config.Source
	var output outputFlags
	c := &cobra.Command{
		Use:   "validate [FILE]",
		Short: "Check all that gatehouse serve would check, and start nothing",
		Long: `Reads the configuration, keys, certificates, route tables, the directory and the policy like gatehouse serve, and runs the policy's tests and
policy.smoke. It opens no port and writes nothing. Keys and bundles at a URL are fetched; those that do not answer are named, and are no
mistake. gatehouse serve --check is the same.

Exit code: 0 fine, 1 something is wrong, 2 it could not be checked.`,
		Example: `  gatehouse config validate
  gatehouse config validate /etc/gatehouse/gatehouse.yaml -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && src.File != "" {
				return errors.New("give one configuration, as FILE or with --config")
			} else if len(args) == 1 {
				src.File = args[0]
			}
			return validate(c, server.Config{Source: src}, output.json())
		},
	}
	c.Flags().StringVarP(&src.File, "config", "c", "", "configuration file (default: gatehouse.yaml)")
	c.Flags().StringVarP(&src.Bundle, "bundle", "b", "", "policy directory or tarball, in addition to the configuration's")
	output.add(c, "one object")
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
		return errReported
	}
	return err
}
