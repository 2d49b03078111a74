package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// maxExpect bounds a file of expected changes, in bytes.
const maxExpect = 4 << 20

// expectFile is a file of --expect.
type expectFile struct {
	Expect []expectedChange `yaml:"expect"`
}

// expectedChange is a change that is meant: every decision that has all of what is written here.
type expectedChange struct {
	Route   string `yaml:"route"`   // DELETE /orders/{id}, the template alone, or the route's name
	Method  string `yaml:"method"`  // DELETE
	App     string `yaml:"app"`     // the application's name
	Subject string `yaml:"subject"` // who called
	Role    string `yaml:"role"`    // one of the caller's
	From    string `yaml:"from"`    // allow, deny, deny 403, deny no_credential, deny 403 denied
	To      string `yaml:"to"`      // likewise

	place string // file:line
}

// readExpect reads expected changes. All that is wrong with the file is reported at once, each with its line.
func readExpect(file string) ([]expectedChange, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := readUpTo(file, maxExpect)
	if err != nil {
		return nil, fmt.Errorf("reading expected changes: %w", err)
	}
	return parseExpect(file, raw)
}

func parseExpect(file string, raw []byte) ([]expectedChange, error) {
	var out expectFile
	d, err := decodeYAML(file, raw, &out)
	if err != nil {
		return nil, err
	}
	if len(d.errs) == 0 && len(d.lines) == 0 {
		return nil, fmt.Errorf("%s: there is no key expect: with a list of changes under it, such as\n%s", file, expectExample)
	}
	if len(d.errs) > 0 { // an entry may be left out, and then the lines are of others
		return nil, errors.Join(d.errs...)
	}
	for i := range out.Expect {
		e := &out.Expect[i]
		at := fmt.Sprintf("expect[%d]", i)
		e.place = d.at(at)
		for key, verdict := range map[string]string{"from": e.From, "to": e.To} {
			if !isVerdict(verdict) {
				d.errs = append(d.errs, fmt.Errorf("%s: %s: %q is no verdict: write allow, deny, or more of it as in deny 403 denied", d.at(at+"."+key), key, verdict))
			}
		}
		if e.From == "" && e.To == "" {
			d.errs = append(d.errs, fmt.Errorf("%s: neither from nor to: that would expect any change, as in\n%s", e.place, expectExample))
		}
	}
	return out.Expect, errors.Join(d.errs...)
}

const expectExample = "  expect:\n    - {route: DELETE /orders/{id}, from: allow, to: deny}"

// isVerdict reports whether a text says what a verdict is to be like; "" is any.
func isVerdict(text string) bool {
	words := strings.Fields(text)
	switch {
	case len(words) == 0:
		return text == ""
	case words[0] == "allow":
		return len(words) == 1
	case words[0] != "deny" || len(words) > 3:
		return false
	}
	return !slices.ContainsFunc(words[1:], func(word string) bool {
		_, known := statusOf[word]
		return !known && (len(word) != 3 || strings.Trim(word, "0123456789") != "")
	})
}

// fits reports whether a verdict is as the text has it.
func (v verdict) fits(text string) bool {
	have := strings.Fields(v.String())
	return !slices.ContainsFunc(strings.Fields(text), func(word string) bool { return !slices.Contains(have, word) })
}

// covers reports whether a change is the expected one.
func (e *expectedChange) covers(c *change) bool {
	return (e.Route == "" || c.route.named(e.Route)) && (e.Method == "" || e.Method == c.route.method) &&
		(e.App == "" || e.App == c.route.app) && (e.Subject == "" || e.Subject == textOf(c.record.subject)) &&
		(e.Role == "" || slices.Contains(texts(c.record.roles), e.Role)) && c.from.fits(e.From) && c.to.fits(e.To)
}

// String is the entry as it could stand in the file.
func (e *expectedChange) String() string {
	var parts []string
	for _, part := range [][2]string{{"route", e.Route}, {"method", e.Method}, {"app", e.App}, {"subject", e.Subject}, {"role", e.Role}, {"from", e.From}, {"to", e.To}} {
		if part[1] != "" {
			parts = append(parts, part[0]+": "+part[1])
		}
	}
	return strings.Join(parts, ", ")
}

// routeOf is where a decision's request went, by all the names that it has.
type routeOf struct{ app, method, name, template, path string }

// routeOf takes it from the record, which has the template only within the input.
func (r *recorded) routeOf() routeOf {
	out := routeOf{app: textOf(r.app), method: textOf(r.routeMethod())}
	if route := within(r.input, "route"); route != nil {
		out.name, out.template = textOf(unquoted(within(route, "name"))), textOf(unquoted(within(route, "template")))
	}
	if out.template == "" && out.name == "" {
		if out.name = textOf(r.route); strings.HasPrefix(out.name, "/") {
			out.name, out.template = "", out.name
		}
	}
	if out.template == "" && out.name == "" {
		out.path = generalised(textOf(r.target))
	}
	return out
}

// label is what a group of changes is called.
func (r routeOf) label() string {
	for _, name := range []string{r.template, r.name, r.path} {
		if name != "" {
			return strings.TrimSpace(r.method + " " + name)
		}
	}
	return strings.TrimSpace(r.method + " (no path)")
}

// named reports whether a name that somebody wrote means this route.
func (r routeOf) named(name string) bool {
	return slices.Contains([]string{r.label(), r.template, r.name, r.path}, name) || r.name != "" && name == r.method+" "+r.name
}

// generalised is a path without its query and with * for what looks like the number of something, so that requests of one kind come
// together where no route table names them.
func generalised(path string) string {
	const most = 120
	path, _, _ = strings.Cut(path, "?")
	segments := strings.Split(path, "/")
	for i, s := range segments {
		digits := strings.ContainsAny(s, "0123456789")
		if digits && (strings.Trim(s, "0123456789") == "" || len(s) >= 16) || len(s) > 40 {
			segments[i] = "*"
		}
	}
	path = strings.Join(segments, "/")
	if len(path) > most {
		path = strings.ToValidUTF8(path[:most], "") + "..."
	}
	return path
}

func writeExpect(file string, groups []*group) error {
	var b strings.Builder
	b.WriteString("# Changes that gatehouse replay found, for --expect: delete what is not meant.\nexpect:\n")
	for _, g := range groups {
		if !g.Expected {
			fmt.Fprintf(&b, "  - {route: %q, from: %q, to: %q} # %d\n", g.Route, g.From, g.To, g.Count)
		}
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
