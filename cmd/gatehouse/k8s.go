package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/k8s"
	"gatehouse/k8s/inject"
	"gatehouse/server"
)

func k8sCommand() *cobra.Command {
	c := &cobra.Command{Use: "k8s", Short: "Run in Kubernetes: write the objects, inject sidecars"}
	return grammar.Family(c, k8sGenerateCommand(), k8sInjectCommand())
}

func k8sGenerateCommand() *cobra.Command {
	var o k8s.Options
	var file, output string
	var values []string
	c := &cobra.Command{
		Use:   "generate",
		Short: "Print the Kubernetes objects for a configuration",
		Long: `Prints what to apply: Gatehouse as a service that every Envoy asks, or as a sidecar beside each, for Istio, Envoy Gateway or an Envoy of your
own. gatehouse.yaml, the route table, the policy's folder and the other files that it names go into ConfigMaps; secrets do not: the
command says which Secret to make. The objects are those of the Helm chart in k8s/chart. docs/kubernetes.md leads through it.

  -o yaml     the objects (default)
  -o values   values for the Helm chart, for the same objects
  -o mesh     for Istio: the extension provider, as values of Istio's own chart`,
		Example: `  gatehouse k8s generate --config gatehouse.yaml --for istio --app orders --namespace gatehouse --app-namespace shop | kubectl apply -f -
  gatehouse k8s generate --mode sidecar --for envoy --app orders --app-image orders:1.4 -f more-values.yaml
  gatehouse k8s generate --injector --for istio --app orders --namespace gatehouse --app-namespace shop`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			src, err := config.Source{File: file}.OrDefault()
			if err != nil {
				return err
			}
			made, err := o.Values(src.File, values)
			if err != nil {
				return err
			}
			hint, err := o.SecretHint(made)
			if err != nil {
				return err
			}
			if hint != "" {
				fmt.Fprintln(c.ErrOrStderr(), hint)
			}
			text, err := o.Print(output, made)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "config", "c", "", "Gatehouse's configuration (default: gatehouse.yaml)")
	f.StringVar(&o.Mode, "mode", "service", "service or sidecar")
	f.StringVar(&o.For, "for", "envoy", "whose Envoy asks: istio, envoy-gateway or envoy")
	f.StringVar(&o.Release.Name, "name", "gatehouse", "what the objects are called")
	f.StringVarP(&o.Release.Namespace, "namespace", "n", "default", "Gatehouse's namespace")
	f.StringVar(&o.App, "app", "app", "the application: its Deployment's name, and the label app of its pods")
	f.StringVar(&o.AppNamespace, "app-namespace", "", "its namespace (default: Gatehouse's)")
	f.StringVar(&o.Image, "image", "", "Gatehouse's image, such as registry.example.com/gatehouse:1.2.3 (default: gatehouse with the chart's version)")
	f.StringVar(&o.AppImage, "app-image", "", "its image, for --mode sidecar (default: its Deployment is there already)")
	f.IntVar(&o.AppPort, "app-port", 8000, "the port that it listens on")
	f.BoolVar(&o.Injector, "injector", false, "sidecars that a webhook adds to pods as they are created, in namespaces with the label gatehouse.io/inject=true (docs/kubernetes-injector.md)")
	f.StringArrayVarP(&values, "values", "f", nil, "further values of the chart, YAML; may be repeated")
	f.StringVarP(&output, "output", "o", "yaml", "yaml, values or mesh")
	return c
}

func k8sInjectCommand() *cobra.Command {
	var o inject.Options
	c := &cobra.Command{
		Use:   "inject",
		Short: "Add the sidecar to pods as they are created: the webhook that Kubernetes asks",
		Long: `Runs the injector, a mutating admission webhook. It makes its own certificates, keeps them in a Secret that all its replicas share, and puts
their authority into its MutatingWebhookConfiguration. The chart installs it: injector.enabled, or gatehouse k8s generate --injector.
docs/kubernetes-injector.md says which labels and annotations there are.`,
		Example: `  gatehouse k8s inject --config /etc/gatehouse-injector/injector.yaml`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Log = inject.NewLog(c.ErrOrStderr())
			server.LimitMemory(o.Log)
			i, err := inject.New(o)
			if err != nil {
				return err
			}
			return i.Run(c.Context())
		},
	}
	c.Flags().StringVarP(&o.File, "config", "c", "injector.yaml", "the injector's settings")
	c.Flags().StringVar(&o.Sidecar, "sidecar", "", "native (initContainers with restartPolicy Always), plain (containers) or auto (native from Kubernetes 1.29 on); default: as the settings say")
	return c
}
