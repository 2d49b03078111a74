// Package running is the commands that ask a running gatehouse: its status, a reload, the policies that it can roll back to, and what it decides now.
package running

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/server"
	"gatehouse/terminal"
)

// Flags say where the control socket of a running process is.
type Flags struct {
	socket, admin, config string
	output                grammar.Output
}

func (f *Flags) add(c *cobra.Command) {
	f.output.Add(c, "the process's answer")
	c.Flags().StringVar(&f.socket, "control", "", "control socket of the running process, unix:/path.sock (default: listen.control of the configuration)")
	c.Flags().StringVarP(&f.config, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
}

// control speaks to the process that the flags name.
func (f *Flags) control() (c server.Control, err error) {
	address := f.socket
	if address == "" {
		src, err := config.Source{File: f.config}.OrDefault()
		if err != nil {
			return c, errors.New("which process? give --control unix:/path.sock, or --config FILE with listen.control")
		}
		cfg, doc, err := src.Read()
		if err != nil {
			return c, err
		}
		if address = cfg.Listen.Control; address == "" {
			return c, fmt.Errorf("%s: listen.control is not set, so the process takes no commands\nset it to unix:/path.sock and restart, or give --control", doc.File)
		}
	}
	path, ok := config.CutUnix(address)
	if !ok || path == "" {
		return c, fmt.Errorf("--control: %q is not unix:/path.sock", address)
	}
	return server.Control{Socket: path}, nil
}

// addAdmin adds the flags, and --admin of the commands that the admin port can answer too.
func (f *Flags) addAdmin(c *cobra.Command) {
	f.add(c)
	c.Flags().StringVar(&f.admin, "admin", "", "address of the running process's admin port, where it has no control socket (default: listen.admin of the configuration)")
}

// process is how to reach the process: its control socket, or else its admin port.
func (f *Flags) process() (server.Control, error) {
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

// Status is gatehouse status.
func Status() *cobra.Command {
	var f Flags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how a running process is: ready, degraded, its policy, directory, keys and log",
		Long: `Asks the running process for its status, over its control socket or its admin port: whether it is ready, what is degraded and why, bundles,
route tables, directory, keys, memo and decision log.

Exit code: 0 ready, 1 not ready, 2 it does not answer.`,
		Example: `  gatehouse status
  gatehouse status --admin 127.0.0.1:9192 -o json`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			process, err := f.process()
			if err != nil {
				return err
			}
			s, err := process.Status(c.Context())
			if err != nil {
				return err
			}
			if f.output.JSON() {
				err = terminal.JSON(c.OutOrStdout()).Encode(s)
			} else {
				err = s.Write(c.OutOrStdout(), time.Now())
			}
			if err == nil && !s.Ready {
				return grammar.ErrReported
			}
			return err
		},
	}
	f.addAdmin(c)
	return c
}

// Reload is gatehouse reload.
func Reload() *cobra.Command {
	var f Flags
	var pid int
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have a running process read its configuration again, and wait for the outcome",
		Long: `Asks the running process over its control socket to read its configuration, keys and policy again, and waits until it has. What it refuses is
printed, and changes nothing. With --pid it gets SIGHUP instead, and its admin port says how that ended.

Exit code: 0 reloaded, 1 refused, 2 it does not answer.`,
		Example: `  gatehouse reload
  gatehouse reload --pid "$(pidof gatehouse)" --admin 127.0.0.1:9192`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := f.reload(c.Context(), pid)
			if refused, ok := errors.AsType[*server.RefusedError](err); ok {
				return grammar.Negative(fmt.Errorf("the reload was refused:\n%w", refused))
			} else if err != nil {
				return err
			}
			if f.output.JSON() {
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

func (f *Flags) reload(ctx context.Context, pid int) (server.Answer, error) {
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
