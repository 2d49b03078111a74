package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/envoy/generate"
)

func envoyCommand() *cobra.Command {
	c := &cobra.Command{Use: "envoy", Short: "Envoy's side: write its configuration"}
	return grammar.Family(c, envoyGenerateCommand())
}

func envoyGenerateCommand() *cobra.Command {
	var file string
	var o envoyFlags
	c := &cobra.Command{
		Use:   "generate",
		Short: "Print an Envoy configuration for the application that gatehouse.yaml protects",
		Long: `Prints envoy.yaml: the listener, the ext_authz filter, the application and Gatehouse. From gatehouse.yaml it has where and how Gatehouse
is asked (gRPC or HTTP, unix socket, TLS), the deadline and the identity headers; from the route table websockets and routes whose body
no policy reads. Without --config, and without a gatehouse.yaml here, it prints the defaults. The result is yours to change.`,
		Example: `  gatehouse envoy generate > envoy.yaml
  gatehouse envoy generate --listen :443 --cert tls.crt --key tls.key --upstream app:8000 > envoy.yaml`,
		Args: grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			g, err := o.config(c, file)
			if err != nil {
				return err
			}
			text, err := g.YAML()
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "Gatehouse's configuration (default: gatehouse.yaml, if it is here)")
	o.flags(c)
	return c
}

// envoyFlags are what a configuration of Gatehouse does not say about Envoy.
type envoyFlags struct {
	set     generate.Config
	app     string
	streams []string
}

func (o *envoyFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.app, "app", "", "which of several applications in gatehouse.yaml")
	f.StringVar(&o.set.Listen, "listen", "", "where clients come in, host:port (default 127.0.0.1:8080)")
	f.StringVar(&o.set.App, "upstream", "", "the application, host:port (default 127.0.0.1:8000)")
	f.StringVar(&o.set.Gatehouse, "gatehouse", "", "Gatehouse, host:port or unix:/path (default: as in gatehouse.yaml)")
	f.StringVar(&o.set.Cert, "cert", "", "TLS for clients: certificate chain, PEM")
	f.StringVar(&o.set.Key, "key", "", "its private key, PEM")
	f.StringVar(&o.set.ClientCA, "client-ca", "", "clients must show a certificate that this PEM file's signed")
	f.BoolVar(&o.set.AppHTTP2, "http2", false, "the application speaks HTTP/2, as gRPC servers do")
	f.StringVar(&o.set.AppCA, "upstream-ca", "", "TLS to the application: whom to trust, PEM")
	f.StringVar(&o.set.GatehouseCA, "gatehouse-ca", "", "TLS to Gatehouse: whom to trust, PEM")
	f.StringVar(&o.set.GatehouseCert, "gatehouse-cert", "", "Envoy's certificate for Gatehouse, PEM")
	f.StringVar(&o.set.GatehouseKey, "gatehouse-key", "", "its private key, PEM")
	f.BoolVar(&o.set.Websockets, "websockets", false, "let websockets through (default: where routes.yaml has one)")
	f.StringArrayVar(&o.streams, "stream", nil, "prefix of paths whose body is not held back for the policy, such as /chat.Chat/; may be repeated")
	f.IntVar(&o.set.MaxBody, "max-body", 65536, "most bytes of a body that the policy sees; 0 for none")
	f.BoolVar(&o.set.HealthChecks, "health-checks", false, "several Gatehouses behind one name: ask each whether it leaves")
}

// config is gatehouse.yaml's, and over it what the flags say.
func (o *envoyFlags) config(c *cobra.Command, file string) (generate.Config, error) {
	g := generate.Default("app")
	src, err := config.Source{File: file}.OrDefault()
	if err == nil {
		cfg, doc, err := src.Read()
		if err != nil {
			return g, err
		}
		if len(doc.Errs) > 0 {
			return g, doc.Errs[0]
		}
		if g, err = generate.FromConfig(cfg, o.app); err != nil {
			return g, fmt.Errorf("%s: %w", src.File, err)
		}
	}
	g.Overlay(o.set)
	if c.Flags().Changed("max-body") {
		g.MaxBody = o.set.MaxBody
	}
	for _, prefix := range o.streams {
		g.Streams = append(g.Streams, generate.Stream{Match: "prefix", Path: prefix})
	}
	return g, nil
}
