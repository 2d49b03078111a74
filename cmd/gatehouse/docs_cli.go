package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// cliPage is docs/cli.md: every command with its help, examples and flags.
func cliPage(root *cobra.Command) string {
	var all []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				all = append(all, sub)
				walk(sub)
			}
		}
	}
	walk(root)
	var page strings.Builder
	page.WriteString(`# Commands

<!-- Generated from the commands by: make docs. -->

The same as ` + "`gatehouse COMMAND --help`" + `. Man pages come with the packages. ` + "`gatehouse completion bash --help`" + ` says how a shell completes commands, routes,
rules and decision ids.

- Exit codes: 0 fine, 1 the answer is no or something was found, 2 it could not be done ([reasons.md](reasons.md#exit-codes)).
- ` + "`./gatehouse.yaml`" + ` is the configuration of every command, where ` + "`-c`" + ` names no other.
- Durations take days: ` + "`7d`, `36h`, `90m`" + `. ` + "`-o json`" + ` prints for programs.

| command | |
|---|---|
`)
	for _, c := range all {
		name := strings.TrimPrefix(c.CommandPath(), root.Name()+" ")
		fmt.Fprintf(&page, "| [%s](#gatehouse-%s) | %s |\n", name, strings.ReplaceAll(name, " ", "-"), strings.ReplaceAll(c.Short, "|", `\|`))
	}
	for _, c := range all {
		fmt.Fprintf(&page, "\n## %s\n", c.CommandPath())
		for _, text := range []string{cmp.Or(c.Long, c.Short), c.UseLine(), c.Example, c.NonInheritedFlags().FlagUsages()} {
			if text = machine.ReplaceAllString(strings.TrimRight(text, "\n"), ""); strings.TrimSpace(text) != "" {
				fmt.Fprintf(&page, "\n```\n%s\n```\n", text)
			}
		}
	}
	return page.String()
}

// machine is what a help says of the machine that it is read on.
var machine = regexp.MustCompile(` \(default "?/[^)]*\)`)
