package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

func doctorCommand() *cobra.Command {
	var cfg, severity string
	var of doctor.Cluster
	var output grammar.Output
	var fix bool
	c := &cobra.Command{
		Use:   "doctor FILE|FOLDER|URL...",
		Short: "Find what bypasses Gatehouse in Envoy, Istio or Envoy Gateway",
		Long: `Looks for settings that let requests bypass Gatehouse, that show it another request than the application gets, or
that turn its outage into yours. Nothing is started or changed. docs/doctor.md explains each finding.

FILE is an Envoy configuration or a piece of one (YAML or JSON), a saved /config_dump, or Kubernetes objects: Istio's with the
mesh configuration, Envoy Gateway's, the Gateway API's. FOLDER is all of its .yaml, .yml and .json files. Files given together are looked
at together. URL is the admin port of a running Envoy, such as http://127.0.0.1:9901. With --kubeconfig the objects come from a cluster, which
is read and not changed: it takes a token or client certificate that may list them, and runs no program to get one.

Exit code: 0 nothing found or only notes, 1 something found, 2 it could not be looked at.`,
		Example: `  gatehouse doctor envoy.yaml --config gatehouse.yaml
  gatehouse doctor http://127.0.0.1:9901
  gatehouse doctor k8s/ -o sarif > doctor.sarif
  gatehouse doctor --kubeconfig ~/.kube/config --context prod
  gatehouse doctor --fix envoy.yaml > mended.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && of.Kubeconfig == "" {
				return errors.New("give an Envoy configuration, a folder of Kubernetes objects, or the URL of Envoy's admin port\ntry: gatehouse doctor envoy.yaml")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			least := rules.Severity(severity)
			if !slices.Contains(rules.Severities(), least) {
				return fmt.Errorf("--severity %q: give one of %v", severity, rules.Severities())
			}
			g := rules.Default()
			if src, err := (config.Source{File: cfg}).OrDefault(); err == nil {
				settings, _, err := src.Read()
				if err != nil {
					return err
				}
				g = doctor.Gatehouse(settings)
			}
			if fix && of.Kubeconfig != "" {
				return errors.New("--fix prints files mended, and a cluster has none: save the objects with kubectl get -o yaml and give the file")
			}
			inputs, err := doctor.Read(c.Context(), args, of)
			if err != nil {
				return err
			}
			var report *doctor.Report
			if fix {
				report, err = doctor.PrintMended(c.OutOrStdout(), c.ErrOrStderr(), inputs, g)
			} else if report, err = doctor.Examine(inputs, g); err == nil {
				report = report.AtLeast(least)
				err = report.Print(c.OutOrStdout(), output.Format, version())
			}
			if err == nil && report.Wrong() {
				return grammar.ErrReported
			}
			return err
		},
	}
	c.Flags().StringVarP(&cfg, "config", "c", "", "gatehouse.yaml of the Gatehouse that is asked: compare with it (default: gatehouse.yaml, if it exists, else its defaults)")
	output.Formats(c, "sarif is SARIF 2.1.0, for code scanning", nil, []string{"text", "json", "sarif"})
	c.Flags().StringVar(&severity, "severity", string(rules.Note), "report only what is at least this: note, warning or error")
	c.Flags().StringVar(&of.Kubeconfig, "kubeconfig", "", "read Kubernetes objects from the cluster that this file names")
	c.Flags().StringVar(&of.Context, "context", "", "which of the kubeconfig's contexts (default: its current one)")
	c.Flags().BoolVar(&fix, "fix", false, "print the mended configuration; comments stay, empty lines do not")
	return c
}
