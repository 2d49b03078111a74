// Package controlcmd is the commands of gatehouse control: the control plane, and its clients.
package controlcmd

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
	"gatehouse/terminal"
)

// Command is gatehouse control.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "control",
		Short: "Manage the directory and the policies of many edges in one place",
		Long: `The control plane: users, relations and policies of all environments in one place, for every edge, which decides without
it. serve runs it; the others are its clients and take a token from GATEHOUSE_CONTROL_TOKEN or --token-file.`,
	}
	directory := grammar.Family(&cobra.Command{Use: "directory", Short: "Write the directory of an environment"}, importCommand(), syncCommand(), setCommand(), deleteCommand())
	token := grammar.Family(&cobra.Command{Use: "token", Short: "Make, list and revoke service tokens"}, tokenCreateCommand(), tokenListCommand(), tokenRevokeCommand())
	return grammar.Family(c, serveCommand(), statusCommand(), environmentCommand(), token, enrollCommand(), revokeCommand(), directory, changesCommand(),
		pushCommand(), promoteCommand(), rolloutCommand(), guardCommand(), rollbackCommand(), revisionsCommand(), diffCommand(), historyCommand(), auditCommand(), decisionsCommand(), exportCommand(), retentionCommand(), holdCommand(), verifyLogCommand())
}

func serveCommand() *cobra.Command {
	var with control.Config
	var log control.Log
	c := &cobra.Command{
		Use:     "serve",
		Short:   "Run the control plane",
		Example: `  gatehouse control serve --data ./control --listen 0.0.0.0:8443 --name control.example.com`,
		Args:    grammar.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			server.PaceGC()
			if log.Format == "" && terminal.Is(c.ErrOrStderr()) {
				log.Format = "console"
			}
			log.To = c.ErrOrStderr()
			return control.Serve(c.Context(), with, c.OutOrStdout(), log)
		},
	}
	c.Flags().StringVar(&with.Dir, "data", "", "folder of the database and the certificate authority; made where it is missing")
	c.Flags().StringVar(&with.Listen, "listen", "127.0.0.1:8443", "address of the port for clients and edges")
	c.Flags().StringSliceVar(&with.Names, "name", nil, "further host names and addresses that edges and clients reach it by")
	c.Flags().StringVar(&log.Level, "log-level", "", "debug, info, warn or error (default: info)")
	c.Flags().StringVar(&log.Format, "log-format", "", "json or console (default: console on a terminal, else json)")
	c.Flags().BoolVar(&with.NewAdminToken, "new-admin-token", false, "make another admin token, where the first one is lost or expired")
	_ = c.MarkFlagRequired("data") // it is defined above
	return c
}

// planeFlags say which control a command asks.
type planeFlags struct {
	access      cli.Access
	environment string
	output      grammar.Output
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
		c.Args = grammar.NoArguments
	}
	f.add(c)
	f.output.Add(c, "one object")
	return c
}

// print prints what came of a call: a text, or an object.
func (f *planeFlags) print(c *cobra.Command, text string, object map[string]any) error {
	if f.output.JSON() {
		return terminal.JSON(c.OutOrStdout()).Encode(object)
	}
	_, err := fmt.Fprint(c.OutOrStdout(), text)
	return err
}

func statusCommand() *cobra.Command {
	var f planeFlags
	c := f.client("status", "Show the environments, and every edge with its revision", "gatehouse control status", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Status(c.Context(), c.OutOrStdout(), f.output.JSON())
	})
	return c
}

func environmentCommand() *cobra.Command {
	var f planeFlags
	return f.client("environment PROJECT/NAME", "Make an environment", "gatehouse control environment shop/staging", func(c *cobra.Command, k *cli.Client, args []string) error {
		out, err := cli.Ask(c.Context(), k.Admin.CreateEnvironment, &api.CreateEnvironmentRequest{Name: args[0]})
		if err != nil {
			return err
		}
		made := out.GetEnvironment()
		return f.print(c, fmt.Sprintf("%s is made, at revision %d\n", made.GetName(), made.GetRevision()), map[string]any{"environment": made.GetName(), "revision": made.GetRevision()})
	})
}

func tokenCreateCommand() *cobra.Command {
	var f planeFlags
	var scopes []string
	expires := grammar.ExpiresIn(90 * 24 * time.Hour)
	c := f.client("create NAME", "Make a service token, and print it this once", "gatehouse control token create app --scope write:default/prod --expires 30d", func(c *cobra.Command, k *cli.Client, args []string) error {
		life, err := expires.Lifetime(time.Now())
		if err != nil {
			return err
		}
		out, err := cli.Ask(c.Context(), k.Admin.CreateToken, &api.CreateTokenRequest{Name: args[0], Scopes: scopes, ValidSeconds: int64(life.Seconds())})
		if err != nil {
			return err
		}
		made := out.GetToken()
		return f.print(c, out.GetText()+"\n", map[string]any{"token": out.GetText(), "id": made.GetId(), "name": made.GetName(), "scopes": made.GetScopes(), "expires_at": made.GetExpiresAt().AsTime()})
	})
	c.Flags().StringSliceVar(&scopes, "scope", nil, "admin; read:, write:, promote:, audit:, scim: or scim-link: with project/environment; push:project; may be repeated")
	expires.Add(c, "when the token ends", "valid")
	return c
}

