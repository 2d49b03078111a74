package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/durable"
	"gatehouse/terminal"
)

func directoryValidateCommand() *cobra.Command {
	f := directoryFlags{problems: 1000}
	var output grammar.Output
	c := &cobra.Command{
		Use:   "validate [FOLDER]",
		Short: "Find everything that is wrong with a directory",
		Long: `Reads a directory and prints what is wrong with it, with file, line and what to do, up to 1,000 problems. With --manifest,
what that manifest would not allow.

Exit code: 0 nothing is wrong, 1 something is, 2 it could not be read.`,
		Example: `  gatehouse directory validate ./directory
  gatehouse directory validate --manifest new.yaml ./directory`,
		Args: grammar.Arguments("gatehouse directory validate ./directory", 1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := f.load(c, args[0])
			if orphans, ok := errors.AsType[*directory.OrphanError](err); ok {
				return printOrphans(c.OutOrStdout(), orphans)
			}
			if err != nil && !errors.As(err, new(*fs.PathError)) {
				return grammar.Negative(err)
			} else if err != nil {
				return err
			}
			t := s.Stats()
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(map[string]int{"objects": t.Objects, "relations": t.Relations})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: nothing wrong with %d object(s) and %d relation(s)\n", args[0], t.Objects, t.Relations)
			return err
		},
	}
	f.add(c)
	output.Add(c, "one object where nothing is wrong")
	return f.orConfigured(c, exactly(1))
}

// printOrphans says what a manifest does not allow.
func printOrphans(w io.Writer, e *directory.OrphanError) error {
	for _, o := range e.Objects {
		fmt.Fprintf(w, "not allowed by the manifest: object %s\n", terminal.Visible(o.String()))
	}
	for _, r := range e.Relations {
		fmt.Fprintf(w, "not allowed by the manifest: relation %s\n", terminal.Visible(r.String()))
	}
	fmt.Fprintf(w, "%d object(s) and relation(s) are not allowed; correct the manifest, or drop them with directory import --force\n", e.Total)
	return grammar.ErrReported
}

func directoryImportCommand() *cobra.Command {
	var f directoryFlags
	var output grammar.Output
	var out string
	c := &cobra.Command{
		Use:   "import FOLDER --out FILE.snapshot",
		Short: "Make one binary snapshot of a directory",
		Long: `Reads a directory in any form and writes it as one binary snapshot, which loads many times as fast. With --manifest and
--force, what the manifest does not allow of a snapshot is dropped.`,
		Example: `  gatehouse directory import ./directory --out directory.snapshot`,
		Args:    grammar.Arguments("gatehouse directory import ./directory --out directory.snapshot", 1),
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("say where to: --out directory.snapshot")
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			if err := durable.Write(out, 0o644, func(w io.Writer) error { _, err := s.WriteTo(w); return err }); err != nil {
				return fmt.Errorf("writing the snapshot: %w", err)
			}
			t := s.Stats()
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(map[string]any{"file": out, "objects": t.Objects, "relations": t.Relations})
			}
			_, err = fmt.Fprintf(c.ErrOrStderr(), "wrote %s: %d object(s), %d relation(s)\n", out, t.Objects, t.Relations)
			return err
		},
	}
	f.add(c)
	output.Add(c, "one object")
	c.Flags().StringVar(&out, "out", "", "file to write; one that is there is replaced")
	c.Flags().BoolVar(&f.force, "force", false, "drop what the manifest does not allow")
	return c
}

func directoryExportCommand() *cobra.Command {
	var f directoryFlags
	var out string
	var lines, topaz bool
	c := &cobra.Command{
		Use:   "export [FOLDER|SNAPSHOT]",
		Short: "Write a directory as a folder, JSON lines, or Topaz's JSON",
		Long: `Writes a directory in any form as a folder of manifest.yaml, objects.jsonl and relations.jsonl (--out), or to standard output
as JSON lines (--jsonl) or as one JSON document that Topaz imports (--topaz).`,
		Example: `  gatehouse directory export directory.snapshot --out ./directory
  gatehouse directory export directory.snapshot --topaz > topaz.json`,
		Args: grammar.Arguments("gatehouse directory export directory.snapshot --out ./directory", 1),
		RunE: func(c *cobra.Command, args []string) error {
			if n := btoi(out != "") + btoi(lines) + btoi(topaz); n != 1 {
				return errors.New("give one of --out FOLDER, --jsonl and --topaz")
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			if out != "" {
				return format.WriteFolder(out, s)
			}
			fmt.Fprintln(c.ErrOrStderr(), "notice: the manifest is not in it: --out FOLDER writes manifest.yaml too")
			w := bufio.NewWriterSize(c.OutOrStdout(), 1<<16)
			write := format.WriteJSONLines
			if topaz {
				write = format.WriteTopaz
			}
			if err := write(w, s); err != nil {
				return err
			}
			return w.Flush()
		},
	}
	f.add(c)
	c.Flags().StringVar(&out, "out", "", "folder to write, which must be empty or not exist")
	c.Flags().BoolVar(&lines, "jsonl", false, "write JSON lines to standard output, objects first")
	c.Flags().BoolVar(&topaz, "topaz", false, "write one JSON document to standard output")
	return f.orConfigured(c, exactly(1))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func directoryDiffCommand() *cobra.Command {
	var f directoryFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:     "diff FROM TO",
		Short:   "List the changes between two directories",
		Long:    `Prints what turns one directory into the other, one change a line. Exit code: 0 none, 1 some, 2 they could not be compared.`,
		Example: `  gatehouse directory diff ./directory directory.snapshot`,
		Args:    grammar.Arguments("gatehouse directory diff ./before ./after", 2),
		RunE: func(c *cobra.Command, args []string) error {
			from, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			to, err := f.load(c, args[1])
			if err != nil {
				return err
			}
			some := false
			if string(from.Manifest().Text()) != string(to.Manifest().Text()) {
				some = true
				if err := printChange(c, &output, "the manifests differ"); err != nil {
					return err
				}
			}
			for change := range directory.Diff(from, to) {
				some = true
				if err := printChange(c, &output, change.String()); err != nil {
					return err
				}
			}
			if some {
				return grammar.ErrReported
			}
			return nil
		},
	}
	f.add(c)
	output.Add(c, "one object for each change")
	return c
}

// printChange prints one change of directories.
func printChange(c *cobra.Command, o *grammar.Output, text string) error {
	if o.JSON() {
		return terminal.JSON(c.OutOrStdout()).Encode(map[string]string{"change": text})
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), terminal.Visible(text))
	return err
}
