package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/envoy/doctor"
)

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor ENVOY.yaml",
		Short: "Look for what is wrong in an Envoy configuration",
		Long: `Looks at each ext_authz filter in an Envoy configuration, in YAML or JSON, and prints what makes it let requests through that were not
decided, or decide about another body than the application gets, each with file and line. Nothing is started or changed. A note is no
mistake. It knows what the file says, not what Envoy fetches.

Exit code: 0 nothing was found, 1 something was, 2 it could not look.`,
		Example: `  gatehouse doctor envoy.yaml`,
		Args:    arguments("gatehouse doctor envoy.yaml", 1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := config.ReadUpTo(args[0], doctor.MaxFile)
			if err != nil {
				return usageError{fmt.Errorf("reading the Envoy configuration: %w", err)}
			}
			found, err := doctor.Examine(args[0], text)
			if err != nil {
				return usageError{err}
			}
			return printDiagnosis(c.OutOrStdout(), found)
		},
	}
}

func printDiagnosis(w io.Writer, d *doctor.Diagnosis) error {
	slices.SortStableFunc(d.Symptoms, func(a, b doctor.Symptom) int { return cmp.Compare(a.Line, b.Line) })
	wrong := 0
	for _, f := range d.Symptoms {
		text := f.Text
		if f.Note {
			text = "note: " + text
		} else {
			wrong++
		}
		fmt.Fprintf(w, "%s:%d: %s\n", d.File, f.Line, text)
	}
	if d.Filters == 0 {
		fmt.Fprintf(w, "%s: no ext_authz filter: nothing in this file asks Gatehouse\n", d.File)
		return errSaid
	}
	if wrong > 0 {
		return errSaid
	}
	fmt.Fprintf(w, "%s: nothing wrong with %d ext_authz filter(s)\n", d.File, d.Filters)
	return nil
}
