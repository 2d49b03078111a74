package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse/directory"
)

// ScimPrefix begins the sources of SCIM: scim:okta for the token okta. Nothing else writes in their name.
const ScimPrefix = "scim:"

// The kinds of resources.
const (
	ScimUser  = "User"
	ScimGroup = "Group"
)

// ErrTaken is a name that another user or group has, or an object of the directory that is not SCIM's to write.
var ErrTaken = errors.New("it is taken")

// ScimResource is a user or a group as its provider pushed it.
type ScimResource struct {
	ID, Kind string
	Object   string // the id of the directory's object
	Name     string // userName or displayName
	External string
	Body     []byte // JSON; the store does not read it
	Version  int64

	Created, Changed time.Time
}

// Etag is the resource's version as HTTP has it.
func (r *ScimResource) Etag() string { return fmt.Sprintf(`W/"%d"`, r.Version) }

// ScimMember is a member of a group, or the group of a member.
type ScimMember struct{ ID, Kind, Name string }

// ScimDerived is what of a resource is in the directory.
type ScimDerived struct {
	DisplayName string
	Properties  []byte   // of a user: what becomes the property scim
	Names       []string // of a user: what else than his name says who he is
}

// ScimTx is a write of the SCIM server: what it does is done together, or not at all.
type ScimTx struct {
	w      *writer
	e      *Environment
	actor  string
	source string
	link   bool // users that exist may be linked
	edits  []Edit
	grown  string // the group that has more members than before
}

// ScimWrite has do write in one transaction, in the name of a source, with its changes of the directory.
func (s *Store) ScimWrite(ctx context.Context, e *Environment, actor, source string, link bool, do func(*ScimTx) error) error {
	if !strings.HasPrefix(source, ScimPrefix) || len(source) > maxOwn {
		return fmt.Errorf("%w: the name of a token for SCIM has at most %d bytes", ErrInvalid, maxOwn-len(ScimPrefix))
	}
	return s.submit(ctx, 100, func(w *writer) error {
		was, staged := w.staged[e]
		frames, done := w.frames[e], false
		defer func() {
			if done {
				return
			}
			w.frames[e] = frames
			if staged {
				w.staged[e] = was
			} else {
				delete(w.staged, e)
			}
		}()
		tx := &ScimTx{w: w, e: e, actor: actor, source: source, link: link}
		err := do(tx)
		if err == nil {
			err = tx.flush()
		}
		done = err == nil
		return err
	})
}

// scimEdits are the changes of one revision: an edge applies each as a whole.
const scimEdits = 100

