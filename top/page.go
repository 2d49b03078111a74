package top

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse/terminal"
)

// rate is a number for each second, to three digits.
func rate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0"
	case perSecond >= 100:
		return terminal.Thousands(int64(perSecond + 0.5))
	case perSecond >= 10:
		return fmt.Sprintf("%.1f", perSecond)
	}
	return fmt.Sprintf("%.2f", perSecond)
}

// duration is a time in seconds; - where nothing was measured.
func duration(seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	return terminal.Duration(int64(seconds * 1e9))
}

func percent(part, whole float64) string {
	if whole <= 0 {
		return "0 %"
	}
	return fmt.Sprintf("%.1f %%", 100*part/whole)
}

// line is the state in one line, for logs and pipes.
func (w *watcher) line() string {
	s := &w.state
	if s.Error != "" {
		return s.Time.Format(time.TimeOnly) + "  " + terminal.Visible(strings.ReplaceAll(s.Error, "\n", "; "))
	}
	out := []string{s.Time.Format(time.TimeOnly), readiness(s), fmt.Sprintf("requests %s/s", rate(s.Requests)), fmt.Sprintf("denied %s/s (%s)", rate(s.Denied), percent(s.Denied, s.Requests)),
		"p50 " + duration(s.P50), "p99 " + duration(s.P99), memoText(s), "lag " + lagText(s)}
	if len(s.Routes) > 0 {
		out = append(out, fmt.Sprintf("first %s %s/s", terminal.Visible(s.Routes[0].Route), rate(s.Routes[0].Requests)))
	}
	return strings.Join(out, "  ")
}

func readiness(s *State) string {
	switch {
	case !s.Ready:
		return "not ready: " + terminal.Visible(s.NotReady)
	case len(s.Degraded) > 0:
		return "ready, degraded"
	}
	return "ready"
}

func memoText(s *State) string {
	if !s.Memo.On {
		return "memo off"
	}
	return fmt.Sprintf("memo %.0f %% of %s", 100*s.Memo.Hits, terminal.Count(s.Memo.Entries, "decision"))
}

func lagText(s *State) string {
	if s.Log.Queued == 0 && s.Log.Seconds == 0 {
		return "none"
	}
	return fmt.Sprintf("%s waiting, %s", terminal.Thousands(s.Log.Queued), duration(s.Log.Seconds))
}

// page is the state on a screen of this size, in characters; 0 is without end.
func (w *watcher) page(p terminal.Printer, width, height int) string {
	s := &w.state
	var lines []string
	add := func(style, text string) {
		text = cut(text, width)
		if style != "" {
			text = p.Paint(style, text)
		}
		lines = append(lines, text)
	}
	style := terminal.Green
	if !s.Ready {
		style = terminal.Red
	} else if len(s.Degraded) > 0 {
		style = terminal.Amber
	}
	add(style, fmt.Sprintf("%s  revision %s  up %s  %s", readiness(s), cmp.Or(terminal.Visible(s.Revision), "none"), upFor(s), s.Time.Format(time.TimeOnly)))
	for _, text := range s.Degraded {
		first, _, _ := strings.Cut(text, "\n")
		add(terminal.Amber, "  "+terminal.Visible(first))
	}
	if s.Error != "" {
		add(terminal.Red, terminal.Visible(strings.ReplaceAll(s.Error, "\n", "; ")))
	}
	add("", fmt.Sprintf("requests   %s/s, denied %s/s (%s), latency p50 %s, p99 %s", rate(s.Requests), rate(s.Denied), percent(s.Denied, s.Requests), duration(s.P50), duration(s.P99)))
	add("", "denials    "+reasonText(s))
	add("", strings.Replace(memoText(s), "memo", "memo      ", 1))
	logs := "log lag    " + lagText(s)
	if s.Log.Dropped > 0 {
		logs += fmt.Sprintf(", %s dropped since the start", terminal.Thousands(s.Log.Dropped))
	}
	add("", logs)
	if first, _, _ := strings.Cut(s.Log.Error, "\n"); first != "" {
		add(terminal.Red, "           "+terminal.Visible(first))
	}
	if s.Directory >= 0 {
		add("", fmt.Sprintf("directory  confirmed by control %s ago", duration(s.Directory)))
	}
	lines = append(lines, "")
	add(terminal.Bold, w.heading(s))
	room := len(s.Routes)
	if height > 0 {
		room = max(0, min(room, height-len(lines)-2)) // but for the table's head and what is said of the others
	}
	lines = append(lines, w.table(p, s, room, width)...)
	switch more := len(s.Routes) - room; {
	case s.NoRoutes != "":
		add("", terminal.Visible(s.NoRoutes))
	case len(s.Routes) == 0:
		add("", "no decisions")
	case more > 0 && height > 0:
		add("", fmt.Sprintf("... and %s", terminal.Count(more, "more route")))
	}
	return strings.Join(lines, "\n") + "\n"
}

