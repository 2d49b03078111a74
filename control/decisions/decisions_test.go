package decisions_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/control/decisions"
)

// same reports whether two texts are the same JSON.
func same(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Fatalf("%v\n%s\n%s", err, a, b)
	}
	return reflect.DeepEqual(x, y)
}

// TestEntriesStayWhatTheyAre: whatever an edge sends comes out again, member for member, from the table and from a segment.
func TestEntriesStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	list := []string{entry(1), entry(3),
		`{"decision_id":"a\"b\u00e9","timestamp":"2026-03-01T10:00:00.1Z","identity":{"type":"anonymous","authenticated":false},"outcome":"deny","masked":["/identity/subject"]}`,
		`{"decision_id":"masked","timestamp":"2026-03-01T10:00:00Z","identity":"[redacted]","request":{"method":"GET","x":1},"outcome":"allow","request2":null}`,
		`{"decision_id":"gap-1","timestamp":"2026-03-01T10:00:00Z","gap":{"dropped":17,"since":"2026-03-01T10:00:00.1Z","until":"2026-03-01T10:00:02.9Z"}}`,
		`{"decision_id":"opa","timestamp":"2026-03-01T10:00:00Z","metrics":{"timer_server_handler_ns":5,"x":1},"input":{"a":[1,2.5e3,"x"]},"status":0,"outcome":"allow","app":""}`,
		"{\n \"decision_id\": \"spaces\",\n \"timestamp\": \"2026-03-01T10:00:00Z\", \"outcome\": \"deny\", \"input\": {\"a\":\n 1}}"}
	dir, key := t.TempDir(), newSigner(t)
	check := func(o *opened, where string) {
		t.Helper()
		rows := o.finds(decisions.Query{Whole: true, Limit: 2})
		if len(rows) != len(list) {
			t.Fatalf("%s: %d entries", where, len(rows))
		}
		for _, r := range rows {
			got, ok := string(r.AppendEntry(nil)), false
			for _, want := range list {
				ok = ok || same(t, got, want)
			}
			if !ok || strings.Contains(got, "\n") {
				t.Errorf("%s: none was %s", where, got)
			}
		}
	}
	o := open(t, decisions.Config{Dir: dir, Signer: key})
	o.sends("edge", len(list), list...)
	check(o, "table")
	o.Close()
	o = open(t, decisions.Config{Dir: dir, Signer: key}) // out of the journal
	check(o, "journal")
	o.Close()
	o = open(t, decisions.Config{Dir: dir, Signer: key, Rows: 1}) // into segments
	check(o, "segment")
	if names, _ := filepath.Glob(filepath.Join(dir, prod, "*.parquet")); len(names) != 3 {
		t.Errorf("segments %v", names)
	}
	o.sends("edge", 0, list...)
	o.sends("another", len(list), list...)
}

// TestBodiesThatAreRefused: what is no array of entries, or too much, changes nothing.
func TestBodiesThatAreRefused(t *testing.T) {
	t.Parallel()
	o := open(t, decisions.Config{Dir: t.TempDir()})
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, test := range []struct {
		body []byte
		want error
	}{
		{[]byte("no gzip"), decisions.ErrBody},
		{body(t, entry(1), `{"decision_id":"x",}`), decisions.ErrBody},
		{body(t, entry(1), `{"timestamp":"2026-03-01T10:00:00Z"}`), decisions.ErrBody},
		{body(t, entry(1), `"x"`), decisions.ErrBody},
		{body(t, `{"decision_id":"x","input":`+deep+`}`), decisions.ErrBody},
		{body(t, "{\"decision_id\":\"x\xff\"}"), decisions.ErrBody},
		{body(t, entry(1))[:40], decisions.ErrBody},
		{body(t, `{"decision_id":"x","input":"`+strings.Repeat("x", 3<<20)+`"}`), decisions.ErrLarge},
		{body(t, strings.Repeat(" ", 5<<20)+entry(1)), decisions.ErrLarge},
		{make([]byte, decisions.MaxBody+1), decisions.ErrLarge},
	} {
		if _, err := o.Add(t.Context(), prod, "edge", test.body); !errors.Is(err, test.want) {
			t.Errorf("%.60q: %v", test.body, err)
		}
	}
	if rows := o.finds(decisions.Query{}); len(rows) != 0 {
		t.Errorf("%d entries", len(rows))
	}
}

