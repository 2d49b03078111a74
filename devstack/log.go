package devstack

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap/zapcore"

	"gatehouse/terminal"
)

// logCore shows Gatehouse's log as lines for people: what happened, and why.
type logCore struct {
	out    *output
	fields []zapcore.Field
}

// Enabled implements zapcore.LevelEnabler.
func (l *logCore) Enabled(level zapcore.Level) bool { return level >= zapcore.InfoLevel }

// With implements zapcore.Core.
func (l *logCore) With(fields []zapcore.Field) zapcore.Core {
	return &logCore{l.out, append(slices.Clone(l.fields), fields...)}
}

// Check implements zapcore.Core.
func (l *logCore) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(e.Level) {
		return c.AddCore(e, l)
	}
	return c
}

// Sync implements zapcore.Core.
func (*logCore) Sync() error { return nil }

// unsaid are entries that are about a server and not about an application.
var unsaid = []string{"listening", "draining", "stopped", "keys loaded"}

// shownFields are worth a line's end.
var shownFields = []string{"bundle", "revision", "notice", "file", "app", "routes", "objects", "relations", "where", "reason"}

// Write implements zapcore.Core.
func (l *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if slices.Contains(unsaid, e.Message) {
		return nil
	}
	m := zapcore.NewMapObjectEncoder()
	for _, f := range append(slices.Clone(l.fields), fields...) {
		f.AddTo(m)
	}
	text := e.Message
	reason, _ := m.Fields["error"].(string)
	if e.Level >= zapcore.WarnLevel {
		l.out.failed.Store(true)
		text = e.Level.String() + ": " + text
	}
	if place := placeOf(m.Fields); place != "" { // the place that an editor opens
		text += ": " + place
		if at := strings.Index(reason, fmt.Sprintf("%v:%v: ", m.Fields["file"], m.Fields["line"])); at >= 0 {
			reason = reason[at:]
			reason = reason[strings.Index(reason, ": ")+2:]
		}
		delete(m.Fields, "file")
	}
	if head, clause, ok := strings.Cut(text, ", "); ok && reason != "" && strings.Contains(reason, clause) { // the reason says it too
		text = head
	}
	if reason != "" {
		text += ": " + reason
	} else {
		for _, name := range slices.Sorted(maps.Keys(m.Fields)) {
			if slices.Contains(shownFields, name) {
				text += fmt.Sprintf(" %s=%v", name, m.Fields[name])
			}
		}
	}
	l.out.say("gatehouse", text)
	return nil
}

// placeOf is file:line of a bundle in a folder, from where we are; "" where an entry has none.
func placeOf(fields map[string]any) string {
	source, _ := fields["source"].(string)
	file, _ := fields["file"].(string)
	if source == "" || file == "" || fields["line"] == nil {
		return ""
	}
	return fmt.Sprintf("%s:%v", terminal.Path(filepath.Join(source, filepath.FromSlash(file))), fields["line"])
}
