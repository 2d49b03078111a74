package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/server"
)

func controlCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "control",
		Short: "Manage the directory of many edges in one place",
		Long: `The control plane: users and relations of all environments in one place, pushed to every edge, which decides without
it. serve runs it; the others are its clients and take a token from GATEHOUSE_CONTROL_TOKEN or --token-file.`,
	}
	directory := grammar.Family(&cobra.Command{Use: "directory", Short: "Write the directory of an environment"}, controlImportCommand(), controlSetCommand(), controlDeleteCommand())
	token := grammar.Family(&cobra.Command{Use: "token", Short: "Make, list and revoke service tokens"}, controlTokenCreateCommand(), controlTokenListCommand(), controlTokenRevokeCommand())
	return grammar.Family(c, controlServeCommand(), controlStatusCommand(), controlEnvironmentCommand(), token, controlEnrollCommand(), controlRevokeCommand(), directory, controlChangesCommand())
}

func controlServeCommand() *cobra.Command {
	var with control.Config
	c := &cobra.Command{
		Use:     "serve",
		Short:   "Run the control plane",
		Example: `  gatehouse control serve --data ./control --listen 0.0.0.0:8443 --name control.example.com`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			server.PaceGC()
			return control.Serve(c.Context(), with, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&with.Dir, "data", "", "folder of the database and the certificate authority; made where it is missing")
	c.Flags().StringVar(&with.Listen, "listen", "127.0.0.1:8443", "address of the port for clients and edges")
	c.Flags().StringSliceVar(&with.Names, "name", nil, "further host names and addresses that edges and clients reach it by")
	c.Flags().BoolVar(&with.NewAdminToken, "new-admin-token", false, "make another admin token, where the first one is lost or expired")
	_ = c.MarkFlagRequired("data") // it is defined above
	return c
}

// planeFlags say which control a command asks.
type planeFlags struct {
	access      cli.Access
	environment string
}

func (f *planeFlags) add(c *cobra.Command) {
	f.access = cli.FromEnvironment()
	c.Flags().StringVar(&f.access.URL, "url", f.access.URL, "where control is (GATEHOUSE_CONTROL_URL)")
	c.Flags().StringVar(&f.access.CA, "ca", f.access.CA, "file with the certificate of control's authority (GATEHOUSE_CONTROL_CA)")
	c.Flags().StringVar(&f.access.Pin, "pin", f.access.Pin, "instead of --ca: the SHA-256 of that certificate (GATEHOUSE_CONTROL_PIN)")
	c.Flags().StringVar(&f.access.Folder, "data", "", "instead of --ca: control's folder, on its own machine")
	c.Flags().StringVar(&f.access.TokenFile, "token-file", "", "file with the token; without it GATEHOUSE_CONTROL_TOKEN is")
}

func (f *planeFlags) addEnvironment(c *cobra.Command) {
	c.Flags().StringVarP(&f.environment, "environment", "e", control.DefaultEnvironment, "project/environment")
}

// client is a command that asks control. Without arguments in its use it takes none.
func (f *planeFlags) client(use, short, example string, do func(c *cobra.Command, k *cli.Client, args []string) error) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: "  " + example, RunE: func(c *cobra.Command, args []string) error {
		k, err := cli.Connect(f.access)
		if err != nil {
			return err
		}
		defer k.Close()
		return do(c, k, args)
	}}
	switch {
	case strings.HasSuffix(use, "..."):
		c.Args = cobra.MinimumNArgs(1)
	case strings.Contains(use, " "):
		c.Args = grammar.Arguments(example, 1)
	default:
		c.Args = cobra.NoArgs
	}
	f.add(c)
	return c
}

func controlStatusCommand() *cobra.Command {
	var f planeFlags
	var output grammar.Output
	c := f.client("status", "Show the environments, and every edge with its revision", "gatehouse control status", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Status(c.Context(), c.OutOrStdout(), output.JSON())
	})
	output.Add(c, "one object")
	return c
}

func controlEnvironmentCommand() *cobra.Command {
	var f planeFlags
	return f.client("environment PROJECT/NAME", "Make an environment", "gatehouse control environment shop/staging", func(c *cobra.Command, k *cli.Client, args []string) error {
		out, err := cli.Ask(c.Context(), k.Admin.CreateEnvironment, &api.CreateEnvironmentRequest{Name: args[0]})
		if err == nil {
			fmt.Fprintf(c.OutOrStdout(), "%s is made, at revision %d\n", out.GetEnvironment().GetName(), out.GetEnvironment().GetRevision())
		}
		return err
	})
}

func controlTokenCreateCommand() *cobra.Command {
	var f planeFlags
	var scopes []string
	valid := grammar.Duration(90 * 24 * time.Hour)
	c := f.client("create NAME", "Make a service token, and print it this once", "gatehouse control token create app --scope write:default/prod --valid 30d", func(c *cobra.Command, k *cli.Client, args []string) error {
		out, err := cli.Ask(c.Context(), k.Admin.CreateToken, &api.CreateTokenRequest{Name: args[0], Scopes: scopes, ValidSeconds: int64(time.Duration(valid).Seconds())})
		if err == nil {
			fmt.Fprintln(c.OutOrStdout(), out.GetText())
		}
		return err
	})
	c.Flags().StringSliceVar(&scopes, "scope", nil, "admin, read:project/environment or write:project/environment; may be repeated")
	c.Flags().Var(&valid, "valid", "for how long it is valid")
	return c
}

