package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/directory/format"
	"gatehouse/server"
	"gatehouse/terminal"
)

func controlCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "control",
		Short: "Manage the directory of many edges in one place",
		Long: `The control plane: users and relations of all environments in one place, pushed to every edge, which decides without
it. serve runs it; the others are its clients and take a token from GATEHOUSE_CONTROL_TOKEN or --token-file.`,
	}
	directory := family(&cobra.Command{Use: "directory", Short: "Write the directory of an environment"}, controlImportCommand(), controlSetCommand(), controlDeleteCommand())
	token := family(&cobra.Command{Use: "token", Short: "Make, list and revoke service tokens"}, controlTokenCreateCommand(), controlTokenListCommand(), controlTokenRevokeCommand())
	return family(c, controlServeCommand(), controlStatusCommand(), controlEnvironmentCommand(), token, controlEnrollCommand(), controlRevokeCommand(), directory, controlChangesCommand())
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
			encoding := zap.NewProductionEncoderConfig()
			encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
			with.Logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.Lock(zapcore.AddSync(c.ErrOrStderr())), zap.InfoLevel))
			s, err := control.New(c.Context(), with)
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			fmt.Fprintf(w, "control listens at https://%s\nits authority is %s, with the pin %s\n", s.Addr(), s.AuthorityFile(), s.Pin())
			if text := s.AdminToken(); text != "" {
				fmt.Fprintf(w, "\nthe admin token, which is shown this once and is valid for 90 days:\n\n  export GATEHOUSE_CONTROL_TOKEN=%s\n\n", text)
			}
			return s.Run(c.Context())
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
	data        string
	tokenFile   string
	environment string
}

func (f *planeFlags) add(c *cobra.Command) {
	env := func(name, other string) string {
		if v := os.Getenv("GATEHOUSE_CONTROL_" + name); v != "" {
			return v
		}
		return other
	}
	c.Flags().StringVar(&f.access.URL, "url", env("URL", "https://127.0.0.1:8443"), "where control is (GATEHOUSE_CONTROL_URL)")
	c.Flags().StringVar(&f.access.CA, "ca", env("CA", ""), "file with the certificate of control's authority (GATEHOUSE_CONTROL_CA)")
	c.Flags().StringVar(&f.access.Pin, "pin", env("PIN", ""), "instead of --ca: the SHA-256 of that certificate (GATEHOUSE_CONTROL_PIN)")
	c.Flags().StringVar(&f.data, "data", "", "instead of --ca: control's folder, on its own machine")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the token; without it GATEHOUSE_CONTROL_TOKEN is")
}

func (f *planeFlags) addEnvironment(c *cobra.Command) {
	f.add(c)
	c.Flags().StringVarP(&f.environment, "environment", "e", control.DefaultEnvironment, "project/environment")
}

func (f *planeFlags) connect() (*cli.Client, error) {
	a := f.access
	a.Token = os.Getenv("GATEHOUSE_CONTROL_TOKEN")
	if f.tokenFile != "" {
		text, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, err
		}
		a.Token = strings.TrimSpace(string(text))
	}
	if f.data != "" && a.CA == "" && a.Pin == "" {
		a.CA = filepath.Join(f.data, control.AuthorityFile)
	}
	return cli.Connect(a)
}

func controlStatusCommand() *cobra.Command {
	var f planeFlags
	var output outputFlags
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show the environments, and every edge with its revision",
		Example: `  gatehouse control status`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			environments, err := cli.Ask(c.Context(), k.Admin.ListEnvironments, &api.ListEnvironmentsRequest{})
			if err != nil {
				return err
			}
			edges, err := cli.Ask(c.Context(), k.Admin.ListEdges, &api.ListEdgesRequest{})
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			if output.json() {
				return cli.JSON(w, environments, edges)
			}
			rows := [][]string{{"ENVIRONMENT", "REVISION", "OBJECTS", "RELATIONS"}}
			for _, e := range environments.GetEnvironments() {
				rows = append(rows, []string{e.GetName(), strconv.FormatUint(e.GetRevision(), 10), terminal.Thousands(e.GetObjects()), terminal.Thousands(e.GetRelations())})
			}
			if err := terminal.Table(w, rows); err != nil || len(edges.GetEdges()) == 0 {
				return err
			}
			fmt.Fprintln(w)
			return terminal.Table(w, cli.EdgeRows(edges.GetEdges(), time.Now()))
		},
	}
	f.add(c)
	output.add(c, "one object")
	return c
}

func controlEnvironmentCommand() *cobra.Command {
	var f planeFlags
	c := &cobra.Command{
		Use:     "environment PROJECT/NAME",
		Short:   "Make an environment",
		Example: `  gatehouse control environment shop/staging`,
		Args:    arguments("gatehouse control environment shop/staging", 1),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			out, err := cli.Ask(c.Context(), k.Admin.CreateEnvironment, &api.CreateEnvironmentRequest{Name: args[0]})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is made, at revision %d\n", out.GetEnvironment().GetName(), out.GetEnvironment().GetRevision())
			return nil
		},
	}
	f.add(c)
	return c
}

