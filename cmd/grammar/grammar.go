// Package grammar is what the commands of gatehouse have in common: exit codes, how they print (-o), durations, families of commands, arguments,
// and spellings of earlier versions.
package grammar

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse/policy/bundle"
	"gatehouse/scaffold"
	"gatehouse/terminal"
)

// ErrReported is a no that the command has printed itself; Negative makes one whose text is still to be printed. Every command ends with 0 where
// all is well, with 1 where the answer is no or something was found, and with 2 where it could not be done: any other error.
var ErrReported = errors.New("reported already")

type negativeError struct{ error }

func (e negativeError) Unwrap() error { return e.error }

// Negative is an error whose exit code is 1.
func Negative(err error) error { return negativeError{err} }

// ExitCode is how the program ends after err, which it prints unless the command did.
func ExitCode(err error, stderr func(string)) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrReported):
		return 1
	}
	stderr(terminal.Sentences(err, bundle.Excerpts(err)))
	if _, ok := errors.AsType[negativeError](err); ok {
		return 1
	}
	return 2
}

// Family makes c a command that has only commands below it.
func Family(c *cobra.Command, below ...*cobra.Command) *cobra.Command {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return UnknownCommand(c, args[0])
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(below...)
	if c.Example == "" {
		for _, first := range c.Commands() {
			if c.Example == "" && !first.Hidden {
				c.Example, _, _ = strings.Cut(first.Example, "\n")
			}
		}
	}
	return c
}

// NoArguments refuses arguments.
func NoArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, and %q is one\ntry: %s", c.CommandPath(), args[0], firstExample(c))
	}
	return nil
}

// firstExample is a command line that works.
func firstExample(c *cobra.Command) string {
	line, _, _ := strings.Cut(strings.TrimSpace(c.Example), "\n")
	return line
}

// Arguments checks how many there are; hint shows a command line that works, "" stands for the first example.
func Arguments(hint string, counts ...int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		for _, n := range counts {
			if len(args) == n {
				return nil
			}
		}
		hint := cmp.Or(hint, firstExample(c))
		return fmt.Errorf("%s given, %s expected\ntry: %s", terminal.Count(len(args), "argument"), strings.Trim(strings.ReplaceAll(fmt.Sprint(counts), " ", " or "), "[]"), hint)
	}
}

// Notices tells on w what a configuration that is tried leaves out.
func Notices(w io.Writer) func(string) {
	return func(text string) { fmt.Fprintln(w, "notice: "+text) }
}

// oldSpelling is a flag's value that knows whether it was given in a way that goes away.
type oldSpelling interface{ Deprecation() string }

// WarnOldSpellings says on w which flags were given in a way that works for this version only.
func WarnOldSpellings(flags *pflag.FlagSet, w io.Writer) {
	flags.Visit(func(f *pflag.Flag) {
		if old, ok := f.Value.(oldSpelling); ok && old.Deprecation() != "" {
			fmt.Fprintf(w, "notice: %s; the old spelling works in this version only\n", old.Deprecation())
		}
	})
}

// oldFlag is a flag that an earlier version had.
type oldFlag struct {
	notice string
	set    func(string) error
	given  bool
}

func (f *oldFlag) String() string { return "" }
func (f *oldFlag) Type() string   { return "string" }

func (f *oldFlag) Set(text string) error {
	f.given = true
	return f.set(text)
}

func (f *oldFlag) Deprecation() string {
	if !f.given {
		return ""
	}
	return f.notice
}

// Old adds a flag that an earlier version had, with what to say where it is given: "--since-time is now --since".
func Old(c *cobra.Command, name, notice string, set func(text string) error) {
	c.Flags().Var(&oldFlag{notice: notice, set: set}, name, "")
	c.Flags().Lookup(name).Hidden = true
}

// WriteFile writes a file that is there as a whole or not at all; - is standard output. A link stays, and so does a device
// or a pipe.
func WriteFile(c *cobra.Command, file string, content []byte) error {
	if file == "-" {
		_, err := c.OutOrStdout().Write(content)
		return err
	}
	if info, err := os.Stat(file); err == nil {
		if !info.Mode().IsRegular() {
			return os.WriteFile(file, content, 0o644) // it exists, so this creates nothing
		}
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return err
		}
	}
	return scaffold.PlaceFile(file, content, 0o644)
}
