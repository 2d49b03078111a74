package remote

import (
	"bytes"
	"fmt"
	"strings"

	"gatehouse/decisionlog/events"
)

// opaEvents is the format of Open Policy Agent's decision log API: a JSON array of events. Our lines are such events.
type opaEvents struct{}

// encode implements encoding.
func (opaEvents) encode(lines [][]byte) (body []byte, mediaType string, err error) {
	body = make([]byte, 0, total(lines)+2)
	body = append(body, '[')
	for i, line := range lines {
		if i > 0 {
			body = append(body, ',')
		}
		if !bytes.HasPrefix(line, []byte(`{"decision_id":`)) {
			if line, err = gapEvent(line); err != nil {
				return nil, "", err
			}
		}
		body = append(body, bytes.TrimSuffix(line, []byte("\n"))...)
	}
	return append(body, ']'), "application/json", nil
}

// accepted implements encoding. There is nothing in an answer.
func (opaEvents) accepted([]byte) (refused int, err error) { return 0, nil }

// gapEvent makes an event of a gap: receivers want an id, by which they tell repetitions, and a time.
func gapEvent(line []byte) ([]byte, error) {
	var e events.Event
	if err := e.Parse(line); err != nil {
		return nil, fmt.Errorf("encoding decisions for Open Policy Agent's API: %w", err)
	}
	if e.DecisionID != nil {
		return line, nil
	}
	since, until := e.Gap.Since.Decode(), e.Gap.Until.Decode()
	id := strings.TrimSuffix(strings.Join([]string{"gap", since, until, e.Gap.Segment.Decode()}, "-"), "-")
	ev, err := events.ParseLine(line)
	if err != nil {
		return nil, err
	}
	ev.Prepend("timestamp", until)
	ev.Prepend("decision_id", id)
	return ev.Append(nil)
}
