package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/terminal"
)

// listFlags are those of who and what.
type listFlags struct {
	directoryFlags
	typ, after string
	limit      int
	output     grammar.Output
}

func (f *listFlags) add(c *cobra.Command, typ, what string) {
	f.directoryFlags.add(c)
	c.Flags().StringVar(&f.typ, "type", typ, what)
	c.Flags().StringVar(&f.after, "after", "", "go on behind this id")
	c.Flags().IntVar(&f.limit, "limit", 100, "print at most so many, up to 10000")
	f.output.Add(c, "one document")
}

func (f *listFlags) valid() error {
	if f.limit < 1 || f.limit > 10_000 {
		return fmt.Errorf("--limit %d: give 1 to 10000; --after goes on behind the last", f.limit)
	}
	return nil
}

// print prints a page. What to do for the next one goes to standard error.
func (f *listFlags) print(c *cobra.Command, found []directory.Ref, next string) error {
	names := make([]string, len(found))
	for i, r := range found {
		names[i] = r.String()
	}
	if f.output.JSON() {
		return terminal.JSON(c.OutOrStdout()).Encode(struct {
			Results []string `json:"results"`
			Next    string   `json:"next,omitempty"`
		}{names, next})
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(c.OutOrStdout(), terminal.Visible(name)); err != nil {
			return err
		}
	}
	if next != "" {
		fmt.Fprintf(c.ErrOrStderr(), "there may be more: --after '%s'\n", terminal.Visible(next))
	}
	return nil
}

func directoryWhoCommand() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use:     "who [FOLDER] RELATION OBJECT",
		Short:   "List who has a relation or permission to an object",
		Long:    `Prints the subjects of a type that have the relation or permission, in the order of their ids.`,
		Example: `  gatehouse directory who ./directory can_read doc:7`,
		Args:    grammar.Arguments("gatehouse directory who ./directory can_read doc:7", 3),
		RunE: func(c *cobra.Command, args []string) error {
			object, err := refOr(args[2], "resource")
			if err = cmp.Or(format.RelationName(args[1], "FOLDER can_read doc:7"), err, f.valid()); err != nil {
				return err
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			found, next, err := s.Who(object, args[1], f.typ, f.after, f.limit, time.Now())
			if err != nil {
				return unanswered(s, err, "FOLDER RELATION OBJECT", format.Asked{Object: args[2], Relation: args[1]})
			}
			return f.print(c, found, next)
		},
	}
	f.add(c, "user", "type of the subjects")
	return f.orConfigured(c, exactly(3))
}

func directoryWhatCommand() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use:   "what [FOLDER] SUBJECT RELATION",
		Short: "List to which objects a subject has a relation or permission",
		Long: `Prints the objects of a type to which the subject has the relation or permission, in the order of their ids. Without
--type, those of every type that has it, --limit of each. A subject without a type is a user.`,
		Example: `  gatehouse directory what ./directory alice can_read --type doc`,
		Args:    grammar.Arguments("gatehouse directory what ./directory alice can_read", 3),
		RunE: func(c *cobra.Command, args []string) error {
			subject, err := refOr(args[1], "user")
			if err = cmp.Or(format.RelationName(args[2], "FOLDER alice can_read"), err, f.valid()); err != nil {
				return err
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			noticeSet(c, s, subject)
			return f.what(c, s, subject, args[1:])
		},
	}
	f.add(c, "", "type of the objects (default: each that has the relation)")
	return f.orConfigured(c, exactly(3))
}

func (f *listFlags) what(c *cobra.Command, s *directory.Snapshot, subject directory.Ref, args []string) error {
	const order = "FOLDER SUBJECT RELATION"
	relation := args[1]
	types := []string{f.typ}
	if f.typ == "" {
		m := s.Manifest()
		types = slices.DeleteFunc(m.Types(), func(t string) bool {
			return !slices.Contains(m.Relations(t), relation) && !slices.Contains(m.Permissions(t), relation)
		})
	}
	switch {
	case len(types) == 0:
		return unanswered(s, fmt.Errorf("%w %q of any type; the order is %s", directory.ErrUnknownRelation, relation, order), order, format.Asked{Relation: relation, Subject: args[0]})
	case len(types) > 1 && f.after != "":
		return fmt.Errorf("--after needs --type: %q is in %v", relation, types)
	}
	var all []directory.Ref
	last := ""
	for _, typ := range types {
		found, next, err := s.What(subject, relation, typ, f.after, f.limit, time.Now())
		if err != nil {
			return unanswered(s, err, order, format.Asked{Object: typ, Relation: relation, Subject: subject.String()})
		}
		all = append(all, found...)
		if next != "" {
			last = next
			if len(types) > 1 {
				fmt.Fprintf(c.ErrOrStderr(), "of type %s: --type %s --after '%s'\n", typ, typ, terminal.Visible(next))
			}
		}
	}
	return f.print(c, all, last)
}

