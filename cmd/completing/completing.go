// Package completing completes command lines: routes, rules, decisions, callers, keys of the configuration and others that a shell cannot know. It
// reads what the command itself would read, within bounds of time and size, prints nothing, and offers nothing where something is wrong.
package completing

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse/config"
)

const (
	patience = 2 * time.Second // for one completion
	most     = 500             // words that are offered
)

// question is what there is to complete: a command, its arguments so far, and the beginning of the next.
type question struct {
	context.Context
	command *cobra.Command
	args    []string
	begins  string
}

// source is the configuration that the command would read.
func (q *question) source() (config.Source, error) {
	return config.Source{File: q.flag("config")}.OrDefault()
}

// flag is the value of a flag, "" where the command has none of that name.
func (q *question) flag(name string) string {
	if f := q.command.Flags().Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// words gives what a word can be; a text behind a tab tells about it.
type words func(*question) []string

// Add gives the commands below root their completions: arguments and flags are files where the tables here say nothing.
func Add(root *cobra.Command) {
	visit(root, arguments(), flags())
}

func visit(c *cobra.Command, args map[string][]words, flags map[string]words) {
	path := c.CommandPath()
	if _, below, ok := strings.Cut(path, " "); ok {
		path = below
	}
	if places, ok := args[path]; ok {
		c.ValidArgsFunction = atPlaces(places)
	} else if c.Args != nil && !c.HasSubCommands() && c.Args(c, []string{"x"}) != nil && c.Args(c, []string{"x", "x"}) != nil && c.ValidArgsFunction == nil {
		c.ValidArgsFunction = cobra.NoFileCompletions // it takes none
	}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		complete, ok := flags[path+" --"+f.Name]
		if !ok {
			complete, ok = flags["--"+f.Name]
		}
		switch {
		case f.Name == "config":
			_ = c.RegisterFlagCompletionFunc(f.Name, yamlFiles)
		case f.Name == "output" && strings.Contains(f.Value.Type(), "|"):
			_ = c.RegisterFlagCompletionFunc(f.Name, answer(fixed(strings.Split(f.Value.Type(), "|")...)))
		case ok:
			_ = c.RegisterFlagCompletionFunc(f.Name, answer(complete)) // an error: the command has one of its own
		case f.Value.Type() == "int" || f.Value.Type() == "duration":
			_ = c.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
		}
	})
	for _, below := range c.Commands() {
		visit(below, args, flags)
	}
}

func yamlFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// atPlaces completes each argument by its place. nil is a file, and so is what comes behind the last.
func atPlaces(places []words) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begins string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(places) || places[len(args)] == nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return answer(places[len(args)])(c, args, begins)
	}
}

// answer is what a shell is told.
func answer(complete words) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begins string) ([]string, cobra.ShellCompDirective) {
		ctx := c.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var list []string
		for _, word := range complete(&question{ctx, c, args, begins}) {
			word = strings.Map(func(r rune) rune { // a log's text, in a protocol of lines
				if r < ' ' && r != '\t' || r == 0x7f {
					return -1
				}
				return r
			}, word)
			name, _, _ := strings.Cut(word, "\t")
			if name != "" && strings.HasPrefix(name, begins) && len(list) < most && !slices.Contains(list, word) {
				list = append(list, word)
			}
		}
		return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func fixed(list ...string) words { return func(*question) []string { return list } }
