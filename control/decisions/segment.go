package decisions

import (
	"bufio"
	"cmp"
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
)

const (
	segmentSuffix = ".parquet"
	temporary     = ".tmp"
	pageBytes     = 64 << 10
	maxFiles      = 512 // that are open for searching
)

// The columns, by their number in a segment.
const (
	colTime = iota
	colReceived
	colID
	colEdge
	colOutcome
	colReason
	colApp
	colRoute
	colUser
	colMethod
	colHost
	colPath
	colStatus
	colRevision
	colRule
	colClient
	colTrace
	colDuration
	colDryRun
	colMemo
	colIdentity
	colFixed
	colRest
	columns
)

var schema = parquet.SchemaOf(Row{})

func writerOptions() []parquet.WriterOption {
	return []parquet.WriterOption{schema, parquet.Compression(&zstd.Codec{Level: zstd.SpeedDefault}), parquet.PageBufferSize(pageBytes), parquet.CreatedBy("gatehouse", "1", ""),
		parquet.BloomFilters(parquet.SplitBlockFilter(10, "id"), parquet.SplitBlockFilter(10, "user")), parquet.DataPageStatistics(false), parquet.WriteBufferSize(256 << 10),
		parquet.SortingWriterConfig(parquet.SortingColumns(parquet.Ascending("time"), parquet.Ascending("id"), parquet.Ascending("edge")))}
}

// before is the order of entries: by time, id and edge.
func before(a, b *Row) int {
	return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Edge, b.Edge))
}

// writeSegments writes a table's entries, one file for each outcome, durably. They count once the chain names them.
func (e *Environment) writeSegments(t *table) (out []Segment, err error) {
	order := make([]int32, len(t.rows))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return before(&t.rows[a], &t.rows[b]) })
	for _, outcome := range []string{Allow, Deny, Gap} {
		one := slices.Clone(order)
		one = slices.DeleteFunc(one, func(i int32) bool { return t.rows[i].Outcome != outcome })
		if len(one) == 0 {
			continue
		}
		s, err := e.writeSegment(t.rows, one, outcome)
		if err != nil {
			return out, err
		}
		out = append(out, s)
	}
	return out, e.syncFolder()
}

func (e *Environment) writeSegment(rows []Row, order []int32, outcome string) (s Segment, err error) {
	first, last := rows[order[0]].Time, rows[order[len(order)-1]].Time
	s = Segment{Outcome: outcome, Rows: len(order), From: first, To: last}
	s.File = fmt.Sprintf("%s-%012d-%s%s", time.Unix(0, first).UTC().Format("20060102T150405"), e.fileNumber(), outcome, segmentSuffix)
	path := filepath.Join(e.dir, s.File)
	f, err := os.OpenFile(path+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(path+temporary))
		}
	}()
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(f, sum), 256<<10)
	w := parquet.NewGenericWriter[Row](out, writerOptions()...)
	chunk := make([]Row, 0, 1000)
	for len(order) > 0 {
		chunk = chunk[:0]
		for _, i := range order[:min(len(order), cap(chunk))] {
			chunk = append(chunk, rows[i])
		}
		order = order[len(chunk):]
		if _, err := w.Write(chunk); err != nil {
			return s, err
		}
	}
	if err := w.Close(); err != nil {
		return s, err
	}
	if err := out.Flush(); err != nil {
		return s, err
	}
	if err := f.Sync(); err != nil {
		return s, err
	}
	info, err := f.Stat()
	if err != nil {
		return s, err
	}
	if err := f.Close(); err != nil {
		return s, err
	}
	s.Bytes, s.SHA256 = info.Size(), hex.EncodeToString(sum.Sum(nil))
	return s, os.Rename(path+temporary, path)
}

// fileNumber is a number for a segment's name: the one of the chain's record that will name it.
func (e *Environment) fileNumber() uint64 {
	e.chaining.Lock()
	defer e.chaining.Unlock()
	return e.chain.number + 1
}

// opened is a segment that is open for reading.
type opened struct {
	file    *os.File
	parquet *parquet.File
	chunks  []parquet.ColumnChunk
	rows    int
	users   int // who reads it; guarded by files.mu, as is gone
	gone    bool
}

// files are the open segments, the most recently used first.
type files struct {
	mu    sync.Mutex
	byKey map[string]*list.Element // of *fileEntry; guarded by mu
	order *list.List               // guarded by mu
}

type fileEntry struct {
	path string
	is   *opened
}

func newFiles() *files { return &files{byKey: map[string]*list.Element{}, order: list.New()} }

