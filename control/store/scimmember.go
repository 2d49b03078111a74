package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"gatehouse/directory"
)

// MaxScimMembers bounds the members of a group that SCIM writes.
const MaxScimMembers = 20_000

// Members are a group's members, without their names.
func (tx *ScimTx) Members(group string) (list []ScimMember, err error) {
	rows, err := tx.w.store.write.QueryContext(context.Background(), "select r.id, r.kind from scim_member m join scim_resource r on r.environment = m.environment and r.id = m.member_id where m.environment = ? and m.group_id = ?", tx.e.id, group)
	if err != nil {
		return nil, &databaseError{err}
	}
	for rows.Next() && err == nil {
		var m ScimMember
		if err = rows.Scan(&m.ID, &m.Kind); err == nil {
			list = append(list, m)
		}
	}
	if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return nil, &databaseError{err}
	}
	return list, nil
}

// Join makes users and groups members of a group; Leave is the reverse. Who is a member already, or is none, stays so. An id
// that this source does not have is passed over: it will never be anybody's.
func (tx *ScimTx) Join(g *ScimResource, members []string) error {
	for _, id := range members {
		r, err := tx.memberRelation(g, id)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		n, err := tx.w.exec("insert into scim_member (environment, group_id, member_id) values (?, ?, ?) on conflict do nothing", tx.e.id, g.ID, id)
		if err != nil {
			return err
		}
		if n > 0 {
			tx.edits = append(tx.edits, Edit{Change: directory.Change{SetRelation: r}})
		}
	}
	tx.grown = g.ID
	return nil
}

// fits checks the size of the group that has grown.
func (tx *ScimTx) fits() error {
	var n int
	if _, err := tx.w.row([]any{&n}, "select count(*) from scim_member where environment = ? and group_id = ?", tx.e.id, tx.grown); err != nil {
		return err
	}
	if n > MaxScimMembers {
		return fmt.Errorf("%w: a group has at most %d members", ErrInvalid, MaxScimMembers)
	}
	return nil
}

// Leave takes members out of a group.
func (tx *ScimTx) Leave(g *ScimResource, members []string) error {
	for _, id := range members {
		n, err := tx.w.exec("delete from scim_member where environment = ? and group_id = ? and member_id = ?", tx.e.id, g.ID, id)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		r, err := tx.memberRelation(g, id)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		if err := tx.leave(g.Object, *r); err != nil {
			return err
		}
	}
	return nil
}

// SetMembers makes these the members of a group.
func (tx *ScimTx) SetMembers(g *ScimResource, members []string) error {
	have, err := tx.Members(g.ID)
	if err != nil {
		return err
	}
	keep := make(map[string]bool, len(members))
	for _, id := range members {
		keep[id] = true
	}
	var gone []string
	for _, m := range have {
		if !keep[m.ID] {
			gone = append(gone, m.ID)
		}
	}
	if err := tx.Leave(g, gone); err != nil {
		return err
	}
	return tx.Join(g, members)
}

// leave ends a membership in the directory. One that another source wrote is an error: the member would stay in the group.
func (tx *ScimTx) leave(group string, r directory.Relation) error {
	r.Object, r.Relation = directory.Ref{Type: "group", ID: group}, "member"
	var revision uint64
	var owner string
	found, err := tx.w.ownerOfRelation(tx.e, &r, &revision, &owner)
	if err != nil || !found {
		return err
	}
	if owner != tx.source {
		return fmt.Errorf("%s is of source %q, which has to end it: %w", r, owner, ErrOwned)
	}
	tx.edits = append(tx.edits, Edit{Change: directory.Change{DeleteRelation: &r}})
	return nil
}

// memberRelation is the membership of a resource of this source; nil where it has none of that id.
func (tx *ScimTx) memberRelation(g *ScimResource, id string) (*directory.Relation, error) {
	var kind, object string
	found, err := tx.w.row([]any{&kind, &object}, "select kind, object from scim_resource where environment = ? and id = ? and source = ?", tx.e.id, id, tx.source)
	if err != nil || !found {
		return nil, err
	}
	r := &directory.Relation{Object: directory.Ref{Type: "group", ID: g.Object}, Relation: "member", Subject: directory.Ref{Type: strings.ToLower(kind), ID: object}}
	if kind == ScimGroup {
		r.SubjectRelation = "member"
	}
	return r, nil
}

func oneScim(row *sql.Row, kind, id string) (*ScimResource, error) {
	r, err := scanScim(row)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%s %q: %w", kind, id, ErrNotFound)
	}
	if err != nil {
		return nil, &databaseError{err}
	}
	return r, nil
}

// ScimFilter selects resources of one source. Empty fields match all.
type ScimFilter struct {
	Kind, ID, Name, External string
	Member                   string // groups that have this member
}

func (f *ScimFilter) where(e *Environment, source string) *where {
	w := &where{text: []string{"environment = ?", "source = ?"}, args: []any{e.id, source}}
	w.is("kind", f.Kind)
	w.is("id", f.ID)
	w.is("name", Fold(f.Name))
	w.is("external_id", f.External)
	if f.Member != "" {
		w.text = append(w.text, "id in (select group_id from scim_member where environment = ? and member_id = ?)")
		w.args = append(w.args, e.id, f.Member)
	}
	return w
}

// ScimCount counts resources.
func (e *Environment) ScimCount(ctx context.Context, source string, f ScimFilter) (n int, err error) {
	w := f.where(e, source)
	_, err = scanOne(e.store.read.QueryRowContext(ctx, "select count(*) from scim_resource where "+w.String(), w.args...), &n) //nolint:gosec // the conditions are ours, their values are arguments
	return n, err
}

// Scim yields resources of a source in the order in which they were made, from the one after offset on, until it returns false.
func (e *Environment) Scim(ctx context.Context, source string, f ScimFilter, offset int, yield func(*ScimResource) bool) error {
	w := f.where(e, source)
	rows, err := e.store.read.QueryContext(ctx, "select "+scimColumns+" from scim_resource where "+w.String()+" order by created_at, id limit -1 offset ?", append(w.args, offset)...) //nolint:gosec // likewise
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanScim(rows)
		if err != nil {
			return err
		}
		if !yield(r) {
			return nil
		}
	}
	return rows.Err()
}

// ScimMembers are the members of a group, or with of the groups of a member, by id.
func (e *Environment) ScimMembers(ctx context.Context, id string, groups bool) (list []ScimMember, err error) {
	from, to := "group_id", "member_id"
	if groups {
		from, to = to, from
	}
	rows, err := e.store.read.QueryContext(ctx, "select r.id, r.kind, coalesce(r.body ->> '$.displayName', r.object) from scim_member m join scim_resource r on r.environment = m.environment and r.id = m."+to+ //nolint:gosec // ours
		" where m.environment = ? and m."+from+" = ? order by r.id", e.id, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var m ScimMember
		if err := rows.Scan(&m.ID, &m.Kind, &m.Name); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, rows.Err()
}