func controlTokenCreateCommand() *cobra.Command {
	var f planeFlags
	var scopes []string
	valid := durationFlag(90 * 24 * time.Hour)
	c := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a service token, and print it this once",
		Example: `  gatehouse control token create app --scope write:default/prod --valid 30d`,
		Args:    arguments("gatehouse control token create app --scope write:default/prod", 1),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			out, err := cli.Ask(c.Context(), k.Admin.CreateToken, &api.CreateTokenRequest{Name: args[0], Scopes: scopes, ValidSeconds: int64(time.Duration(valid).Seconds())})
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), out.GetText())
			return nil
		},
	}
	f.add(c)
	c.Flags().StringSliceVar(&scopes, "scope", nil, "admin, read:project/environment or write:project/environment; may be repeated")
	c.Flags().Var(&valid, "valid", "for how long it is valid")
	return c
}

func controlTokenListCommand() *cobra.Command {
	var f planeFlags
	var output outputFlags
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the service tokens",
		Example: `  gatehouse control token list`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			out, err := cli.Ask(c.Context(), k.Admin.ListTokens, &api.ListTokensRequest{})
			if err != nil {
				return err
			}
			if output.json() {
				return cli.JSON(c.OutOrStdout(), out)
			}
			return terminal.Table(c.OutOrStdout(), cli.TokenRows(out.GetTokens(), time.Now()))
		},
	}
	f.add(c)
	output.add(c, "one object")
	return c
}

func controlTokenRevokeCommand() *cobra.Command {
	var f planeFlags
	c := &cobra.Command{
		Use:     "revoke TOKEN",
		Short:   "Refuse a service token from now on",
		Example: `  gatehouse control token revoke 1f2e3d4c5b6a7988`,
		Args:    arguments("gatehouse control token revoke 1f2e3d4c5b6a7988", 1),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			_, err = cli.Ask(c.Context(), k.Admin.RevokeToken, &api.RevokeTokenRequest{Id: args[0]})
			return err
		},
	}
	f.add(c)
	return c
}

func controlEnrollCommand() *cobra.Command {
	var f planeFlags
	var name, out string
	valid := durationFlag(time.Hour)
	c := &cobra.Command{
		Use:     "enroll",
		Short:   "Make the token with which one edge gets its certificate, once",
		Example: `  gatehouse control enroll -e default/prod --edge web-1 --out web-1.token`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			made, err := cli.Ask(c.Context(), k.Admin.CreateEnrollment, &api.CreateEnrollmentRequest{Environment: f.environment, Name: name, ValidSeconds: int64(time.Duration(valid).Seconds())})
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			if out == "" {
				fmt.Fprintln(w, made.GetToken())
			} else if err := os.WriteFile(out, []byte(made.GetToken()+"\n"), 0o600); err != nil {
				return err
			}
			to := out
			if to == "" {
				to = "FILE"
			}
			fmt.Fprintf(c.ErrOrStderr(), "valid until %s, for one edge, whose gatehouse.yaml needs:\n\nstate_dir: ./state\ndirectory:\n  control: true\ncontrol:\n  url: %s\n  pin: %s\n  enroll_token_file: %s\n",
				made.GetExpiresAt().AsTime().Local().Format("2006-01-02 15:04"), f.access.URL, made.GetPin(), to)
			return nil
		},
	}
	f.addEnvironment(c)
	c.Flags().StringVar(&name, "edge", "", "what to call the edge (default: it names itself)")
	c.Flags().StringVar(&out, "out", "", "write the token to this file, which only its owner can read")
	c.Flags().Var(&valid, "valid", "for how long the token is valid")
	return c
}

func controlRevokeCommand() *cobra.Command {
	var f planeFlags
	c := &cobra.Command{
		Use:     "revoke EDGE",
		Short:   "End an edge's connection, and refuse its certificate from now on",
		Example: `  gatehouse control revoke 1f2e3d4c5b6a7988`,
		Long: `Ends an edge's connection, and refuses its certificate from now on. EDGE is its id, which status shows. The edge goes on
deciding by the directory that it has; directory.max_age bounds for how long.`,
		Args: arguments("gatehouse control revoke 1f2e3d4c5b6a7988", 1),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			_, err = cli.Ask(c.Context(), k.Admin.RevokeEdge, &api.RevokeEdgeRequest{Id: args[0]})
			return err
		},
	}
	f.add(c)
	return c
}

