package policy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// book is a test's directory: until when subjects have a relation, and what an object contains.
type book struct {
	version uint64
	until   map[string]int64 // by "relation subject"; 0: for ever
	objects map[string]string
	asked   *int
}

func (b *book) facts() policy.Facts { return policy.Facts{Directory: b, Version: b.version} }

func (b *book) Ask(builtin string, args []rego.Value, now time.Time) (rego.Value, error) {
	if b.asked != nil {
		*b.asked++
	}
	text := func(v rego.Value) string { return strings.Trim(v.String(), `"`) }
	switch builtin {
	case "gatehouse.check":
		until, has := b.until[text(args[1])+" "+text(args[2])]
		return rego.Bool(has && (until == 0 || now.Unix() < until)), nil
	case "ds.object":
		id := text(args[0].(ast.Object).Get(ast.StringTerm("object_id")).Value)
		if found, ok := b.objects[id]; ok {
			return ast.MustParseTerm(found).Value, nil
		}
		return nil, nil
	}
	return nil, errors.New("limit exceeded")
}

func (b *book) Epoch(now time.Time) (expired uint64) {
	for _, until := range b.until {
		if until != 0 && until <= now.Unix() {
			expired++
		}
	}
	return expired
}

// changed returns the next version of a book.
func (b *book) changed(r *rand.Rand, version uint64) *book {
	next := &book{version: version, until: maps.Clone(b.until), objects: maps.Clone(b.objects), asked: b.asked}
	who := fmt.Sprintf("r%d u%d", r.IntN(3), r.IntN(3))
	switch r.IntN(5) {
	case 0:
		delete(next.until, who)
	case 1:
		next.until[who] = 0
	case 2:
		next.until[who] = noon.Unix() + int64(r.IntN(40))
	case 3:
		delete(next.objects, fmt.Sprint("o", r.IntN(2)))
	default:
		next.objects[fmt.Sprint("o", r.IntN(2))] = []string{`{"n": 1}`, `{"n": 1.0}`, `{"n": 2}`, `{"n": 1, "m": [true]}`, `{}`, `null`}[r.IntN(6)]
	}
	return next
}

// randomAsking returns a random policy that queries the directory.
func randomAsking(r *rand.Rand) string {
	check := func() string {
		subject := []string{"input.user", `"u0"`, `"u1"`}[r.IntN(3)]
		return fmt.Sprintf(`gatehouse.check("o", "r%d", %s)`, r.IntN(3), subject)
	}
	object := func() string { return fmt.Sprintf(`ds.object({"object_id": "o%d"})`, r.IntN(2)) }
	expression := func() string {
		switch r.IntN(9) {
		case 0:
			return "not " + check()
		case 1:
			return fmt.Sprintf(`count([u | some u in ["u0", "u1", "u2"]; gatehouse.check("o", "r%d", u)]) > %d`, r.IntN(3), r.IntN(3))
		case 2:
			return object() + fmt.Sprintf(".n == %d", r.IntN(3))
		case 3:
			return "not " + object() + ".m"
		case 4:
			return "input.x == " + fmt.Sprint(r.IntN(2))
		case 5:
			return "helper"
		case 6:
			return check() + " == false"
		case 7:
			return `every u in ["u0", input.user] { gatehouse.check("o", "r0", u) }`
		}
		return check()
	}
	body := func() string { return fmt.Sprintf("if {\n\t%s\n\t%s\n}", expression(), expression()) }
	rules := fmt.Sprintf("allow := {\"allowed\": true, \"headers\": {\"x\": json.marshal(%s)}} if %s\n\nelse := true %s\n\nelse := %s %s\n\nhelper if %s\n\nhelper if input.x == 0\n",
		object(), check(), body(), []string{"true", "false"}[r.IntN(2)], body(), check())
	if r.IntN(2) == 0 {
		rules = "default allow := false\n\n" + rules
	}
	return rules
}

