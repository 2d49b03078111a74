package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// remembering is a snapshot with a memo.
type remembering struct {
	s     *policy.Snapshot
	entry *policy.Entry
	memo  *policy.Memo
	stats *policy.Stats
}

func remember(t testing.TB, s *policy.Snapshot, path ...string) *remembering {
	t.Helper()
	if path == nil {
		path = []string{"authz", "allow"}
	}
	entry, err := s.Entry(path)
	if err != nil || entry == nil {
		t.Fatal(entry, err)
	}
	r := &remembering{s: s, entry: entry, stats: &policy.Stats{}}
	r.memo = s.NewMemo(policy.MemoConfig{Stats: r.stats})
	return r
}

// key returns an input's key; nil if the memo has none.
func (r *remembering) key(input rego.Value) *policy.Key {
	k := r.memo.Key(r.entry)
	if k != nil {
		k.Value(input, r.entry.Reads())
	}
	return k
}

// decide uses the memo as the gate does.
func (r *remembering) decide(ctx context.Context, input rego.Value, now time.Time) (d policy.Decision, hit bool, err error) {
	k := r.key(input)
	defer k.Done()
	if k == nil {
		d, err = r.entry.Decide(ctx, input, policy.Facts{}, now)
		return d, false, err
	}
	if found, ok := k.Lookup(policy.Facts{}, noon); ok {
		return found.Decision, true, found.Err
	}
	d, err = k.Decide(ctx, 0, input, policy.Facts{}, now)
	return d, false, err
}