func directoryStatsCommand() *cobra.Command {
	var f directoryFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:     "stats [FOLDER]",
		Short:   "Count objects and relations",
		Example: `  gatehouse directory stats ./directory`,
		Args:    grammar.Arguments("gatehouse directory stats ./directory", 1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			t := s.Stats()
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(struct {
					Digest    string         `json:"digest"`
					Objects   int            `json:"objects"`
					Relations int            `json:"relations"`
					Expiring  int            `json:"expiring"`
					Bytes     int64          `json:"bytes"`
					Types     map[string]int `json:"objects_by_type"`
					By        map[string]int `json:"relations_by_name"`
				}{s.Digest(), t.Objects, t.Relations, t.Expiring, t.Bytes, t.ByType, t.ByRelation})
			}
			return printDirectoryStats(c.OutOrStdout(), s, t)
		},
	}
	f.add(c)
	output.Add(c, "one document")
	return f.orConfigured(c, exactly(1))
}

func printDirectoryStats(out io.Writer, s *directory.Snapshot, t directory.Stats) error {
	var w bytes.Buffer
	fmt.Fprintf(&w, "digest     %s\nobjects    %s\n", s.Digest(), terminal.Thousands(t.Objects))
	for _, name := range slices.Sorted(maps.Keys(t.ByType)) {
		fmt.Fprintf(&w, "  %-30s %s\n", name, terminal.Thousands(t.ByType[name]))
	}
	fmt.Fprintf(&w, "relations  %s, %s of them expire\n", terminal.Thousands(t.Relations), terminal.Thousands(t.Expiring))
	for _, name := range slices.Sorted(maps.Keys(t.ByRelation)) {
		fmt.Fprintf(&w, "  %-30s %s\n", name, terminal.Thousands(t.ByRelation[name]))
	}
	_, err := w.WriteTo(out)
	return err
}

func directoryGraphCommand() *cobra.Command {
	var f directoryFlags
	var q directory.GraphQuery
	var output grammar.Output
	c := &cobra.Command{
		Use:   "graph [FOLDER] OBJECT RELATION SUBJECT",
		Short: "List who completes a query, with the relations that lead there",
		Long: `Answers as Topaz's GetGraph. Of OBJECT and SUBJECT one or both are TYPE:ID; a type alone stands for those that are
looked for. With --subject-relation, those are meant who have that relation to SUBJECT. With --explain, each result is followed by
the relations of one path, up to 100 results.

Exit code: 0 it was answered, 2 it could not be.`,
		Example: `  gatehouse directory graph ./directory doc:7 can_read user --explain
  gatehouse directory graph ./directory doc can_read group:eng --subject-relation member`,
		Args: grammar.Arguments("gatehouse directory graph ./directory doc:7 can_read user", 4),
		RunE: func(c *cobra.Command, args []string) error {
			q.Object, q.Relation, q.Subject = refOrType(args[1]), args[2], refOrType(args[3])
			if err := format.RelationName(q.Relation, "FOLDER doc:7 can_read user:alice"); err != nil {
				return err
			}
			s, err := f.load(c, args[0])
			if err != nil {
				return err
			}
			a, err := s.Graph(q, time.Now())
			if err != nil {
				return unanswered(s, err, "FOLDER OBJECT RELATION SUBJECT", format.Asked{Object: args[1], Relation: args[2], Subject: args[3]})
			}
			return printGraph(c, a, output.JSON())
		},
	}
	f.add(c)
	c.Flags().StringVar(&q.SubjectRelation, "subject-relation", "", "relation to the subject that the subjects have")
	c.Flags().BoolVar(&q.Explain, "explain", false, "with a path of relations for each result")
	c.Flags().BoolVar(&q.Trace, "trace", false, "with the questions that were answered, on standard error")
	output.Add(c, "one document")
	return f.orConfigured(c, exactly(4))
}

// refOrType reads type:id, or a type alone.
func refOrType(text string) directory.Ref {
	typ, id, _ := strings.Cut(text, ":")
	return directory.Ref{Type: typ, ID: id}
}

func printGraph(c *cobra.Command, a *directory.GraphAnswer, asJSON bool) error {
	names := make([]string, len(a.Results))
	for i, r := range a.Results {
		names[i] = r.String()
	}
	if asJSON {
		return terminal.JSON(c.OutOrStdout()).Encode(struct {
			Results     []string              `json:"results"`
			Explanation map[string][][]string `json:"explanation,omitempty"`
			Trace       []string              `json:"trace,omitempty"`
		}{names, a.Explanation, a.Trace})
	}
	for _, line := range a.Trace {
		fmt.Fprintln(c.ErrOrStderr(), terminal.Visible(line))
	}
	for _, name := range names {
		for _, path := range a.Explanation[name] {
			name += "  " + strings.Join(path, "  ")
		}
		if _, err := fmt.Fprintln(c.OutOrStdout(), terminal.Visible(name)); err != nil {
			return err
		}
	}
	return nil
}
