package server

import (
	"fmt"
	"io"
	"strings"
	"time"

	"gatehouse/edge"
	"gatehouse/terminal"
)

// Write tells the status to people. now is the time to which ages are told.
func (s *Status) Write(w io.Writer, now time.Time) error {
	p := terminal.To(w)
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-11s %s\n", key, fmt.Sprintf(format, terminal.VisibleArgs(args)...))
	}
	wrong := func(text string) {
		if text != "" {
			line("", "%s", text)
		}
	}
	switch {
	case s.Draining:
		fmt.Fprintln(&b, p.Paint(terminal.Amber, "draining"))
	case !s.Ready:
		fmt.Fprintln(&b, p.Paint(terminal.Red, "not ready: "+terminal.Visible(s.NotReady)))
	case len(s.Degraded) > 0:
		fmt.Fprintln(&b, p.Paint(terminal.Amber, "ready, degraded"))
	default:
		fmt.Fprintln(&b, p.Paint(terminal.Green, "ready"))
	}
	for _, text := range s.Degraded {
		fmt.Fprintln(&b, "  "+p.Paint(terminal.Amber, terminal.Visible(firstLine(text))))
	}
	line("version", "%s, started %s (%s ago)", s.Version, s.Started.UTC().Format(time.RFC3339), ago(now, s.Started))
	if s.TLSError != "" {
		line("tls", "%s", s.TLSError)
	}
	for _, bundle := range s.Bundles {
		active := "not active"
		if !bundle.ActiveSince.IsZero() {
			active = "revision " + bundle.Revision + ", active for " + ago(now, bundle.ActiveSince)
		}
		if bundle.Pinned {
			active += ", pinned by a rollback"
		}
		line("bundle", "%s: %s, from %s", bundle.Name, active, bundle.Source)
		if bundle.Stage != "" {
			wrong(bundle.Stage + " failed: " + firstLine(bundle.Error))
		}
		if r := bundle.Remote; r != nil && r.Unreachable != "" {
			wrong("cannot be fetched: " + firstLine(r.Unreachable))
		}
	}
	for _, r := range s.Routes {
		line("routes", "%s%s: %s", appOf(r.App), r.File, terminal.Count(r.Routes, "route"))
		wrong(r.Error)
	}
	if d := s.Directory; d != nil {
		line("directory", "%s: revision %d, %s, %s", whence(d), d.Revision, terminal.Count(d.Objects, "object"), terminal.Count(d.Relations, "relation"))
		wrong(firstLine(d.Error))
	}
	for _, k := range s.Keys {
		state := terminal.Count(k.Keys, "key")
		if !k.Loaded {
			state = "not loaded"
		} else if k.Stale {
			state += ", not up to date"
		}
		line("keys", "%s: %s, from %s", k.Issuer, state, k.Source)
		wrong(firstLine(k.Error))
	}
	if s.Memo.On {
		line("memo", "%s, %.0f %% of lookups found", terminal.Count(s.Memo.Entries, "decision"), 100*s.Memo.HitRatio)
	} else {
		line("memo", "off: %s", s.Memo.Why)
	}
	if x := s.Shadow; x != nil {
		writeShadow(x, line, wrong)
	}
	if log := s.DecisionLog; log.Sink == "" {
		line("log", "none")
	} else {
		line("log", "%s: %s written, %s dropped, %s waiting", log.Sink, terminal.Thousands(log.Written), terminal.Thousands(log.Dropped), terminal.Thousands(log.Queued))
		wrong(firstLine(log.Error))
	}
	for _, notice := range s.Notices {
		line("notice", "%s", notice)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// whence says where a directory is from.
func whence(d *edge.DirectoryStatus) string {
	switch {
	case d.File != "":
		return d.File
	case d.Control != nil:
		return "from control"
	}
	return "written here"
}

func appOf(name string) string {
	if name == "" {
		return ""
	}
	return name + ": "
}

// ago is how long ago a time was, in its largest units.
func ago(now, then time.Time) string {
	d := now.Sub(then).Round(time.Second)
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return max(d, 0).String()
}

func firstLine(text string) string {
	line, rest, more := strings.Cut(text, "\n")
	if more && strings.HasSuffix(line, ":") { // a heading
		line += " " + firstLine(rest)
	} else if more {
		line += " ..."
	}
	return line
}

// writeShadow tells what the shadow policy would have decided.
func writeShadow(x *edge.ShadowStatus, line func(key, format string, args ...any), wrong func(string)) {
	for _, b := range x.Bundles {
		active := "not loaded"
		if b.Revision != "" {
			active = "revision " + b.Revision
		}
		line("shadow", "%s: %s, from %s", b.Name, active, b.Source)
		if b.Stage != "" {
			wrong(b.Stage + " failed: " + firstLine(b.Error))
		}
	}
	d := x.Decisions
	if d == nil {
		return
	}
	wrong(d.Why)
	line("", "%s decided, %s otherwise (%s more denied, %s more allowed), %s, %s dropped", terminal.Thousands(d.Decided), terminal.Thousands(d.Differences),
		terminal.Thousands(d.Denies), terminal.Thousands(d.Allows), terminal.Count(d.Errors, "error"), terminal.Thousands(d.Dropped))
	for i := len(d.Last) - 1; i >= max(0, len(d.Last)-3); i-- {
		one := d.Last[i]
		line("", "%s %s: %s, the shadow %s (%s)", one.Method, one.Route, one.Active, one.Shadow, one.DecisionID)
	}
}
