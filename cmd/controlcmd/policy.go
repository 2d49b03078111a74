package controlcmd

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bundler"
	"gatehouse/bundles/tarball"
	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/trial"
)

// defaultProject is the project of the default environment.
var defaultProject, _, _ = strings.Cut(control.DefaultEnvironment, "/")

func pushCommand() *cobra.Command {
	var f planeFlags
	var smoke []string
	q := &api.PushRevisionRequest{}
	c := f.client("push FOLDER", "Check a policy at control, and keep it as a signed revision", `gatehouse control push ./policy --project default --message "refunds need a manager"`,
		func(c *cobra.Command, k *cli.Client, args []string) error {
			o, err := bundler.OpenPath(c.Context(), args[0])
			if err != nil {
				return err
			}
			var packed bytes.Buffer
			if err := tarball.Pack(&packed, o.Files); err != nil {
				return err
			}
			q.Bundle, q.Smoke = packed.Bytes(), nil
			for _, file := range smoke {
				text, err := config.ReadUpTo(file, trial.MaxFile)
				if err != nil {
					return err
				}
				q.Smoke = append(q.Smoke, &api.Table{Name: filepath.ToSlash(file), Text: text})
			}
			out, err := k.Push(c.Context(), q, args[0])
			if refused, is := errors.AsType[*cli.RefusedError](err); is {
				return grammar.Negative(refused)
			}
			if err != nil {
				return err
			}
			return cli.PrintPushed(c.OutOrStdout(), c.ErrOrStderr(), out, f.output.JSON())
		})
	c.Long = `Packs a policy (a folder, or a tarball), has it compiled and tested at control, and keeps it there: signed, unchangeable, and named by
the digest of its files, which is printed. Nothing decides by it before it is promoted.

Exit code: 0 it is there, 1 it did not pass, 2 it could not be pushed.`
	c.Flags().StringVar(&q.Project, "project", defaultProject, "the first half of the names of the environments that it is for")
	c.Flags().StringVarP(&q.Message, "message", "m", "", "what is changed, and why")
	c.Flags().StringVar(&q.Decision, "decision", "envoy/authz/allow", "path of the decision, which must be defined")
	c.Flags().StringArrayVar(&smoke, "smoke", nil, "table of requests that must come out as written there, as for gatehouse test; may be repeated")
	return c
}

// moveFlags are those of promote and rollback.
type moveFlags struct {
	planeFlags
	message, expected string
	wait              grammar.Duration
}

func (f *moveFlags) addTo(c *cobra.Command) {
	f.addEnvironment(c)
	c.Flags().StringVarP(&f.message, "message", "m", "", "why")
	c.Flags().StringVar(&f.expected, "expected", "", "the revision that the environment must have now (none: not any); else nothing is changed")
	c.Flags().Var(&f.wait, "wait", "wait until every connected edge has it in force, at most that long; else exit with 1")
}

func (f *moveFlags) print(c *cobra.Command, k *cli.Client, out *api.PromoteResponse) error {
	applied, err := k.PrintMoved(c.Context(), c.OutOrStdout(), out, cli.Moved{Wait: time.Duration(f.wait), JSON: f.output.JSON()})
	if err == nil && !applied {
		err = grammar.ErrReported
	}
	return err
}

func promoteCommand() *cobra.Command {
	var f moveFlags
	var stages []string
	var every grammar.Duration
	c := f.client("promote REVISION", "Put a revision in force in an environment", "gatehouse control promote 1f2e3d4c5b6a -e default/prod --wait 10s", func(c *cobra.Command, k *cli.Client, args []string) error {
		out, err := cli.Ask(c.Context(), k.Policy.Promote, &api.PromoteRequest{Environment: f.environment, Revision: args[0], Message: f.message, Expected: f.expected,
			Stages: stages, EverySeconds: int64(time.Duration(every).Seconds())})
		if err != nil {
			return err
		}
		if out.GetRollout() != nil {
			return k.Rollout(c.Context(), c.OutOrStdout(), f.environment, "", "", f.output.JSON())
		}
		return f.print(c, k, out)
	})
	c.Long = `Points an environment at a revision: every edge has it within a second. With --stage 1,10%,all it reaches one edge first, then a tenth of them, then all;
a rollout that leaves the bounds of gatehouse control guard is held by itself, and gatehouse control rollout shows it, holds it, goes on or ends it.`
	f.addTo(c)
	c.Flags().StringSliceVar(&stages, "stage", nil, "stages instead of all edges at once: numbers and shares of edges, and all as the last: 1,10%,all")
	c.Flags().Var(&every, "every", "how long a stage lasts before the next begins by itself (default: until gatehouse control rollout next)")
	return c
}