// told renders a decision or an error as comparable text.
func told(t testing.TB, d policy.Decision, err error) string {
	t.Helper()
	switch {
	case errors.Is(err, policy.ErrUndefined):
		return "undefined"
	case errors.Is(err, policy.ErrEvaluation):
		return "failed"
	case err != nil:
		t.Fatal(err)
	}
	text, err := json.Marshal(d.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%v %s %v %v %v %v %d %s %s", d.Allowed, d.Reason, d.Headers, d.ResponseHeaders, d.RemoveHeaders, d.SetQuery, d.Status, text, d.Result)
}

// TestMemoOnOPAsOwnCases checks the memo on OPA's conformance suite: for each input and some forty changes of it, twice, the memoised
// decision equals a fresh one.
func TestMemoOnOPAsOwnCases(t *testing.T) {
	used, hits, impure := 0, uint64(0), 0
	for _, c := range suite(t) {
		if c.Input == nil {
			continue
		}
		input, isObject := (*c.Input).(map[string]any)
		s := wrapped(c)
		if !isObject || s == nil {
			continue
		}
		r := remember(t, s, "gatehouse_wrapper", "allow")
		if len(r.entry.Memoisable().Impure) > 0 {
			impure++
			continue
		}
		used++
		inputs := changes(input)
		for range 2 {
			for _, changed := range inputs {
				v, err := rego.FromJSON(changed)
				if err != nil {
					t.Fatal(err)
				}
				d, err := r.entry.Decide(t.Context(), v, policy.Facts{}, noon)
				want := told(t, d, err)
				d, hit, err := r.decide(t.Context(), v, noon)
				if got := told(t, d, err); got != want {
					t.Errorf("%s: input %v, hit %v: remembered %s, want %s", c.Note, changed, hit, got, want)
				}
			}
		}
		hits += r.stats.Counts().Hits
	}
	t.Logf("%d cases, %d hits; %d cases with built-ins that are not pure", used, hits, impure)
	if used < 200 || hits < 5000 {
		t.Errorf("only %d cases and %d hits", used, hits)
	}
}

// changes returns an input and at most forty changes of it.
func changes(input map[string]any) []map[string]any {
	all := []map[string]any{input}
	for _, path := range append(paths(input, nil), strangers(input, nil)...) {
		for _, with := range []any{nil, "", "junk", json.Number("0"), false, []any{}, map[string]any{}, map[string]any{"a": json.Number("1")}, absent} {
			if len(all) > 40 {
				return all
			}
			all = append(all, replace(input, path, with))
		}
	}
	return all
}

// Inputs of one rule, no two of which may share a key.
func TestMemoTellsInputsApart(t *testing.T) {
	for _, test := range []struct {
		name, rules string
		inputs      []string
	}{
		// A case that OPA's dependency analysis misses.
		{"an alias under not", "allow if {\n\tu := input.user\n\tnot u.profile.level\n}",
			[]string{`{}`, `{"user":{}}`, `{"user":{"profile":{"level":1}}}`, `{"user":null}`, `{"user":""}`, `{"user":[]}`, `{"user":false}`}},
		{"types", `allow := {"allowed": true, "headers": {"x": json.marshal(object.get(input, "a", "absent"))}}`,
			[]string{`{}`, `{"a":null}`, `{"a":""}`, `{"a":"null"}`, `{"a":[]}`, `{"a":{}}`, `{"a":[null]}`, `{"a":[""]}`, `{"a":["",""]}`, `{"a":0}`,
				`{"a":"0"}`, `{"a":false}`, `{"a":true}`, `{"a":"false"}`, `{"a":[[]]}`, `{"a":[{}]}`, `{"a":{"":null}}`, `{"a":{"a":{}}}`, `{"a":1}`, `{"a":10}`, `{"a":1.5}`}},
		{"lengths", `allow := {"allowed": true, "headers": {"x": sprintf("%q %q", [object.get(input, ["h", "x-a"], 0), object.get(input, ["h", "x-b"], 0)])}}`,
			[]string{`{"h":{"x-a":"1","x-b":"23"}}`, `{"h":{"x-a":"12","x-b":"3"}}`, `{"h":{"x-a":"123","x-b":""}}`, `{"h":{"x-a":"","x-b":"123"}}`,
				`{"h":{"x-a":"1kx-bs23"}}`, `{"h":{"x-b":"23"}}`, `{"h":{"x-a":"1k\u0003x-bs\u000223"}}`, `{"h":{"x-a":"1k\u0003x-bs\u00023","x-b":"2"}}`, `{"h":{"x-a":"1","x-b":"2k\u0003x-as\u00013"}}`}},
		{"names", `allow := {"allowed": true, "headers": {"x": json.marshal(object.get(input, "h", 0))}}`,
			[]string{`{"h":{"a":"b"}}`, `{"h":{"as\u0001b":""}}`, `{"h":{"a":"b","c":"d"}}`, `{"h":{"a":"bk\u0001cs\u0001d"}}`, `{"h":{"a":"bkcsd"}}`, `{"h":{"asb":""}}`, `{"h":{"ab":""}}`, `{"h":{"":"ab"}}`}},
		{"where it is", `allow := {"allowed": true, "headers": {"x": json.marshal([object.get(input, "a", 0), object.get(input, "b", 0)])}}`,
			[]string{`{"a":"1"}`, `{"b":"1"}`, `{"a":{"b":"1"}}`, `{"a":"1","b":"1"}`, `{"a":[1,2]}`, `{"a":[1],"b":[2]}`, `{"a":[[1],2]}`, `{"a":[[1,2]]}`}},
		{"part of an object", "allow := {\"allowed\": true, \"headers\": {\"x\": x}}\n\ndefault x := \"none\"\n\nx := input.u.name",
			[]string{`{"u":{"name":"a","age":1}}`, `{"u":{"name":"b"}}`, `{"u":{"name":""}}`, `{"u":{"age":1}}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, collide := range []bool{false, true} {
				r := remember(t, compile(t, module(test.rules)))
				if collide {
					r.memo.Collide()
				}
				for round := range 3 {
					for _, text := range test.inputs {
						v := value(t, text)
						d, err := r.entry.Decide(t.Context(), v, policy.Facts{}, noon)
						want := told(t, d, err)
						d, hit, err := r.decide(t.Context(), v, noon)
						if got := told(t, d, err); got != want {
							t.Errorf("%s (hit: %v, one hash: %v): %s, want %s", text, hit, collide, got, want)
						}
						if round == 2 && !collide && !hit && want != "failed" {
							t.Errorf("%s is not remembered", text)
						}
					}
				}
			}
		})
	}
}

// The order of an object's members, which is arbitrary in a proxy and a Go map, does not affect the key.
func TestKeyKnowsNoOrder(t *testing.T) {
	r := remember(t, compile(t, module(`allow := count(input.h) > 0`)))
	write := func(names ...string) string {
		k := r.memo.Key(r.entry)
		defer k.Done()
		k.Name("h")
		mark := k.Open()
		for _, name := range names {
			k.Name(name)
			k.String(strings.ToUpper(name))
		}
		k.Close(mark, true)
		text, _ := k.Text()
		return text
	}
	names := strings.Fields("host accept x-b x-a x-aa x user-agent cookie a b c d e f g h i j k l m n o p q r s t u v w z aa bb cc dd")
	want := write(names...)
	slices.Reverse(names)
	if write(names...) != want || write(slices.Sorted(slices.Values(names))...) != want {
		t.Error("another order is another key")
	}
	if write(names[1:]...) == want {
		t.Error("a name less is the same key")
	}
}

// The policy's clock advances between two equal requests.
func TestMemoSeesTheTime(t *testing.T) {
	r := remember(t, compile(t, module(`allow if time.now_ns() < 1000`)))
	for _, now := range []int64{1, 2000, 1} {
		d, _, err := r.decide(t.Context(), value(t, `{}`), time.Unix(0, now))
		if (err == nil) != (now < 1000) || d.Allowed != (now < 1000) {
			t.Errorf("at %d ns: %v, %v", now, d.Allowed, err)
		}
	}
}

// A decision belongs to its snapshot and its rule.
func TestMemoBelongsToSnapshotAndEntry(t *testing.T) {
	s := compile(t, module("allow if input.x == 1\n\nother if input.x == 2"))
	r := remember(t, s)
	one, two := value(t, `{"x":1}`), value(t, `{"x":2}`)
	other, err := s.Entry([]string{"authz", "other"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, v := range []rego.Value{one, two} {
			for _, e := range []*policy.Entry{r.entry, other} {
				want, wantErr := e.Decide(t.Context(), v, policy.Facts{}, noon)
				r := &remembering{s: s, entry: e, memo: r.memo, stats: r.stats}
				got, _, err := r.decide(t.Context(), v, noon)
				if told(t, got, err) != told(t, want, wantErr) {
					t.Errorf("%v of %v: %v %v, want %v %v", e.Path(), v, got.Allowed, err, want.Allowed, wantErr)
				}
			}
		}
	}
	if c := r.stats.Counts(); c.Hits != 4 {
		t.Errorf("%d hits, want 4", c.Hits)
	}
	later := compile(t, module("allow if input.x == 2"))
	if e, _ := later.Entry([]string{"authz", "allow"}); r.memo.Key(e) != nil {
		t.Error("a memo answers for another snapshot's rule")
	}
	// Two paths whose joined segments are equal.
	deep := compile(t, tree{"authz.rego": "package authz\n\nallow := true", "a.rego": "package a.b\n\nc if input.x == 1",
		"b.rego": "package a\n\ns[\"bs\\u0001c\"] if input.x == 2"})
	first, _ := remember(t, deep, "a", "b", "c").key(one).Text()
	second, _ := remember(t, deep, "a", "s", "bs\x01c").key(one).Text()
	if first == second {
		t.Error("two paths have one key")
	}
}

// Only evaluations that ended by themselves are memoised.
func TestMemoKeepsNoFailures(t *testing.T) {
	decided := func(r *remembering, v rego.Value) string {
		d, _, err := r.decide(t.Context(), v, noon)
		return told(t, d, err)
	}
	v := value(t, `{"x":"1"}`)
	t.Run("conflict", func(t *testing.T) {
		r := remember(t, compile(t, module("allow := b\n\nb := 1 if input.x\n\nb := 2 if input.x")))
		if a, b := decided(r, v), decided(r, v); a != "failed" || b != "failed" || r.memo.Status().Entries != 0 {
			t.Errorf("%s, then %s; %+v", a, b, r.memo.Status())
		}
	})
	t.Run("wrong type", func(t *testing.T) {
		r := remember(t, compile(t, module("allow := input.x")))
		if a, b := decided(r, v), decided(r, v); a != "failed" || b != "failed" || r.memo.Status().Entries != 0 {
			t.Errorf("%s, then %s; %+v", a, b, r.memo.Status())
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		r := remember(t, compile(t, module("default allow := false\n\nallow if input.x")))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, hit, err := r.decide(ctx, v, noon); hit || !errors.Is(err, context.Canceled) {
			t.Error(hit, err)
		}
		if d, hit, err := r.decide(t.Context(), v, noon); hit || err != nil || !d.Allowed {
			t.Error(d.Allowed, hit, err)
		}
	})
	t.Run("timed out", func(t *testing.T) {
		r := remember(t, compile(t, module("default allow := false\n\nallow if count([1 | some i in numbers.range(1, 100000000); i < 0]) == 0")))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if _, _, err := r.decide(ctx, v, noon); !errors.Is(err, context.DeadlineExceeded) || r.memo.Status().Entries != 0 {
			t.Error(err, r.memo.Status())
		}
	})
	t.Run("a built-in that fails", func(t *testing.T) { // the failure may not happen next time
		r := remember(t, compile(t, module("default allow := false\n\nallow if to_number(input.y) == 1")))
		if a, b := decided(r, value(t, `{"y":"?"}`)), decided(r, value(t, `{"y":"1"}`)); a == b || r.memo.Status().Entries != 1 {
			t.Errorf("%s, then %s; %+v", a, b, r.memo.Status())
		}
	})
	t.Run("no decision", func(t *testing.T) { // undefined is the policy's own result
		r := remember(t, compile(t, module("allow if input.x == 2")))
		if _, hit, err := r.decide(t.Context(), v, noon); hit || !errors.Is(err, policy.ErrUndefined) {
			t.Error(hit, err)
		}
		if d, hit, err := r.decide(t.Context(), v, noon); !hit || !errors.Is(err, policy.ErrUndefined) || d.Allowed {
			t.Error(hit, err)
		}
	})
}

// A memoised decision shares no memory with its request, and its users cannot change it.
func TestMemoSharesNothing(t *testing.T) {
	r := remember(t, compile(t, module(`allow := {"allowed": true, "headers": {input.n: input.v, "x-set": [input.v, "b"]}, "query_parameters_to_set": {"q": input.v},
	"request_headers_to_remove": [input.n], "dynamic_metadata": {"m": {"k": [input.v]}}, "body": input.v}`)))
	message := []byte("x-namevalue")
	alias := func(from, to int) rego.Value { return rego.String(unsafe.String(&message[from], to-from)) }
	input := rego.Object(rego.Member{Key: "n", Value: alias(0, 6)}, rego.Member{Key: "v", Value: alias(6, 11)})
	d, _, err := r.decide(t.Context(), input, noon)
	want := told(t, d, err)
	for i := range message {
		message[i] = '?'
	}
	fresh := value(t, `{"n":"x-name","v":"value"}`)
	for range 2 {
		d, hit, err := r.decide(t.Context(), fresh, noon)
		if got := told(t, d, err); !hit || got != want {
			t.Errorf("hit %v: %s\nwant %s", hit, got, want)
		}
		d.Metadata["m"].(map[string]any)["k"].([]any)[0] = "changed"
		d.Metadata["more"] = true
	}
}

// Keys over 8 KiB are not looked up, and large decisions are not stored.
func TestMemoSkipsWhatIsLarge(t *testing.T) {
	r := remember(t, compile(t, module(`allow := {"allowed": true, "body": concat("", [x | some i in numbers.range(1, input.n); x := input.s])}`)))
	for _, test := range []struct {
		text string
		hit  bool
	}{
		{fmt.Sprintf(`{"n":1,"s":%q}`, strings.Repeat("x", 8<<10)), false},
		{fmt.Sprintf(`{"n":1,"s":%q}`, strings.Repeat("x", 7<<10)), true},
		{fmt.Sprintf(`{"n":1000,"s":%q}`, strings.Repeat("x", 7<<10)), false},
		{fmt.Sprintf(`{"n":1,"s":"y","m":%q}`, strings.Repeat("x", 100<<10)), true}, // not read
	} {
		for round := range 2 {
			d, hit, err := r.decide(t.Context(), value(t, test.text), noon)
			if err != nil || !d.Allowed || round == 1 && hit != test.hit {
				t.Errorf("%.30s of %d bytes: hit %v, %v", test.text, len(test.text), hit, err)
			}
		}
	}
}

// However many decisions are made, the memo stays within its limit, by its own count and by the heap's.
func TestMemoIsBounded(t *testing.T) {
	const limit = 1 << 20
	for name, rules := range map[string]string{
		"true or false":   `allow if input.s != ""`,
		"large":           `allow := {"allowed": true, "headers": {"x-a": input.s, "x-b": [input.s, "b", "c"]}, "dynamic_metadata": {"a": {"b": [1, 2, {"c": input.s}]}}}`,
		"many small ones": `allow := {"allowed": false, "dynamic_metadata": {"a": [i | some i in numbers.range(1, 40)]}, "body": input.s}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := compile(t, module(rules))
			entry, _ := s.Entry([]string{"authz", "allow"})
			heap := func() int64 {
				runtime.GC()
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc)
			}
			before := heap()
			r := &remembering{s: s, entry: entry, stats: &policy.Stats{}}
			r.memo = s.NewMemo(policy.MemoConfig{Bytes: limit, Stats: r.stats})
			r.memo.Pace(1<<60, 1, 1)
			for i := range 2500 {
				v := rego.Object(rego.Member{Key: "s", Value: rego.String(fmt.Sprintf("%040d", i))})
				if _, _, err := r.decide(t.Context(), v, noon); err != nil {
					t.Fatal(err)
				}
				if is := r.memo.Status(); is.Bytes > limit {
					t.Fatalf("%d bytes after %d decisions, limit %d", is.Bytes, i+1, limit)
				}
			}
			is, took := r.memo.Status(), heap()-before
			t.Logf("%d entries, %d bytes by its own count, %d by the heap's", is.Entries, is.Bytes, took)
			if is.Entries < 100 || took > limit*5/4 {
				t.Errorf("%d entries take %d bytes, limit %d", is.Entries, took, limit)
			}
			runtime.KeepAlive(r)
		})
	}
}

