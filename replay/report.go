package replay

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"gatehouse/decisionlog/events"
)

const (
	maxGroups   = 10_000 // groups of changes; further ones are merged into one
	maxReasons  = 1_000  // reasons for skipped decisions
	maxDamage   = 20     // damaged places that are listed
	maxExamples = 3      // examples of each group
)

// Group is all changes of one kind.
type Group struct {
	Route      string    `json:"route"`
	App        string    `json:"app,omitempty"`
	From       string    `json:"from"`
	To         string    `json:"to"`
	Count      int64     `json:"count"`
	Expected   bool      `json:"expected"`
	ExpectedAt string    `json:"expected_at,omitempty"` // file:line of --expect
	Examples   []Example `json:"examples"`

	expect int // index of the expected change; -1: none
}

// Example is one decision, to look up in the log.
type Example struct {
	DecisionID string   `json:"decision_id"`
	Timestamp  string   `json:"timestamp"`
	Request    string   `json:"request"`
	Subject    string   `json:"subject,omitempty"`
	Roles      []string `json:"roles,omitempty"`

	event int64
}

// Skipped counts the decisions that were not replayed for one reason.
type Skipped struct {
	Reason  string `json:"reason"`
	Count   int64  `json:"count"`
	Example string `json:"example,omitempty"` // a decision's id

	event int64
}

// Report is the result for a log, or a part of one.
type Report struct {
	Events   int64 `json:"events"`   // in the log, gaps among them
	Filtered int64 `json:"filtered"` // excluded by the filter
	Replayed int64 `json:"replayed"`
	Changed  int64 `json:"changed"`
	// FactsRecorded and FactsCurrent count directory facts taken from the log, and those not on record that were
	// queried from the current directory.
	FactsRecorded int64      `json:"facts_recorded,omitempty"`
	FactsCurrent  int64      `json:"facts_current,omitempty"`
	UsersCurrent  int64      `json:"users_current,omitempty"` // decisions whose user was not on record and was taken from the current directory
	Remade        int64      `json:"-"`                       // of Replayed, those evaluated and not from the memo
	Since         string     `json:"since,omitempty"`
	Until         string     `json:"until,omitempty"`
	Gaps          int64      `json:"gaps,omitempty"`
	Dropped       int64      `json:"dropped,omitempty"` // decisions that the log reports as lost
	Damage        []string   `json:"damage,omitempty"`
	Damaged       int64      `json:"damaged,omitempty"`
	Differs       int64      `json:"old_differs,omitempty"` // the old policy disagrees with the record
	Differ        []Example  `json:"old_differs_examples,omitempty"`
	Unkept        int64      `json:"old_not_kept,omitempty"` // compared with the record because the policy that decided is not archived
	Groups        []*Group   `json:"changes"`
	Skipped       []*Skipped `json:"not_replayed"`

	groups map[groupKey]*Group
	skips  map[string]*Skipped
}

type groupKey struct {
	app, route, from, to string
	expect               int
}

func newReport() *Report { return &Report{groups: map[groupKey]*Group{}, skips: map[string]*Skipped{}} }

// damaged records an unreadable place.
func (t *Report) damaged(where string) {
	if t.Damaged++; len(t.Damage) < maxDamage {
		t.Damage = append(t.Damage, where)
	}
}

// between extends the period.
func (t *Report) between(r *Record) {
	at := r.Timestamp
	if t.Since == "" || string(at) < t.Since {
		t.Since = string(at)
	}
	if string(at) > t.Until {
		t.Until = string(at)
	}
}

// skip counts a decision that was not replayed.
func (t *Report) skip(why string, r *Record) {
	s := t.skips[why]
	if s == nil && len(t.skips) >= maxReasons {
		why = "for other reasons"
		s = t.skips[why]
	}
	if s == nil {
		s = &Skipped{Reason: why, Example: string(r.DecisionID), event: r.Number}
		t.skips[why] = s
	}
	s.Count++
}

// addExample keeps the first few decisions in log order.
func addExample(list []Example, r *Record) []Example {
	if len(list) >= maxExamples && list[len(list)-1].event < r.Number {
		return list
	}
	return firstExamples(append(list, Example{event: r.Number, DecisionID: r.DecisionID.Decode(), Timestamp: r.Timestamp.Decode(),
		Request: strings.TrimSpace(r.Request.Method.Decode() + " " + r.Request.Host.Decode() + r.Request.Path.Decode()),
		Subject: r.Identity.Subject.Decode(), Roles: events.Strings(r.Identity.Roles)}))
}

func firstExamples(list []Example) []Example {
	slices.SortFunc(list, func(a, b Example) int { return cmp.Compare(a.event, b.event) })
	return list[:min(len(list), maxExamples)]
}

// add merges the report of another part of the log.
func (t *Report) add(o *Report) {
	t.Events, t.Filtered, t.Replayed, t.Changed, t.Remade = t.Events+o.Events, t.Filtered+o.Filtered, t.Replayed+o.Replayed, t.Changed+o.Changed, t.Remade+o.Remade
	t.Gaps, t.Dropped, t.Damaged, t.Differs = t.Gaps+o.Gaps, t.Dropped+o.Dropped, t.Damaged+o.Damaged, t.Differs+o.Differs
	t.Unkept, t.UsersCurrent = t.Unkept+o.Unkept, t.UsersCurrent+o.UsersCurrent
	t.FactsRecorded, t.FactsCurrent = t.FactsRecorded+o.FactsRecorded, t.FactsCurrent+o.FactsCurrent
	t.Damage = append(t.Damage, o.Damage...)
	t.Damage = t.Damage[:min(len(t.Damage), maxDamage)]
	t.Differ = firstExamples(append(t.Differ, o.Differ...))
	if o.Since != "" && (t.Since == "" || o.Since < t.Since) {
		t.Since = o.Since
	}
	t.Until = max(t.Until, o.Until)
	for key, g := range o.groups {
		if mine := t.groups[key]; mine == nil {
			t.groups[key] = g
		} else {
			mine.Count += g.Count
			mine.Examples = firstExamples(append(mine.Examples, g.Examples...))
		}
	}
	for why, s := range o.skips {
		mine := t.skips[why]
		if mine == nil {
			t.skips[why] = s
			continue
		}
		if mine.Count += s.Count; s.event < mine.event {
			mine.Example, mine.event = s.Example, s.event
		}
	}
}

// finish sorts groups and reasons: unexpected ones first, then by count.
func (t *Report) finish() {
	t.Groups = slices.SortedFunc(maps.Values(t.groups), func(a, b *Group) int {
		if a.Expected != b.Expected {
			if b.Expected {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.App+a.Route, b.App+b.Route), cmp.Compare(a.From+a.To, b.From+b.To))
	})
	slices.Sort(t.Damage)
	t.Skipped = slices.SortedFunc(maps.Values(t.skips), func(a, b *Skipped) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
}

// Unexpected is the number of unexpected changes.
func (t *Report) Unexpected() (n int64) {
	for _, g := range t.Groups {
		if !g.Expected {
			n += g.Count
		}
	}
	return n
}

// Missed are the expected changes that did not occur.
func (t *Report) Missed(expect []Expected) (list []Expected) {
	for i, e := range expect {
		if !slices.ContainsFunc(t.Groups, func(g *Group) bool { return g.expect == i }) {
			list = append(list, e)
		}
	}
	return list
}
