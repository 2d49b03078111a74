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
		Short: "Find problems in an Envoy configuration",
		Long: `Checks each ext_authz filter in an Envoy configuration (YAML or JSON). It prints, with file and line, settings that let requests bypass
Gatehouse, or that show it another body than the application gets. Nothing is started or changed. Notes are not
problems. Configuration that Envoy fetches at run time is not checked.

Exit code: 0 no problems, 1 problems found, 2 the file could not be checked.`,
		Example: `  gatehouse doctor envoy.yaml`,
		Args:    arguments("gatehouse doctor envoy.yaml", 1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := config.ReadUpTo(args[0], doctor.MaxFile)
			if err != nil {
				return fmt.Errorf("reading the Envoy configuration: %w", err)
			}
			found, err := doctor.Examine(args[0], text)
			if err != nil {
				return err
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
