package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/terminal"
)

// Decisions is a search for decisions.
type Decisions struct {
	Environment string
	Filter      *api.DecisionFilter
	Limit       int    // 0: all
	Page        string // where to go on
	Entries     bool   // print the entries as the edges wrote them
	JSON        bool
}

// decisionJSON is a decision as it is printed.
type decisionJSON struct {
	ID          string    `json:"id"`
	Time        time.Time `json:"time"`
	Edge        string    `json:"edge"`
	EdgeName    string    `json:"edge_name,omitempty"`
	Outcome     string    `json:"outcome"`
	Reason      string    `json:"reason,omitempty"`
	App         string    `json:"app,omitempty"`
	Route       string    `json:"route,omitempty"`
	User        string    `json:"user,omitempty"`
	Method      string    `json:"method,omitempty"`
	Host        string    `json:"host,omitempty"`
	Path        string    `json:"path,omitempty"`
	Status      int32     `json:"status,omitempty"`
	Revision    string    `json:"revision,omitempty"`
	Rule        string    `json:"rule,omitempty"`
	RequestedBy string    `json:"requested_by,omitempty"`
	TraceID     string    `json:"trace_id,omitempty"`
	DurationNS  int64     `json:"duration_ns,omitempty"`
	DryRun      bool      `json:"dry_run,omitempty"`
	Memo        bool      `json:"memo,omitempty"`
	Received    time.Time `json:"received"`
}

func decisionOf(d *api.Decision) decisionJSON {
	return decisionJSON{ID: d.GetId(), Time: d.GetTime().AsTime(), Edge: d.GetEdge(), EdgeName: d.GetEdgeName(), Outcome: d.GetOutcome(), Reason: d.GetReason(), App: d.GetApp(), Route: d.GetRoute(),
		User: d.GetUser(), Method: d.GetMethod(), Host: d.GetHost(), Path: d.GetPath(), Status: d.GetStatus(), Revision: d.GetRevision(), Rule: d.GetRule(), RequestedBy: d.GetRequestedBy(),
		TraceID: d.GetTraceId(), DurationNS: d.GetDurationNs(), DryRun: d.GetDryRun(), Memo: d.GetMemo(), Received: d.GetReceived().AsTime()}
}

var decisionHead = []string{"TIME", "EDGE", "OUTCOME", "REASON", "USER", "REQUEST", "ROUTE", "REVISION", "ID"}

func decisionRow(d *api.Decision) []string {
	outcome := d.GetOutcome()
	if d.GetDryRun() {
		outcome += " (dry run)"
	}
	return []string{d.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z07:00"), cmp.Or(d.GetEdgeName(), d.GetEdge()), outcome, dash(d.GetReason()), dash(d.GetUser()),
		dash(d.GetMethod() + " " + d.GetPath()), dash(d.GetRoute()), dash(d.GetRevision()), d.GetId()}
}

// dash is a cell of a table that is never empty.
func dash(text string) string {
	if text == "" || text == " " {
		return "-"
	}
	return text
}

// pageSize is how many decisions are asked for at once.
const pageSize = 500

// Decisions prints the decisions of a search, and on notes where it goes on, or how far back it came.
func (c *Client) Decisions(ctx context.Context, w, notes io.Writer, with Decisions) error {
	q := &api.SearchDecisionsRequest{Environment: with.Environment, Filter: with.Filter, PageToken: with.Page, Entries: with.Entries}
	table := &decisionTable{w: w, with: with}
	for left := with.Limit; ; {
		q.PageSize = pageSize
		if with.Limit > 0 {
			q.PageSize = int32(min(left, pageSize))
		}
		out, err := Ask(ctx, c.Trail.SearchDecisions, q)
		if err != nil {
			return err
		}
		if err := table.add(out.GetDecisions()); err != nil {
			return err
		}
		left -= len(out.GetDecisions())
		q.PageToken = out.GetNextPageToken()
		switch {
		case q.GetPageToken() == "":
			return table.end("")
		case with.Limit > 0 && left <= 0:
			if !with.JSON {
				fmt.Fprintf(notes, "there are more: --limit, or --page %s\n", q.GetPageToken())
			}
			return table.end(q.GetPageToken())
		case out.GetSearchedBackTo() != nil && !with.JSON:
			fmt.Fprintf(notes, "searched back to %s, and going on\n", out.GetSearchedBackTo().AsTime().Format(time.RFC3339))
		}
	}
}

