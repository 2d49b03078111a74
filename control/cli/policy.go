package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"gatehouse/control/api"
	"gatehouse/terminal"
)

// ShortDigest is how many digits of a revision's digest are shown.
const ShortDigest = 12

func short(digest string) string { return digest[:min(len(digest), ShortDigest)] }

// RefusedError is a bundle that did not pass its checks at control.
type RefusedError struct{ Lines []string }

func (e *RefusedError) Error() string {
	return "control refuses the bundle:\n" + strings.Join(e.Lines, "\n")
}

// Push pushes a bundle. Its error is a *RefusedError where it did not pass, with files below folder.
func (c *Client) Push(ctx context.Context, q *api.PushRevisionRequest, folder string) (*api.PushRevisionResponse, error) {
	out, err := c.Policy.PushRevision(ctx, connect.NewRequest(q))
	if err == nil {
		return out.Msg, nil
	}
	about, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return nil, err
	}
	for _, d := range about.Details() {
		value, err := d.Value()
		failed, is := value.(*api.CheckFailure)
		if err != nil || !is {
			continue
		}
		refused := &RefusedError{}
		for _, p := range failed.GetProblems() {
			place := ""
			if p.GetFile() != "" {
				place = p.GetFile()
				if p.GetStage() != "smoke" {
					place = filepath.Join(folder, filepath.FromSlash(p.GetFile()))
				}
				if p.GetLine() > 0 {
					place += ":" + strconv.Itoa(int(p.GetLine()))
				}
				place += ": "
			}
			refused.Lines = append(refused.Lines, terminal.VisibleLines(place+p.GetStage()+": "+p.GetText()))
		}
		return nil, refused
	}
	return nil, plain(err)
}

// PrintPushed prints a revision that was pushed.
func PrintPushed(w, notes io.Writer, out *api.PushRevisionResponse, asJSON bool) error {
	for _, notice := range out.GetNotices() {
		fmt.Fprintln(notes, "notice: "+terminal.Visible(notice))
	}
	if asJSON {
		return printJSON(w, out)
	}
	r := out.GetRevision()
	what := fmt.Sprintf("%s passed", terminal.Count(int(r.GetTests()), "test"))
	if r.GetSmoke() > 0 {
		what += fmt.Sprintf(", %s as written", terminal.Count(int(r.GetSmoke()), "request"))
	}
	if out.GetExisted() {
		what += ", and control has it already"
	}
	_, err := fmt.Fprintf(w, "%s\n", r.GetDigest())
	fmt.Fprintf(notes, "%s: %s, %s, %s\n", r.GetProject(), terminal.Count(int(r.GetFiles()), "file"), terminal.Count(int(r.GetRules()), "rule"), what)
	return err
}

// Moved is a promotion that is waited for.
type Moved struct {
	Wait time.Duration // for every connected edge; 0: not
	JSON bool
}