// flush writes the collected changes of the directory, in some revisions of one transaction.
func (tx *ScimTx) flush() error {
	if tx.grown != "" {
		if err := tx.fits(); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(tx.edits, scimEdits) {
		if _, err := tx.w.directory(tx.e, &Write{Actor: tx.actor, Source: tx.source, Edits: part}); err != nil {
			return err
		}
	}
	tx.edits = nil
	return nil
}

func (tx *ScimTx) snapshot() *directory.Snapshot {
	if s := tx.w.staged[tx.e]; s != nil {
		return s
	}
	return tx.e.Snapshot()
}

const scimColumns = "id, kind, object, name, external_id, body, version, created_at, changed_at"

func scanScim(row scanner) (*ScimResource, error) {
	var r ScimResource
	var created, changed int64
	if err := row.Scan(&r.ID, &r.Kind, &r.Object, &r.Name, &r.External, &r.Body, &r.Version, &created, &changed); err != nil {
		return nil, err
	}
	r.Created, r.Changed = time.UnixMilli(created).UTC(), time.UnixMilli(changed).UTC()
	return &r, nil
}

// Get reads a resource of this source. Its error is ErrNotFound where there is none.
func (tx *ScimTx) Get(kind, id string) (*ScimResource, error) {
	row := tx.w.store.write.QueryRowContext(context.Background(), "select "+scimColumns+" from scim_resource where environment = ? and id = ? and kind = ? and source = ?", tx.e.id, id, kind, tx.source)
	return oneScim(row, kind, id)
}

// Put stores a new resource, where its ID is empty, or a changed one.
func (tx *ScimTx) Put(r *ScimResource, d ScimDerived) error {
	now := tx.w.store.with.Clock()
	lower := Fold(r.Name)
	isNew := r.ID == ""
	if isNew {
		r.ID, r.Created = newID(), now
	}
	r.Changed = now
	r.Version++
	var other string
	found, err := tx.w.row([]any{&other}, "select id from scim_resource where environment = ? and kind = ? and (name = ? or object = ? and object <> '') and id <> ?", tx.e.id, r.Kind, lower, r.Object, r.ID)
	switch {
	case err != nil:
		return err
	case found && r.Kind == ScimUser:
		return fmt.Errorf("a user with the userName %q, or one who had it before, exists: %w", r.Name, ErrTaken)
	case found:
		return fmt.Errorf("a group with the displayName %q, or one that had it before, exists: %w", r.Name, ErrTaken)
	}
	if _, err := tx.w.exec(`insert into scim_resource (environment, id, kind, source, object, name, external_id, body, version, created_at, changed_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		on conflict (environment, id) do update set name = excluded.name, external_id = excluded.external_id, body = excluded.body, version = excluded.version, changed_at = excluded.changed_at`,
		tx.e.id, r.ID, r.Kind, tx.source, r.Object, lower, r.External, r.Body, r.Version, r.Created.UnixMilli(), r.Changed.UnixMilli()); err != nil {
		return err
	}
	if r.Kind == ScimGroup {
		return tx.putGroup(r, d, isNew)
	}
	return tx.putUser(r, d, isNew)
}

// putGroup derives a group's object. A group that another source wrote is never linked: its name is no proof.
func (tx *ScimTx) putGroup(r *ScimResource, d ScimDerived, isNew bool) error {
	ref := directory.Ref{Type: "group", ID: r.Object}
	var revision uint64
	var owner string
	found, err := tx.w.ownerOfObject(tx.e, ref, &revision, &owner)
	if err != nil {
		return err
	}
	if isNew && found && owner != tx.source {
		return fmt.Errorf("%s exists already in the directory, and is of source %q: a group is not linked by its name: %w", ref, owner, ErrTaken)
	}
	tx.edits = append(tx.edits, Edit{Change: directory.Change{SetObject: &directory.Object{Ref: ref, DisplayName: d.DisplayName}}})
	return nil
}

// putUser derives a user's object, with the part of his provider, and his identities.
func (tx *ScimTx) putUser(r *ScimResource, d ScimDerived, isNew bool) error {
	ref := directory.Ref{Type: "user", ID: r.Object}
	var revision uint64
	var owner, partOf string
	found, err := tx.w.ownerOfObject(tx.e, ref, &revision, &owner)
	if err != nil {
		return err
	}
	hasPart, err := tx.w.row([]any{&partOf}, "select source from object_part where environment = ? and type = ? and id = ?", tx.e.id, ref.Type, ref.ID)
	if err != nil {
		return err
	}
	switch mine := owner == tx.source || hasPart && partOf == tx.source; {
	case !found, mine && !isNew, mine && owner == tx.source:
	case strings.HasPrefix(owner, ScimPrefix):
		return fmt.Errorf("%s is of another identity provider, %q: %w", ref, owner, ErrTaken)
	case !tx.link:
		return fmt.Errorf("%s exists already in the directory, and is of source %q: a token that also has the scope %s:%s links such users: %w", ref, owner, ScopeScimLink, tx.e.Name, ErrTaken)
	}
	if !found {
		owner = tx.source
	}
	if err := tx.setPart(ref, r.ID, d.DisplayName, d.Properties); err != nil {
		return err
	}
	base := []byte(nil)
	if o, ok := tx.snapshot().Object(ref); ok {
		base = o.Properties
	}
	properties, err := compose(base, d.Properties)
	if err != nil {
		return err
	}
	tx.edits = append(tx.edits, Edit{Change: directory.Change{SetObject: &directory.Object{Ref: ref, DisplayName: d.DisplayName, Properties: properties}}, owner: owner})
	return tx.setIdentities(r, d)
}

// setPart stores what the provider says of an object.
func (tx *ScimTx) setPart(ref directory.Ref, resource, display string, properties []byte) error {
	tx.e.hasParts.Store(true)
	_, err := tx.w.exec(`insert into object_part (environment, type, id, source, resource, application, display_name, properties) values (?, ?, ?, ?, ?, '', ?, ?)
		on conflict do update set source = excluded.source, resource = excluded.resource, display_name = excluded.display_name, properties = excluded.properties`,
		tx.e.id, ref.Type, ref.ID, tx.source, resource, display, properties)
	return err
}

// maxKeys bounds the names by which one user is known.
const maxKeys = 200

// setIdentities makes the identities of a user those of his names. One that is another's userName is left to him; one that
// two users have in another way names both, and so lets in neither.
func (tx *ScimTx) setIdentities(r *ScimResource, d ScimDerived) error {
	m := tx.snapshot().Manifest()
	if !m.Allows("identity", "identifier", "user") {
		return nil
	}
	keys := map[string]int{}
	add := func(name string, isName int) {
		for _, key := range []string{name, Fold(name)} {
			if key == "" || key == "*" || len(key) > 1024 || strings.ContainsRune(key, 0) {
				continue
			}
			keys[key] = max(keys[key], isName)
		}
	}
	if r.Version > 0 {
		add(r.Name, 1)
		for _, name := range d.Names {
			add(name, 0)
		}
	}
	if len(keys) > maxKeys {
		return fmt.Errorf("%w: a user has at most %d names, e-mail addresses and external ids together", ErrInvalid, maxKeys)
	}
	affected, err := tx.texts("select key from scim_identity where environment = ? and resource = ?", tx.e.id, r.ID)
	if err != nil {
		return err
	}
	if _, err := tx.w.exec("delete from scim_identity where environment = ? and resource = ?", tx.e.id, r.ID); err != nil {
		return err
	}
	for key, isName := range keys {
		if _, err := tx.w.exec("insert into scim_identity (environment, key, resource, is_name) values (?, ?, ?, ?)", tx.e.id, key, r.ID, isName); err != nil {
			return err
		}
		affected = append(affected, key)
	}
	slices.Sort(affected)
	for _, key := range slices.Compact(affected) {
		if err := tx.setIdentity(key, r.Object, keys[key] == 1); err != nil {
			return err
		}
	}
	return nil
}

// setIdentity makes an identity name those users whose it is. must says that it has to name this user.
func (tx *ScimTx) setIdentity(key, user string, must bool) error {
	const users = "select r.object from scim_identity i join scim_resource r on r.environment = i.environment and r.id = i.resource where i.environment = ? and i.key = ? and r.source = ?"
	want, err := tx.texts(users+" and i.is_name = 1", tx.e.id, key, tx.source)
	if err == nil && len(want) == 0 {
		want, err = tx.texts(users, tx.e.id, key, tx.source)
	}
	if err != nil {
		return err
	}
	ref := directory.Ref{Type: "identity", ID: key}
	var revision uint64
	var owner string
	found, err := tx.w.ownerOfObject(tx.e, ref, &revision, &owner)
	if err != nil {
		return err
	}
	var have []string
	for r := range tx.snapshot().Relations(directory.RelationFilter{Object: ref, Relation: "identifier"}, time.Time{}) {
		if r.Subject.Type == "user" {
			have = append(have, r.Subject.ID)
		}
	}
	want = slices.DeleteFunc(want, func(id string) bool { // whom a forced manifest has deleted
		_, is := tx.snapshot().Object(directory.Ref{Type: "user", ID: id})
		return !is && id != user
	})
	relate := func(user string) *directory.Relation {
		return &directory.Relation{Object: ref, Relation: "identifier", Subject: directory.Ref{Type: "user", ID: user}}
	}
	if found && owner != tx.source { // another's, be it another provider: it stays as it is
		if must && !slices.Equal(have, []string{user}) {
			return fmt.Errorf("%s is of source %q, and does not name user:%s: %w", ref, owner, user, ErrTaken)
		}
		return nil
	}
	if len(want) == 0 {
		if found {
			tx.edits = append(tx.edits, Edit{Change: directory.Change{DeleteObject: &ref}, owner: owner})
		}
		return nil
	}
	if !found {
		tx.edits = append(tx.edits, Edit{Change: directory.Change{SetObject: &directory.Object{Ref: ref}}})
	}
	for _, user := range want {
		if !slices.Contains(have, user) {
			tx.edits = append(tx.edits, Edit{Change: directory.Change{SetRelation: relate(user)}})
		}
	}
	for _, user := range have {
		if slices.Contains(want, user) {
			continue
		}
		r := relate(user)
		if found, err := tx.w.ownerOfRelation(tx.e, r, &revision, &owner); err != nil {
			return err
		} else if found && strings.HasPrefix(owner, ScimPrefix) {
			tx.edits = append(tx.edits, Edit{Change: directory.Change{DeleteRelation: r}, owner: owner})
		}
	}
	return nil
}

// Delete deletes a resource. Its object goes too, with all its relations, but for a user that another source wrote: he
// stays, disabled, without the provider's groups.
func (tx *ScimTx) Delete(r *ScimResource) error {
	ref := directory.Ref{Type: strings.ToLower(r.Kind), ID: r.Object}
	var revision uint64
	var owner string
	found, err := tx.w.ownerOfObject(tx.e, ref, &revision, &owner)
	if err != nil {
		return err
	}
	if r.Kind == ScimGroup && found && owner != tx.source { // it was taken over: it stays, without this provider's members
		members, err := tx.Members(r.ID)
		if err != nil {
			return err
		}
		for _, m := range members {
			if err := tx.Leave(r, []string{m.ID}); err != nil && !errors.Is(err, ErrOwned) {
				return err
			}
		}
	}
	groups, err := tx.texts("select g.object from scim_member m join scim_resource g on g.environment = m.environment and g.id = m.group_id where m.environment = ? and m.member_id = ?", tx.e.id, r.ID)
	if err != nil {
		return err
	}
	for _, text := range []string{
		"update scim_resource set version = version + 1, changed_at = " + fmt.Sprint(tx.w.store.with.Clock().UnixMilli()) + " where environment = ? and id in (select group_id from scim_member where environment = scim_resource.environment and member_id = ?)",
		"delete from scim_member where environment = ? and member_id = ?", "delete from scim_member where environment = ? and group_id = ?",
		"delete from scim_resource where environment = ? and id = ?"} {
		if _, err := tx.w.exec(text, tx.e.id, r.ID); err != nil {
			return err
		}
	}
	if r.Kind == ScimGroup {
		if found && owner == tx.source {
			tx.edits = append(tx.edits, Edit{Change: directory.Change{DeleteObject: &ref}})
		}
		return nil
	}
	r.Version = 0 // it has no names any more
	if err := tx.setIdentities(r, ScimDerived{}); err != nil {
		return err
	}
	if !found || owner == tx.source {
		if found {
			tx.edits = append(tx.edits, Edit{Change: directory.Change{DeleteObject: &ref}, owner: owner})
		}
		_, err := tx.w.exec("delete from object_part where environment = ? and type = ? and id = ?", tx.e.id, ref.Type, ref.ID)
		return err
	}
	return tx.unlink(ref, owner, groups)
}

// unlink disables a user that another source wrote, and takes him out of the provider's groups.
func (tx *ScimTx) unlink(ref directory.Ref, owner string, groups []string) error {
	gone := []byte(`{"deleted":true,"disabled":true}`)
	if err := tx.setPart(ref, "", "", gone); err != nil {
		return err
	}
	o, _ := tx.snapshot().Object(ref)
	properties, err := compose(o.Properties, gone)
	if err != nil {
		return err
	}
	tx.edits = append(tx.edits, Edit{Change: directory.Change{SetObject: &directory.Object{Ref: ref, DisplayName: o.DisplayName, Properties: properties}}, owner: owner})
	for _, group := range groups {
		if err := tx.leave(group, directory.Relation{Subject: ref}); err != nil {
			return err
		}
	}
	return nil
}

// keepPart puts what an object's provider says of it into a change that another source makes. So the application may add to
// a user what the provider does not know, and cannot take from him what it said, such as that he is disabled.
func (w *writer) keepPart(e *Environment, with *Write, c *Edit) error {
	if !e.hasParts.Load() || c.owner != "" {
		return nil
	}
	var source, resource, application, display string
	var part []byte
	find := func(ref directory.Ref) (bool, error) {
		return w.row([]any{&source, &resource, &application, &display, &part}, "select source, resource, application, display_name, properties from object_part where environment = ? and type = ? and id = ?", e.id, ref.Type, ref.ID)
	}
	switch {
	case c.DeleteObject != nil:
		found, err := find(*c.DeleteObject)
		if found && resource != "" {
			err = fmt.Errorf("%w: it is a user of the identity provider %q: delete or deactivate him there", ErrOwned, source)
		}
		return err
	case c.SetObject != nil:
		found, err := find(c.SetObject.Ref)
		if !found || err != nil {
			return err
		}
		var revision uint64
		var owner string
		exists, err := w.ownerOfObject(e, c.SetObject.Ref, &revision, &owner)
		switch {
		case err != nil:
			return err
		case !exists: // the provider deleted him, and then the application did: he comes back as he went
			owner = with.Source
		case !strings.HasPrefix(owner, ScimPrefix) && owner != with.Source && !with.TakeOver:
			return nil // mayEdit says so
		case strings.HasPrefix(owner, ScimPrefix) && application != "" && application != with.Source && !with.TakeOver:
			return fmt.Errorf("%w: its properties are of %q", ErrOwned, application)
		}
		next := *c.SetObject
		if display != "" {
			next.DisplayName = display
		}
		if next.Properties, err = compose(next.Properties, part); err != nil {
			return err
		}
		c.SetObject, c.owner = &next, owner
		if !strings.HasPrefix(owner, ScimPrefix) {
			c.owner = with.Source
			return nil
		}
		_, err = w.exec("update object_part set application = ? where environment = ? and type = ? and id = ?", with.Source, e.id, c.SetObject.Type, c.SetObject.ID)
		return err
	}
	return nil
}

// texts reads a column.
func (tx *ScimTx) texts(query string, args ...any) (list []string, err error) {
	rows, err := tx.w.store.write.QueryContext(context.Background(), query, args...)
	if err != nil {
		return nil, &databaseError{err}
	}
	for rows.Next() && err == nil {
		var text string
		if err = rows.Scan(&text); err == nil {
			list = append(list, text)
		}
	}
	if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return nil, &databaseError{err}
	}
	return list, nil
}

// compose puts the provider's part into properties. What they say of it themselves does not count.
func compose(properties, part []byte) ([]byte, error) {
	all := map[string]json.RawMessage{}
	if len(properties) > 0 {
		d := json.NewDecoder(bytes.NewReader(properties))
		if err := d.Decode(&all); err != nil {
			return nil, fmt.Errorf("%w: properties: %w", ErrInvalid, err)
		}
	}
	delete(all, directory.ProviderPart)
	if len(part) > 0 {
		all[directory.ProviderPart] = part
	}
	if len(all) == 0 {
		return nil, nil
	}
	return json.Marshal(all)
}

// Fold is a name in small letters, as far as they are of ASCII: others would make different names one.
func Fold(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// newID is a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // cannot fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