// decisionTable prints decisions as a table, as one object, or as the entries that they were.
type decisionTable struct {
	w    io.Writer
	with Decisions
	rows [][]string
	list []any
}

func (t *decisionTable) add(list []*api.Decision) error {
	for _, d := range list {
		switch {
		case t.with.JSON && t.with.Entries:
			t.list = append(t.list, json.RawMessage(d.GetEntry()))
		case t.with.JSON:
			t.list = append(t.list, decisionOf(d))
		case t.with.Entries:
			if _, err := fmt.Fprintf(t.w, "%s\n", terminal.VisibleJSON([]byte(d.GetEntry()))); err != nil {
				return err
			}
		default:
			t.rows = append(t.rows, decisionRow(d))
		}
	}
	return nil
}

func (t *decisionTable) end(next string) error {
	switch {
	case t.with.JSON:
		out := map[string]any{"decisions": t.list}
		if t.list == nil {
			out["decisions"] = []any{}
		}
		if next != "" {
			out["next_page"] = next
		}
		return terminal.JSON(t.w).Encode(out)
	case t.with.Entries:
		return nil
	case len(t.rows) == 0:
		_, err := fmt.Fprintln(t.w, "no decisions")
		return err
	}
	return terminal.Table(t.w, append([][]string{decisionHead}, t.rows...))
}