func controlImportCommand() *cobra.Command {
	var f planeFlags
	var with cli.Import
	var keep bool
	c := &cobra.Command{
		Use:   "import FOLDER|FILE",
		Short: "Import a directory: manifest, objects and relations",
		Long: `Imports a directory in any of the formats of docs/directory.md: its manifest first, then its objects and relations in
batches. What is at control and not in it stays. An import that was cut can be repeated: what is there already changes
nothing.`,
		Example: `  gatehouse control directory import ./directory -e default/prod`,
		Args:    arguments("gatehouse control directory import ./directory", 1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := format.Load(c.Context(), args[0], format.Options{})
			if err != nil {
				return err
			}
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			with.Environment, with.Manifest = f.environment, !keep
			out, err := k.Import(c.Context(), s, with, func(int, int) {})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %s and %s, revision %d\n", f.environment, terminal.Count(out.GetObjects(), "object"), terminal.Count(out.GetRelations(), "relation"), out.GetRevision())
			return nil
		},
	}
	f.addEnvironment(c)
	c.Flags().StringVar(&with.Source, "source", "", "in whose name it is written (default api): what one source owns no other changes")
	c.Flags().BoolVar(&with.TakeOver, "take-over", false, "take over what other sources own")
	c.Flags().BoolVar(&keep, "keep-manifest", false, "leave control's manifest as it is")
	c.Flags().BoolVar(&with.Force, "force", false, "delete what the manifest does not allow")
	return c
}

// controlWrite adds what set and delete have in common.
func controlWrite(c *cobra.Command, do func(c *cobra.Command, k *cli.Client, environment string, args []string) (uint64, error)) *cobra.Command {
	var f planeFlags
	var wait time.Duration
	c.RunE = func(c *cobra.Command, args []string) error {
		k, err := f.connect()
		if err != nil {
			return err
		}
		defer k.Close()
		revision, err := do(c, k, f.environment, args)
		if err != nil {
			return err
		}
		w := c.OutOrStdout()
		fmt.Fprintf(w, "%s is at revision %d\n", f.environment, revision)
		if wait == 0 {
			return nil
		}
		out, err := cli.Ask(c.Context(), k.Directory.WaitApplied, &api.WaitAppliedRequest{Environment: f.environment, Revision: revision, TimeoutMs: int32(min(wait, time.Minute).Milliseconds())})
		if err != nil {
			return err
		}
		for _, e := range out.GetMissing() {
			fmt.Fprintf(w, "%s has not applied it: it is at revision %d %s\n", terminal.Word(e.GetEdge()), e.GetRevision(), terminal.Visible(e.GetError()))
		}
		if !out.GetApplied() {
			return errReported
		}
		fmt.Fprintf(w, "in force at %s\n", terminal.Count(len(out.GetEdges()), "edge"))
		return nil
	}
	f.addEnvironment(c)
	c.Flags().DurationVar(&wait, "wait", 0, "wait until every connected edge has applied it, at most that long; else exit with 1")
	return c
}

func controlSetCommand() *cobra.Command {
	expires := durationFlag(0)
	c := &cobra.Command{
		Use:     "set OBJECT|RELATION...",
		Short:   "Add objects and relations",
		Example: `  gatehouse control directory set user:alice group:eng group:eng#member@user:alice --wait 5s`,
		Args:    cobra.MinimumNArgs(1),
	}
	c.Flags().Var(&expires, "expires-in", "let the relations end after this time")
	return controlWrite(c, func(c *cobra.Command, k *cli.Client, environment string, args []string) (uint64, error) {
		var at time.Time
		if expires > 0 {
			at = time.Now().Add(time.Duration(expires)).Truncate(time.Second)
		}
		objects, relations, err := cli.Parse(args, at)
		if err != nil {
			return 0, err
		}
		return k.Set(c.Context(), environment, objects, relations)
	})
}

func controlDeleteCommand() *cobra.Command {
	return controlWrite(&cobra.Command{
		Use:     "delete OBJECT|RELATION...",
		Short:   "Delete objects with their relations, and relations",
		Example: `  gatehouse control directory delete group:eng#member@user:alice --wait 5s`,
		Args:    cobra.MinimumNArgs(1),
	}, func(c *cobra.Command, k *cli.Client, environment string, args []string) (uint64, error) {
		objects, relations, err := cli.Parse(args, time.Time{})
		if err != nil {
			return 0, err
		}
		return k.Delete(c.Context(), environment, objects, relations)
	})
}

func controlChangesCommand() *cobra.Command {
	var f planeFlags
	var output outputFlags
	var most int32
	c := &cobra.Command{
		Use:     "changes",
		Short:   "List who changed what in an environment's directory, the newest first",
		Example: `  gatehouse control changes -e default/prod`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect()
			if err != nil {
				return err
			}
			defer k.Close()
			out, err := cli.Ask(c.Context(), k.Directory.ListChanges, &api.ListChangesRequest{Environment: f.environment, PageSize: most})
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			if output.json() {
				return cli.JSON(w, out)
			}
			rows := [][]string{{"REVISION", "AT", "BY", "SOURCE", "CHANGES"}}
			for _, x := range out.GetChanges() {
				what := strings.Join(x.GetChanges()[:min(3, len(x.GetChanges()))], ", ")
				if more := int(x.GetTotal()) - 3; more > 0 {
					what += fmt.Sprintf(", and %d more", more)
				}
				rows = append(rows, []string{strconv.FormatUint(x.GetRevision(), 10), x.GetAt().AsTime().Local().Format("2006-01-02 15:04:05"), x.GetActor(), x.GetSource(), what})
			}
			return terminal.Table(w, rows)
		},
	}
	f.addEnvironment(c)
	output.add(c, "one object")
	c.Flags().Int32Var(&most, "limit", 20, "how many, at most 200")
	return c
}
