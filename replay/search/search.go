// Package search finds events in decision logs and counts them: behind `gatehouse log` and the flags of `gatehouse replay` that pick decisions.
// It prints nothing. It may import replay and what that imports.
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

// Event is an event of a decision log that is looked at.
type Event struct{ replay.Record }

// When is the time of a decision, or until when a gap was; the zero time where that cannot be told.
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

// Source is a decision log in one part or several, and what was found in it. The zero value has to be opened first.
type Source struct {
	Warn func(error) // is told of what is damaged, up to MostWarnings times

	Events, Gaps int64 // that were read, and those among them that tell of a gap
	Damaged      int64 // places that were passed over

	reader  *read.Reader
	left    []string // paths still to be read
	open    func(path string) (*read.Reader, error)
	foreign error // a file that is no log; among several, the last such
}

// MostWarnings is of how many damaged places a source tells; the rest is counted.
const MostWarnings = 20

// Use reads a log that is open already, which is closed with the source.
func (l *Source) Use(log *read.Reader) { l.reader = log }

// Open reads the paths, one after another.
func (l *Source) Open(paths []string, open func(path string) (*read.Reader, error)) error {
	l.left, l.open = paths, open
	return l.advance()
}

// Reader is what is read just now.
func (l *Source) Reader() *read.Reader { return l.reader }

// advance goes on to the next path; io.EOF where there is none.
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

// Close ends it.
func (l *Source) Close() {
	if l.reader != nil {
		l.reader.Close()
		l.reader = nil
	}
}

// Next returns the next event, and what it says unless e is nil; io.EOF at the end. Damage is told and passed over.
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
			l.foreign = err // of a folder it may be one file
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

// end is io.EOF, unless all that was found is no log.
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

// Warning counts a damaged place, and tells of it.
func (l *Source) Warning(err error) {
	if l.Damaged++; l.Damaged <= MostWarnings && l.Warn != nil {
		l.Warn(err)
	}
}