// Follow prints decisions as they come, until ctx ends or control does.
func (c *Client) Follow(ctx context.Context, w, notes io.Writer, with Decisions) error {
	stream, err := c.Trail.FollowDecisions(ctx, connect.NewRequest(&api.FollowDecisionsRequest{Environment: with.Environment, Filter: with.Filter, Entries: with.Entries}))
	if err != nil {
		return plain(err)
	}
	defer func() { _ = stream.Close() }() // it has ended
	for stream.Receive() {
		for _, d := range stream.Msg().GetDecisions() {
			var err error
			switch {
			case with.Entries:
				_, err = fmt.Fprintf(w, "%s\n", terminal.VisibleJSON([]byte(d.GetEntry())))
			case with.JSON:
				var line []byte
				if line, err = json.Marshal(decisionOf(d)); err == nil {
					_, err = fmt.Fprintf(w, "%s\n", terminal.VisibleJSON(line))
				}
			default:
				row := decisionRow(d)
				_, err = fmt.Fprintf(w, "%s  %s  %s  %s  %s  %s\n", row[0], terminal.Visible(row[1]), row[2], terminal.Visible(row[3]), terminal.Visible(row[4]), terminal.Visible(row[5]))
			}
			if err != nil {
				return err
			}
		}
		if n := stream.Msg().GetLost(); n > 0 {
			fmt.Fprintf(notes, "%s were left out: they came faster than they were printed\n", terminal.Count(n, "decision"))
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return plain(stream.Err())
}

// Count prints how many decisions there are of each value of something.
func (c *Client) Count(ctx context.Context, w io.Writer, q *api.CountDecisionsRequest, asJSON bool) error {
	out, err := Ask(ctx, c.Trail.CountDecisions, q)
	if err != nil {
		return err
	}
	if asJSON {
		type one struct {
			Value   string    `json:"value,omitempty"`
			Allowed int64     `json:"allowed"`
			Denied  int64     `json:"denied"`
			Gaps    int64     `json:"gaps"`
			P50     int64     `json:"p50_ns"`
			P99     int64     `json:"p99_ns"`
			Max     int64     `json:"max_ns"`
			First   time.Time `json:"first,omitzero"`
			Last    time.Time `json:"last,omitzero"`
		}
		of := func(k *api.DecisionCount) one {
			o := one{Value: k.GetValue(), Allowed: k.GetAllowed(), Denied: k.GetDenied(), Gaps: k.GetGaps(), P50: k.GetP50Ns(), P99: k.GetP99Ns(), Max: k.GetMaxNs()}
			if k.GetFirst() != nil {
				o.First, o.Last = k.GetFirst().AsTime(), k.GetLast().AsTime()
			}
			return o
		}
		list := []one{}
		for _, k := range out.GetCounts() {
			list = append(list, of(k))
		}
		return terminal.JSON(w).Encode(map[string]any{"by": q.GetBy(), "counts": list, "total": of(out.GetTotal()), "values": out.GetValues()})
	}
	rows := [][]string{{q.GetBy(), "DENIED", "ALLOWED", "GAPS", "P50", "P99", "LAST"}}
	row := func(k *api.DecisionCount, name string) {
		last := "-"
		if k.GetLast() != nil {
			last = k.GetLast().AsTime().Format(time.RFC3339)
		}
		rows = append(rows, []string{name, strconv.FormatInt(k.GetDenied(), 10), strconv.FormatInt(k.GetAllowed(), 10), strconv.FormatInt(k.GetGaps(), 10), terminal.Duration(k.GetP50Ns()), terminal.Duration(k.GetP99Ns()), last})
	}
	for _, k := range out.GetCounts() {
		row(k, dash(k.GetValue()))
	}
	row(out.GetTotal(), fmt.Sprintf("all %d", out.GetValues()))
	return terminal.Table(w, rows)
}

// Export writes the decisions of a filter to w in a format: json, csv or parquet.
func (c *Client) Export(ctx context.Context, w io.Writer, environment string, f *api.DecisionFilter, format string) error {
	as := map[string]api.ExportFormat{"json": api.ExportFormat_EXPORT_FORMAT_JSON, "csv": api.ExportFormat_EXPORT_FORMAT_CSV, "parquet": api.ExportFormat_EXPORT_FORMAT_PARQUET}[format]
	if as == api.ExportFormat_EXPORT_FORMAT_UNSPECIFIED {
		return fmt.Errorf("--format %s: there are json, csv and parquet", format)
	}
	stream, err := c.Trail.ExportDecisions(ctx, connect.NewRequest(&api.ExportDecisionsRequest{Environment: environment, Filter: f, Format: as}))
	if err != nil {
		return plain(err)
	}
	defer func() { _ = stream.Close() }() // it has ended
	for stream.Receive() {
		if _, err := w.Write(stream.Msg().GetData()); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return plain(err)
	}
	return nil
}

// Retention prints how long decisions are kept, and what holds them.
func (c *Client) Retention(ctx context.Context, w io.Writer, environment string, asJSON bool) error {
	out, err := Ask(ctx, c.Trail.GetRetention, &api.GetRetentionRequest{Environment: environment})
	if err != nil {
		return err
	}
	keep := out.GetRetention()
	if asJSON {
		holds := []any{}
		for _, h := range out.GetHolds() {
			one := map[string]any{"name": h.GetName(), "why": h.GetWhy(), "created_by": h.GetCreatedBy(), "created_at": h.GetCreatedAt().AsTime()}
			for name, t := range map[string]*timestamppb.Timestamp{"since": h.GetSince(), "until": h.GetUntil()} {
				if t != nil {
					one[name] = t.AsTime()
				}
			}
			holds = append(holds, one)
		}
		return terminal.JSON(w).Encode(map[string]any{"environment": environment, "allow_seconds": keep.GetAllowSeconds(), "deny_seconds": keep.GetDenySeconds(), "gap_seconds": keep.GetGapSeconds(), "holds": holds})
	}
	long := func(seconds int64) string {
		switch {
		case seconds == 0:
			return "for ever"
		case seconds%86400 == 0:
			return terminal.Count(seconds/86400, "day")
		}
		return terminal.Count(seconds/3600, "hour")
	}
	rows := [][]string{{"OUTCOME", "KEPT"}, {"allow", long(keep.GetAllowSeconds())}, {"deny", long(keep.GetDenySeconds())}, {"gap", long(keep.GetGapSeconds())}}
	if err := terminal.Table(w, rows); err != nil || len(out.GetHolds()) == 0 {
		return err
	}
	rows = [][]string{{"HOLD", "SINCE", "UNTIL", "BY", "WHY"}}
	when := func(t *timestamppb.Timestamp) string {
		if t == nil {
			return "-"
		}
		return t.AsTime().Format(time.RFC3339)
	}
	for _, h := range out.GetHolds() {
		rows = append(rows, []string{h.GetName(), when(h.GetSince()), when(h.GetUntil()), h.GetCreatedBy(), dash(h.GetWhy())})
	}
	fmt.Fprintln(w)
	return terminal.Table(w, rows)
}
