package report

import (
	"fmt"
	"strings"

	"gatehouse/replay"
	"gatehouse/terminal"
)

func routeWords(r *replay.RouteCount) string {
	text := strings.TrimSpace(strings.Join(r.Methods, ",") + " " + terminal.Visible(r.Route))
	if r.Name != "" {
		text += "  " + terminal.Visible(r.Name)
	}
	if r.App != "" {
		text = terminal.Visible(r.App) + ": " + text
	}
	return text
}

// CoverageText tells people what nobody used.
func CoverageText(c *replay.CoverageReport, p terminal.Printer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s from %s to %s\n", terminal.Count(c.Decisions, "decision"), terminal.Visible(c.Since), terminal.Visible(c.Until))
	if c.Dropped > 0 {
		fmt.Fprintf(&b, "%s\n", p.Paint(terminal.Amber, terminal.Count(c.Dropped, "decision")+" of that time not recorded"))
	}
	routeText(c, &b, p)
	ruleText(c, &b, p)
	if len(c.Skipped) > 0 {
		fmt.Fprintf(&b, "\n%s\n", p.Paint(terminal.Bold, "not evaluated again"))
		for _, s := range c.Skipped {
			fmt.Fprintf(&b, "  %9d  %s\n", s.Count, terminal.Visible(s.Reason))
		}
	}
	return b.String()
}

func routeText(c *replay.CoverageReport, b *strings.Builder, p terminal.Printer) {
	if !c.Tables {
		fmt.Fprintf(b, "\n%s\n  there is no route table\n", p.Paint(terminal.Bold, "routes"))
		return
	}
	var never, denied []string
	for _, r := range c.Routes {
		switch {
		case r.Calls == 0:
			never = append(never, "             "+routeWords(r))
		case r.Allowed == 0:
			denied = append(denied, fmt.Sprintf("  %9d  %s", r.Calls, routeWords(r)))
		}
	}
	fmt.Fprintf(b, "\n%s  %d: %d never called, %d never allowed\n", p.Paint(terminal.Bold, "routes"), len(c.Routes), len(never), len(denied))
	section(b, "never called", never)
	section(b, "never allowed, and how often that was denied", denied)
	var foreign []string
	for _, r := range c.Foreign {
		foreign = append(foreign, fmt.Sprintf("  %9d  %s", r.Calls, routeWords(r)))
	}
	section(b, "called, and in no route table now", foreign)
	if c.NoRoute > 0 {
		fmt.Fprintf(b, "  %s\n", terminal.Count(c.NoRoute, "request")+" denied because no route takes "+map[bool]string{true: "it", false: "them"}[c.NoRoute == 1])
	}
}

func ruleText(c *replay.CoverageReport, b *strings.Builder, p terminal.Printer) {
	var never []string
	for _, r := range c.Rules {
		if r.Held == 0 {
			never = append(never, fmt.Sprintf("             %s (%s:%d)", terminal.Visible(r.Rule), terminal.Visible(r.File), r.Line))
		}
	}
	fmt.Fprintf(b, "\n%s  %d: %d never true in %s evaluated again\n", p.Paint(terminal.Bold, "rules"), len(c.Rules), len(never), terminal.Count(c.Evaluated, "decision"))
	section(b, "never true", never)
}

func section(b *strings.Builder, title string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(b, "  %s\n%s\n", title, strings.Join(lines, "\n"))
	}
}
