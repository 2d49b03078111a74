package gate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// FromScratch is a View of the same parts that reuses nothing of a previous View.
func (v *View) FromScratch() (*View, error) {
	made := &View{Settings: v.Settings, Policy: v.Policy, Keys: v.Keys, Routes: v.Routes, Serial: v.Serial}
	if err := made.assemble(); err != nil {
		return nil, err
	}
	made.describe()
	return made, nil
}

// Dump is all that was worked out for a View, but for its memo.
func (v *View) Dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %+v %+v %q\n", v.revision, v.bundles, v.digests, v.notices)
	ask := func(r *rule) string {
		if r.entry == nil {
			return r.name + " (none)"
		}
		d, err := r.entry.Decide(context.Background(), rego.Null(), policy.Facts{}, time.Time{})
		return fmt.Sprintf("%s %q: %v %v %v", r.name, r.entry.Path(), d.Allowed, d.Headers, err)
	}
	for i := range v.apps {
		a := &v.apps[i]
		fmt.Fprintf(&b, "%+v %s\n", a.App, ask(&a.one))
		if a.table == nil {
			continue
		}
		fmt.Fprintf(&b, "table %s\n", a.table.Digest())
		for _, path := range []string{"/a", "/a/1", "/a%2f1", "/b//c"} {
			m := a.table.Match("GET", "", path)
			fmt.Fprintf(&b, "%s %s %v\n", path, m.Outcome, m.Params)
		}
		if len(a.Root) == 0 {
			continue
		}
		for _, route := range a.table.Routes() {
			for _, method := range slices.Sorted(maps.Keys(a.rules[route])) {
				fmt.Fprintf(&b, "%s %s: %s\n", method, route.Template, ask(a.findRule(method, route)))
			}
		}
	}
	return b.String()
}

// Shares reports whether two Views have their applications in common, none made anew.
func (v *View) Shares(o *View) bool {
	return len(v.apps) == len(o.apps) && len(v.apps) > 0 && &v.apps[0] == &o.apps[0]
}

// Memo is the memo of the active View.
func (g *Gate) Memo() *policy.Memo { return g.View().memo }

// SameMemo reports whether two Views remember the same decisions.
func (v *View) SameMemo(o *View) bool { return v.memo == o.memo }

// Again decides about a request, and returns what finds that decision again and nothing else.
func (g *Gate) Again(ctx context.Context, req *Request) func() bool {
	g.Check(ctx, req)
	c := &call{req: req, view: g.view.Load(), identity: *req.As}
	if err := g.prepare(ctx, c); err != nil {
		return func() bool { return false }
	}
	c.rule = c.app.findRule(req.Method, nil)
	entry := c.rule.entry
	if c.parseInput(entry) != nil {
		return func() bool { return false }
	}
	return func() bool {
		key := c.key(entry)
		defer key.Done()
		found, _ := g.lookup(c, key)
		return found
	}
}