func rolloutCommand() *cobra.Command {
	var f planeFlags
	var message string
	c := f.client("rollout ACTION", "Show a staged rollout, hold it, go on, or end it", "gatehouse control rollout hold -e default/prod", func(c *cobra.Command, k *cli.Client, args []string) error {
		return k.Rollout(c.Context(), c.OutOrStdout(), f.environment, args[0], message, f.output.JSON())
	})
	c.Long = `Acts on the rollout that promote --stage began. ACTION is show; hold, which keeps the stage as it is; resume, which goes on; next, which begins the
next stage now; or abort, which ends it: the edges go back to the revision before.`
	f.addEnvironment(c)
	c.Flags().StringVarP(&message, "message", "m", "", "why")
	return c
}

func guardCommand() *cobra.Command {
	var f planeFlags
	g := &api.Guard{}
	c := f.client("guard", "Show or set the bounds of an environment's staged rollouts", "gatehouse control guard --errors 0.005 --denied 0.05 --latency 3 -e default/prod", func(c *cobra.Command, k *cli.Client, _ []string) error {
		var change func(*api.Guard)
		for flag, set := range map[string]func(*api.Guard){
			"errors":  func(now *api.Guard) { now.Errors = g.GetErrors() },
			"denied":  func(now *api.Guard) { now.Denied = g.GetDenied() },
			"latency": func(now *api.Guard) { now.Latency = g.GetLatency() },
			"least":   func(now *api.Guard) { now.Least = g.GetLeast() },
		} {
			if before := change; c.Flags().Changed(flag) {
				change = func(now *api.Guard) {
					if set(now); before != nil {
						before(now)
					}
				}
			}
		}
		return k.Guard(c.Context(), c.OutOrStdout(), f.environment, change, f.output.JSON())
	})
	c.Long = `Shows within which bounds a revision must stay while it is rolled out, compared with the one before, and who set them. Outside of them the rollout is held.
A flag changes its own bound, and leaves the others as they are.`
	f.addEnvironment(c)
	c.Flags().Float64Var(&g.Errors, "errors", 0, "most share of decisions that fail, beyond that of the revision before; 0: the default, 0.01")
	c.Flags().Float64Var(&g.Denied, "denied", 0, "most share of requests that are denied, likewise; 0: the default, 0.1")
	c.Flags().Float64Var(&g.Latency, "latency", 0, "most mean time of a decision, as a multiple of that before; 0: the default, 5")
	c.Flags().Uint64Var(&g.Least, "least", 0, "decisions before anything is compared; 0: the default, 100")
	return c
}

func rollbackCommand() *cobra.Command {
	var f moveFlags
	c := f.client("rollback", "Put the revision in force again that an environment had before", `gatehouse control rollback -e default/prod --message "refunds fail" --wait 10s`, func(c *cobra.Command, k *cli.Client, _ []string) error {
		out, err := cli.Ask(c.Context(), k.Policy.Rollback, &api.RollbackRequest{Environment: f.environment, Message: f.message, Expected: f.expected})
		if err != nil {
			return err
		}
		return f.print(c, k, out)
	})
	f.addTo(c)
	return c
}

func revisionsCommand() *cobra.Command {
	var f planeFlags
	var project string
	var limit int32
	c := f.client("revisions", "List a project's revisions, the newest first", "gatehouse control revisions --project default", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Revisions(c.Context(), c.OutOrStdout(), project, limit, f.output.JSON())
	})
	c.Flags().StringVar(&project, "project", defaultProject, "the project")
	c.Flags().Int32Var(&limit, "limit", 20, "how many, at most 1000")
	return c
}

func diffCommand() *cobra.Command {
	var f planeFlags
	var project string
	c := f.client("diff BEFORE AFTER", "Compare two revisions: rules, data, files", "gatehouse control diff prod 1f2e3d4c5b6a", func(c *cobra.Command, k *cli.Client, args []string) error {
		return k.Diff(c.Context(), c.OutOrStdout(), project, args[0], args[1], f.output.JSON())
	})
	c.Args = grammar.Arguments(strings.TrimSpace(c.Example), 2)
	c.Long = `Shows the rules, the data and the files that differ between two revisions of a project. Each is a digest, or an environment of the project
(prod), which stands for the revision that is promoted there.`
	c.Flags().StringVar(&project, "project", defaultProject, "the project")
	return c
}

func historyCommand() *cobra.Command {
	var f planeFlags
	var limit int32
	c := f.client("history", "List who put which revision in force in an environment, the newest first", "gatehouse control history -e default/prod", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.History(c.Context(), c.OutOrStdout(), f.environment, limit, f.output.JSON())
	})
	f.addEnvironment(c)
	c.Flags().Int32Var(&limit, "limit", 20, "how many, at most 1000")
	return c
}

func auditCommand() *cobra.Command {
	var f planeFlags
	var limit int32
	c := f.client("audit", "List who did, or was refused, what with policies, the newest first", "gatehouse control audit --limit 100", func(c *cobra.Command, k *cli.Client, _ []string) error {
		return k.Audit(c.Context(), c.OutOrStdout(), limit, f.output.JSON())
	})
	c.Flags().Int32Var(&limit, "limit", 20, "how many, at most 1000")
	return c
}
