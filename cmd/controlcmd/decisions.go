package controlcmd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/cmd/grammar"
	"gatehouse/control"
	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/control/decisions"
	"gatehouse/durable"
	"gatehouse/replay/search"
	"gatehouse/terminal"
)

// decisionFlags say which decisions a command is about.
type decisionFlags struct {
	filter       api.DecisionFilter
	since, until string
	denied       bool
}

func (f *decisionFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.filter.User, "user", "", "of this user: identity.subject")
	c.Flags().StringVar(&f.filter.Route, "route", "", "of this route")
	c.Flags().StringVar(&f.filter.Outcome, "outcome", "", "allow, deny, or gap: decisions that are missing")
	c.Flags().BoolVar(&f.denied, "denied", false, "short for --outcome deny")
	c.Flags().StringVar(&f.filter.Reason, "reason", "", "with this reason")
	c.Flags().StringVar(&f.filter.Edge, "edge", "", "of this edge: its name or id")
	c.Flags().StringVar(&f.filter.Revision, "revision", "", "by this revision of the policy")
	c.Flags().StringVar(&f.filter.App, "app", "", "of this application")
	c.Flags().StringVar(&f.filter.Id, "id", "", "with this decision id")
	c.Flags().StringVar(&f.filter.Text, "text", "", "with this text anywhere in them, as it is written there")
	c.Flags().StringVar(&f.since, "since", "", "from this time on: RFC 3339, a date, or how long ago (90m, 36h, 7d)")
	c.Flags().StringVar(&f.until, "until", "", "before this time, in the same formats")
}

// get is the filter.
func (f *decisionFlags) get() (*api.DecisionFilter, error) {
	if f.denied {
		if f.filter.GetOutcome() != "" {
			return nil, errors.New("give one of --denied and --outcome")
		}
		f.filter.Outcome = "deny"
	}
	now := time.Now()
	since, err := search.Moment("--since", f.since, now)
	until, other := search.Moment("--until", f.until, now)
	if err := errors.Join(err, other); err != nil {
		return nil, err
	}
	if !since.IsZero() {
		f.filter.Since = timestamppb.New(since)
	}
	if !until.IsZero() {
		f.filter.Until = timestamppb.New(until)
	}
	return &f.filter, nil
}

func decisionsCommand() *cobra.Command {
	var f planeFlags
	var of decisionFlags
	var limit int
	var page, by, revision string
	var follow, entries bool
	c := f.client("decisions", "Search what the edges of an environment decided", "gatehouse control decisions --user alice --denied --since 1h", func(c *cobra.Command, k *cli.Client, _ []string) error {
		filter, err := of.get()
		if err != nil {
			return err
		}
		if by != "" {
			if follow || entries || page != "" {
				return errors.New("--by counts decisions: --follow, --entries and --page do not go with it")
			}
			return k.Count(c.Context(), c.OutOrStdout(), &api.CountDecisionsRequest{Environment: f.environment, Filter: filter, By: by, NewSinceRevision: revision, Limit: int32(min(limit, 1000))}, f.output.JSON())
		}
		if revision != "" {
			return errors.New("--new-since needs --by")
		}
		with := cli.Decisions{Environment: f.environment, Filter: filter, Limit: limit, Page: page, Entries: entries, JSON: f.output.JSON()}
		if follow {
			return k.Follow(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), with)
		}
		return k.Decisions(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), with)
	})
	c.Long = `Searches what the edges of an environment decided, the newest first. Edges whose configuration has the sink control send it
(docs/control-decisions.md). --by counts instead: by route, reason, user, app, edge, revision, rule, method, host, status or
outcome. --by route --denied --new-since v7 are the routes on which v7 denies and no other revision did. The token needs
the scope audit.`
	f.addEnvironment(c)
	of.add(c)
	c.Flags().IntVar(&limit, "limit", 100, "how many; 0 is all")
	c.Flags().StringVar(&page, "page", "", "go on where a search with the same filter ended")
	c.Flags().BoolVar(&entries, "entries", false, "print the entries as the edges wrote them, a line of JSON each")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "print decisions as they come, until Ctrl-C")
	c.Flags().StringVar(&by, "by", "", "count the decisions by this")
	c.Flags().StringVar(&revision, "new-since", "", "with --by: of this revision, what no other revision has")
	return c
}

func exportCommand() *cobra.Command {
	var f planeFlags
	var of decisionFlags
	var format, out string
	c := f.client("export", "Write the decisions of an environment to a file", "gatehouse control export --since 7d --denied --format csv --out denials.csv", func(c *cobra.Command, k *cli.Client, _ []string) error {
		filter, err := of.get()
		if err != nil {
			return err
		}
		if out == "-" {
			return k.Export(c.Context(), c.OutOrStdout(), f.environment, filter, format)
		}
		if err := durable.Write(out, 0o600, func(w io.Writer) error { return k.Export(c.Context(), w, f.environment, filter, format) }); err != nil {
			return err
		}
		return f.print(c, out+" is written\n", map[string]any{"file": out})
	})
	c.Long = `Writes decisions to a file, which is whole or not there: as lines of JSON, the entries as the edges wrote them; as CSV; or as
Parquet, which DuckDB, ClickHouse and others read. The token needs the scope audit.`
	f.addEnvironment(c)
	of.add(c)
	c.Flags().StringVar(&format, "format", "json", "json, csv or parquet")
	c.Flags().StringVar(&out, "out", "", "the file; - is standard output")
	_ = c.MarkFlagRequired("out") // it is defined above
	return c
}

// kept is a flag that says how long decisions are kept.
type kept struct {
	grammar.Duration
	set bool
}

// Set implements pflag.Value.
func (k *kept) Set(text string) error { k.set = true; return k.Duration.Set(text) }

