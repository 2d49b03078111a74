package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/directory/journal"
	"gatehouse/terminal"
)

func directoryCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "directory",
		Short: "Check, query and convert directories of users, groups and resources",
		Long: `Reads a directory from a folder (manifest.yaml, objects.jsonl, relations.jsonl), from Topaz's JSON, a YAML file, a
snapshot, or the state_dir of a node that writes its directory, also while it runs, and answers questions about it. Nothing is started. import, export
and from write the file or folder that --out names; the others change nothing.`,
	}
	return grammar.Family(c, directoryCheckCommand(), directoryWhyCommand(), directoryWhoCommand(), directoryWhatCommand(), directoryGraphCommand(), directoryGetCommand(),
		directoryStatsCommand(), directoryValidateCommand(), directoryImportCommand(), directoryExportCommand(), directoryDiffCommand(),
		directoryFromCommand())
}

// directoryFlags are flags that every command about a directory has.
type directoryFlags struct {
	manifest string
	force    bool
	problems int
}

func (f *directoryFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.manifest, "manifest", "", "manifest to read the directory with, instead of its own")
}

// orConfigured has a command take the directory of the configuration where it is not named: where, of so many arguments, the first is missing.
func (f *directoryFlags) orConfigured(c *cobra.Command, missing func(args []string) bool) *cobra.Command {
	var file string
	c.Flags().StringVarP(&file, "config", "c", "", "configuration whose directory is read where FOLDER is not given (default: gatehouse.yaml, if it exists)")
	check, run := c.Args, c.RunE
	filled := func(args []string) ([]string, error) {
		switch {
		case !missing(args) && file != "":
			return nil, fmt.Errorf("both %s and --config %s name a directory: give one of them", args[0], file)
		case !missing(args):
			return args, nil
		}
		path, err := f.configured(file)
		return append([]string{path}, args...), err
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if missing(args) {
			args = append([]string{""}, args...)
		}
		return check(c, args)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		args, err := filled(args)
		if err != nil {
			return err
		}
		return run(c, args)
	}
	return c
}

// exactly reports whether one of n arguments is missing.
func exactly(n int) func([]string) bool { return func(args []string) bool { return len(args) == n-1 } }

// configured is where the directory of a configuration is.
func (f *directoryFlags) configured(file string) (string, error) {
	src, err := config.Source{File: file}.OrDefault()
	if err != nil {
		return "", errors.New("which directory? name its FOLDER, or a configuration with --config")
	}
	cfg, doc, err := src.Read()
	if err == nil {
		err = errors.Join(doc.Errs...)
	}
	if err != nil {
		return "", err
	}
	switch d := cfg.Directory; {
	case d.File != "":
		f.manifest = cmp.Or(f.manifest, d.Manifest)
		return d.File, nil
	case d.Configured():
		return cfg.StateDir, nil
	}
	return "", fmt.Errorf("%s names no directory: set directory.file, or name the FOLDER", src.File)
}

// load reads the directory under path, and says how far it is where that takes long.
func (f *directoryFlags) load(c *cobra.Command, path string) (*directory.Snapshot, error) {
	var at atomic.Pointer[format.Progress]
	at.Store(&format.Progress{})
	defer terminal.Progress(c.ErrOrStderr(), func(took time.Duration) string {
		p := at.Load()
		return terminal.Bar(float64(p.Bytes)/float64(max(p.Total, 1)), took, fmt.Sprintf("loading: %s objects, %s relations", terminal.Thousands(p.Objects), terminal.Thousands(p.Relations)))
	})()
	if folder := journal.Find(path); folder != "" {
		return f.written(c, folder)
	}
	s, err := format.Load(c.Context(), path, format.Options{Manifest: f.manifest, Force: f.force, Problems: f.problems, Progress: func(p format.Progress) { at.Store(&p) }})
	if strings.Contains(path, ":") && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no folder %s: the folder comes first, then what is asked", path)
	}
	return s, orDrop(err)
}

// orDrop says what to do about data that a manifest does not allow.
func orDrop(err error) error {
	var orphans *directory.OrphanError
	if !errors.As(err, &orphans) {
		return err
	}
	return fmt.Errorf("%w; correct the manifest, or drop them with directory import --force", err)
}

