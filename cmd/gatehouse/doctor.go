package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

func doctorCommand() *cobra.Command {
	var cfg, output, severity string
	var fix bool
	c := &cobra.Command{
		Use:   "doctor FILE|FOLDER|URL...",
		Short: "Find what bypasses Gatehouse in Envoy, Istio or Envoy Gateway",
		Long: `Looks for settings that let requests bypass Gatehouse, that show it another request than the application gets, or
that turn its outage into yours. Nothing is started or changed. docs/doctor.md explains each finding.

FILE is an Envoy configuration or a piece of one (YAML or JSON), a saved /config_dump, or Kubernetes objects: Istio's with the
mesh configuration, Envoy Gateway's, the Gateway API's. FOLDER is all of its .yaml, .yml and .json files. Files given together are looked
at together. URL is the admin port of a running Envoy, such as http://127.0.0.1:9901. A cluster is not asked; save its objects with
kubectl get -o yaml.

Exit code: 0 nothing found or only notes, 1 something found, 2 it could not be looked at.`,
		Example: `  gatehouse doctor envoy.yaml --config gatehouse.yaml
  gatehouse doctor http://127.0.0.1:9901
  gatehouse doctor k8s/ -o sarif > doctor.sarif
  gatehouse doctor --fix envoy.yaml > mended.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("give an Envoy configuration, a folder of Kubernetes objects, or the URL of Envoy's admin port\ntry: gatehouse doctor envoy.yaml")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			least := rules.Severity(severity)
			if !slices.Contains(rules.Severities(), least) {
				return usageError{fmt.Errorf("--severity %q: give one of %v", severity, rules.Severities())}
			}
			g := rules.Default()
			if cfg != "" {
				settings, _, err := config.Source{File: cfg}.Read()
				if err != nil {
					return usageError{err}
				}
				g = doctor.Gatehouse(settings)
			}
			inputs, err := doctor.Read(c.Context(), args)
			if err != nil {
				return usageError{err}
			}
			if fix {
				return printMended(c, inputs, g)
			}
			report, err := doctor.Examine(inputs, g)
			if err != nil {
				return usageError{err}
			}
			return printReport(c, report.AtLeast(least), output)
		},
	}
	c.Flags().StringVarP(&cfg, "config", "c", "", "gatehouse.yaml of the Gatehouse that is asked: compare with it (default: its defaults)")
	c.Flags().StringVarP(&output, "output", "o", "text", "text, json or sarif (SARIF 2.1.0, for code scanning)")
	c.Flags().StringVar(&severity, "severity", string(rules.Note), "report only what is at least this: note, warning or error")
	c.Flags().BoolVar(&fix, "fix", false, "print the mended configuration; comments stay, empty lines do not")
	return c
}

func printReport(c *cobra.Command, report *doctor.Report, output string) error {
	var err error
	switch output {
	case "text":
		report.Text(c.OutOrStdout())
	case "json":
		err = report.JSON(c.OutOrStdout())
	case "sarif":
		err = report.SARIF(c.OutOrStdout(), version())
	default:
		return usageError{fmt.Errorf("-o %q: give text, json or sarif", output)}
	}
	if err == nil && report.Wrong() {
		return errSaid
	}
	return err
}

// printMended prints the mended inputs, and on standard error what is left for a person.
func printMended(c *cobra.Command, inputs []doctor.Input, g rules.Gatehouse) error {
	mended, err := doctor.Mend(inputs, g)
	if err != nil {
		return usageError{err}
	}
	for _, in := range mended {
		if len(mended) > 1 {
			fmt.Fprintf(c.OutOrStdout(), "---\n# %s\n", in.Name)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s", in.Text)
	}
	report, err := doctor.Examine(mended, g)
	if err != nil {
		return usageError{err}
	}
	if len(report.Findings) == 0 {
		return nil
	}
	fmt.Fprintln(c.ErrOrStderr(), "left for you to mend, with the lines of what was printed:")
	report.Text(c.ErrOrStderr())
	if report.Wrong() {
		return errSaid
	}
	return nil
}
