package grammar

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse/nearest"
)

// otherNames are what people call commands who know other programs, by the command that does it here.
var otherNames = map[string]string{
	"run": "serve", "start": "serve", "server": "serve", "daemon": "serve", "listen": "serve",
	"dev": "up", "develop": "up", "watch": "up", "compose": "up",
	"new": "init", "create": "init", "scaffold": "init", "setup": "init",
	"logs": "log tail", "tail": "log tail", "audit": "log grep", "decisions": "log grep", "decision-logs": "log grep",
	"why": "explain", "debug": "explain", "trace": "explain",
	"deps": "bundle inspect", "parse": "lint", "capabilities": "version",
	"authorize": "check", "decide": "check", "request": "check", "can-i": "check",
	"jwt": "token mint", "login": "bundle login", "key": "identity new-key", "apikey": "identity new-key",
	"format": "fmt", "benchmark": "bench", "query": "eval", "info": "status", "health": "status", "ps": "status", "stats": "log stats",
	"monitor": "top", "users": "directory", "relations": "directory", "policy": "bundle", "policies": "bundle", "man": "help", "docs": "help",
}

// UnknownCommand says that c has no command of this name, and which one was probably meant: one that is called nearly so, one of that name elsewhere,
// or what does here what another program calls so.
func UnknownCommand(c *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q for %s", name, c.CommandPath())
	if meant := meantCommand(c, name); meant != "" {
		text += fmt.Sprintf("\ndid you mean %s?", meant)
	}
	return fmt.Errorf("%s\n%s --help lists them", text, c.CommandPath())
}

func meantCommand(c *cobra.Command, name string) string {
	var below []string
	for _, b := range c.Commands() {
		if !b.Hidden {
			below = append(below, b.Name())
		}
	}
	root := c.Root()
	if other, ok := otherNames[strings.ToLower(name)]; ok && c == root {
		return root.Name() + " " + other
	}
	if near := nearest.Word(name, below, max(1, len(name)/3)+1); near != "" {
		return c.CommandPath() + " " + near
	}
	var same []string
	each(root, func(other *cobra.Command) {
		if other.Name() == strings.ToLower(name) && !other.Hidden && other != root {
			same = append(same, other.CommandPath())
		}
	})
	if len(same) <= 3 {
		return strings.Join(same, " or ")
	}
	return ""
}

func each(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, below := range c.Commands() {
		each(below, visit)
	}
}

// FlagError says which flag was probably meant, and where all are listed.
func FlagError(c *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && len(unknown.GetSpecifiedName()) > 1 {
		var flags []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				flags = append(flags, f.Name)
			}
		})
		name := unknown.GetSpecifiedName()
		if near := nearest.Word(name, flags, max(1, len(name)/3)+1); near != "" {
			return fmt.Errorf("%w\ndid you mean --%s? %s --help lists the flags", err, near, c.CommandPath())
		}
	}
	return fmt.Errorf("%w\n%s --help lists the flags", wrongValue(err), c.CommandPath())
}

// wrongValue says in our words that a flag has a value that it cannot have.
func wrongValue(err error) error {
	wrong, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	flag, value := "--"+wrong.GetFlag().Name, wrong.GetValue()
	switch wrong.GetFlag().Value.Type() {
	case "int", "int32", "int64", "uint", "uint64":
		return fmt.Errorf("%s: %q is no whole number, or too large", flag, value)
	case "bool":
		return fmt.Errorf("%s: %q is neither true nor false", flag, value)
	}
	cause := wrong.Unwrap()
	if strings.Contains(cause.Error(), strconv.Quote(value)) {
		return fmt.Errorf("%s: %w", flag, cause)
	}
	return fmt.Errorf("%s %q: %w", flag, value, cause)
}

// Help is the command help: of a command that there is, or exit code 2.
func Help(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]...",
		Short:   "Show the help of a command",
		Example: "  gatehouse help check\n  gatehouse help bundle push",
		ValidArgsFunction: func(_ *cobra.Command, args []string, begins string) (found []string, _ cobra.ShellCompDirective) {
			if c, rest, err := root.Find(args); err == nil && len(rest) == 0 {
				for _, below := range c.Commands() {
					if !below.Hidden && strings.HasPrefix(below.Name(), begins) {
						found = append(found, below.Name()+"\t"+below.Short)
					}
				}
			}
			return found, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			c := root
			for _, name := range args {
				below := child(c, name)
				if below == nil {
					return UnknownCommand(c, name)
				}
				c = below
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

func child(c *cobra.Command, name string) *cobra.Command {
	for _, below := range c.Commands() {
		if below.Name() == name || below.HasAlias(name) {
			return below
		}
	}
	return nil
}

// Completion is the command completion, with how each shell is told.
func Completion(root *cobra.Command) *cobra.Command {
	const long = `Prints a script that has a shell complete gatehouse's commands and flags, and also what is in the current folder's gatehouse.yaml: paths of routes
for check, rules for eval and --decision, decision ids for explain, callers, roles, images, keys of the configuration. Nothing is sent anywhere.

%s`
	c := &cobra.Command{Use: "completion", Short: "Complete commands, routes, rules and decision ids in bash, zsh, fish or PowerShell",
		Long: `Prints a script that has a shell complete gatehouse's commands and flags, and also what is in the current folder's gatehouse.yaml: paths of routes
for check, rules for eval and --decision, decision ids for explain, callers, roles, images, keys of the configuration. Nothing is sent anywhere.`,
		Example: "  source <(gatehouse completion bash)"}
	shell := func(name, example, how string, write func(*cobra.Command) error) *cobra.Command {
		return &cobra.Command{Use: name, Short: "Print the script for " + name, Long: fmt.Sprintf(long, how), Example: example, Args: NoArguments,
			ValidArgsFunction: cobra.NoFileCompletions, RunE: func(c *cobra.Command, _ []string) error { return write(c) }}
	}
	return Family(c,
		shell("bash", "  source <(gatehouse completion bash)\n  gatehouse completion bash > /etc/bash_completion.d/gatehouse",
			"It needs the package bash-completion. For every new shell, put the script where bash-completion looks.", func(c *cobra.Command) error {
				return root.GenBashCompletionV2(c.OutOrStdout(), true)
			}),
		shell("zsh", "  source <(gatehouse completion zsh)\n  gatehouse completion zsh > \"${fpath[1]}/_gatehouse\"",
			"Completion must be on: autoload -U compinit; compinit in ~/.zshrc.", func(c *cobra.Command) error {
				return root.GenZshCompletion(c.OutOrStdout())
			}),
		shell("fish", "  gatehouse completion fish | source\n  gatehouse completion fish > ~/.config/fish/completions/gatehouse.fish",
			"For every new shell, put the script into ~/.config/fish/completions.", func(c *cobra.Command) error {
				return root.GenFishCompletion(c.OutOrStdout(), true)
			}),
		shell("powershell", "  gatehouse completion powershell | Out-String | Invoke-Expression",
			"For every new shell, add that line to your profile.", func(c *cobra.Command) error {
				return root.GenPowerShellCompletionWithDesc(c.OutOrStdout())
			}))
}
