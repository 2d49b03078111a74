package trial

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gatehouse/gate"
	"gatehouse/routes"
)

// Run makes the request and compares.
func (t *Trial) Run(ctx context.Context, test *Test, seen *Coverage) Outcome {
	o := Outcome{Suite: test.File, Place: fmt.Sprintf("%s:%d", test.File, test.Line), Name: test.Name}
	started := time.Now()
	answer, err := t.Answer(ctx, test)
	if err != nil {
		o.Failed, o.Details = true, []string{err.Error()}
		return o
	}
	o.Duration = time.Since(started)
	if problems := test.Compare(&answer); len(problems) > 0 {
		o.Failed = true
		o.Details = append(problems, "got      "+Line(&answer))
		if why := Cause(&test.Request, &answer); why != "" {
			o.Details = append(o.Details, "cause    "+why)
		}
		return o
	}
	seen.add(&answer)
	return o
}

// Answer is what comes of a test's request.
func (t *Trial) Answer(ctx context.Context, test *Test) (gate.Answer, error) {
	a, who := test.Request, test.Caller
	who.Claims = cloneClaims(who.Claims) // Identity fills them in
	var err error
	if a.As, err = t.Identity(who); err != nil {
		return gate.Answer{}, err
	}
	answer := t.gate.Check(ctx, a.Gate())
	if answer.Reason == gate.Timeout { // a busy machine must not fail a test, or look like a change
		answer = t.gate.Check(ctx, a.Gate())
	}
	return answer, nil
}

// cloneClaims copies claims with the objects in them, which is all that identity writes to.
func cloneClaims(claims map[string]any) map[string]any {
	if claims == nil {
		return nil
	}
	out := make(map[string]any, len(claims))
	for k, v := range claims {
		if object, ok := v.(map[string]any); ok {
			v = cloneClaims(object)
		}
		out[k] = v
	}
	return out
}

// Compare says what is not as the test wants it.
func (t *Test) Compare(answer *gate.Answer) (problems []string) {
	expected := func(format string, args ...any) {
		problems = append(problems, "expected "+fmt.Sprintf(format, args...))
	}
	if (answer.Allow || answer.Direct) != t.allow {
		if t.allow {
			expected("allow")
		} else {
			expected("%s", strings.TrimSpace(fmt.Sprintf("deny %s %s", statusText(t.status), t.reason)))
		}
		return problems
	}
	if t.status != 0 && answer.Status != t.status {
		expected("status %d", t.status)
	}
	if t.reason != "" && t.reason != answer.Reason.String() && t.reason != ClientReason(answer) {
		expected("reason %q", t.reason)
	}
	if r := answer.Diagnostics.Match.Route; t.route != "" && (r == nil || t.route != r.Name && t.route != r.Template) {
		expected("route %q", t.route)
	}
	for _, w := range t.want {
		same := func(h gate.HeaderOption) bool { return strings.EqualFold(h.Name, w.name) }
		at := slices.IndexFunc(answer.Set, same)
		switch {
		case w.absent && at >= 0:
			expected("no header %s, and it is %q", w.name, answer.Set[at].Value)
		case w.absent:
		case at < 0:
			expected("header %s: %s, and it is not set", w.name, w.value)
		case !slices.ContainsFunc(answer.Set, func(h gate.HeaderOption) bool { return same(h) && h.Value == w.value }):
			expected("header %s: %s, and it is %q", w.name, w.value, answer.Set[at].Value)
		}
	}
	return problems
}

func statusText(status int) string {
	if status == 0 {
		return ""
	}
	return fmt.Sprint(status)
}

// Outcome is what came of one test of either kind.
type Outcome struct {
	Suite    string // rego, or the file of the table
	Place    string // file:line
	Name     string
	Failed   bool
	Skipped  bool
	Details  []string // of a failure, one line each
	Output   string   // what a Rego test printed
	Duration time.Duration
}

// Coverage counts, for each route, the tests that passed by their verdict.
type Coverage struct{ allowed, denied map[*routes.Route]int }

// Print lists the routes of a table, which file names, that lack a test, and counts those that lack none among those that a request can take.
func (c *Coverage) Print(w io.Writer, file string, table *routes.Table) (covered, total int) {
	for _, r := range table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		total++
		lack := c.lack(r)
		if lack == "" {
			covered++
			continue
		}
		methods := "ANY"
		if r.Methods != nil {
			methods = strings.Join(r.Methods, ",")
		}
		fmt.Fprintf(w, "cover  %s:%d: %s: %s\n", file, r.Line, strings.TrimSpace(methods+" "+r.Template), lack)
	}
	return covered, total
}

// lack says which tests a route lacks, "" where it has both.
func (c *Coverage) lack(r *routes.Route) string {
	switch allowed, denied := c.allowed[r] > 0, c.denied[r] > 0; {
	case allowed && denied:
		return ""
	case allowed:
		return "no deny test"
	case denied:
		return "no allow test"
	}
	return "no test"
}

func (c *Coverage) add(answer *gate.Answer) {
	if c.allowed == nil {
		c.allowed, c.denied = map[*routes.Route]int{}, map[*routes.Route]int{}
	}
	if r := answer.Diagnostics.Match.Route; r != nil && answer.Allow {
		c.allowed[r]++
	} else if r != nil {
		c.denied[r]++
	}
}
