package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"gatehouse/decisionlog"
)

// logged is an event of the decision log with the policy's input, as an explanation needs it.
type logged struct {
	logEvent
	Input map[string]any `json:"input"`
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

func parseRecord(event []byte) (*logged, bool) {
	var record logged
	if record.parse(event) != nil {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(event))
	d.UseNumber()
	var input struct{ Input any }
	if err := d.Decode(&input); err != nil {
		return nil, false
	}
	record.Input, _ = input.Input.(map[string]any)
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
