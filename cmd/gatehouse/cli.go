package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse/policy/bundle"
)

// Every command ends with 0 where all is well, with 1 where the answer is no or something was found, and with 2 where it could not be done:
// errReported is a no that the command has printed itself, negativeError one whose text is still to be printed, and any other error is a 2.
var errReported = errors.New("reported already")

type negativeError struct{ error }

func (e negativeError) Unwrap() error { return e.error }

// exitCode is how the program ends after err, which it prints unless the command did.
func exitCode(err error, stderr func(string)) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return 1
	}
	stderr(bundle.Excerpts(err))
	if _, ok := errors.AsType[negativeError](err); ok {
		return 1
	}
	return 2
}

// family makes c a command that has only commands below it.
func family(c *cobra.Command, below ...*cobra.Command) *cobra.Command {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q for %s\n%s --help lists them", args[0], c.CommandPath(), c.CommandPath())
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(below...)
	return c
}

// oldSpelling is a flag's value that knows whether it was given in a way that goes away.
type oldSpelling interface{ deprecation() string }

// warnOldSpellings says on w which flags were given in a way that works for this version only.
func warnOldSpellings(flags *pflag.FlagSet, w io.Writer) {
	flags.Visit(func(f *pflag.Flag) {
		if old, ok := f.Value.(oldSpelling); ok && old.deprecation() != "" {
			fmt.Fprintf(w, "notice: %s; the old spelling works in this version only\n", old.deprecation())
		}
	})
}

// formatFlag is -o: how a command prints.
type formatFlag struct {
	name  *string
	names []string
	file  *string // that -o named before --out did; nil where there is none
	old   string
}

// formatNames are what -o can say everywhere.
var formatNames = []string{"text", "json"}

func (f *formatFlag) String() string {
	if f.name == nil {
		return ""
	}
	return *f.name
}
func (f *formatFlag) Type() string        { return strings.Join(f.names, "|") }
func (f *formatFlag) deprecation() string { return f.old }

func (f *formatFlag) Set(text string) error {
	switch {
	case slices.Contains(f.names, text):
		*f.name = text
	case f.file != nil:
		*f.file, f.old = text, "-o FILE is now --out FILE"
	default:
		return fmt.Errorf("there are %s", strings.Join(f.names, ", "))
	}
	return nil
}

// jsonFlag is --json, the old spelling of -o json, and --format of replay.
type jsonFlag struct {
	f   *formatFlag
	set string
}

func (j *jsonFlag) String() string { return "false" }
func (j *jsonFlag) Type() string   { return "bool" }
func (j *jsonFlag) deprecation() string {
	return "--json is now -o json"
}

func (j *jsonFlag) Set(text string) error {
	on, err := strconv.ParseBool(text)
	if on {
		*j.f.name = j.set
	}
	return err
}

// outputFlags are how a command prints, and the file that it writes.
type outputFlags struct {
	format string // text, json
	file   string // --out; "" where none was named
}

func (o *outputFlags) json() bool { return o.format == "json" }

// add adds -o. what says what is printed as JSON.
func (o *outputFlags) add(c *cobra.Command, what string) { o.flags(c, what, nil, formatNames) }

// addFile adds -o, and --out for a file.
func (o *outputFlags) addFile(c *cobra.Command, what, file, usage string) {
	o.file = file
	c.Flags().StringVar(&o.file, "out", file, usage)
	o.flags(c, what, &o.file, formatNames)
}

func (o *outputFlags) flags(c *cobra.Command, what string, file *string, names []string) {
	o.format = "text"
	f := &formatFlag{name: &o.format, names: names, file: file}
	c.Flags().VarP(f, "output", "o", "how to print: "+strings.Join(names, " or ")+" ("+what+")")
	c.Flags().Var(&jsonFlag{f, "json"}, "json", "")
	c.Flags().Lookup("json").NoOptDefVal, c.Flags().Lookup("json").Hidden = "true", true
}

// outFlag adds --out to a command that prints a file or writes it, and -o, its old spelling.
func outFlag(c *cobra.Command, file *string, value, usage string) {
	c.Flags().StringVar(file, "out", value, usage)
	none := ""
	c.Flags().VarP(&formatFlag{name: &none, file: file}, "output", "o", "")
	c.Flags().Lookup("output").Hidden = true
}

// durationFlag is a length of time, in which d stands for 24 hours.
type durationFlag time.Duration

func (d *durationFlag) String() string { return time.Duration(*d).String() }
func (d *durationFlag) Type() string   { return "duration" }

func (d *durationFlag) Set(text string) error {
	long, err := parseDuration(text)
	*d = durationFlag(long)
	return err
}

// parseDuration reads 90m, 36h or 7d.
func parseDuration(text string) (time.Duration, error) {
	days, ok := strings.CutSuffix(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseInt(days, 10, 64)
	if err != nil || n > int64(1<<63-1)/int64(24*time.Hour) || n < 0 {
		return 0, fmt.Errorf("%q is no number of days", text)
	}
	return time.Duration(n) * 24 * time.Hour, nil
}