// PrintMoved prints a promotion, and waits for the edges. applied is false where that was in vain.
func (c *Client) PrintMoved(ctx context.Context, w io.Writer, out *api.PromoteResponse, with Moved) (applied bool, err error) {
	p := out.GetPromotion()
	if !with.JSON {
		said := "is at"
		if !out.GetChanged() {
			said = "was already at"
		}
		fmt.Fprintf(w, "%s %s %s\n", p.GetEnvironment(), said, short(p.GetRevision().GetDigest()))
	}
	current, missing := []string{}, []string{}
	for deadline := time.Now().Add(with.Wait); with.Wait > 0; {
		is, err := Ask(ctx, c.Policy.GetPolicy, &api.GetPolicyRequest{Environment: p.GetEnvironment()})
		if err != nil {
			return false, err
		}
		current, missing = []string{}, []string{}
		for _, e := range is.GetEdges() {
			if e.GetCurrent() {
				current = append(current, e.GetName())
			} else {
				missing = append(missing, e.GetName())
			}
		}
		if len(missing) == 0 || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	if with.JSON {
		object := map[string]any{"environment": p.GetEnvironment(), "revision": p.GetRevision().GetDigest(), "previous": p.GetPrevious(), "changed": out.GetChanged(), "sequence": p.GetSequence()}
		if with.Wait > 0 {
			object["applied"], object["edges"], object["missing"] = len(missing) == 0, len(current), missing
		}
		return len(missing) == 0, terminal.JSON(w).Encode(object)
	}
	for _, name := range missing {
		fmt.Fprintf(w, "%s has not got it in force: gatehouse control status may say why\n", terminal.Word(name))
	}
	if with.Wait > 0 && len(missing) == 0 {
		fmt.Fprintf(w, "in force at %s\n", terminal.Count(len(current), "edge"))
	}
	return len(missing) == 0, nil
}

// Revisions prints a project's newest revisions.
func (c *Client) Revisions(ctx context.Context, w io.Writer, project string, limit int32, asJSON bool) error {
	out, err := Ask(ctx, c.Policy.ListRevisions, &api.ListRevisionsRequest{Project: project, PageSize: limit})
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out)
	}
	rows := [][]string{{"REVISION", "PUSHED", "BY", "RULES", "TESTS", "IN", "MESSAGE"}}
	for _, r := range out.GetRevisions() {
		rows = append(rows, []string{short(r.GetDigest()), r.GetAt().AsTime().Local().Format("2006-01-02 15:04:05"), r.GetActor(), strconv.Itoa(int(r.GetRules())), strconv.Itoa(int(r.GetTests())),
			strings.Join(r.GetEnvironments(), " "), firstLine(r.GetMessage())})
	}
	return terminal.Table(w, rows)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// Diff prints what differs between two revisions.
func (c *Client) Diff(ctx context.Context, w io.Writer, project, before, after string, asJSON bool) error {
	out, err := Ask(ctx, c.Policy.DiffRevisions, &api.DiffRevisionsRequest{Project: project, Before: before, After: after})
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out)
	}
	var rows [][]string
	for _, r := range out.GetRules() {
		rows = append(rows, []string{"rule", r.GetChange(), r.GetPath() + ": " + strings.Join(r.GetBefore(), ", ") + " -> " + strings.Join(r.GetAfter(), ", ")})
	}
	for _, d := range out.GetData() {
		rows = append(rows, []string{"data", d.GetChange(), d.GetPointer() + ": " + d.GetBefore() + " -> " + d.GetAfter()})
	}
	for _, f := range out.GetFiles() {
		rows = append(rows, []string{"file", f.GetChange(), f.GetFile()})
	}
	if more := out.GetMoreData(); more > 0 {
		rows = append(rows, []string{"data", "changed", fmt.Sprintf("and %d more", more)})
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "nothing differs")
		return err
	}
	return terminal.Table(w, rows)
}

// History prints what an environment was pointed at.
func (c *Client) History(ctx context.Context, w io.Writer, environment string, limit int32, asJSON bool) error {
	out, err := Ask(ctx, c.Policy.ListPromotions, &api.ListPromotionsRequest{Environment: environment, PageSize: limit})
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out)
	}
	rows := [][]string{{"AT", "WHAT", "REVISION", "BEFORE", "BY", "MESSAGE"}}
	for _, p := range out.GetPromotions() {
		before := short(p.GetPrevious())
		if before == "" {
			before = "-"
		}
		rows = append(rows, []string{p.GetAt().AsTime().Local().Format("2006-01-02 15:04:05"), p.GetAction(), short(p.GetRevision().GetDigest()), before, p.GetActor(), firstLine(p.GetMessage())})
	}
	return terminal.Table(w, rows)
}

