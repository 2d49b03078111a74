package grammar

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

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
func (f *formatFlag) Deprecation() string { return f.old }

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

// Output is how a command prints, and the file that it writes.
type Output struct {
	Format string // text, json
	File   string // --out; "" where none was named
}

// JSON reports whether -o json was given.
func (o *Output) JSON() bool { return o.Format == "json" }

// Add adds -o. what says what is printed as JSON.
func (o *Output) Add(c *cobra.Command, what string) { o.Formats(c, what, nil, formatNames) }

// AddFile adds -o, and --out for a file.
func (o *Output) AddFile(c *cobra.Command, what, file, usage string) {
	o.File = file
	c.Flags().StringVar(&o.File, "out", file, usage)
	o.Formats(c, what, &o.File, formatNames)
}

// Formats is Add with other names than text and json. file takes what -o named before there was --out; nil where it named nothing.
func (o *Output) Formats(c *cobra.Command, what string, file *string, names []string) {
	o.Format = "text"
	f := &formatFlag{name: &o.Format, names: names, file: file}
	c.Flags().VarP(f, "output", "o", "how to print: "+strings.Join(names, " or ")+" ("+what+")")
	Old(c, "json", "--json is now -o json", func(text string) error {
		on, err := strconv.ParseBool(text)
		if on {
			o.Format = "json"
		}
		return err
	})
	c.Flags().Lookup("json").NoOptDefVal = "true"
}

// OutFlag adds --out to a command that prints a file or writes it, and -o, its old spelling.
func OutFlag(c *cobra.Command, file *string, value, usage string) {
	c.Flags().StringVar(file, "out", value, usage)
	none := ""
	c.Flags().VarP(&formatFlag{name: &none, file: file}, "output", "o", "")
	c.Flags().Lookup("output").Hidden = true
}
