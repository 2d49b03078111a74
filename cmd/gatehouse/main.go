// Command gatehouse is an external-authorization server for Envoy: it verifies who calls, asks a Rego policy, and answers
// allow or deny.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"gatehouse/cmd/bundlecmd"
	"gatehouse/cmd/completing"
	"gatehouse/cmd/controlcmd"
	"gatehouse/cmd/grammar"
	"gatehouse/cmd/running"
	"gatehouse/control/judge"
	"gatehouse/terminal"

	"github.com/spf13/cobra"
)

func main() {
	judge.Main() // returns, unless this process is the one that checks a bundle for control
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program but the process around it. Package grammar says what its exit codes are.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return grammar.ExitCode(root.ExecuteContext(ctx), func(text string) {
		fmt.Fprintln(stderr, "gatehouse: "+terminal.VisibleLines(strings.TrimSpace(text)))
	})
}

// rootCommand is the tree of all commands.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "gatehouse",
		Short:         "Authorization for web applications, at the proxy",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(serveCommand(), migrateCommand(), docsCommand(), demoCommand(), versionCommand(), routesCommand(), initCommand(), upCommand(), checkCommand(), testCommand(),
		explainCommand(), logCommand(), replayCommand(), bundlecmd.Command(), tokenCommand(), identityCommand(), envoyCommand(), k8sCommand(), doctorCommand(), directoryCommand(),
		configCommand(), running.Status(), running.Reload(), running.Top(), controlcmd.Command(), fmtCommand(), lintCommand(), evalCommand(), benchCommand())
	grammar.Family(root, grammar.Completion(root))
	root.SetHelpCommand(grammar.Help(root))
	root.SetVersionTemplate("gatehouse {{.Version}}\n")
	root.PersistentPreRun = func(c *cobra.Command, _ []string) { grammar.WarnOldSpellings(c.Flags(), c.ErrOrStderr()) }
	root.SetFlagErrorFunc(grammar.FlagError)
	completing.Add(root)
	return root
}

func versionCommand() *cobra.Command {
	var output grammar.Output
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version, and those of OPA and Envoy's API that it is built with",
		Example: `  gatehouse version -o json`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			v := builtFrom()
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(v)
			}
			return terminal.Table(c.OutOrStdout(), [][]string{{"gatehouse " + version()}, {"commit", v.Commit}, {"OPA", v.OPA}, {"Envoy API", v.EnvoyAPI}, {"Go", v.Go}, {"platform", v.Platform}})
		},
	}
	output.Add(c, "one object")
	return c
}

// build is what the program is made of, as version -o json prints it.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	OPA      string `json:"opa"`
	EnvoyAPI string `json:"envoy_api"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func builtFrom() build {
	b := build{Version: release, Commit: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Commit = s.Value
		}
	}
	for _, dep := range info.Deps {
		switch dep.Path {
		case "github.com/open-policy-agent/opa":
			b.OPA = dep.Version
		case "github.com/envoyproxy/go-control-plane/envoy":
			b.EnvoyAPI = dep.Version
		}
	}
	return b
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
