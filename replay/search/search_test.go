package search

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/decisionlog/read"
)

// TestStatsAreBounded counts more names than are kept: the frequent ones are found, with their error bounds.
func TestStatsAreBounded(t *testing.T) {
	var top topList
	for i := range 200_000 {
		top.add(fmt.Sprint("rare ", i), false)
		if i%10 == 0 {
			top.add("often", true)
		}
	}
	got := top.ranking(1)
	if len(top.names) != MostNames || len(top.heap) != MostNames || !got.Approximate || got.More != MostNames-1 {
		t.Errorf("%d names, %+v", len(top.names), got)
	}
	first := got.Top[0]
	if first.Name != "often" || first.Decisions < 20_000 || first.Decisions-first.AtMostOver > 20_000 {
		t.Errorf("%+v", first)
	}
	var h histogram
	for ns := int64(1); ns <= 1_000_000; ns++ {
		h.add(ns)
	}
	for q, want := range map[float64]int64{0.5: 500_000, 0.99: 990_000, 1: 1_000_000} {
		if got := h.quantile(q); got < want*98/100 || got > want*102/100 {
			t.Errorf("quantile %v is %d", q, got)
		}
	}
	h.add(1 << 62)
	if got := h.quantile(1); got <= 0 {
		t.Errorf("the largest is %d", got)
	}
}

func TestMomentsOfTheCommandLine(t *testing.T) {
	now := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"": "0001-01-01T00:00:00Z", "2026-03-01": "2026-03-01T00:00:00Z", "2026-03-01T10:00:00+01:00": "2026-03-01T09:00:00Z",
		"7d": "2026-03-01T12:00:00Z", "36h": "2026-03-07T00:00:00Z", "90m": "2026-03-08T10:30:00Z",
		"yesterday": "", "-1h": "", "7 d": "", "d": "", "1.5d": "", "7dd": "", "99999999999d": "",
	} {
		got, err := Moment("--since", text, now)
		if (err != nil) != (want == "") || err == nil && got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v, want %q", text, got, err, want)
		}
	}
}

// event is an event of a log by its text.
func event(t *testing.T, text string) *Event {
	t.Helper()
	var e Event
	if err := e.Parse([]byte(text), 1); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return &e
}

const (
	shown = `{"decision_id":"A","timestamp":"2026-03-01T10:00:00Z","outcome":"deny","reason":"denied","status":403,"app":"shop","route":"orders.show",` +
		`"identity":{"subject":"vera"},"request":{"method":"GET","path":"/orders/1"},"input":{"route":{"name":"orders.show","template":"/orders/{id}"}}}`
	allowed = `{"decision_id":"B","timestamp":"2026-03-02T10:00:00Z","outcome":"allow","identity":{"subject":"bob"},"request":{"method":"POST","path":"/orders"}}`
)

func TestQueryWants(t *testing.T) {
	for _, test := range []struct {
		asked         Query
		shown, others bool
	}{
		{Query{}, true, true},
		{Query{Denied: true}, true, false},
		{Query{Allowed: true}, false, true},
		{Query{Subjects: []string{"vera"}}, true, false},
		{Query{Subjects: []string{"vera", "bob"}}, true, true},
		{Query{Apps: []string{"shop"}}, true, false},
		{Query{Reasons: []string{"denied"}}, true, false},
		{Query{Methods: []string{"get"}}, true, false},
		{Query{Path: "/orders/"}, true, false},
		{Query{Routes: []string{"orders.show"}}, true, false},
		{Query{Routes: []string{"GET /orders/{id}"}}, true, false},
		{Query{Since: "2026-03-02"}, false, true},
		{Query{Until: "2026-03-02"}, true, false},
	} {
		q := test.asked
		if err := q.Compile(); err != nil {
			t.Fatal(err)
		}
		if got := q.May([]byte(shown)) && q.Wants(event(t, shown)); got != test.shown {
			t.Errorf("%+v: the denial %v, want %v", test.asked, got, test.shown)
		}
		if got := q.May([]byte(allowed)) && q.Wants(event(t, allowed)); got != test.others {
			t.Errorf("%+v: the other one %v, want %v", test.asked, got, test.others)
		}
	}
	for _, wrong := range []Query{{Denied: true, Allowed: true}, {Since: "never"}, {Until: "never"}} {
		if err := wrong.Compile(); err == nil {
			t.Errorf("%+v is taken", wrong)
		}
	}
}

func TestCountsByKind(t *testing.T) {
	var c Counts
	for _, text := range []string{shown, allowed, allowed} {
		c.Add(event(t, text))
	}
	f := c.Figures(1)
	if f.Decisions != 3 || f.Denied != 1 || f.Allowed != 2 || f.Since != "2026-03-01T10:00:00Z" || f.Until != "2026-03-02T10:00:00Z" {
		t.Errorf("%+v", f)
	}
	if top := f.Subjects.Top; len(top) != 1 || top[0] != (Rank{Name: "bob", Decisions: 2}) || f.Subjects.More != 1 {
		t.Errorf("%+v", f.Subjects)
	}
}

// TestSourceCountsAndTells reads a log with a broken line in two parts.
func TestSourceCountsAndTells(t *testing.T) {
	texts := map[string]string{"one": shown + "\n{\"decision_id\": broken\n", "two": allowed + "\n"}
	var told []error
	l := &Source{Warn: func(err error) { told = append(told, err) }}
	err := l.Open([]string{"one", "two"}, func(path string) (*read.Reader, error) {
		return read.OpenReader("-", strings.NewReader(texts[path]))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var ids []string
	if err := (&Query{}).Each(t.Context(), l, &Event{}, nil, func(_ []byte, e *Event) error {
		ids = append(ids, e.DecisionID.Decode())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(ids, " ") != "A B" || l.Events != 2 || l.Damaged != 1 || len(told) != 1 {
		t.Errorf("%v, %d events, %d damaged: %v", ids, l.Events, l.Damaged, told)
	}
}