func controlTokenListCommand() *cobra.Command {
	var f planeFlags
	var output grammar.Output
	c := f.client("list", "List the service tokens", "gatehouse control token list", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Tokens(c.Context(), c.OutOrStdout(), output.JSON())
	})
	output.Add(c, "one object")
	return c
}

func controlTokenRevokeCommand() *cobra.Command {
	var f planeFlags
	return f.client("revoke TOKEN", "Refuse a service token from now on", "gatehouse control token revoke 1f2e3d4c5b6a7988", func(c *cobra.Command, k *cli.Client, args []string) error {
		return cli.Done(c.Context(), k.Admin.RevokeToken, &api.RevokeTokenRequest{Id: args[0]})
	})
}

func controlEnrollCommand() *cobra.Command {
	var f planeFlags
	var name, out string
	valid := grammar.Duration(time.Hour)
	c := f.client("enroll", "Make the token with which one edge gets its certificate, once", "gatehouse control enroll -e default/prod --edge web-1 --out web-1.token", func(c *cobra.Command, k *cli.Client, _ []string) error {
		made, err := cli.Ask(c.Context(), k.Admin.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: f.environment, Name: name, ValidSeconds: int64(time.Duration(valid).Seconds())})
		if err != nil {
			return err
		}
		return cli.HandOut(c.OutOrStdout(), c.ErrOrStderr(), made, f.access.URL, out)
	})
	f.addEnvironment(c)
	c.Flags().StringVar(&name, "edge", "", "what to call the edge (default: it names itself)")
	c.Flags().StringVar(&out, "out", "", "write the token to this file, which only its owner can read")
	c.Flags().Var(&valid, "valid", "for how long the token is valid")
	return c
}

func controlRevokeCommand() *cobra.Command {
	var f planeFlags
	c := f.client("revoke EDGE", "End an edge's connection, and refuse its certificate from now on", "gatehouse control revoke 1f2e3d4c5b6a7988", func(c *cobra.Command, k *cli.Client, args []string) error {
		return cli.Done(c.Context(), k.Admin.RevokeEdge, &api.RevokeEdgeRequest{Id: args[0]})
	})
	c.Long = `Ends an edge's connection, and refuses its certificate from now on. EDGE is its id, which status shows. The edge goes on
deciding by the directory that it has; directory.max_age bounds for how long.`
	return c
}

func controlImportCommand() *cobra.Command {
	var f planeFlags
	var with cli.Import
	var keep bool
	c := f.client("import FOLDER|FILE", "Import a directory: manifest, objects and relations", "gatehouse control directory import ./directory -e default/prod", func(c *cobra.Command, k *cli.Client, args []string) error {
		with.Environment, with.Manifest = f.environment, !keep
		return k.ImportFile(c.Context(), c.OutOrStdout(), args[0], with)
	})
	c.Long = `Imports a directory in any of the formats of docs/directory.md: its manifest first, then its objects and relations in
batches. What is at control and not in it stays. An import that was cut can be repeated: what is there already changes
nothing.`
	f.addEnvironment(c)
	c.Flags().StringVar(&with.Source, "source", "", "in whose name it is written (default api): what one source owns no other changes")
	c.Flags().BoolVar(&with.TakeOver, "take-over", false, "take over what other sources own")
	c.Flags().BoolVar(&keep, "keep-manifest", false, "leave control's manifest as it is")
	c.Flags().BoolVar(&with.Force, "force", false, "delete what the manifest does not allow")
	return c
}

// controlWrite is a command that writes, and may wait for the edges. A relation that it writes ends after expires, if that is not 0.
func controlWrite(use, short, example string, expires *grammar.Duration, deletes bool) *cobra.Command {
	var f planeFlags
	var wait time.Duration
	c := f.client(use, short, example, func(c *cobra.Command, k *cli.Client, args []string) error {
		applied, err := k.Write(c.Context(), c.OutOrStdout(), cli.Written{Environment: f.environment, What: args, Delete: deletes, After: time.Duration(*expires), Wait: wait})
		if err == nil && !applied {
			err = grammar.ErrReported
		}
		return err
	})
	f.addEnvironment(c)
	c.Flags().DurationVar(&wait, "wait", 0, "wait until every connected edge has applied it, at most that long; else exit with 1")
	return c
}

func controlSetCommand() *cobra.Command {
	var expires grammar.Duration
	c := controlWrite("set OBJECT|RELATION...", "Add objects and relations", "gatehouse control directory set user:alice group:eng group:eng#member@user:alice --wait 5s", &expires, false)
	c.Flags().Var(&expires, "expires-in", "let the relations end after this time")
	return c
}

func controlDeleteCommand() *cobra.Command {
	return controlWrite("delete OBJECT|RELATION...", "Delete objects with their relations, and relations", "gatehouse control directory delete group:eng#member@user:alice --wait 5s", new(grammar.Duration), true)
}

func controlChangesCommand() *cobra.Command {
	var f planeFlags
	var output grammar.Output
	var limit int32
	c := f.client("changes", "List who changed what in an environment's directory, the newest first", "gatehouse control changes -e default/prod", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Changes(c.Context(), c.OutOrStdout(), f.environment, limit, output.JSON())
	})
	f.addEnvironment(c)
	output.Add(c, "one object")
	c.Flags().Int32Var(&limit, "limit", 20, "how many, at most 200")
	return c
}
