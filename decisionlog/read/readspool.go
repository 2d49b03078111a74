package read

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"

	"gatehouse/decisionlog"
	"gatehouse/decisionlog/record"
	"gatehouse/decisionlog/spool"
)

// records reads the events of a segment, or of a spool.
type records struct {
	from interface { // a *spool.Copy or a *spool.DirReader
		Next() (spool.Piece, error)
		Where() *spool.DamageError
		Close()
	}
	lines *record.Lines
	line  []byte
}

// spoolReader reads the events of a spool, which may be in use.
type spoolReader struct {
	records
	dir *spool.DirReader
}

func openSegment(name string, in io.Reader, buffered *bufio.Reader, closer func()) (*records, error) {
	lines, err := readerLines(decisionlog.Config{})
	if err != nil {
		return nil, err
	}
	from, err := spool.OpenCopy(name, in, buffered, closer, record.Time)
	if err != nil {
		return nil, err
	}
	return &records{from: from, lines: lines}, nil
}

func openSpoolReader(dir string, cfg decisionlog.Config) (*spoolReader, error) {
	lines, err := readerLines(cfg)
	if err != nil {
		return nil, err
	}
	from := spool.OpenDir(dir, record.Time)
	return &spoolReader{records: records{from: from, lines: lines}, dir: from}, nil
}

// readerLines makes lines as the log itself would.
func readerLines(cfg decisionlog.Config) (*record.Lines, error) {
	how := cfg.Record()
	how.MaxEntry, how.Clock, how.Logger = record.MaxLine, time.Now, zap.NewNop()
	return record.NewLines(how, 1)
}

func (r *records) close() { r.from.Close() }

func (r *records) position() *DamageError { return damageError(r.from.Where()) }

func damageError(d *spool.DamageError) *DamageError {
	return &DamageError{File: d.File, Offset: d.Offset, Bytes: d.Bytes, What: d.What}
}

func (r *records) damage(n int, what string) error {
	d := r.position()
	d.Bytes, d.What = int64(n), what
	return d
}

// next returns io.EOF at the end, and may be called again: there may be more by then.
func (r *records) next() ([]byte, error) {
	for {
		p, err := r.from.Next()
		if d, ok := errors.AsType[*spool.DamageError](err); ok {
			return nil, damageError(d)
		}
		if err != nil {
			return nil, err
		}
		if event, err := r.event(p); err != nil || len(event) > 0 {
			return event, err
		}
		// the policy does not want it in the log
	}
}

func (r *records) event(p spool.Piece) (_ []byte, err error) {
	switch {
	case p.Record == nil:
		r.line = r.lines.AppendGap(r.line[:0], record.GapOf(p.Damage))
	case p.Kind == record.KindGap:
		g, err := record.UnpackGap(p.Record)
		if err != nil {
			return nil, r.damage(len(p.Record), "a gap of another version")
		}
		r.line = r.lines.AppendGap(r.line[:0], g)
	default:
		if r.line, err = r.lines.Append(context.Background(), r.line[:0], spool.Cursor{}, p.Record); err != nil {
			return nil, r.damage(len(p.Record), "an entry of another version")
		}
	}
	return bytes.TrimSuffix(r.line, []byte("\n")), nil
}

// skip passes what is up to the last of these events, the last ones of the log's file: it has all that is before.
func (r *spoolReader) skip(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	return r.dir.Skip(func(kind spool.Kind, packed []byte) bool {
		return kind == record.KindEntry && slices.Contains(ids, record.ID(packed))
	})
}