// TestMemoWithADirectory compares memoised decisions of policies that query a directory with fresh ones, while the directory changes,
// relations expire, and requests with earlier directories are still running.
func TestMemoWithADirectory(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hits, decided := uint64(0), 0
	for range 30 {
		rules := randomAsking(r)
		m := remember(t, compile(t, module(rules)))
		m.memo.Pace(1<<60, 1, 1)
		m.memo.Patient()
		is := &book{version: 1, until: map[string]int64{}, objects: map[string]string{}}
		before := is
		for step := range 300 {
			if r.IntN(4) == 0 {
				before, is = is, is.changed(r, is.version+1)
			}
			facts := is.facts()
			if r.IntN(8) == 0 {
				facts = before.facts()
			}
			now := noon.Add(time.Duration(step/8) * time.Second)
			v := value(t, fmt.Sprintf(`{"user": "u%d", "x": %d}`, r.IntN(3), r.IntN(2)))
			d, err := m.entry.Decide(t.Context(), v, facts, now)
			want, asked := told(t, d, err), fmt.Sprint(d.Asked, d.AskedTruncated)
			k := m.key(v)
			found, hit := k.Lookup(facts, now)
			if d, err = found.Decision, found.Err; !hit {
				d, err = k.Decide(t.Context(), time.Minute, v, facts, now)
			}
			k.Done()
			if got := told(t, d, err); got != want {
				t.Fatalf("%s\n%v, hit %v: remembered %s, want %s", rules, v, hit, got, want)
			}
			if got := fmt.Sprint(d.Asked, d.AskedTruncated); got != asked {
				t.Fatalf("%s\n%v, hit %v: asked %s, want %s", rules, v, hit, got, asked)
			}
			decided++
		}
		hits += m.stats.Counts().Hits
	}
	t.Logf("%d decisions, %d of them remembered", decided, hits)
	if hits < uint64(decided)/4 {
		t.Errorf("%d of %d were remembered", hits, decided)
	}
}

