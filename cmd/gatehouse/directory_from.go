package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/directory/convert"
	"gatehouse/terminal"
)

func directoryFromCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "from",
		Short: "Make a directory of LDIF, CSV, or an export of Keycloak",
		Long: `Writes a folder that every other command takes, with the default manifest, and says what was left out and why. Passwords are never
copied. A file with something that is ambiguous is refused, with its lines, and nothing is written.`,
	}
	grammar.Family(c, fromLDIFCommand(), fromCSVCommand(), fromKeycloakCommand())
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown form %q\nthere are ldif, csv and keycloak-export", args[0])
		}
		return nil
	}
	return c
}

// fromFlags are those of every form.
type fromFlags struct {
	out    string
	force  bool
	output grammar.Output

	read, total atomic.Int64 // bytes of the file
}

func (f *fromFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.out, "out", "", "folder to write")
	f.output.Add(c, "one object")
	c.Flags().BoolVar(&f.force, "force", false, "replace the directory that is in the folder")
}

// run converts a file and writes what comes of it.
func (f *fromFlags) run(c *cobra.Command, read func() (*convert.Result, error)) error {
	if f.out == "" {
		return errors.New("say where to: --out directory")
	}
	done := terminal.Progress(c.ErrOrStderr(), func(took time.Duration) string {
		if f.total.Load() == 0 {
			return fmt.Sprintf("converting: %s", took.Round(time.Second))
		}
		return terminal.Bar(float64(f.read.Load())/float64(f.total.Load()), took, "converting")
	})
	r, err := read()
	if err == nil {
		if err = r.WriteFolder(f.out, f.force); err != nil {
			err = fmt.Errorf("writing the directory: %w", err)
		}
	}
	if done(); err != nil {
		return err
	}
	printLeftOut(c.ErrOrStderr(), "warning", r.Doubts)
	return f.summary(c.OutOrStdout(), r)
}

func (f *fromFlags) summary(out io.Writer, r *convert.Result) error {
	var w bytes.Buffer
	t := r.Snapshot.Stats()
	if f.output.JSON() {
		left := map[string]int{}
		for _, l := range r.Left {
			left[l.Reason] = l.Count
		}
		return terminal.JSON(out).Encode(map[string]any{"folder": f.out, "objects": t.Objects, "relations": t.Relations, "objects_by_type": t.ByType, "relations_by_name": t.ByRelation, "left_out": left})
	}
	fmt.Fprintf(&w, "wrote %s: %d object(s), %d relation(s)\n", terminal.Visible(f.out), t.Objects, t.Relations)
	for _, name := range slices.Sorted(maps.Keys(t.ByType)) {
		fmt.Fprintf(&w, "  %-30s %s\n", name, terminal.Thousands(t.ByType[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(t.ByRelation)) {
		fmt.Fprintf(&w, "  %-30s %s\n", name, terminal.Thousands(t.ByRelation[name]))
	}
	printLeftOut(&w, "left out", r.Left)
	_, err := w.WriteTo(out)
	return err
}

// printLeftOut says what was left out, or is in doubt, and where.
func printLeftOut(w io.Writer, what string, list []convert.Left) {
	for _, l := range list {
		fmt.Fprintf(w, "%s: %s: %s\n", what, l.Reason, terminal.Thousands(l.Count))
		for _, one := range l.First {
			fmt.Fprintf(w, "  %s\n", terminal.Visible(one))
		}
		if more := l.Count - len(l.First); more > 0 {
			fmt.Fprintf(w, "  ... and %s more\n", terminal.Thousands(more))
		}
	}
}

// convertFile reads a file with one of the converters.
func (f *fromFlags) convertFile(file string, read func(io.Reader) (*convert.Result, error)) (*convert.Result, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if info, err := in.Stat(); err == nil && info.Mode().IsRegular() {
		f.total.Store(info.Size())
	}
	return read(&counted{in, &f.read})
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func fromLDIFCommand() *cobra.Command {
	var f fromFlags
	var o convert.LDIFOptions
	c := &cobra.Command{
		Use:   "ldif FILE --out FOLDER",
		Short: "Make a directory of an LDAP server's or Active Directory's entries",
		Long: `Reads LDIF as slapcat, ldapsearch -LLL and ldifde write it. Users' ids are their sAMAccountName or uid, groups' their
sAMAccountName or cn.`,
		Example: `  gatehouse directory from ldif people.ldif --out ./directory`,
		Args:    grammar.Arguments("gatehouse directory from ldif people.ldif --out ./directory", 1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c, func() (*convert.Result, error) {
				return f.convertFile(args[0], func(in io.Reader) (*convert.Result, error) { return convert.LDIF(args[0], in, o) })
			})
		},
	}
	f.add(c)
	c.Flags().BoolVar(&o.WithoutEmail, "without-email", false, "e-mail addresses are no identities; for users who share some")
	return c
}

func fromCSVCommand() *cobra.Command {
	var f fromFlags
	var o convert.CSVOptions
	c := &cobra.Command{
		Use:   "csv FILE --out FOLDER",
		Short: "Make a directory of a table",
		Long: `Reads a table with a header. Of users, the columns roles and groups list what they are members of, with ; between, and
email and identity are names that they are known by. Other columns become properties.`,
		Example: `  gatehouse directory from csv users.csv --out ./directory
  gatehouse directory from csv users.csv --id-column login --out ./directory`,
		Args: grammar.Arguments("gatehouse directory from csv users.csv --out ./directory", 1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c, func() (*convert.Result, error) {
				return f.convertFile(args[0], func(in io.Reader) (*convert.Result, error) { return convert.CSV(args[0], in, o) })
			})
		},
	}
	f.add(c)
	c.Flags().StringVar(&o.Type, "type", "user", "type of the objects")
	c.Flags().StringVar(&o.ID, "id-column", "id", "column of the ids")
	c.Flags().BoolVar(&o.WithoutEmail, "without-email", false, "e-mail addresses are no identities; for users who share some")
	return c
}

func fromKeycloakCommand() *cobra.Command {
	var f fromFlags
	var o convert.KeycloakOptions
	c := &cobra.Command{
		Use:   "keycloak-export FILE... --out FOLDER",
		Short: "Make a directory of a realm that Keycloak exported",
		Long: `Reads what kc.sh export writes: one file, or a realm's file with those of its users. Users' ids are their usernames, groups'
their paths (/eng/web), and roles' their names; those of clients are CLIENT:ROLE.`,
		Example: `  gatehouse directory from keycloak-export shop-realm.json shop-users-0.json --out ./directory`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name a file: gatehouse directory from keycloak-export shop-realm.json --out ./directory")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c, func() (*convert.Result, error) {
				var files []convert.File
				for _, name := range args {
					text, err := readLimited(name, convert.MaxKeycloak)
					if err != nil {
						return nil, err
					}
					files = append(files, convert.File{Name: name, Text: text})
				}
				return convert.Keycloak(files, o)
			})
		},
	}
	f.add(c)
	c.Flags().StringVar(&o.Realm, "realm", "", "the realm, of several")
	c.Flags().BoolVar(&o.WithoutEmail, "without-email", false, "e-mail addresses are no identities")
	return c
}

// readLimited reads a file of at most so many bytes.
func readLimited(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s: more than %d bytes", name, most)
	}
	return text, err
}
