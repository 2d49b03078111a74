// Package search finds and counts events in decision logs: for `gatehouse log` and the filter flags of `gatehouse
// replay`. It prints nothing. It may import replay and what that imports.
package search

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"gatehouse/decisionlog/read"
	"gatehouse/replay"
)

// Event is one event of a decision log.
type Event struct{ replay.Record }

// When is the time of a decision, or the end of a gap; zero where unknown.
func (e *Event) When() time.Time {
	at, _ := e.Time()
	return at
}

// revision names the policy that decided.
func (e *Event) revision() string {
	if e.Revision != nil || e.Bundles == nil {
		return cmp.Or(e.Revision.Decode(), "-")
	}
	bundles, err := e.DecodeBundles()
	if err != nil {
		return "-"
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		all = append(all, name+"="+bundles[name].Revision)
	}
	return strings.Join(all, ",")
}

// Source reads a decision log in one or several parts, and counts. The zero value must be opened first.
type Source struct {
	Warn func(error) // called for damaged places, up to MostWarnings times

	Events, Gaps int64 // events read, and the gaps among them
	Damaged      int64 // damaged places skipped

	reader  *read.Reader
	left    []string // paths still to read
	open    func(path string) (*read.Reader, error)
	foreign error // the last error about a file that is no log
}

// MostWarnings is how many damaged places a source reports; further ones are only counted.
const MostWarnings = 20

// Use reads an already open log, which is closed with the source.
func (l *Source) Use(log *read.Reader) { l.reader = log }

// Open reads the paths, one after another.
func (l *Source) Open(paths []string, open func(path string) (*read.Reader, error)) error {
	l.left, l.open = paths, open
	return l.advance()
}

// Reader is the current reader.
func (l *Source) Reader() *read.Reader { return l.reader }

// advance opens the next path; io.EOF where there is none.
func (l *Source) advance() (err error) {
	l.Close()
	if len(l.left) == 0 {
		return io.EOF
	}
	path := l.left[0]
	l.left = l.left[1:]
	l.reader, err = l.open(path)
	return err
}

// Close closes the current reader.
func (l *Source) Close() {
	if l.reader != nil {
		l.reader.Close()
		l.reader = nil
	}
}

// Next returns the next event, parsed into e unless nil; io.EOF at the end. Damage is reported and skipped.
func (l *Source) Next(ctx context.Context, e *Event, wanted func(line []byte) bool) ([]byte, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		line, err := l.reader.Next()
		if err == nil {
			if !wanted(line) {
				l.Events++
				continue
			}
			if e == nil {
				l.Events++
				return line, nil
			}
			if err = e.Parse(line, 0); err != nil {
				err = l.reader.Damaged(err)
			}
		}
		damage, damaged := errors.AsType[*read.DamageError](err)
		switch {
		case err == nil && e.Gap.Recorded:
			l.Gaps++
			return line, nil
		case err == nil:
			l.Events++
			return line, nil
		case damaged:
			l.Warning(damage)
		case errors.Is(err, read.ErrForeign):
			if l.foreign != nil {
				l.Warning(l.foreign)
			}
			l.foreign = err // in a folder it may be a single other file
		case !errors.Is(err, io.EOF):
			return nil, err
		case len(l.left) == 0:
			return nil, l.end()
		default:
			if err := l.advance(); err != nil {
				return nil, err
			}
		}
	}
}

// end is io.EOF, unless no log was found at all.
func (l *Source) end() error {
	if err := l.foreign; err != nil {
		if l.Events+l.Gaps == 0 {
			return err
		}
		l.foreign = nil
		l.Warning(err)
	}
	return io.EOF
}

// Warning counts and reports a damaged place.
func (l *Source) Warning(err error) {
	if l.Damaged++; l.Damaged <= MostWarnings && l.Warn != nil {
		l.Warn(err)
	}
}