// heading says what the table is of.
func (w *watcher) heading(s *State) string {
	text := fmt.Sprintf("routes by %s", w.sort)
	if _, seconds := w.total(); seconds > 0 {
		text += fmt.Sprintf(", of the last %s", time.Duration(seconds*float64(time.Second)).Round(time.Second))
	}
	if s.Log.Skipped > 0 {
		text += fmt.Sprintf(" (%s MB of the log were passed over: it grows faster than it is read)", terminal.Thousands(s.Log.Skipped>>20))
	}
	return text
}

// table has one line for each of the first routes. The name gives way where the screen is narrow.
func (w *watcher) table(p terminal.Printer, s *State, n, width int) (lines []string) {
	if n == 0 {
		return nil
	}
	const numbers = " %9s %9s %9s %9s"
	long := utf8.RuneCountInString("ROUTE")
	for _, r := range s.Routes[:n] {
		long = max(long, utf8.RuneCountInString(terminal.Visible(r.Route)))
	}
	if width > 0 {
		long = max(10, min(long, width-len(fmt.Sprintf(numbers, "", "", "", ""))))
	}
	row := func(name string, cells ...any) string {
		return cut(pad(cut(name, long), long)+fmt.Sprintf(numbers, cells...), width)
	}
	lines = append(lines, p.Paint(terminal.Faint, row("ROUTE", "REQ/S", "DENIED/S", "P50", "P99")))
	for _, r := range s.Routes[:n] {
		text := row(terminal.Visible(r.Route), rate(r.Requests), rate(r.Denied), duration(r.P50), duration(r.P99))
		if r.Denied > 0 {
			text = p.Paint(terminal.Amber, text)
		}
		lines = append(lines, text)
	}
	return lines
}

func reasonText(s *State) string {
	if len(s.Reasons) == 0 {
		return "none"
	}
	names := slices.SortedFunc(maps.Keys(s.Reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.Reasons[b], s.Reasons[a]), cmp.Compare(a, b))
	})
	var out []string
	for _, name := range names[:min(len(names), 6)] {
		out = append(out, fmt.Sprintf("%s %s/s", terminal.Visible(name), rate(s.Reasons[name])))
	}
	return strings.Join(out, ", ")
}

func upFor(s *State) string {
	up := s.Time.Sub(s.Started)
	if up >= 48*time.Hour {
		return fmt.Sprintf("%dd", up/(24*time.Hour))
	}
	return up.Truncate(time.Second).String()
}

// cut is a text of at most width characters; 0 is without end.
func cut(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(0, width-1)]) + "…"
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// frame is a page as one write to a terminal in raw mode: from the top, each line to its end, and nothing below.
func frame(page string) []byte {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for line := range strings.Lines(page) {
		b.WriteString(strings.TrimSuffix(line, "\n") + "\x1b[K\r\n")
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\r\n"))
	return append(out, "\x1b[J"...)
}
