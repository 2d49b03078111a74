// Command gatehouse is an external-authorization server for Envoy: it verifies who calls, asks a Rego policy, and answers
// allow or deny.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"gatehouse/terminal"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program but the process around it: 0 for success, 1 for a failure, 2 for a wrong command line. gatehouse
// replay has 2 for changes.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "gatehouse",
		Short:         "Authorization for web applications, at the proxy",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(serveCommand(), migrateCommand(), docsCommand(), demoCommand(), versionCommand(), routesCommand(), initCommand(), checkCommand(), testCommand(),
		explainCommand(), logCommand(), replayCommand(), bundleCommand(), tokenCommand(), identityCommand(), envoyCommand(), k8sCommand(), doctorCommand(), directoryCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\n%s --help lists the flags", err, c.CommandPath())}
	})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	switch {
	case errors.Is(err, errSaid):
		return 1
	case errors.Is(err, errChanges):
		return 2
	}
	fmt.Fprintln(stderr, "gatehouse: "+terminal.VisibleLines(strings.TrimSpace(err.Error())))
	// Cobra gives errors of this text no type: neither those of its look-up of commands nor those of cobra.NoArgs.
	if _, ok := errors.AsType[usageError](err); ok || strings.HasPrefix(err.Error(), "unknown command") {
		return 2
	}
	return 1
}

// errSaid is a failure that the command's own output has told already.
var errSaid = errors.New("said already")

// usageError is a command line that makes no sense.
type usageError struct{ error }

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fmt.Fprintln(c.OutOrStdout(), "gatehouse "+version())
			return nil
		},
	}
}

// release is set by the build (-ldflags "-X main.release=v1.2.3").
var release = "dev"

// version is the release, with the commit where the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return release + " (" + s.Value[:12] + ", " + info.GoVersion + ")"
		}
	}
	return release + " (" + info.GoVersion + ")"
}
