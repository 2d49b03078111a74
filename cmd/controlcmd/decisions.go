package controlcmd

import (
	"errors"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/control/cli"
	"gatehouse/replay/search"
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
