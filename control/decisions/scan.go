package decisions

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/parquet-go/parquet-go"
)

// selection is rows of a segment, in order: those from..to, or a list of them.
type selection struct {
	from, to int
	list     []int32 // nil: all of from..to
}

func all(n int) selection { return selection{to: n} }

func (s selection) empty() bool { return s.len() == 0 }

func (s selection) len() int {
	if s.list != nil {
		return len(s.list)
	}
	return max(0, s.to-s.from)
}

func (s selection) at(i int) int32 {
	if s.list != nil {
		return s.list[i]
	}
	return int32(s.from + i)
}

// slice are some of the selected rows, by their number among these.
func (s selection) slice(i, j int) selection {
	if s.list != nil {
		return selection{list: s.list[i:j:j]}
	}
	return selection{from: s.from + i, to: s.from + j}
}

// pages calls use with each page of a column that has selected rows: with the number of its first row, and which of the selected
// rows are in it. Pages without any are not read.
func (o *opened) pages(ctx context.Context, column int, sel selection, use func(p parquet.Page, first int, from, to int) error) error {
	chunk := o.chunks[column]
	index, err := chunk.OffsetIndex()
	if err != nil {
		return err
	}
	in := chunk.Pages()
	defer in.Close()
	at, pages := 0, index.NumPages()
	there := -1 // the page that is read next without seeking; -1: none is
	for page := 0; page < pages && at < sel.len(); page++ {
		first, end := int(index.FirstRowIndex(page)), o.rows
		if page+1 < pages {
			end = int(index.FirstRowIndex(page + 1))
		}
		from := at
		if sel.list == nil {
			at = min(max(at, end-sel.from), sel.len())
		} else {
			for at < len(sel.list) && int(sel.list[at]) < end {
				at++
			}
		}
		if from == at {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if there != page {
			if err := in.SeekToRow(int64(first)); err != nil {
				return err
			}
		}
		p, err := in.ReadPage()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		there = page + 1
		err = use(p, first, from, at)
		parquet.Release(p)
		if err != nil {
			return err
		}
	}
	return nil
}

// texts reads a page of texts: value gives the one of a row in it; code is its number in the dictionary, -1 without one.
type texts struct {
	codes   []int32
	dict    parquet.Dictionary
	values  []byte
	offsets []uint32
}

func textsOf(p parquet.Page) texts {
	data := p.Data()
	if d := p.Dictionary(); d != nil {
		return texts{codes: data.Int32(), dict: d}
	}
	values, offsets := data.ByteArray()
	return texts{values: values, offsets: offsets}
}

func (t *texts) at(i int) (value []byte, code int32) {
	if t.dict != nil {
		return t.dict.Index(t.codes[i]).ByteArray(), t.codes[i]
	}
	return t.values[t.offsets[i]:t.offsets[i+1]], -1
}

// filter keeps those of the selected rows whose text in a column is wanted. Of a dictionary each text is looked at once.
func (o *opened) filter(ctx context.Context, column int, sel selection, wanted func([]byte) bool) (selection, error) {
	kept := []int32{}
	var known []int8 // by code: 1 wanted, -1 not, 0 not looked at
	err := o.pages(ctx, column, sel, func(p parquet.Page, first, from, to int) error {
		t := textsOf(p)
		if t.dict != nil && known == nil {
			known = make([]int8, t.dict.Len())
		}
		for i := from; i < to; i++ {
			row := sel.at(i)
			if t.dict == nil {
				if v, _ := t.at(int(row) - first); wanted(v) {
					kept = append(kept, row)
				}
				continue
			}
			code := t.codes[int(row)-first]
			if known[code] == 0 {
				known[code] = -1
				if wanted(t.dict.Index(code).ByteArray()) {
					known[code] = 1
				}
			}
			if known[code] > 0 {
				kept = append(kept, row)
			}
		}
		return nil
	})
	return selection{list: kept}, err
}

// is is what filter wants where one text is.
func is(want string) func([]byte) bool {
	w := []byte(want)
	return func(v []byte) bool { return bytes.Equal(v, w) }
}

// between are the rows whose times are from..to, both included. Rows are sorted by time.
func (o *opened) between(ctx context.Context, from, to int64) (selection, error) {
	low, high := 0, 0
	err := o.pages(ctx, colTime, all(o.rows), func(p parquet.Page, first, _, _ int) error {
		data := p.Data()
		for _, t := range data.Int64() {
			if t < from {
				low++
			}
			if t <= to {
				high++
			}
		}
		return nil
	})
	return selection{from: low, to: high}, err
}

// load reads columns of the selected rows.
func (o *opened) load(ctx context.Context, sel selection, columns ...int) ([]Row, error) {
	rows := make([]Row, sel.len())
	for _, column := range columns {
		err := o.pages(ctx, column, sel, func(p parquet.Page, first, from, to int) error {
			data := p.Data()
			switch column {
			case colTime, colReceived, colDuration:
				list := data.Int64()
				for i := from; i < to; i++ {
					*rows[i].number(column) = list[int(sel.at(i))-first]
				}
			case colStatus:
				dict, list := p.Dictionary(), data.Int32()
				for i := from; i < to; i++ {
					v := list[int(sel.at(i))-first]
					if dict != nil {
						v = dict.Index(v).Int32()
					}
					rows[i].Status = v
				}
			case colDryRun, colMemo:
				bits := data.Boolean()
				for i := from; i < to; i++ {
					at := int(sel.at(i)) - first
					set := bits[at/8]>>(at%8)&1 == 1
					if column == colMemo {
						rows[i].Memo = set
					} else {
						rows[i].DryRun = set
					}
				}
			default:
				t := textsOf(p)
				for i := from; i < to; i++ {
					v, _ := t.at(int(sel.at(i)) - first)
					*rows[i].text(column) = string(v)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

var everyColumn = func() (list []int) {
	for c := range columns {
		list = append(list, c)
	}
	return list
}()

// number is a column's field.
func (r *Row) number(column int) *int64 {
	switch column {
	case colTime:
		return &r.Time
	case colReceived:
		return &r.Received
	}
	return &r.Duration
}

// text is a column's field.
func (r *Row) text(column int) *string {
	switch column {
	case colID:
		return &r.ID
	case colEdge:
		return &r.Edge
	case colOutcome:
		return &r.Outcome
	case colReason:
		return &r.Reason
	case colApp:
		return &r.App
	case colRoute:
		return &r.Route
	case colUser:
		return &r.User
	case colMethod:
		return &r.Method
	case colHost:
		return &r.Host
	case colPath:
		return &r.Path
	case colRevision:
		return &r.Revision
	case colRule:
		return &r.Rule
	case colClient:
		return &r.Client
	case colTrace:
		return &r.Trace
	case colIdentity:
		return &r.Identity
	case colFixed:
		return &r.Fixed
	}
	return &r.Rest
}
