package routes

import "gatehouse/routes/pyregex"

// MatchInOrder is Match without the tree: every entry is tried in order, through its regular expression. It exists to
// hold the tree to it.
func (t *Table) MatchInOrder(method, host, path string) Match {
	copied := *t
	copied.list = withoutTree(t.list)
	return copied.Match(method, host, path)
}

// withoutTree puts all entries where the search tries them one by one.
func withoutTree(l *list) *list {
	if l == nil {
		return nil
	}
	entries := make([]entry, len(l.entries))
	for i, e := range l.entries {
		e.group = withoutTree(e.group)
		e.plain = false
		if e.pat != nil && !e.opaque {
			slow := *e.pat
			slow.segs = nil
			e.pat = &slow
		}
		entries[i] = e
	}
	slow := *l
	slow.entries, slow.fallback = entries, withoutTree(l.fallback)
	slow.root = &node{first: 0}
	for i := range entries {
		slow.root.tails = append(slow.root.tails, i)
	}
	return &slow
}

// MatchPython matches text as re_path does: what the groups took, nil where text does not match. engine says which one ran.
func MatchPython(expr string, full bool, text string) (groups []*string, engine string, err error) {
	e, _, err := pyregex.Translate(expr, full)
	if err != nil {
		return nil, "", err
	}
	if full {
		for _, side := range [...]*string{&e.RE2, &e.Backtracking} {
			if *side != "" {
				*side = `\A(?:` + *side + `)\z`
			}
		}
	}
	m, err := pyregex.Compile(e)
	if err != nil {
		return nil, "", err
	}
	engine = "linear"
	if m.Backtracks() {
		engine = "backtracking"
	}
	stuck := false
	at := m.Find(text, &stuck)
	if stuck {
		return nil, "stuck", nil
	}
	for i := 0; i < len(at); i += 2 {
		var group *string
		if at[i] >= 0 {
			taken := text[at[i]:at[i+1]]
			group = &taken
		}
		groups = append(groups, group)
	}
	return groups, engine, nil
}

// BacktrackBytes is the bound of what the backtracking engine looks at.
const BacktrackBytes = pyregex.MaxBacktrackBytes