// An entry whose decisions rarely repeat bypasses the memo, and tries again later.
func TestMemoRests(t *testing.T) {
	r := remember(t, compile(t, module(`allow if input.n >= 0`)))
	r.memo.Pace(100, 1000, 2000)
	next := 0
	ask := func(times int, fresh bool) (keyed int) {
		for range times {
			if fresh {
				next++
			}
			v := rego.Object(rego.Member{Key: "n", Value: rego.Int(int64(next))})
			k := r.key(v)
			if k != nil {
				keyed++
				if _, ok := k.Lookup(policy.Facts{}, noon); !ok {
					if _, err := k.Decide(t.Context(), time.Minute, v, policy.Facts{}, noon); err != nil {
						t.Fatal(err)
					}
				}
			}
			k.Done()
		}
		return keyed
	}
	if n := ask(100, true); n != 100 || !r.entry.Bypassed() {
		t.Fatalf("%d of 100, resting %v", n, r.entry.Bypassed())
	}
	if n := ask(1000, false); n != 0 {
		t.Errorf("asked %d times while at rest", n)
	}
	if n := ask(100, true); n != 100 || !r.entry.Bypassed() {
		t.Errorf("%d of 100 when it looks again, resting %v", n, r.entry.Bypassed())
	}
	if n := ask(2000, false); n != 0 {
		t.Errorf("asked %d times in the longer rest", n)
	}
	for range 200 { // from now on every decision repeats once
		ask(1, true)
		ask(1, false)
	}
	if r.entry.Bypassed() {
		t.Error("at rest although every second one is a hit")
	}
	for !r.entry.Bypassed() {
		ask(1, true)
	}
	if n := ask(1001, false); n != 1 {
		t.Errorf("asked %d times in 1001 after the first rest since it was of use, want 1", n)
	}
}

