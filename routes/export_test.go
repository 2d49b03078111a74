package routes

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
