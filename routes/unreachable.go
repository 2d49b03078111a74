package routes

import (
	"math/big"
	"slices"
	"strings"
)

// unreachable warns of routes hidden by others. A sample path of each route is matched; where another route matches
// it, and covers all paths of the first, the notice has both lines.
func (c *compiler) unreachable() {
	for _, r := range c.table.routes {
		if r.Guess {
			c.note(r.Line, 0, "%s is a guess from traffic: look at it, then remove guess", describe(r))
		}
		if r.pieces == nil || r.Unsupported != "" || r.Host != "" {
			continue
		}
		methods := r.Methods
		if methods == nil {
			methods = []string{"GET"}
		}
		sample, ok := samplePath(r.pieces)
		if !ok {
			continue
		}
		var lost []string
		var winner *Route
		for _, method := range methods {
			if m := c.table.inside(method, sample); m.Route != nil && m.Route != r && m.Outcome != Redirect && covers(m.Route.pieces, r.pieces) {
				lost, winner = append(lost, method), m.Route
			}
		}
		switch {
		case winner == nil:
			c.hiddenByMount(r, sample, methods[0])
		case len(lost) == len(methods):
			c.note(r.Line, winner.Line, "%s is never reached: %s%s takes its requests", describe(r), describe(winner), atLine(winner))
		default:
			c.note(r.Line, winner.Line, "%s: %s goes to %s%s", describe(r), strings.Join(lost, ", "), describe(winner), atLine(winner))
		}
	}
}

func atLine(r *Route) string {
	if r.Line == 0 {
		return ""
	}
	return " (line " + itoa(r.Line) + ")"
}

// inside matches below the mount and the root path, which sample paths do not include.
func (t *Table) inside(method, path string) Match {
	switch t.framework {
	case Flask:
		return t.dispatchFlask(method, t.serverName, path)
	case Django:
		return t.matchDjango(method, path)
	case OpenAPI:
		return t.matchOpenAPI(method, t.rootPath+path)
	}
	return t.matchStarlette(method, "", t.rootPath+path)
}

// hiddenByMount warns of a route behind a Starlette mount: a mount takes everything below its prefix.
func (c *compiler) hiddenByMount(r *Route, sample, method string) {
	if c.table.framework != Starlette && c.table.framework != FastAPI {
		return
	}
	if m := c.table.inside(method, sample); m.Outcome != NotFound {
		return
	}
	for _, e := range c.table.list.entries {
		if e.line >= r.Line || !e.plain || e.pat == nil || e.group == nil {
			continue
		}
		if strings.HasPrefix(r.Template, e.pat.fixed) {
			c.note(r.Line, e.line, "%s is never reached: the mount of %s (line %d) keeps what is below it", describe(r), e.pat.fixed, e.line)
			return
		}
	}
}

// samplePath makes a path that the pieces match; ok is false for an application's expression.
func samplePath(pieces []piece) (path string, ok bool) {
	for _, p := range pieces {
		if p.conv == nil {
			path += p.text
			continue
		}
		value, ok := p.conv.sample()
		if !ok || !p.conv.accept(value) {
			return "", false
		}
		path += value
	}
	return path, true
}

func (c *converter) sample() (string, bool) {
	switch c.kind {
	case kindText:
		return strings.Repeat("q", max(c.minLen, 1)), true
	case kindPath:
		return "q", true
	case kindSlug:
		return "q-q", true
	case kindUUID:
		return "0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a", true
	case kindAny:
		if len(c.items) == 0 {
			return "", false
		}
		return c.items[0], true
	case kindInt:
		value := "1"
		if c.min != nil && c.min.Sign() > 0 {
			ceil := new(big.Int).Add(new(big.Int).Div(new(big.Int).Sub(c.min.Num(), big.NewInt(1)), c.min.Denom()), big.NewInt(1))
			value = ceil.String()
		}
		if missing := c.fixedDigits - len(value); missing > 0 && missing < maxLength {
			value = strings.Repeat("0", missing) + value
		}
		return value, true
	case kindFloat:
		return "1.5", true
	}
	return "", false
}

// joinTexts merges adjacent texts.
func joinTexts(pieces []piece) []piece {
	out := []piece{}
	for _, p := range pieces {
		if n := len(out); n > 0 && p.conv == nil && out[n-1].conv == nil {
			out[n-1].text += p.text
			continue
		}
		out = append(out, p)
	}
	return out
}

// covers reports that a matches every path that b matches. It is exact for whole segments only.
func covers(a, b []piece) bool {
	as, bs := segments(a), segments(b)
	if as == nil || bs == nil {
		return slices.EqualFunc(a, b, func(x, y piece) bool {
			return x.text == y.text && (x.conv == nil) == (y.conv == nil) && (x.conv == nil || x.conv.covers(y.conv))
		}) && a != nil
	}
	for i, s := range as {
		if s.conv != nil && s.conv.kind == kindPath {
			return i < len(bs) && (s.conv.empty || bs[i].conv != nil || bs[i].text != "" || i < len(bs)-1)
		}
		if i >= len(bs) || !s.covers(bs[i]) {
			return false
		}
	}
	return len(as) == len(bs)
}

func (s seg) covers(o seg) bool {
	switch {
	case s.conv == nil:
		return o.conv == nil && s.text == o.text
	case o.conv == nil:
		return s.conv.matchSegment(o.text) && s.conv.accept(o.text)
	}
	return s.conv.covers(o.conv)
}

func (c *converter) covers(o *converter) bool {
	if c.kind == kindText && c.minLen <= 1 && c.maxLen == 0 {
		return o.kind != kindPath && o.kind != kindRegexp
	}
	// Werkzeug's number converters share a transition whatever their limits, and the first one decides.
	return c.kind == o.kind && c.expr == o.expr && c.weight == o.weight
}