// A recheck with another result disables the memo.
func TestRecheck(t *testing.T) {
	r := remember(t, compile(t, module(`allow if input.x == 1`)))
	one, two := value(t, `{"x":1}`), value(t, `{"x":2}`)
	again := func(v rego.Value) error {
		k := r.key(v)
		defer k.Done()
		found, ok := k.Lookup(policy.Facts{}, noon)
		if !ok {
			t.Fatal("not remembered")
		}
		check, ok := k.Recheck(found, v, policy.Facts{}, noon)
		if !ok {
			t.Fatal("cannot be decided again")
		}
		return check.Run(t.Context())
	}
	for _, v := range []rego.Value{one, two} {
		_, _, _ = r.decide(t.Context(), v, noon)
		if err := again(v); err != nil {
			t.Error(err)
		}
	}
	three := value(t, `{"x":3}`)
	k := r.key(three)
	k.Lookup(policy.Facts{}, noon)
	if d, err := k.Decide(t.Context(), time.Minute, one, policy.Facts{}, noon); err != nil || !d.Allowed { // a key with another input's decision, which must never happen
		t.Fatal(err)
	}
	k.Done()
	if err := again(three); err == nil || !strings.Contains(err.Error(), `remembered "true", decided "no decision"`) {
		t.Error(err)
	}
	if c := r.stats.Counts(); c.Rechecks != 3 || c.Mismatches != 1 || r.memo.Status().Stopped == "" {
		t.Errorf("%+v, stopped: %q", c, r.memo.Status().Stopped)
	}
	if r.memo.Key(r.entry) != nil {
		t.Error("the memo is asked although it is wrong")
	}
}