// TestSearch finds the same by every part of a filter, whether the entries are in a table or in many segments.
func TestSearch(t *testing.T) {
	t.Parallel()
	const n = 400
	for name, rows := range map[string]int{"table": n + 1, "segments": 60, "both": 150} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := open(t, decisions.Config{Dir: t.TempDir(), Rows: rows})
			for from := 0; from < n; from += 20 {
				edge := []string{"one", "two"}[from/20%2]
				o.sends(edge, 20, entries(from, from+20)...)
				o.sends(edge, 0, entries(from, from+20)...)
			}
			for i, test := range []struct {
				filter decisions.Filter
				want   func(i int) bool
			}{
				{decisions.Filter{}, func(int) bool { return true }},
				{decisions.Filter{User: "user-7"}, func(i int) bool { return i%20 == 7 }},
				{decisions.Filter{User: "nobody"}, func(int) bool { return false }},
				{decisions.Filter{Outcome: decisions.Deny}, func(i int) bool { return i%3 == 0 }},
				{decisions.Filter{Reason: "policy", Route: "orders.2", App: "shop"}, func(i int) bool { return i%3 == 0 && i%5 == 2 }},
				{decisions.Filter{Revision: "v3"}, func(i int) bool { return i/50 == 2 }},
				{decisions.Filter{Edges: []string{"two"}, User: "user-3"}, func(i int) bool { return i/20%2 == 1 && i%20 == 3 }},
				{decisions.Filter{Edges: []string{}}, func(int) bool { return false }},
				{decisions.Filter{Since: noon.Add(100 * time.Second), Until: noon.Add(110 * time.Second)}, func(i int) bool { return i >= 100 && i < 110 }},
				{decisions.Filter{ID: "00000123-0000-7000-8000-000000000003"}, func(i int) bool { return i == 123 }},
				{decisions.Filter{Text: "/orders/39?"}, func(i int) bool { return i == 39 }},
				{decisions.Filter{Text: `"n":39}`}, func(i int) bool { return i == 39 }},
				{decisions.Filter{Text: "user-19", Outcome: decisions.Deny}, func(i int) bool { return i%20 == 19 && i%3 == 0 }},
			} {
				for _, limit := range []int{7, 1000} {
					got := o.finds(decisions.Query{Filter: test.filter, Limit: limit})
					at := 0
					for i := n - 1; i >= 0; i-- {
						if !test.want(i) {
							continue
						}
						if at >= len(got) || !strings.HasPrefix(got[at].ID, strings.Split(entry(i), `"`)[3]) {
							t.Fatalf("%d, pages of %d: %d found, and %d is not the one of %d", i, limit, len(got), at, i)
						}
						at++
					}
					if at != len(got) {
						t.Errorf("%d, pages of %d: %d found, want %d", i, limit, len(got), at)
					}
				}
			}
		})
	}
}

// TestNoRoom: on a full disk nothing is taken, and what was acknowledged stays.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	left := uint64(1 << 40)
	dir := t.TempDir()
	clock := func(string) (uint64, error) { return left, nil }
	o := open(t, decisions.Config{Dir: dir, Free: clock})
	o.sends("edge", 10, entries(0, 10)...)
	o.Close()
	left = 1 << 20
	o = open(t, decisions.Config{Dir: dir, Free: clock})
	if _, err := o.Add(t.Context(), prod, "edge", body(t, entry(11))); !errors.Is(err, decisions.ErrFull) {
		t.Errorf("%v", err)
	}
	if rows := o.finds(decisions.Query{}); len(rows) != 10 {
		t.Errorf("%d entries", len(rows))
	}
}