// open opens a segment, or finds it open. It is given back with release.
func (f *files) open(path string, s *Segment) (*opened, error) {
	f.mu.Lock()
	if at := f.byKey[path]; at != nil {
		f.order.MoveToFront(at)
		o := at.Value.(*fileEntry).is
		o.users++
		f.mu.Unlock()
		return o, nil
	}
	f.mu.Unlock()
	o, err := openSegment(path, s)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o.users = 1
	if f.byKey[path] != nil { // another was faster: this one is closed when it is given back
		o.gone = true
		return o, nil
	}
	f.byKey[path] = f.order.PushFront(&fileEntry{path, o})
	for f.order.Len() > maxFiles {
		f.drop(f.order.Back())
	}
	return o, nil
}

// drop forgets an open segment. The caller holds mu.
func (f *files) drop(at *list.Element) {
	entry := at.Value.(*fileEntry)
	f.order.Remove(at)
	delete(f.byKey, entry.path)
	entry.is.gone = true
	if entry.is.users == 0 {
		_ = entry.is.file.Close() // it was only read
	}
}

func (f *files) release(o *opened) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.users--; o.users == 0 && o.gone {
		_ = o.file.Close()
	}
}

// forget closes a segment that is removed.
func (f *files) forget(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at := f.byKey[path]; at != nil {
		f.drop(at)
	}
}

func (f *files) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.order.Len() > 0 {
		f.drop(f.order.Front())
	}
}

func openSegment(path string, s *Segment) (o *opened, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
		}
	}()
	p, err := parquet.OpenFile(file, s.Bytes, parquet.SkipPageIndex(true), parquet.ReadBufferSize(128<<10))
	if err != nil {
		return nil, err
	}
	groups := p.RowGroups()
	if len(groups) != 1 || groups[0].NumRows() != int64(s.Rows) || len(groups[0].ColumnChunks()) != columns {
		return nil, errors.New("it is not what the chain says: gatehouse control verify-log has more")
	}
	return &opened{file: file, parquet: p, chunks: groups[0].ColumnChunks(), rows: s.Rows}, nil
}

// may reports whether a segment may have a value in a column that has a Bloom filter.
func (o *opened) may(column int, value string) (bool, error) {
	filter := o.chunks[column].BloomFilter()
	if filter == nil {
		return true, nil
	}
	return filter.Check(parquet.ByteArrayValue([]byte(value)))
}

// read opens a segment. It is nil where the retention has ended it meanwhile; one that is missing otherwise is an error.
func (e *Environment) read(s *Segment) (*opened, error) {
	o, err := e.store.files.open(filepath.Join(e.dir, s.File), s)
	if !errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if !slices.Contains(e.segments, s) {
		return nil, nil
	}
	return nil, fmt.Errorf("a segment of decisions is missing: %w", err)
}

// inSegments are those of some entries that segments have.
func (e *Environment) inSegments(rows []Row) (map[key]struct{}, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	from, to := rows[0].Time, rows[0].Time
	for i := range rows {
		from, to = min(from, rows[i].Time), max(to, rows[i].Time)
	}
	e.mu.RLock()
	segments := e.segments
	e.mu.RUnlock()
	var found map[key]struct{}
	for _, s := range segments { // the newest first
		if s.To < from || s.From > to {
			continue
		}
		wanted, err := e.suspects(s, rows)
		if err != nil {
			return nil, err
		}
		if len(wanted) == 0 {
			continue
		}
		if found == nil {
			found = map[key]struct{}{}
		}
		if err := e.confirm(s, wanted, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// suspects are entries that a segment may have, by its times and its Bloom filter.
func (e *Environment) suspects(s *Segment, rows []Row) (wanted map[key]struct{}, err error) {
	o, err := e.read(s)
	if err != nil || o == nil {
		return nil, err
	}
	defer e.store.files.release(o)
	for i := range rows {
		r := &rows[i]
		if r.Time < s.From || r.Time > s.To {
			continue
		}
		may, err := o.may(colID, r.ID)
		if err != nil {
			return nil, err
		}
		if may {
			if wanted == nil {
				wanted = map[key]struct{}{}
			}
			wanted[r.key()] = struct{}{}
		}
	}
	return wanted, nil
}

// confirm adds to found those of wanted that a segment has.
func (e *Environment) confirm(s *Segment, wanted, found map[key]struct{}) error {
	o, err := e.read(s)
	if err != nil || o == nil {
		return err
	}
	defer e.store.files.release(o)
	ids := map[string]bool{}
	for k := range wanted {
		ids[k.id] = true
	}
	sel, err := o.filter(context.Background(), colID, all(o.rows), func(id []byte) bool { return ids[string(id)] })
	if err != nil || sel.empty() {
		return err
	}
	rows, err := o.load(context.Background(), sel, colID, colEdge)
	for i := range rows {
		if _, is := wanted[rows[i].key()]; is {
			found[rows[i].key()] = struct{}{}
		}
	}
	return err
}