// TestMemoAsksAgain counts the queries of a memoised decision: none to the same directory, and to another one the recorded ones.
func TestMemoAsksAgain(t *testing.T) {
	m := remember(t, compile(t, module(`allow if {
	gatehouse.check("o", "r0", input.user)
	not gatehouse.check("o", "r1", input.user)
}`)))
	m.memo.Patient()
	asked := 0
	v := value(t, `{"user": "u0"}`)
	is := &book{version: 1, until: map[string]int64{"r0 u0": 0, "r2 u0": noon.Unix() + 10}, objects: map[string]string{}, asked: &asked}
	later := *is
	later.version = 2
	without := &book{version: 3, asked: &asked}
	for i, step := range []struct {
		is      *book
		now     time.Time
		asks    int
		hit     bool
		allowed bool
	}{
		{is, noon, 2, false, true}, {is, noon, 0, true, true}, {&later, noon, 2, true, true}, {&later, noon, 0, true, true},
		{&later, noon.Add(10 * time.Second), 2, true, true}, {&later, noon.Add(11 * time.Second), 0, true, true},
		{without, noon, 2, false, false}, {without, noon, 0, true, false},
	} {
		asked = 0
		k := m.key(v)
		found, hit := k.Lookup(step.is.facts(), step.now)
		d := found.Decision
		if !hit {
			d, _ = k.Decide(t.Context(), time.Minute, v, step.is.facts(), step.now)
		}
		k.Done()
		if hit != step.hit || asked != step.asks || d.Allowed != step.allowed || len(d.Asked) == 0 {
			t.Errorf("step %d: hit %v, asked %d, allowed %v, told %v", i, hit, asked, d.Allowed, d.Asked)
		}
	}
	k := m.key(v)
	defer k.Done()
	if n := testing.AllocsPerRun(100, func() { k.Lookup(without.facts(), noon) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// A query that the directory cannot answer denies, whatever the policy does with it.
func TestDirectoryFailures(t *testing.T) {
	for name, rules := range map[string]string{
		"not":               `allow if not ds.check({"object_id": input.user})`,
		"comprehension":     `allow if count([1 | ds.check({})]) == 0`,
		"rule under not":    "allow if not member\n\nmember if ds.check({})",
		"default":           "default member := false\n\nmember if ds.check({})\n\nallow if member == false",
		"else":              "allow := false if ds.check({})\n\nelse := true",
		"too many":          `allow if count([1 | some i in numbers.range(1, 1001); not gatehouse.check("o", "r", format_int(i, 10))]) > 0`,
		"a function's":      "f(x) if ds.checks(x)\n\nallow if not f({})",
		"every":             `allow if every x in [1, 2] { not ds.graph({"x": x}) }`,
		"the other allowed": "allow if input.user\n\nallow if not ds.relation({})",
	} {
		e, err := compile(t, module(rules)).Entry([]string{"authz", "allow"})
		if err != nil {
			t.Fatal(err)
		}
		is := &book{version: 1}
		d, err := e.Decide(t.Context(), value(t, `{"user": "u"}`), is.facts(), noon)
		if name == "the other allowed" && err == nil {
			continue // a query is not required
		}
		if d.Allowed || !errors.Is(err, policy.ErrEvaluation) {
			t.Errorf("%s: allowed %v, error %v", name, d.Allowed, err)
		}
	}
}

// TestAskedIsBounded checks the limits for many or large queries, and that such decisions are not memoised.
func TestAskedIsBounded(t *testing.T) {
	m := remember(t, compile(t, module(`allow if count([1 | some i in numbers.range(1, input.n); gatehouse.check("o", "r", concat("", [format_int(i, 10), input.s]))]) == 0`)))
	is := &book{version: 1}
	for _, test := range []struct {
		n, long, told int
		hit           bool
	}{{64, 1, 64, true}, {65, 1, 64, false}, {20, 1000, 7, false}} {
		v := value(t, fmt.Sprintf(`{"n": %d, "s": %q}`, test.n, strings.Repeat("x", test.long)))
		k := m.key(v)
		k.Lookup(is.facts(), noon)
		d, err := k.Decide(t.Context(), time.Minute, v, is.facts(), noon)
		_, hit := k.Lookup(is.facts(), noon)
		k.Done()
		if err != nil || !d.Allowed || len(d.Asked) != test.told || d.AskedTruncated == test.hit || hit != test.hit {
			t.Errorf("%d of %d: %d told, cut %v, hit %v, %v", test.n, test.long, len(d.Asked), d.AskedTruncated, hit, err)
		}
	}
}

// TestReplayerAnswersFromTheRecord replays decisions with their recorded queries, through the log's text.
func TestReplayerAnswersFromTheRecord(t *testing.T) {
	rules := "allow if {\n\tgatehouse.check(\"o\", \"r0\", input.user)\n\tnot ds.object({\"object_id\": \"o0\"})\n}\n\nmore if {\n\tallow\n\tgatehouse.check(\"o\", \"r1\", input.user)\n}"
	s := compile(t, module(rules))
	allow, _ := s.Entry([]string{"authz", "allow"})
	more, _ := s.Entry([]string{"authz", "more"})
	v := value(t, `{"user": "u0"}`)
	then := &book{version: 1, until: map[string]int64{"r0 u0": 0}}
	d, err := allow.Decide(t.Context(), v, then.facts(), noon)
	if err != nil || !d.Allowed || len(d.Asked) != 2 {
		t.Fatal(d, err)
	}
	plain, err := policy.QuestionsJSON(d.Asked)
	if err != nil {
		t.Fatal(err)
	}
	text, err := rego.FromJSON(plain)
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"answer": true, "question": {"gatehouse.check": ["o", "r0", "u0"]}}, {"question": {"ds.object": {"object_id": "o0"}}, "undefined": true}]`
	if text.String() != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	recorded, err := policy.ParseQuestions([]byte(text.String()))
	if err != nil || len(recorded) != 2 {
		t.Fatal(recorded, err)
	}
	now := &book{version: 2, until: map[string]int64{"r1 u0": 0}, objects: map[string]string{"o0": "{}"}}
	for name, test := range map[string]struct {
		entry    *policy.Entry
		recorded []policy.Question
		facts    policy.Facts
		allowed  bool
		basis    [2]int
		unsure   string
	}{
		"as then":            {allow, recorded, now.facts(), true, [2]int{2, 0}, ""},
		"without directory":  {allow, recorded, policy.Facts{}, true, [2]int{2, 0}, ""},
		"another question":   {more, recorded, now.facts(), true, [2]int{2, 1}, ""},
		"nobody knows":       {more, recorded, policy.Facts{}, false, [2]int{2, 0}, "gatehouse.check"},
		"nothing on record":  {allow, nil, now.facts(), false, [2]int{0, 1}, ""},
		"neither of the two": {allow, nil, policy.Facts{}, false, [2]int{0, 0}, "gatehouse.check"},
	} {
		d, basis, err := test.entry.Replayer().DecideRecorded(t.Context(), v, test.recorded, test.facts, noon)
		if err != nil && !errors.Is(err, policy.ErrUndefined) || d.Allowed != test.allowed || basis.Unsure != test.unsure || [2]int{basis.Recorded, basis.Current} != test.basis {
			t.Errorf("%s: allowed %v, %+v, %v", name, d.Allowed, basis, err)
		}
	}
	for name, test := range map[string]struct {
		entry   *policy.Entry
		facts   policy.Facts
		allowed bool
		err     error
	}{
		"on record":     {allow, policy.Facts{}, true, nil},
		"partly":        {more, now.facts(), true, nil},
		"not on record": {more, policy.Facts{}, false, policy.ErrEvaluation},
	} {
		d, err := test.entry.Decide(t.Context(), v, policy.OnRecord(recorded, test.facts), noon)
		if d.Allowed != test.allowed || !errors.Is(err, test.err) {
			t.Errorf("%s: allowed %v, error %v", name, d.Allowed, err)
		}
	}
	if allow.Replayer().Pure() {
		t.Error("a decision that asks the directory is pure")
	}
	for _, damaged := range []string{`[{"question": {"ds.check": {}}}]`, `[{"question": {"ds.check": "[redacted]"}, "answer": true}]`, `[{"answer": true}]`, `[1, null]`,
		`[{"question": {"gatehouse.check": ["a"]}, "answer": true}]`, `[{"question": {"lower": "A"}, "answer": "a"}]`, `[{"question": {"ds.check": 1}, "answer": 1, "undefined": true}]`} {
		if got, err := policy.ParseQuestions([]byte(damaged)); err != nil || len(got) > 0 {
			t.Errorf("%s: %v, %v", damaged, got, err)
		}
	}
}

// BenchmarkMemoDirectory measures memoised decisions with and without queries, while the directory changes every few decisions.
func BenchmarkMemoDirectory(b *testing.B) {
	for name, rules := range map[string]string{"asks": `allow if not gatehouse.check("o", "r0", input.attributes.request.http.method)`,
		"does not": `allow if input.attributes.request.http.method != ""`} {
		for _, every := range []int{0, 10_000, 1} {
			b.Run(fmt.Sprintf("%s, changes every %d", name, every), func(b *testing.B) {
				m := remember(b, compile(b, module(rules)))
				input := request(twentyHeaders())
				is := &book{version: 1, until: map[string]int64{}}
				facts := is.facts()
				n := 0
				b.ReportAllocs()
				for b.Loop() {
					if n++; every > 0 && n%every == 0 {
						facts.Version++
					}
					k := m.key(input)
					if _, hit := k.Lookup(facts, noon); !hit {
						_, _ = k.Decide(b.Context(), 0, input, facts, noon)
					}
					k.Done()
				}
			})
		}
	}
}

// TestWithoutADirectory checks that a query whose undefined answer could allow fails, and one that could only deny is undefined.
func TestWithoutADirectory(t *testing.T) {
	const check = `ds.check({"object_id": "o"})`
	for _, test := range []struct {
		rules   string
		fails   bool
		allowed bool
	}{
		{"allow if " + check, false, false},
		{"default allow := false\n\nallow if " + check + "\n\nallow if input.viewer", false, true},
		{"default allow := {\"allowed\": false}\n\nallow := {\"allowed\": true} if {\n\tmember\n\tinput.viewer\n}\n\nmember if " + check, false, false},
		{"allow if f(\"x\")\n\nf(x) if ds.user({\"id\": x}).ok", false, false},
		{"allow if " + check + " == false", false, false},
		{"allow if input.viewer\n\nother if not " + check, false, true},
		{"allow if not " + check, true, false},
		{"allow if not member\n\nmember if " + check, true, false},
		{"default member := false\n\nmember if " + check + "\n\nallow if member == false", true, false},
		{"default allow := true\n\nallow := false if " + check, true, false},
		{"allow := false if " + check + "\n\nallow := true if input.viewer", true, false},
		{"allow if " + check + "\n\nelse := true", true, false},
		{"allow if count([1 | " + check + "]) == 0", true, false},
		{"members contains \"a\" if " + check + "\n\nallow if count(members) == 0", true, false},
		{"allow if every x in [1] { not ds.check(x) }", true, false},
		{"allow if f(1) == 2\n\nf(x) := 1 if " + check + "\n\nelse := 2", true, false},
		{"m.a if " + check + "\n\nallow if object.get(data.authz.m, \"a\", false) == false", true, false},
		{"m.a if " + check + "\n\nm.b := true\n\nallow if count(data.authz.m) == 1", true, false},
		{"allow.allowed := true\n\nallow.reason := \"x\" if " + check, true, false},
		{"allow if m with input as {\"x\": 1}\n\nm if not " + check, true, false},
	} {
		e, err := compile(t, module(test.rules)).Entry([]string{"authz", "allow"})
		if err != nil {
			t.Fatal(err)
		}
		d, err := e.Decide(t.Context(), value(t, `{"viewer": true}`), policy.Facts{}, noon)
		if d.Allowed != test.allowed || errors.Is(err, policy.ErrEvaluation) != test.fails {
			t.Errorf("%s\nallowed %v, error %v", test.rules, d.Allowed, err)
		}
	}
}

// TestSlowDirectory checks that the deadline is checked after each query.
func TestSlowDirectory(t *testing.T) {
	e, err := compile(t, module("allow if {\n"+strings.Repeat("\tnot gatehouse.check(\"o\", \"r\", \"u\")\n", 5)+"}")).Entry([]string{"authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	asked, limit := 0, time.Millisecond
	facts := policy.Facts{Directory: answers(func(string, []rego.Value, time.Time) (rego.Value, error) {
		asked++
		for began := time.Now(); time.Since(began) <= limit; { // until the time is up
			continue
		}
		return rego.Bool(false), nil
	})}
	for asked == 0 { // a busy machine may need longer to come to the first question
		limit *= 2
		d, err := e.DecideWithin(t.Context(), limit, value(t, `{}`), facts, noon)
		if d.Allowed || !errors.Is(err, context.DeadlineExceeded) || asked > 1 {
			t.Fatalf("allowed %v after %d questions, error %v", d.Allowed, asked, err)
		}
	}
}

// TestMemoOfManyDirectories has requests of two directories make the same decisions concurrently, while both directories change.
func TestMemoOfManyDirectories(t *testing.T) {
	m := remember(t, compile(t, module(`allow if not gatehouse.check("o", "r0", input.user)`)))
	m.memo.Pace(1<<60, 1, 1)
	inputs := []rego.Value{value(t, `{"user": "u0"}`), value(t, `{"user": "u1"}`)}
	var versions atomic.Uint64
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 300 {
				is := &book{version: versions.Add(1), until: map[string]int64{}}
				for u := range inputs {
					if r.IntN(2) == 0 {
						is.until[fmt.Sprintf("r0 u%d", u)] = 0
					}
				}
				for range 4 {
					u := r.IntN(len(inputs))
					k := m.key(inputs[u])
					found, hit := k.Lookup(is.facts(), noon)
					d := found.Decision
					if !hit {
						d, _ = k.Decide(t.Context(), time.Minute, inputs[u], is.facts(), noon)
					}
					k.Done()
					if _, member := is.until[fmt.Sprintf("r0 u%d", u)]; d.Allowed == member {
						t.Errorf("version %d, u%d: allowed %v", is.version, u, d.Allowed)
						return
					}
				}
			}
		})
	}
	wait.Wait()
	if m.stats.Counts().Hits == 0 {
		t.Error("nothing was remembered")
	}
}