// TestNames: no name leads out of the folder.
func TestNames(t *testing.T) {
	t.Parallel()
	o := open(t, decisions.Config{Dir: t.TempDir()})
	for _, name := range []string{"", "x", "../x", "x/..", "a/b/c", "./x", "a/\x00"} {
		if _, err := o.Store.Environment(name); err == nil {
			t.Errorf("%q", name)
		}
	}
}

// TestRetention ends what is old by its outcome, but for what is held.
func TestRetention(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64 // of noon
	set := func(d time.Duration) { ahead.Store(int64(d)) }
	set(30 * time.Minute)
	clock := func() time.Time { return noon.Add(time.Duration(ahead.Load())) }
	dir, key := t.TempDir(), newSigner(t)
	o := open(t, decisions.Config{Dir: dir, Signer: key, Rows: 100, Clock: clock})
	o.sends("edge", 100, entries(0, 100)...) // until 12:01:40
	o.sends("edge", 10, entries(100, 110)...)
	ctx := context.Background()
	counts := func() (allow, deny int) {
		return len(o.finds(decisions.Query{Filter: decisions.Filter{Outcome: decisions.Allow}})), len(o.finds(decisions.Query{Filter: decisions.Filter{Outcome: decisions.Deny}}))
	}
	until := func(what string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			if names, _ := filepath.Glob(filepath.Join(dir, prod, "*.parquet")); len(names) == 2 {
				return
			} else if time.Now().After(end) {
				t.Fatal(what, names)
			}
		}
	}
	until("waited for two segments")
	for ; ; time.Sleep(time.Millisecond) { // the flush has been taken in
		if _, err := os.Stat(filepath.Join(dir, prod, "000000000001.journal")); err != nil {
			break
		}
	}
	hold := decisions.Hold{Name: "case-7", Why: "asked by legal", By: "ann", Since: noon, Until: noon.Add(time.Hour)}
	if err := errors.Join(o.Hold(ctx, hold), o.SetRetention(ctx, decisions.Retention{Allow: time.Hour, Deny: 24 * time.Hour}, "ann")); err != nil {
		t.Fatal(err)
	}
	set(3 * time.Hour)
	if err := o.SetRetention(ctx, decisions.Retention{Allow: time.Hour, Deny: 24 * time.Hour}, "ann"); err != nil {
		t.Fatal(err)
	}
	if allow, deny := counts(); allow != 73 || deny != 37 {
		t.Errorf("held: %d and %d", allow, deny)
	}
	if err := o.Release(ctx, "case-7", "ann"); err != nil {
		t.Fatal(err)
	}
	if allow, deny := counts(); allow != 7 || deny != 37 {
		t.Errorf("released: %d and %d", allow, deny)
	}
	if err := o.Release(ctx, "case-7", "ann"); !errors.Is(err, decisions.ErrFilter) {
		t.Errorf("%v", err)
	}
	o.Close()
	o = open(t, decisions.Config{Dir: dir, Signer: key, Rows: 100, Clock: clock})
	if r, holds := o.Kept(); r.Allow != time.Hour || r.Deny != 24*time.Hour || len(holds) != 0 {
		t.Errorf("%+v %+v", r, holds)
	}
}

// TestDamagedJournal: what is before the damage is taken, and the file is kept.
func TestDamagedJournal(t *testing.T) {
	t.Parallel()
	dir, key := t.TempDir(), newSigner(t)
	o := open(t, decisions.Config{Dir: dir, Signer: key})
	o.sends("edge", 10, entries(0, 10)...)
	o.sends("edge", 10, entries(10, 20)...)
	o.Close()
	path := filepath.Join(dir, prod, "000000000001.journal")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-10]++
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	o = open(t, decisions.Config{Dir: dir, Signer: key, Rows: 1})
	if rows := o.finds(decisions.Query{}); len(rows) != 10 {
		t.Errorf("%d entries", len(rows))
	}
	if kept, err := os.ReadFile(path + ".damaged"); err != nil || len(kept) != len(text) {
		t.Errorf("%d bytes, %v", len(kept), err)
	}
	o.sends("edge", 10, entries(10, 20)...)
}
