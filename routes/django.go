package routes

import (
	"strconv"
	"strings"
)

// Django's part of ordered matching: includes, converters that reject a value, and parameters.

// include searches inside a Django include; without a match there, the search continues after it.
func (s *search) include(i int) {
	e := &s.list.entries[i]
	var rest string
	if e.plain {
		var ok bool
		if rest, ok = strings.CutPrefix(s.path, e.pat.fixed); !ok {
			return
		}
	} else {
		scratch := captures{limitExceeded: s.limitExceeded}
		var ok bool
		rest, ok = e.pat.capture(s.path, &scratch)
		if s.limitExceeded = scratch.limitExceeded; !ok {
			return
		}
	}
	if s.depth+1 >= maxDepth {
		return
	}
	inner := search{list: e.group, rule: s.rule, method: s.method, path: rest, depth: s.depth + 1, limitExceeded: s.limitExceeded}
	found := inner.django()
	if s.limitExceeded = inner.limitExceeded; found.n > 0 {
		found.unsure = found.unsure || e.unsure || e.pat.unsure
		s.full, s.below = i, found
		s.below.levels[s.depth] = level{pat: e.pat, path: s.path}
	}
}

// django resolves like URLResolver.resolve: depth first, in order.
func (s *search) django() result {
	s.run()
	if s.full == none {
		return result{}
	}
	e := &s.list.entries[s.full]
	if e.group != nil {
		return s.below
	}
	return s.accept(e)
}

// accept handles a match at a leaf.
func (s *search) accept(e *entry) result {
	found := e.leaf(s.method)
	found.levels[s.depth] = level{pat: e.pat, path: s.path}
	found.n = s.depth + 1
	found.unsure = e.unsure || e.pat.unsure
	return found
}

// matchDjango is URLResolver with CommonMiddleware: an unresolved path is redirected where it would resolve with a
// slash.
func (t *Table) matchDjango(method, path string) Match {
	if path == "" {
		path = "/" // WSGIRequest
	}
	s := search{list: t.list, rule: &t.settings, method: upper(method), path: path}
	found := s.django()
	switch {
	case s.limitExceeded:
		return Match{Outcome: Refused}
	case found.unsure:
		return s.unsureDjango()
	case found.n > 0:
		return found.djangoMatch()
	case method == WebSocket || !t.appendSlash || strings.HasSuffix(path, "/") || !strings.HasPrefix(path, "/"):
		return Match{}
	}
	s.path += "/"
	again := s.django()
	switch {
	case s.limitExceeded:
		return Match{Outcome: Refused}
	case again.outcome == Refused:
		return Match{Outcome: Refused, Route: again.route}
	case again.n > 0 && (again.unsure || !again.route.noAppendSlash):
		return Match{Outcome: Redirect, Route: again.route, slashes: true}
	}
	return Match{}
}

func (h *result) djangoMatch() Match {
	params, ok := h.djangoParams()
	if !ok {
		return Match{Outcome: Refused, Route: h.route}
	}
	return Match{Outcome: h.outcome, Route: h.route, Params: params}
}

// maxCandidates bounds the routes that may all have to allow one request.
const maxCandidates = 16

// unsureDjango collects every route that may match, where the first is unsure: up to the first sure one. A 405
// reaches no view, whatever the others do.
func (s *search) unsureDjango() Match {
	again := search{list: s.list, rule: s.rule, method: s.method, path: s.path}
	var found []result
	again.candidates(&found)
	if again.limitExceeded || len(found) > maxCandidates || len(found) == 0 {
		return Match{Outcome: Refused}
	}
	var m Match
	for i := range found {
		one := found[i].djangoMatch()
		switch {
		case one.Outcome == Refused:
			return one
		case i == 0, m.Outcome != Matched && one.Outcome == Matched:
			m = one
		case one.Outcome == Matched:
			m.Also = append(m.Also, one)
		}
	}
	return m
}

// candidates appends the routes that may match, in order. sure says that the last one matches for certain, unless an
// earlier one does.
func (s *search) candidates(found *[]result) (sure bool) {
	for i := range s.list.entries {
		e := &s.list.entries[i]
		if !s.applies(e) || s.limitExceeded || len(*found) > maxCandidates {
			continue
		}
		if e.opaque {
			if strings.HasPrefix(s.path, e.pat.fixed) {
				*found = append(*found, s.accept(e))
				return true
			}
			continue
		}
		if !strings.HasPrefix(s.path, e.pat.fixed) {
			continue
		}
		var scratch captures
		rest, ok := e.pat.capture(s.path, &scratch)
		s.limitExceeded = s.limitExceeded || scratch.limitExceeded
		if !ok {
			continue
		}
		unsure := e.unsure || e.pat.unsure
		if e.group == nil {
			*found = append(*found, s.accept(e))
		} else if s.depth+1 < maxDepth {
			inner := search{list: e.group, rule: s.rule, method: s.method, path: rest, depth: s.depth + 1}
			first := len(*found)
			unsure = !inner.candidates(found) || unsure
			s.limitExceeded = s.limitExceeded || inner.limitExceeded
			for j := range (*found)[first:] {
				(*found)[first+j].levels[s.depth] = level{pat: e.pat, path: s.path}
			}
		}
		if !unsure {
			return true
		}
	}
	return false
}

// djangoParams merges the levels' groups like URLResolver.resolve: inner named groups override outer ones; a level's
// positional groups count only where neither it nor an inner level has named ones.
func (h *result) djangoParams() (params []Param, ok bool) {
	if h.outcome != Matched {
		return nil, true
	}
	var named, out captures
	for i := range h.levels[:h.n] {
		if l := &h.levels[i]; !l.pat.positional() {
			l.pat.capture(l.path, &out)
		}
	}
	first := h.n // the outermost level whose positional groups count
	for first > 0 && named.n == 0 {
		if l := &h.levels[first-1]; !l.pat.positional() {
			l.pat.capture(l.path, &named)
		}
		first--
	}
	position := 0
	for i := first; i < h.n; i++ {
		l := &h.levels[i]
		if !l.pat.positional() {
			continue
		}
		var own captures
		l.pat.capture(l.path, &own)
		out.limitExceeded = out.limitExceeded || own.limitExceeded
		for j := range own.n {
			out.set(positionName(position), own.values[j])
			position++
		}
	}
	return out.params(), !out.limitExceeded && !named.limitExceeded
}

func (p *pattern) positional() bool { return len(p.names) > 0 && p.names[0] == "0" }

func positionName(i int) string { return strconv.Itoa(i) }