// Many concurrent requests while there is little room.
func TestMemoUnderLoad(t *testing.T) {
	s := compile(t, module(`allow := {"allowed": input.n % 2 == 0, "headers": {"x-n": format_int(input.n, 10)}}`))
	r := remember(t, s)
	r.memo = s.NewMemo(policy.MemoConfig{Bytes: 1, Stats: r.stats})
	r.memo.Pace(1<<60, 1, 1)
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for i := range 3000 {
				n := (i*7 + g) % 400
				d, _, err := r.decide(t.Context(), rego.Object(rego.Member{Key: "n", Value: rego.Int(int64(n))}), noon)
				if want := fmt.Sprint(n); err != nil || d.Allowed != (n%2 == 0) || d.Headers[0].Value != want {
					t.Errorf("%d: %v %v %v", n, d.Allowed, d.Headers, err)
					return
				}
			}
		})
	}
	wait.Wait()
	if c, is := r.stats.Counts(), r.memo.Status(); c.Hits == 0 || c.Evicted == 0 || is.Bytes > is.Limit {
		t.Errorf("%+v, %+v", c, is)
	}
}

// FuzzMemo compares memoised with fresh decisions for two inputs in turn, which share a key only if what is read of them is the same.
func FuzzMemo(f *testing.F) {
	policies := []string{
		"default allow := false\n\nallow if {\n\tu := input.user\n\tnot u.profile.level\n}",
		`allow := {"allowed": true, "headers": {"x": json.marshal(object.get(input, "a", "absent"))}, "dynamic_metadata": {"b": object.get(input, ["b", "c"], null)}}`,
		"default allow := false\n\nallow if input.a.b == input.c[input.d]\n\nallow if input.list[_] == input.a.e",
	}
	all := make([]*remembering, len(policies))
	for i, rules := range policies {
		all[i] = remember(f, compile(f, module(rules)))
		all[i].memo.Collide()
		all[i].memo.Pace(1<<60, 1, 1)
	}
	f.Add(`{"user":{}}`, `{}`)
	f.Add(`{"a":"1","b":{"c":null}}`, `{"a":"1","b":{}}`)
	f.Add(`{"a":{"b":1},"c":{"x":1},"d":"x"}`, `{"a":{"b":1,"e":2},"list":[2]}`)
	f.Fuzz(func(t *testing.T, first, second string) {
		var inputs []rego.Value
		for _, text := range []string{first, second} {
			var x map[string]any
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			if d.Decode(&x) != nil {
				return
			}
			v, err := rego.FromJSON(x)
			if err != nil {
				return
			}
			inputs = append(inputs, v)
		}
		for _, r := range all {
			var keys, wants [2]string
			for range 2 {
				for i, v := range inputs {
					d, err := r.entry.Decide(t.Context(), v, policy.Facts{}, noon)
					wants[i] = told(t, d, err)
					d, hit, err := r.decide(t.Context(), v, noon)
					if got := told(t, d, err); got != wants[i] {
						t.Fatalf("%v (hit: %v): %s, want %s", v, hit, got, wants[i])
					}
					k := r.key(v)
					keys[i], _ = k.Text()
					k.Done()
				}
			}
			if keys[0] == keys[1] && wants[0] != wants[1] {
				t.Fatalf("%v and %v have one key", inputs[0], inputs[1])
			}
		}
	})
}

func BenchmarkMemo(b *testing.B) {
	r := remember(b, compile(b, tree{"authz.rego": "package authz\n\n" + rbac, "data.json": rbacData}))
	input := request(twentyHeaders())
	if d, _, err := r.decide(b.Context(), input, noon); err != nil || !d.Allowed {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, hit, _ := r.decide(b.Context(), input, noon); !hit {
			b.Fatal("not remembered")
		}
	}
}