// written reads the directory that a node with directory.writable keeps.
func (f *directoryFlags) written(c *cobra.Command, folder string) (*directory.Snapshot, error) {
	s, err := journal.Read(c.Context(), folder, directory.Limits{})
	if err != nil || f.manifest == "" {
		return s, err
	}
	m, err := format.ReadManifest(f.manifest)
	if err != nil {
		return nil, err
	}
	s, err = s.SetManifest(m, f.force)
	return s, orDrop(err)
}

// refOr reads type:id; a bare id is one of the type.
func refOr(text, typ string) (directory.Ref, error) {
	if !strings.Contains(text, ":") && text != "" {
		return directory.Ref{Type: typ, ID: text}, nil
	}
	ref, err := format.ParseRef(text)
	if err != nil {
		return ref, err
	}
	return ref, nil
}

func directoryGetCommand() *cobra.Command {
	var f directoryFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:   "get [FOLDER] TYPE:ID",
		Short: "Print an object and its relations",
		Long: `Prints an object as JSON, then the relations to and from it, one a line, up to 1,000.

Exit code: 0 it exists, 1 it does not, 2 the directory could not be read.`,
		Example: `  gatehouse directory get ./directory user:alice`,
		Args:    grammar.Arguments("gatehouse directory get ./directory user:alice", 2),
		RunE: func(c *cobra.Command, args []string) error {
			ref, err := refOr(args[1], "user")
			if err != nil {
				return err
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			o, ok := s.Object(ref)
			if !ok {
				return f.absent(s, args[1], ref)
			}
			return printObject(c.OutOrStdout(), s, o, output.JSON())
		},
	}
	f.add(c)
	output.Add(c, "the same lines, with {\"more\": true} where there are more")
	return f.orConfigured(c, exactly(2))
}

// absent says that there is no such object: 1, or 2 where there cannot be one.
func (f *directoryFlags) absent(s *directory.Snapshot, text string, ref directory.Ref) error {
	types := s.Manifest().Types()
	switch {
	case !slices.Contains(types, ref.Type):
		return fmt.Errorf("%w %q (known: %s)\nthe order is FOLDER TYPE:ID", directory.ErrUnknownType, ref.Type, strings.Join(types, ", "))
	case !strings.Contains(text, ":") && slices.Contains(types, text):
		return grammar.Negative(fmt.Errorf("%s does not exist; %s is a type: write %s:ID", ref, text, text))
	case strings.Contains(ref.ID, "#"):
		return grammar.Negative(fmt.Errorf("%s does not exist; an object is TYPE:ID, without a relation", ref))
	}
	return grammar.Negative(fmt.Errorf("%s does not exist", ref))
}

func printObject(w io.Writer, s *directory.Snapshot, o directory.Object, asJSON bool) error {
	const most = 1000
	if _, err := fmt.Fprintf(w, "%s\n", terminal.VisibleJSON(format.AppendObject(nil, o))); err != nil {
		return err
	}
	n := 0
	for _, filter := range []directory.RelationFilter{{Object: o.Ref}, {Subject: o.Ref}} {
		for r := range s.Relations(filter, time.Now()) {
			if n++; n > most {
				_, err := fmt.Fprintln(w, map[bool]string{false: "... and more", true: `{"more": true}`}[asJSON])
				return err
			}
			if _, err := fmt.Fprintf(w, "%s\n", terminal.VisibleJSON(format.AppendRelation(nil, r))); err != nil {
				return err
			}
		}
	}
	return nil
}

// unanswered turns an error of a question into exit code 2, with what is in the wrong place of it, if that is seen.
func unanswered(s *directory.Snapshot, err error, order string, asked format.Asked) error {
	if !errors.Is(err, directory.ErrUnknownType) && !errors.Is(err, directory.ErrUnknownRelation) && !errors.Is(err, directory.ErrGraphQuery) {
		return err
	}
	if hint := format.Hint(s.Manifest(), asked); hint != "" {
		return fmt.Errorf("%w\n%s; the order is %s", err, terminal.Visible(hint), order)
	}
	return fmt.Errorf("%w\nthe manifest says which types, relations and permissions there are", err)
}

// noticeSet says where a question's subject is not what was meant.
func noticeSet(c *cobra.Command, s *directory.Snapshot, subject directory.Ref) {
	if text := format.Members(s, subject); text != "" {
		fmt.Fprintln(c.ErrOrStderr(), "notice:", terminal.Visible(text))
	}
}
