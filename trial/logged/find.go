package logged

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/read"
	"gatehouse/policy"
	"gatehouse/replay"
)

// Decision is an event of the decision log with the values of what an explanation needs. Package decisionlog has their meaning.
type Decision struct {
	DecisionID, Timestamp, Path, App, Route string
	Bundles                                 map[string]events.Bundle
	Identity                                struct {
		Type, Subject, Issuer string
		Roles                 []string
		Authenticated         bool
	}
	Request         struct{ Method, Host, Path string }
	Outcome, Reason string
	Status          int
	DryRun          bool
	Error           *struct{ Message string }
	Erased, Masked  []string
	Input           map[string]any

	claims    map[string]any // of the caller, those that the log keeps
	directory bool           // a directory took part

	asked    []policy.Question // of the directory, as far as they are on record
	question bool              // an application asked for it: it is no request
}

// ErrNoRecord says that a decision is not in the log.
var ErrNoRecord = errors.New("no such decision")

// maxLike bounds how many decisions are named where an id is the beginning of several.
const maxLike = 5

// Find looks for a decision in a log, which name is of. id is its id or the beginning of it, in any case: the beginning of no other.
func Find(log *read.Reader, name, id string) (*Decision, error) {
	wanted, err := beginnings(id)
	if err != nil {
		return nil, err
	}
	var like []*Decision // whose ids begin so
	seen, damaged, broken, more := 0, 0, 0, 0
	for {
		event, err := log.Next()
		_, damage := errors.AsType[*read.DamageError](err)
		switch {
		case errors.Is(err, io.EOF) && len(like) == 1:
			return like[0], nil
		case errors.Is(err, io.EOF) && len(like) > 1:
			return nil, ambiguous(name, id, like, more)
		case errors.Is(err, io.EOF):
			return nil, notInLog(name, id, seen, damaged, broken)
		case damage:
			damaged++
			continue
		case err != nil && (!errors.Is(err, read.ErrForeign) || seen == 0):
			return nil, err
		}
		if seen++; !slices.ContainsFunc(wanted, func(b []byte) bool { return bytes.Contains(event, b) }) {
			continue
		}
		record, ok := parseRecord(event)
		switch {
		case !ok:
			broken++
		case record.DecisionID == id:
			return record, nil
		case len(record.DecisionID) < len(id) || !strings.EqualFold(record.DecisionID[:len(id)], id):
		case slices.ContainsFunc(like, func(d *Decision) bool { return d.DecisionID == record.DecisionID }): // told twice
		case len(like) == maxLike:
			more++
		default:
			like = append(like, record)
		}
	}
}

// beginnings are how an event may spell what begins with an id.
func beginnings(id string) (list [][]byte, err error) {
	for _, spelling := range []string{id, strings.ToUpper(id), strings.ToLower(id)} {
		quoted, err := json.Marshal(spelling)
		if err != nil {
			return nil, err
		}
		list = append(list, quoted[:len(quoted)-1])
	}
	return list, nil
}

func ambiguous(name, id string, like []*Decision, more int) error {
	var lines strings.Builder
	for _, d := range like {
		fmt.Fprintf(&lines, "\n  %s  %s  %s %s", d.DecisionID, d.Timestamp, d.Request.Method, d.Request.Path)
	}
	if more > 0 {
		fmt.Fprintf(&lines, "\n  and %d more", more)
	}
	return fmt.Errorf("%q is the beginning of %d ids in %s: give more of it%s", id, len(like)+more, name, lines.String())
}

// parseRecord reads an event. What Open Policy Agent says in other places is filled in; a member of another type than ours is taken for
// absent.
func parseRecord(event []byte) (*Decision, bool) {
	var e replay.Record
	if !json.Valid(event) || e.Parse(event, 0) != nil {
		return nil, false
	}
	r := &Decision{DecisionID: e.DecisionID.Decode(), Timestamp: e.Timestamp.Decode(), Path: e.Path.Decode(), App: e.App.Decode(),
		Route: e.Route.Decode(), DryRun: e.DryRun, Erased: events.Strings(e.Erased), Masked: events.Strings(e.Masked), question: e.IsQuestion()}
	r.Outcome, r.Reason, r.Status = e.Outcomes()
	r.Request.Method, r.Request.Host, r.Request.Path = e.Request.Method.Decode(), e.Request.Host.Decode(), e.Request.Path.Decode()
	id := &e.Identity
	r.Identity.Type, r.Identity.Subject, r.Identity.Issuer = id.Type.Decode(), id.Subject.Decode(), id.Issuer.Decode()
	r.Identity.Roles, r.Identity.Authenticated = events.Strings(id.Roles), id.Authenticated
	if e.Error.Recorded {
		r.Error = &struct{ Message string }{e.Error.Message.Decode()}
	}
	r.Bundles, _ = e.DecodeBundles()
	r.asked, _ = policy.ParseQuestions(e.Facts) // what is damaged is not on record
	r.directory = e.Directory.Recorded
	if e.Identity.Claims != nil {
		c := json.NewDecoder(bytes.NewReader(e.Identity.Claims))
		c.UseNumber()
		_ = c.Decode(&r.claims) // what is damaged is not on record
	}
	d := json.NewDecoder(bytes.NewReader(e.Input))
	d.UseNumber()
	_ = d.Decode(&r.Input) // what is no object is taken for absent
	return r, true
}

func notInLog(name, id string, seen, damaged, broken int) error {
	text := fmt.Sprintf("%q is not in %s (%d events", id, name, seen)
	if damaged > 0 {
		text += fmt.Sprintf("; %d places are damaged and were passed over", damaged)
	}
	if broken > 0 {
		text += fmt.Sprintf("; %d that name it are damaged", broken)
	}
	return fmt.Errorf("%w: %s)\nolder decisions may be in a rotated file: --log names it, compressed or not, or the folder of all of them", ErrNoRecord, text)
}