// Audit prints the audit log.
func (c *Client) Audit(ctx context.Context, w io.Writer, limit int32, asJSON bool) error {
	out, err := Ask(ctx, c.Policy.ListAudit, &api.ListAuditRequest{PageSize: limit})
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out)
	}
	rows := [][]string{{"AT", "WHAT", "IN", "OUTCOME", "BY", "FROM", "DETAIL"}}
	for _, a := range out.GetEntries() {
		outcome := "done"
		if a.GetRefused() {
			outcome = "refused"
		}
		rows = append(rows, []string{a.GetAt().AsTime().Local().Format("2006-01-02 15:04:05"), a.GetAction(), a.GetSubject(), outcome, a.GetActor(), a.GetPeer(), firstLine(a.GetDetail())})
	}
	return terminal.Table(w, rows)
}

// maxNamed is how many edges are named.
const maxNamed = 20

// Rollout acts on a staged rollout, and prints it. action "" or show only prints it.
func (c *Client) Rollout(ctx context.Context, w io.Writer, environment, action, message string, asJSON bool) error {
	var out *api.GetPolicyResponse
	var err error
	if action == "" || action == "show" {
		out, err = Ask(ctx, c.Policy.GetPolicy, &api.GetPolicyRequest{Environment: environment})
	} else {
		out, err = Ask(ctx, c.Policy.ChangeRollout, &api.ChangeRolloutRequest{Environment: environment, Action: action, Message: message})
	}
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out)
	}
	r := out.GetRollout()
	if r == nil {
		_, err := fmt.Fprintf(w, "%s is at %s, and no rollout is under way\n", environment, cmp.Or(short(out.GetPromotion().GetRevision().GetDigest()), "nothing"))
		return err
	}
	fmt.Fprintf(w, "%s: %s is on its way, stage %s of %s, %s %s\n", environment, short(r.GetRevision().GetDigest()), r.GetStages()[r.GetStage()], strings.Join(r.GetStages(), ","), r.GetState(),
		terminal.Visible(r.GetReason()))
	if r.GetState() == "held" {
		edges := r.GetEdges()
		named := terminal.Visible(strings.Join(edges[:min(len(edges), maxNamed)], ", "))
		if more := len(edges) - maxNamed; more > 0 {
			named += fmt.Sprintf(" and %d more", more)
		}
		fmt.Fprintf(w, "edges of the stage: %s\nresume goes on, next takes the next stage, abort gives them %s again\n", cmp.Or(named, "none is connected"), short(out.GetPromotion().GetRevision().GetDigest()))
	}
	rows := [][]string{{"", "DECISIONS", "DENIED", "FAILED", "MEAN"}}
	for _, one := range []struct {
		name string
		n    *api.PolicyCounts
	}{{"new", r.GetNew()}, {"before", r.GetOld()}} {
		mean := "-"
		if n := one.n.GetDecisions(); n > 0 {
			mean = terminal.Duration(int64(one.n.GetMicroseconds() * 1000 / n))
		}
		rows = append(rows, []string{one.name, terminal.Thousands(one.n.GetDecisions()), terminal.Thousands(one.n.GetDenied()), terminal.Thousands(one.n.GetErrors()), mean})
	}
	return terminal.Table(w, rows)
}

// Guard prints the bounds of an environment's rollouts. change, unless it is nil, changes them first.
func (c *Client) Guard(ctx context.Context, w io.Writer, environment string, change func(*api.Guard), asJSON bool) error {
	out, err := Ask(ctx, c.Policy.GetPolicy, &api.GetPolicyRequest{Environment: environment})
	if err == nil && change != nil {
		change(out.GetGuard())
		out, err = Ask(ctx, c.Policy.SetGuard, &api.SetGuardRequest{Environment: environment, Guard: out.GetGuard()})
	}
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(w, out.GetGuard())
	}
	g := out.GetGuard()
	set := "nobody has set them"
	if g.GetActor() != "" {
		set = "set by " + terminal.Visible(g.GetActor()) + " at " + g.GetAt().AsTime().Local().Format("2006-01-02 15:04:05")
	}
	_, err = fmt.Fprintf(w, "%s: errors %v, denied %v, latency %v, after %d decisions; %s\n", environment, g.GetErrors(), g.GetDenied(), g.GetLatency(), g.GetLeast(), set)
	return err
}
