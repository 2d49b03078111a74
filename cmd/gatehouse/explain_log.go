package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"gatehouse/decisionlog"
)

// logged is an event of the decision log, as far as an explanation needs it. Package decisionlog has the meaning of the names.
type logged struct {
	DecisionID string                             `json:"decision_id"`
	Timestamp  string                             `json:"timestamp"`
	Bundles    map[string]decisionlog.EventBundle `json:"bundles"`
	Path       string                             `json:"path"`
	App        string                             `json:"app"`
	Route      string                             `json:"route"`
	Identity   struct {
		Type, Subject, Issuer string
		Roles                 []string
		Authenticated         bool
	} `json:"identity"`
	Request struct{ Method, Host, Path string } `json:"request"`
	Outcome string                              `json:"outcome"`
	Reason  string                              `json:"reason"`
	Status  int                                 `json:"status"`
	DryRun  bool                                `json:"dry_run"`
	Error   *struct{ Message string }           `json:"error"`
	Erased  []string                            `json:"erased"`
	Masked  []string                            `json:"masked"`
	Input   map[string]any                      `json:"input"`
}

// errNoRecord says that a decision is not in the log.
var errNoRecord = errors.New("no such decision")

// findRecord looks for a decision in a log, which name is of.
func findRecord(log *decisionlog.Reader, name, id string) (*logged, error) {
	quoted, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	read, damaged, broken := 0, 0, 0
	for {
		event, err := log.Next()
		_, damage := errors.AsType[*decisionlog.DamageError](err)
		switch {
		case errors.Is(err, io.EOF):
			return nil, notInLog(name, id, read, damaged, broken)
		case damage:
			damaged++
			continue
		case err != nil && (!errors.Is(err, decisionlog.ErrForeign) || read == 0):
			return nil, err
		}
		if read++; !bytes.Contains(event, quoted) {
			continue
		}
		record, ok := parseRecord(event)
		switch {
		case !ok:
			broken++
		case record.DecisionID == id:
			return record, nil
		}
	}
}

// parseRecord reads an event. What Open Policy Agent says in other places is filled in; a member of another type than ours is taken for
// absent.
func parseRecord(event []byte) (*logged, bool) {
	var r recorded
	if r.parse(event, 0) != nil {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(event))
	d.UseNumber()
	var record logged
	err := d.Decode(&record)
	if _, otherType := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !otherType {
		return nil, false
	}
	if r.opa {
		record.Outcome, record.Reason, record.Status = r.outcomes()
		record.Request.Method, record.Request.Host, record.Request.Path = textOf(r.method), textOf(r.host), textOf(r.target)
	}
	return &record, true
}

func notInLog(name, id string, read, damaged, broken int) error {
	text := fmt.Sprintf("%v: %q is not in %s (%d events", errNoRecord, id, name, read)
	if damaged > 0 {
		text += fmt.Sprintf("; %d places are damaged and were passed over", damaged)
	}
	if broken > 0 {
		text += fmt.Sprintf("; %d that name it are damaged", broken)
	}
	return errors.New(text + ")\nolder decisions may be in a rotated file: --log names it, compressed or not, or the folder of all of them")
}
