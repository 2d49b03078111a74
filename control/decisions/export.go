package decisions

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"
)

// Format is how decisions are exported.
type Format int

// The formats: a line of JSON for each entry, as the edge wrote it; a table with the columns that are searched by; a Parquet file with
// the columns of the segments.
const (
	JSON Format = iota
	CSV
	Parquet
)

// exportRows are how many entries are read at once.
const exportRows = 500

// Export writes all decisions of a filter, by time as far as segments do not overlap. It is bounded by ctx alone.
func (e *Environment) Export(ctx context.Context, w io.Writer, f Filter, as Format) error {
	if err := f.check(); err != nil {
		return err
	}
	out, err := newExporter(w, as)
	if err != nil {
		return err
	}
	select { // places of their own: an export takes as long as its client
	case e.store.export <- struct{}{}:
		defer func() { <-e.store.export }()
	default:
		return fmt.Errorf("%w: there are %d exports already", ErrBusy, maxExports)
	}
	from, to := f.times()
	v := e.view()
	segments := slices.Clone(v.segments)
	slices.SortStableFunc(segments, func(a, b *Segment) int { return cmp.Compare(a.From, b.From) })
	for _, s := range segments {
		if s.From > to || s.To < from || f.Outcome != "" && f.Outcome != s.Outcome {
			continue
		}
		if err := e.exportSegment(ctx, s, &f, from, to, out); err != nil {
			return err
		}
	}
	var rest []Row
	for _, rows := range v.tables {
		for i := range rows {
			if f.matches(&rows[i], from, to) {
				rest = append(rest, rows[i])
			}
		}
	}
	slices.SortFunc(rest, func(a, b Row) int { return before(&a, &b) })
	if err := out.write(rest); err != nil {
		return err
	}
	return out.end()
}

func (e *Environment) exportSegment(ctx context.Context, s *Segment, f *Filter, from, to int64, out *exporter) error {
	o, err := e.read(s)
	if err != nil || o == nil {
		return err
	}
	defer e.store.files.release(o)
	sel, err := f.in(ctx, s, o, from, to)
	for at := 0; err == nil && at < sel.len(); at += exportRows {
		var rows []Row
		if rows, err = o.load(ctx, sel.slice(at, min(at+exportRows, sel.len())), everyColumn...); err == nil {
			err = out.write(rows)
		}
	}
	return err
}

// exporter writes rows in a format.
type exporter struct {
	w       io.Writer
	csv     *csv.Writer
	parquet *parquet.GenericWriter[Row]
	line    []byte
	record  []string
	rows    int
}

var csvHead = []string{"time", "id", "edge", "outcome", "reason", "app", "route", "user", "method", "host", "path", "status", "revision", "rule", "requested_by", "trace_id", "duration_ns", "dry_run", "memo", "received"}

func newExporter(w io.Writer, as Format) (*exporter, error) {
	out := &exporter{w: w}
	switch as {
	case JSON:
	case CSV:
		out.csv = csv.NewWriter(w)
		return out, out.csv.Write(csvHead)
	case Parquet:
		out.parquet = parquet.NewGenericWriter[Row](w, writerOptions()...)
	default:
		return nil, fmt.Errorf("%w: there is no such format", ErrFilter)
	}
	return out, nil
}

func (x *exporter) write(rows []Row) (err error) {
	switch {
	case x.parquet != nil:
		for len(rows) > 0 && err == nil {
			n := min(len(rows), defaultRows-x.rows)
			if _, err = x.parquet.Write(rows[:n]); err == nil {
				if rows, x.rows = rows[n:], x.rows+n; x.rows == defaultRows {
					x.rows, err = 0, x.parquet.Flush()
				}
			}
		}
	case x.csv != nil:
		for i := range rows {
			if err := x.csv.Write(x.cells(&rows[i])); err != nil {
				return err
			}
		}
		x.csv.Flush()
		err = x.csv.Error()
	default:
		for i := range rows {
			x.line = append(rows[i].AppendEntry(x.line[:0]), '\n')
			if _, err := x.w.Write(x.line); err != nil {
				return err
			}
		}
	}
	return err
}

// cells are a row of the table. A text that a spreadsheet would take for a formula begins with an apostrophe.
func (x *exporter) cells(r *Row) []string {
	stamp := func(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }
	x.record = append(x.record[:0], stamp(r.Time), r.ID, r.Edge, r.Outcome, r.Reason, r.App, r.Route, r.User, r.Method, r.Host, r.Path, strconv.Itoa(int(r.Status)), r.Revision, r.Rule,
		r.Client, r.Trace, strconv.FormatInt(r.Duration, 10), strconv.FormatBool(r.DryRun), strconv.FormatBool(r.Memo), stamp(r.Received))
	for i, cell := range x.record {
		if cell != "" && (cell[0] == '=' || cell[0] == '+' || cell[0] == '-' || cell[0] == '@' || cell[0] == '\t' || cell[0] == '\r') {
			x.record[i] = "'" + cell
		}
	}
	return x.record
}

func (x *exporter) end() error {
	if x.parquet != nil {
		return x.parquet.Close()
	}
	return nil
}
