package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/control/wire"
	"gatehouse/directory"
)

// Write is one write to a directory: edits, all of them or none, or a manifest.
type Write struct {
	Actor    string // who makes it
	Source   string // in whose name
	TakeOver bool   // also what other sources own
	Key      string // idempotency key; "": none
	Edits    []Edit

	Manifest     *directory.Manifest // nil: none
	ManifestEtag string              // that the stored one must have; "": any
	Force        bool                // delete what the manifest does not allow

	first bool // of a new environment
}

// Edit is a change of one object or relation.
type Edit struct {
	directory.Change
	Etag string // that the stored one must have; "": any; NoEtag: it must not exist

	owner string // whose row it stays, or becomes; "": who writes. Given, its owner is not asked
}

// NoEtag is the etag of what does not exist.
const NoEtag = "none"

// Bounds of one write.
const (
	MaxEdits = 1000
	maxOwn   = 128 // bytes of source and key
)

// Result is what became of a write.
type Result struct {
	Revision uint64
	Epoch    string
}

// Write executes a write, and returns once it is on disk. A *directory.ChangeError or *directory.OrphanError says what
// is wrong with it.
func (s *Store) Write(ctx context.Context, e *Environment, with Write) (Result, error) {
	switch {
	case len(with.Edits) > MaxEdits:
		return Result{}, fmt.Errorf("%w: %d changes at once: %d are possible, or use the import", ErrInvalid, len(with.Edits), MaxEdits)
	case len(with.Key) > maxOwn || len(with.Source) > maxOwn:
		return Result{}, fmt.Errorf("%w: an idempotency key or a source has at most %d bytes", ErrInvalid, maxOwn)
	}
	if strings.HasPrefix(with.Source, ScimPrefix) {
		return Result{}, fmt.Errorf("%w: source %q: what begins with %s is written by the SCIM server alone", ErrInvalid, with.Source, ScimPrefix)
	}
	if with.Source == "" {
		with.Source = "api"
	}
	var out Result
	err := s.submit(ctx, max(1, len(with.Edits)), func(w *writer) (err error) {
		out, err = w.directory(e, &with)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	return out, nil
}

// directory executes a write. Staging its result is the last thing that it does.
func (w *writer) directory(e *Environment, with *Write) (Result, error) {
	now, request := w.store.with.Clock(), with.sum()
	was := w.staged[e]
	if was == nil {
		was = e.Snapshot()
	}
	if with.Key != "" {
		if revision, err := w.repeated(e, with.Key, request); err != nil || revision != 0 {
			return Result{revision, w.store.epoch}, err
		}
	}
	if e.hasParts.Load() {
		with.Edits = slices.Clone(with.Edits)
	}
	for i := range with.Edits {
		err := w.keepPart(e, with, &with.Edits[i])
		if err == nil {
			err = w.mayEdit(e, with, &with.Edits[i])
		}
		if err != nil {
			return Result{}, &directory.ChangeError{Index: i, What: with.Edits[i].String(), Err: err}
		}
	}
	next, ops, err := w.apply(e, was, with)
	if err != nil {
		return Result{}, err
	}
	revision := was.Revision()
	if next.Digest() != was.Digest() || with.first || with.TakeOver { // an owner is part of no digest
		revision++
		next = next.WithRevision(revision)
		if err := w.save(e, with, was, next, ops, now); err != nil {
			return Result{}, err
		}
	}
	if with.Key != "" {
		if _, err := w.exec("delete from idempotency where at < ?", now.Add(-keepKeys).Unix()); err != nil {
			return Result{}, err
		}
		if _, err := w.exec("insert into idempotency (environment, key, request, revision, at) values (?, ?, ?, ?, ?)", e.id, with.Key, request, revision, now.Unix()); err != nil {
			return Result{}, err
		}
	}
	if revision != was.Revision() {
		w.staged[e] = next
		w.frames[e] = append(w.frames[e], Change{Revision: revision, Digest: rawDigest(next.Digest()), Ops: ops})
	}
	return Result{revision, w.store.epoch}, nil
}

// repeated is the revision that a write with this key led to; 0: there was none.
func (w *writer) repeated(e *Environment, key string, request []byte) (revision uint64, err error) {
	var stored []byte
	found, err := w.row([]any{&stored, &revision}, "select request, revision from idempotency where environment = ? and key = ? and at >= ?", e.id, key,
		w.store.with.Clock().Add(-keepKeys).Unix())
	if err != nil || !found {
		return 0, err
	}
	if string(stored) != string(request) {
		return 0, ErrReused
	}
	return revision, nil
}

// sum is a hash of what the write says.
func (with *Write) sum() []byte {
	h := sha256.New()
	changes := make([]directory.Change, len(with.Edits))
	for i, c := range with.Edits {
		changes[i] = c.Change
		fmt.Fprintf(h, "%q", c.Etag)
	}
	encoded, _ := wire.Encode(changes) // texts of any bytes: what is no UTF-8 is refused when it is applied
	h.Write(encoded)
	fmt.Fprintf(h, "%q %t %q %t", with.Source, with.TakeOver, with.ManifestEtag, with.Force)
	if with.Manifest != nil {
		h.Write(with.Manifest.Text())
	}
	return h.Sum(nil)
}

// apply computes the directory after the write.
func (w *writer) apply(e *Environment, was *directory.Snapshot, with *Write) (next *directory.Snapshot, ops []byte, err error) {
	if with.Manifest == nil {
		changes := make([]directory.Change, len(with.Edits))
		for i, c := range with.Edits {
			changes[i] = c.Change
		}
		if next, err = was.Apply(changes); err != nil {
			return nil, nil, err
		}
		ops, err = wire.Encode(changes)
	} else {
		if with.ManifestEtag != "" {
			etag, err := w.manifestEtag(e)
			if err != nil {
				return nil, nil, err
			}
			if etag != with.ManifestEtag {
				return nil, nil, ErrEtag
			}
		}
		if next, err = was.SetManifest(with.Manifest, with.Force); err != nil {
			return nil, nil, err
		}
		ops, err = wire.EncodeManifest(with.Manifest, with.Force)
	}
	if err == nil && len(ops) > wire.MaxMessage/2 {
		err = fmt.Errorf("%w: the write takes %d bytes: %d are possible; divide it", ErrInvalid, len(ops), wire.MaxMessage/2)
	}
	return next, ops, err
}

func (w *writer) manifestEtag(e *Environment) (string, error) {
	var revision uint64
	_, err := w.row([]any{&revision}, "select coalesce(max(revision), 0) from manifest where environment = ?", e.id)
	return strconv.FormatUint(revision, 10), err
}

// mayEdit checks etag and owner.
func (w *writer) mayEdit(e *Environment, with *Write, c *Edit) error {
	var revision uint64
	var source string
	var found bool
	var err error
	switch {
	case c.SetObject != nil:
		found, err = w.ownerOfObject(e, c.SetObject.Ref, &revision, &source)
	case c.DeleteObject != nil:
		found, err = w.ownerOfObject(e, *c.DeleteObject, &revision, &source)
	case c.SetRelation != nil:
		found, err = w.ownerOfRelation(e, c.SetRelation, &revision, &source)
	case c.DeleteRelation != nil:
		found, err = w.ownerOfRelation(e, c.DeleteRelation, &revision, &source)
	}
	switch {
	case err != nil:
		return err
	case c.Etag == NoEtag && found:
		return fmt.Errorf("it %w", ErrExists)
	case c.Etag != "" && c.Etag != NoEtag && (!found || c.Etag != strconv.FormatUint(revision, 10)):
		return ErrEtag
	case found && c.owner == "" && source != with.Source && !with.TakeOver:
		return fmt.Errorf("%w: it is of %q", ErrOwned, source)
	}
	return nil
}

func (w *writer) ownerOfObject(e *Environment, r directory.Ref, revision *uint64, source *string) (bool, error) {
	return w.row([]any{revision, source}, "select revision, source from object where environment = ? and type = ? and id = ?", e.id, r.Type, r.ID)
}

// relationColumns are what names a relation, with its expiry.
const relationColumns = "object_type, object_id, relation, subject_type, subject_id, subject_relation, expires_at"

const thatRelation = "environment = ? and object_type = ? and object_id = ? and relation = ? and subject_type = ? and subject_id = ? and subject_relation = ?"

func relationKey(e *Environment, r *directory.Relation) []any {
	return []any{e.id, r.Object.Type, r.Object.ID, r.Relation, r.Subject.Type, r.Subject.ID, r.SubjectRelation}
}

func (w *writer) ownerOfRelation(e *Environment, r *directory.Relation, revision *uint64, source *string) (bool, error) {
	return w.row([]any{revision, source}, "select revision, source from relation where "+thatRelation, relationKey(e, r)...)
}

type scanner interface{ Scan(...any) error }

func scanRelation(row scanner, more ...any) (r directory.Relation, err error) {
	var expires int64
	err = row.Scan(append([]any{&r.Object.Type, &r.Object.ID, &r.Relation, &r.Subject.Type, &r.Subject.ID, &r.SubjectRelation, &expires}, more...)...)
	if expires != 0 {
		r.Expires = time.Unix(expires, 0).UTC()
	}
	return r, err
}

// save writes a revision to the database.
func (w *writer) save(e *Environment, with *Write, was, next *directory.Snapshot, ops []byte, now time.Time) error {
	revision := next.Revision()
	var err error
	if with.Manifest != nil {
		_, err = w.exec("insert into manifest (environment, revision, text) values (?, ?, ?)", e.id, revision, with.Manifest.Text())
		if err == nil && with.Force {
			err = w.dropOrphans(e, was, next)
		}
	}
	for i := range with.Edits {
		if err == nil {
			err = w.edit(e, with, &with.Edits[i], was, next)
		}
	}
	if err == nil {
		_, err = w.exec("insert into change (environment, revision, epoch, at, actor, source, digest, ops, size) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			e.id, revision, w.store.epoch, now.UnixMilli(), with.Actor, with.Source, next.Digest(), ops, len(ops))
	}
	if err == nil {
		_, err = w.exec("update environment set revision = ?, digest = ? where id = ?", revision, next.Digest(), e.id)
	}
	return err
}

// edit writes one change to the tables. A row that stays what it was keeps its etag, unless its owner changes.
func (w *writer) edit(e *Environment, with *Write, c *Edit, was, next *directory.Snapshot) (err error) {
	revision, source := next.Revision(), cmp.Or(c.owner, with.Source)
	switch {
	case c.SetObject != nil:
		o := c.SetObject
		_, err = w.exec(`insert into object (environment, type, id, display_name, properties, revision, source) values (?, ?, ?, ?, ?, ?, ?)
			on conflict do update set display_name = excluded.display_name, properties = excluded.properties, revision = excluded.revision, source = excluded.source
			where display_name <> excluded.display_name or properties is not excluded.properties or source <> excluded.source`,
			e.id, o.Type, o.ID, o.DisplayName, nullable(o.Properties), revision, source)
	case c.DeleteObject != nil:
		r := c.DeleteObject
		for _, text := range []string{"delete from object where environment = ? and type = ? and id = ?",
			"delete from relation where environment = ? and object_type = ? and object_id = ?",
			"delete from relation where environment = ? and subject_type = ? and subject_id = ?"} {
			if _, err := w.exec(text, e.id, r.Type, r.ID); err != nil {
				return err
			}
		}
	case c.SetRelation != nil:
		r, expires := c.SetRelation, int64(0)
		if !r.Expires.IsZero() {
			expires = r.Expires.Unix()
		}
		_, err = w.exec(`insert into relation (environment, object_type, object_id, relation, subject_type, subject_id, subject_relation, expires_at, revision, source)
			values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do update set expires_at = excluded.expires_at, revision = excluded.revision, source = excluded.source
			where expires_at <> excluded.expires_at or source <> excluded.source`, append(relationKey(e, r), expires, revision, source)...)
	case c.DeleteRelation != nil:
		_, err = w.exec("delete from relation where "+thatRelation, relationKey(e, c.DeleteRelation)...)
	}
	return err
}

// nullable is nil for no properties.
func nullable(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// dropOrphans deletes the rows of what a forced manifest does not allow.
func (w *writer) dropOrphans(e *Environment, was, next *directory.Snapshot) error {
	for r := range was.Relations(directory.RelationFilter{}, time.Time{}) { // at the beginning of time: expired ones too
		if _, stays := next.Relation(r, time.Time{}); !stays {
			if _, err := w.exec("delete from relation where "+thatRelation, relationKey(e, &r)...); err != nil {
				return err
			}
		}
	}
	for o := range was.Objects("") {
		if _, stays := next.Object(o.Ref); !stays {
			if _, err := w.exec("delete from object where environment = ? and type = ? and id = ?", e.id, o.Type, o.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// Orphans are the names of what a manifest does not allow, where that is what err says.
func Orphans(err error) (list []string, total int, ok bool) {
	orphans, ok := errors.AsType[*directory.OrphanError](err)
	if !ok {
		return nil, 0, false
	}
	for _, o := range orphans.Objects {
		list = append(list, o.String())
	}
	for _, r := range orphans.Relations {
		list = append(list, r.String())
	}
	return list, orphans.Total, true
}
