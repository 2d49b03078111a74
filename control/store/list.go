package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gatehouse/control/wire"
	"gatehouse/directory"
)

// MaxPage bounds a page of a listing.
const MaxPage = 1000

// Row is what the database knows of an object or relation besides its content.
type Row struct{ Etag, Source string }

// ObjectRow is a stored object.
type ObjectRow struct {
	directory.Object
	Row
}

// RelationRow is a stored relation.
type RelationRow struct {
	directory.Relation
	Row
}

// RelationFilter selects relations. Empty fields match all.
type RelationFilter struct {
	Object, Subject directory.Ref
	Relation        string
}

// page is where a listing goes on: behind the row with this key.
func pageToken(key ...string) string {
	text, _ := json.Marshal(key) // strings: cannot fail
	return base64.RawURLEncoding.EncodeToString(text)
}

func parsePage(token string, fields int) ([]any, error) {
	if token == "" {
		return nil, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	var key []string
	if err == nil {
		err = json.Unmarshal(text, &key)
	}
	if err != nil || len(key) != fields {
		return nil, fmt.Errorf("%w: the page token is none that a listing gave", ErrInvalid)
	}
	out := make([]any, len(key))
	for i, k := range key {
		out[i] = k
	}
	return out, nil
}

func pageSize(n int) int {
	if n <= 0 {
		return 100
	}
	return min(n, MaxPage)
}

// where collects conditions.
type where struct {
	text []string
	args []any
}

func (w *where) is(column, value string) {
	if value != "" {
		w.text, w.args = append(w.text, column+" = ?"), append(w.args, value)
	}
}

func (w *where) after(columns string, key []any) {
	if key != nil {
		w.text = append(w.text, "("+columns+") > (?"+strings.Repeat(", ?", len(key)-1)+")")
		w.args = append(w.args, key...)
	}
}

func (w *where) String() string { return strings.Join(w.text, " and ") }

// Objects lists objects by type and id. next is where the next page begins; "": there is none.
func (e *Environment) Objects(ctx context.Context, typ, id string, size int, token string) (list []ObjectRow, next string, err error) {
	key, err := parsePage(token, 2)
	if err != nil {
		return nil, "", err
	}
	w := &where{text: []string{"environment = ?"}, args: []any{e.id}}
	w.is("type", typ)
	w.is("id", id)
	w.after("type, id", key)
	size = pageSize(size)
	rows, err := e.store.read.QueryContext(ctx, "select type, id, display_name, properties, revision, source from object where "+w.String()+" order by type, id limit ?", append(w.args, size+1)...) //nolint:gosec // the conditions are ours, their values are arguments
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var o ObjectRow
		var revision uint64
		if err := rows.Scan(&o.Type, &o.ID, &o.DisplayName, &o.Properties, &revision, &o.Source); err != nil {
			return nil, "", err
		}
		o.Etag = strconv.FormatUint(revision, 10)
		if len(list) == size {
			last := list[size-1]
			return list, pageToken(last.Type, last.ID), nil
		}
		list = append(list, o)
	}
	return list, "", rows.Err()
}

// Relations lists relations by object, name and subject.
func (e *Environment) Relations(ctx context.Context, f RelationFilter, size int, token string) (list []RelationRow, next string, err error) {
	key, err := parsePage(token, 6)
	if err != nil {
		return nil, "", err
	}
	const columns = "object_type, object_id, relation, subject_type, subject_id, subject_relation"
	w := &where{text: []string{"environment = ?"}, args: []any{e.id}}
	w.is("object_type", f.Object.Type)
	w.is("object_id", f.Object.ID)
	w.is("relation", f.Relation)
	w.is("subject_type", f.Subject.Type)
	w.is("subject_id", f.Subject.ID)
	w.after(columns, key)
	size = pageSize(size)
	rows, err := e.store.read.QueryContext(ctx, "select "+relationColumns+", revision, source from relation where "+w.String()+" order by "+columns+" limit ?", append(w.args, size+1)...) //nolint:gosec // likewise
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var r RelationRow
		var revision uint64
		if r.Relation, err = scanRelation(rows, &revision, &r.Source); err != nil {
			return nil, "", err
		}
		r.Etag = strconv.FormatUint(revision, 10)
		if len(list) == size {
			l := list[size-1].Relation
			return list, pageToken(l.Object.Type, l.Object.ID, l.Relation, l.Subject.Type, l.Subject.ID, l.SubjectRelation), nil
		}
		list = append(list, r)
	}
	return list, "", rows.Err()
}

// ManifestEtag is the etag of the manifest.
func (e *Environment) ManifestEtag(ctx context.Context) (string, error) {
	var revision uint64
	_, err := scanOne(e.store.read.QueryRowContext(ctx, "select coalesce(max(revision), 0) from manifest where environment = ?", e.id), &revision)
	return strconv.FormatUint(revision, 10), err
}

// Event is a write in the log.
type Event struct {
	Revision      uint64
	Epoch         string
	At            time.Time
	Actor, Source string
	What          []string // the first 100 changes
	Total         int
}

// Changes lists writes, the newest first, before a revision or, with 0, from the newest on.
func (e *Environment) Changes(ctx context.Context, before uint64, size int) (list []Event, next uint64, err error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	size = min(pageSize(size), 200)
	rows, err := e.store.read.QueryContext(ctx, "select revision, epoch, at, actor, source, ops from change where environment = ? and revision < ? order by revision desc limit ?", e.id, int64(min(before, 1<<63-1)), size)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var x Event
		var at int64
		var ops []byte
		if err := rows.Scan(&x.Revision, &x.Epoch, &at, &x.Actor, &x.Source, &ops); err != nil {
			return nil, 0, err
		}
		x.At = time.UnixMilli(at).UTC()
		if x.What, x.Total, err = wire.Describe(ops, 100); err != nil {
			return nil, 0, fmt.Errorf("revision %d: %w", x.Revision, err)
		}
		list = append(list, x)
	}
	if len(list) == size && list[size-1].Revision > 1 {
		next = list[size-1].Revision
	}
	return list, next, rows.Err()
}
