package explain

import (
	"fmt"
	"strings"

	"gatehouse/policy"
)

// Text renders the explanation, with what a line depends on indented below it. It ends with a line break.
func (e *Explanation) Text() string {
	var b strings.Builder
	switch {
	case e.Allowed && len(e.By) == 0:
		fmt.Fprintf(&b, "allowed: data.%s is true in the data\n", e.Path)
	case e.Allowed:
		fmt.Fprintf(&b, "allowed by\n")
	case e.Err != nil && e.Error == policy.ErrUndefined.Error():
		fmt.Fprintf(&b, "denied: no rule gives data.%s a value\n", e.Path)
	case e.Err != nil:
		fmt.Fprintf(&b, "denied: %s\n", e.Error)
	case len(e.By) == 1 && e.By[0].Default:
		fmt.Fprintf(&b, "denied by default: no other rule gives data.%s a value\n", e.Path)
	case len(e.By) == 0:
		fmt.Fprintf(&b, "denied: data.%s is false in the data\n", e.Path)
	default:
		fmt.Fprintf(&b, "denied by\n")
	}
	for _, step := range e.By {
		step.write(&b, 1)
	}
	if len(e.WhyNot) > 0 {
		b.WriteString("what could have allowed it did not hold\n")
	}
	for _, step := range e.WhyNot {
		step.write(&b, 1)
	}
	for i, near := range e.Nearest {
		if i == 0 {
			b.WriteString("would be allowed\n")
		}
		fmt.Fprintf(&b, "  %s\n", near)
	}
	for i, asked := range e.Asked {
		if i == 0 {
			b.WriteString("asked of the directory\n")
		}
		fmt.Fprintf(&b, "  %s: %s\n", asked.Question, asked.Answer)
		if asked.Why != "" {
			fmt.Fprintf(&b, "    %s\n", asked.Why)
		}
	}
	for _, note := range e.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	if e.Cut {
		b.WriteString("note: this is not all of it: an explanation is bounded in time and size\n")
	}
	return b.String()
}

// write renders a step and what it depends on.
func (s *Step) write(b *strings.Builder, depth int) {
	indent := strings.Repeat("  ", depth)
	fmt.Fprintf(b, "%s%s (%s:%d)", indent, s.Rule, s.File, s.Line)
	switch {
	case s.Above:
		b.WriteString(" does not hold, as above\n")
		return
	case s.Default:
		b.WriteString(" by default\n")
		return
	case s.Held && s.Expr == "":
		b.WriteString(" holds")
	case s.Held:
		fmt.Fprintf(b, " holds, line %d: %s", s.At, s.Expr)
	case s.Expr == "":
		b.WriteString(" does not hold")
	default:
		fmt.Fprintf(b, " fails at line %d: %s", s.At, s.Expr)
	}
	b.WriteString("\n")
	for _, found := range s.Found {
		fmt.Fprintf(b, "%s    %s\n", indent, found)
	}
	for i := range s.Because {
		s.Because[i].write(b, depth+1)
	}
}

// String describes the change: with role admin or clerk.
func (n Near) String() string {
	values := strings.Join(n.Values, " or ")
	with := "with "
	if n.Login {
		with = "with a credential and "
	}
	switch n.Kind {
	case "role", "group", "scope", "method":
		return with + n.Kind + " " + values
	case "relation":
		return "with the relation " + values + " in the directory"
	case "subject":
		return "as " + values
	case "login":
		return "with a credential"
	}
	if with = "with "; n.Login {
		with = "with a credential of a user with "
	}
	if n.Member {
		return with + values + " in " + n.Path
	}
	return with + n.Path + " = " + values
}