func retentionCommand() *cobra.Command {
	var f planeFlags
	var allow, deny, gap kept
	c := f.client("retention", "Show or set how long decisions are kept", "gatehouse control retention --allow 30d --deny 365d", func(c *cobra.Command, k *cli.Client, _ []string) error {
		if allow.set || deny.set || gap.set {
			now, err := cli.Ask(c.Context(), k.Trail.GetRetention, &api.GetRetentionRequest{Environment: f.environment})
			if err != nil {
				return err
			}
			next := now.GetRetention()
			for _, one := range []struct {
				kept *kept
				into *int64
			}{{&allow, &next.AllowSeconds}, {&deny, &next.DenySeconds}, {&gap, &next.GapSeconds}} {
				if one.kept.set {
					*one.into = int64(time.Duration(one.kept.Duration).Seconds())
				}
			}
			if err := cli.Done(c.Context(), k.Trail.SetRetention, &api.SetRetentionRequest{Environment: f.environment, Retention: next}); err != nil {
				return err
			}
		}
		return k.Retention(c.Context(), c.OutOrStdout(), f.environment, f.output.JSON())
	})
	c.Long = `Shows how long the decisions of an environment are kept, by their outcome, and what holds them. With a time it sets that: it
needs the scope admin. Decisions end with the segment that they are in, when its last one is older than that. 0 is for ever.`
	f.addEnvironment(c)
	c.Flags().Var(&allow, "allow", "keep what was allowed for this time")
	c.Flags().Var(&deny, "deny", "keep denials for this time")
	c.Flags().Var(&gap, "gap", "keep gaps for this time")
	return c
}

func holdCommand() *cobra.Command {
	var f planeFlags
	var since, until, why string
	var release bool
	c := f.client("hold NAME", "Keep decisions from ending, whatever the retention says", "gatehouse control hold case-7 --since 2026-01-01 --why 'asked by legal'", func(c *cobra.Command, k *cli.Client, args []string) error {
		if release {
			if err := cli.Done(c.Context(), k.Trail.DeleteHold, &api.DeleteHoldRequest{Environment: f.environment, Name: args[0]}); err != nil {
				return err
			}
			return f.print(c, args[0]+" is released\n", map[string]any{"released": args[0]})
		}
		h := &api.Hold{Name: args[0], Why: why}
		times := decisionFlags{since: since, until: until}
		filter, err := times.get()
		if err != nil {
			return err
		}
		h.Since, h.Until = filter.GetSince(), filter.GetUntil()
		if err := cli.Done(c.Context(), k.Trail.CreateHold, &api.CreateHoldRequest{Environment: f.environment, Hold: h}); err != nil {
			return err
		}
		return f.print(c, args[0]+" holds\n", map[string]any{"held": args[0]})
	})
	c.Long = `Keeps the decisions of a time from ending, until --release. Who made and who released it is in the signed chain. It needs the
scope admin.`
	f.addEnvironment(c)
	c.Flags().StringVar(&since, "since", "", "from this time on: RFC 3339, a date, or how long ago (90m, 36h, 7d)")
	c.Flags().StringVar(&until, "until", "", "before this time, in the same formats")
	c.Flags().StringVar(&why, "why", "", "the reason, which is on record")
	c.Flags().BoolVar(&release, "release", false, "end the hold")
	return c
}

func verifyLogCommand() *cobra.Command {
	var output grammar.Output
	var dir, ca string
	var has []string
	c := &cobra.Command{
		Use:     "verify-log",
		Short:   "Check that no decision was changed or removed",
		Example: `  gatehouse control verify-log --data ./control-data`,
		Long: `Checks the decisions in control's folder, or in a copy of it: that the chain of each environment is whole and signed by control's
authority, and that each segment is what the chain says. It asks nobody, and may run beside control. It prints the hash of
each chain's last record: kept elsewhere and given with --has, it shows that the end was not cut since.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := control.VerifyLog(dir, ca, has)
			if err != nil {
				return err
			}
			wrong := false
			for _, v := range list {
				wrong = wrong || len(v.Problems) > 0
			}
			if err := printVerified(c.OutOrStdout(), list, output.JSON()); err != nil {
				return err
			}
			if wrong {
				return grammar.ErrReported
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "data", "", "control's folder")
	c.Flags().StringVar(&ca, "ca", "", "file with the certificate of control's authority (default: the one in the folder)")
	c.Flags().StringSliceVar(&has, "has", nil, "hash of a record that must be there; may be repeated")
	_ = c.MarkFlagRequired("data") // it is defined above
	output.Add(c, "one object")
	return c
}

func printVerified(w io.Writer, list []*decisions.Verified, asJSON bool) error {
	if asJSON {
		if list == nil {
			list = []*decisions.Verified{}
		}
		return terminal.JSON(w).Encode(map[string]any{"environments": list})
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no decisions")
		return err
	}
	rows := [][]string{{"ENVIRONMENT", "RECORDS", "SEGMENTS", "DECISIONS", "ENDED", "PROBLEMS", "LAST RECORD"}}
	for _, v := range list {
		rows = append(rows, []string{v.Environment, fmt.Sprint(v.Records), fmt.Sprint(v.Segments), fmt.Sprint(v.Entries), fmt.Sprint(v.Removed), fmt.Sprint(len(v.Problems)), cmp.Or(v.Head, "-")})
	}
	if err := terminal.Table(w, rows); err != nil {
		return err
	}
	for _, v := range list {
		for _, p := range v.Problems {
			if _, err := fmt.Fprintf(w, "%s: %s\n", v.Environment, terminal.Visible(p)); err != nil {
				return err
			}
		}
	}
	return nil
}
