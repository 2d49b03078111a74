package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/directory"
	"gatehouse/terminal"
)

func directoryGraphCommand() *cobra.Command {
	var f directoryFlags
	var q directory.GraphQuery
	var asJSON bool
	c := &cobra.Command{
		Use:   "graph FOLDER OBJECT RELATION SUBJECT",
		Short: "List who completes a query, with the relations that lead there",
		Long: `Answers as Topaz's GetGraph. Of OBJECT and SUBJECT one or both are TYPE:ID; a type alone stands for those that are
looked for. With --subject-relation, those are meant who have that relation to SUBJECT. With --explain, each result is followed by
the relations of one path, up to 100 results.

Exit code: 0 it was answered, 2 it could not be.`,
		Example: `  gatehouse directory graph ./directory doc:7 can_read user --explain
  gatehouse directory graph ./directory doc can_read group:eng --subject-relation member`,
		Args: arguments("gatehouse directory graph ./directory doc:7 can_read user", 4),
		RunE: func(c *cobra.Command, args []string) error {
			q.Object, q.Relation, q.Subject = refOrType(args[1]), args[2], refOrType(args[3])
			s, err := f.load(c, args[0])
			if err != nil {
				return usageError{err}
			}
			a, err := s.Graph(q, time.Now())
			if err != nil {
				return unanswered(err)
			}
			return printGraph(c, a, asJSON)
		},
	}
	f.add(c)
	c.Flags().StringVar(&q.SubjectRelation, "subject-relation", "", "relation to the subject that the subjects have")
	c.Flags().BoolVar(&q.Explain, "explain", false, "with a path of relations for each result")
	c.Flags().BoolVar(&q.Trace, "trace", false, "with the questions that were answered, on standard error")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return c
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