func tokenListCommand() *cobra.Command {
	var f planeFlags
	c := f.client("list", "List the service tokens", "gatehouse control token list", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Tokens(c.Context(), c.OutOrStdout(), f.output.JSON())
	})
	return c
}

func tokenRevokeCommand() *cobra.Command {
	var f planeFlags
	return f.client("revoke TOKEN", "Refuse a service token from now on", "gatehouse control token revoke 1f2e3d4c5b6a7988", func(c *cobra.Command, k *cli.Client, args []string) error {
		if err := cli.Done(c.Context(), k.Admin.RevokeToken, &api.RevokeTokenRequest{Id: args[0]}); err != nil {
			return err
		}
		return f.print(c, "", map[string]any{"revoked": args[0]})
	})
}

func enrollCommand() *cobra.Command {
	var f planeFlags
	var name, out string
	expires := grammar.ExpiresIn(time.Hour)
	c := f.client("enroll", "Make the token with which one edge gets its certificate, once", "gatehouse control enroll -e default/prod --edge web-1 --out web-1.token", func(c *cobra.Command, k *cli.Client, _ []string) error {
		life, err := expires.Lifetime(time.Now())
		if err != nil {
			return err
		}
		made, err := cli.Ask(c.Context(), k.Admin.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: f.environment, Name: name, ValidSeconds: int64(life.Seconds())})
		if err != nil {
			return err
		}
		return cli.HandOut(c.OutOrStdout(), c.ErrOrStderr(), made, f.access.URL, out, f.output.JSON())
	})
	f.addEnvironment(c)
	c.Flags().StringVar(&name, "edge", "", "what to call the edge (default: it names itself)")
	c.Flags().StringVar(&out, "out", "", "write the token to this file, which only its owner can read")
	expires.Add(c, "when the token ends, if no edge has used it", "valid")
	return c
}

func revokeCommand() *cobra.Command {
	var f planeFlags
	c := f.client("revoke EDGE", "End an edge's connection, and refuse its certificate from now on", "gatehouse control revoke 1f2e3d4c5b6a7988", func(c *cobra.Command, k *cli.Client, args []string) error {
		id, err := k.EdgeID(c.Context(), args[0])
		if err != nil {
			return err
		}
		if err := cli.Done(c.Context(), k.Admin.RevokeEdge, &api.RevokeEdgeRequest{Id: id}); err != nil {
			return err
		}
		said := ""
		if id != args[0] {
			said = id + " is revoked\n"
		}
		return f.print(c, said, map[string]any{"revoked": id})
	})
	c.Long = `Ends an edge's connection, and refuses its certificate from now on. EDGE is its id, which status shows, or its name, where no other has it. The edge goes on
deciding by the directory that it has; directory.max_age bounds for how long.`
	return c
}

func importCommand() *cobra.Command {
	var f planeFlags
	var with cli.Import
	var keep bool
	c := f.client("import FOLDER|FILE", "Import a directory: manifest, objects and relations", "gatehouse control directory import ./directory -e default/prod", func(c *cobra.Command, k *cli.Client, args []string) error {
		with.Environment, with.Manifest = f.environment, !keep
		return k.ImportFile(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), args[0], with, f.output.JSON())
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
func write(use, short, example string, expires *grammar.Expiry, deletes bool) *cobra.Command {
	var f planeFlags
	var wait grammar.Duration
	c := f.client(use, short, example, func(c *cobra.Command, k *cli.Client, args []string) error {
		life, err := expires.Lifetime(time.Now())
		if err != nil {
			return err
		}
		applied, err := k.Write(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), cli.Written{Environment: f.environment, What: args, Delete: deletes, After: life, Wait: time.Duration(wait), JSON: f.output.JSON()})
		if err == nil && !applied {
			err = grammar.ErrReported
		}
		return err
	})
	f.addEnvironment(c)
	c.Flags().Var(&wait, "wait", "wait until every connected edge has applied it, at most that long; else exit with 1")
	return c
}

func setCommand() *cobra.Command {
	var expires grammar.Expiry
	c := write("set OBJECT|RELATION...", "Add objects and relations", "gatehouse control directory set user:alice group:eng group:eng#member@user:alice --wait 5s", &expires, false)
	expires.Add(c, "when the relations end (default: never)", "expires-in")
	return c
}

func deleteCommand() *cobra.Command {
	return write("delete OBJECT|RELATION...", "Delete objects with their relations, and relations", "gatehouse control directory delete group:eng#member@user:alice --wait 5s", new(grammar.Expiry), true)
}

func changesCommand() *cobra.Command {
	var f planeFlags
	var limit int32
	c := f.client("changes", "List who changed what in an environment's directory, the newest first", "gatehouse control changes -e default/prod", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Changes(c.Context(), c.OutOrStdout(), f.environment, limit, f.output.JSON())
	})
	f.addEnvironment(c)
	c.Flags().Int32Var(&limit, "limit", 20, "how many, at most 200")
	return c
}
