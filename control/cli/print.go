package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/durable"
	"gatehouse/terminal"
)

// edgeRows are the table of edges.
func edgeRows(list []*api.Edge, now time.Time) [][]string {
	rows := [][]string{{"EDGE", "NAME", "ENVIRONMENT", "VERSION", "STATE", "REVISION", "BEHIND", "POLICY", "LAST SEEN", "DEGRADED"}}
	for _, e := range list {
		state := "away"
		switch {
		case e.GetRevokedAt() != nil:
			state = "revoked"
		case e.GetError() != "":
			state = "stuck"
		case e.GetConnected() && e.GetBehind() == 0:
			state = "current"
		case e.GetConnected():
			state = "behind"
		}
		degraded := strings.Join(e.GetDegraded(), "; ")
		if e.GetError() != "" {
			degraded = e.GetError()
		}
		if degraded == "" {
			degraded = "-"
		}
		rows = append(rows, []string{e.GetId(), e.GetName(), e.GetEnvironment(), e.GetVersion(), state, strconv.FormatUint(e.GetRevision(), 10), strconv.FormatUint(e.GetBehind(), 10),
			cmp.Or(e.GetPolicy(), "-"), ago(e.GetLastSeen(), now), degraded})
	}
	return rows
}

// tokenRows are the table of tokens.
func tokenRows(list []*api.Token, now time.Time) [][]string {
	rows := [][]string{{"TOKEN", "NAME", "SCOPES", "STATE", "MADE BY"}}
	for _, t := range list {
		state := "valid until " + t.GetExpiresAt().AsTime().Format("2006-01-02 15:04")
		switch {
		case t.GetRevokedAt() != nil:
			state = "revoked"
		case now.After(t.GetExpiresAt().AsTime()):
			state = "expired"
		}
		rows = append(rows, []string{t.GetId(), t.GetName(), strings.Join(t.GetScopes(), " "), state, t.GetCreatedBy()})
	}
	return rows
}

func ago(at *timestamppb.Timestamp, now time.Time) string {
	if at == nil {
		return "never"
	}
	return terminal.Duration(max(0, now.Sub(at.AsTime()).Truncate(time.Second)).Nanoseconds()) + " ago"
}

// Status prints the environments and the edges.
func (c *Client) Status(ctx context.Context, w io.Writer, asJSON bool) error {
	environments, err := Ask(ctx, c.Admin.ListEnvironments, &api.ListEnvironmentsRequest{})
	if err != nil {
		return err
	}
	edges, err := Ask(ctx, c.Admin.ListEdges, &api.ListEdgesRequest{})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, environments, edges)
	}
	if err := terminal.Table(w, environmentRows(environments.GetEnvironments())); err != nil || len(edges.GetEdges()) == 0 {
		return err
	}
	fmt.Fprintln(w)
	return terminal.Table(w, edgeRows(edges.GetEdges(), time.Now()))
}

// Tokens prints the tokens.
func (c *Client) Tokens(ctx context.Context, w io.Writer, asJSON bool) error {
	out, err := Ask(ctx, c.Admin.ListTokens, &api.ListTokensRequest{})
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out)
	}
	return terminal.Table(w, tokenRows(out.GetTokens(), time.Now()))
}

// Changes prints the newest changes of an environment.
func (c *Client) Changes(ctx context.Context, w io.Writer, environment string, limit int32, asJSON bool) error {
	out, err := Ask(ctx, c.Directory.ListChanges, &api.ListChangesRequest{Environment: environment, PageSize: limit})
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out)
	}
	return terminal.Table(w, changeRows(out.GetChanges()))
}

// HandOut prints an enrolment token, or writes it to a file, and prints on notes how an edge uses it.
func HandOut(w, notes io.Writer, made *api.CreateEnrollmentResponse, url, file string, asJSON bool) error {
	if file != "" {
		if err := durable.WriteFile(file, []byte(made.GetToken()+"\n"), 0o600); err != nil {
			return err
		}
	}
	if asJSON {
		object := map[string]any{"expires_at": made.GetExpiresAt().AsTime(), "pin": made.GetPin(), "url": url}
		if file == "" {
			object["token"] = made.GetToken()
		} else {
			object["file"] = file
		}
		return terminal.JSON(w).Encode(object)
	}
	if file == "" {
		fmt.Fprintln(w, made.GetToken())
	}
	fmt.Fprint(notes, edgeConfig(made, url, file))
	return nil
}

// printJSON prints the fields of messages as one object.
func printJSON(w io.Writer, messages ...proto.Message) error {
	all := map[string]json.RawMessage{}
	for _, m := range messages {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &all); err != nil {
			return err
		}
	}
	return terminal.JSON(w).Encode(all)
}

// environmentRows are the table of environments.
func environmentRows(list []*api.Environment) [][]string {
	rows := [][]string{{"ENVIRONMENT", "REVISION", "OBJECTS", "RELATIONS"}}
	for _, e := range list {
		rows = append(rows, []string{e.GetName(), strconv.FormatUint(e.GetRevision(), 10), terminal.Thousands(e.GetObjects()), terminal.Thousands(e.GetRelations())})
	}
	return rows
}

// changeRows are the table of changes.
func changeRows(list []*api.Change) [][]string {
	rows := [][]string{{"REVISION", "AT", "BY", "SOURCE", "CHANGES"}}
	for _, x := range list {
		what := strings.Join(x.GetChanges()[:min(3, len(x.GetChanges()))], ", ")
		if more := int(x.GetTotal()) - 3; more > 0 {
			what += fmt.Sprintf(", and %d more", more)
		}
		rows = append(rows, []string{strconv.FormatUint(x.GetRevision(), 10), x.GetAt().AsTime().Local().Format("2006-01-02 15:04:05"), x.GetActor(), x.GetSource(), what})
	}
	return rows
}

// print prints what came of a write. out is what was waited for, nil where nothing was.
func (with *Written) print(w io.Writer, revision uint64, out *api.WaitAppliedResponse) error {
	if with.JSON {
		object := map[string]any{"environment": with.Environment, "revision": revision}
		if out != nil {
			missing := []map[string]any{}
			for _, e := range out.GetMissing() {
				missing = append(missing, map[string]any{"edge": e.GetEdge(), "revision": e.GetRevision(), "error": e.GetError()})
			}
			object["applied"], object["edges"], object["missing"] = out.GetApplied(), len(out.GetEdges()), missing
		}
		return terminal.JSON(w).Encode(object)
	}
	for _, e := range out.GetMissing() {
		fmt.Fprintf(w, "%s has not applied it: it is at revision %d %s\n", terminal.Word(e.GetEdge()), e.GetRevision(), terminal.Visible(e.GetError()))
	}
	if out.GetApplied() {
		fmt.Fprintf(w, "in force at %s\n", terminal.Count(len(out.GetEdges()), "edge"))
	}
	return nil
}

// edgeConfig says how an edge uses an enrolment token that is in a file.
func edgeConfig(made *api.CreateEnrollmentResponse, url, file string) string {
	if file == "" {
		file = "FILE"
	}
	return fmt.Sprintf("valid until %s, for one edge, whose gatehouse.yaml needs:\n\nstate_dir: ./state\ndirectory: # or policy.bundles: [{control: true}], or both\n  control: true\ncontrol:\n  url: %s\n  pin: %s\n  enroll_token_file: %s\n",
		made.GetExpiresAt().AsTime().Local().Format("2006-01-02 15:04"), url, made.GetPin(), file)
}
