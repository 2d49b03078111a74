// Package convert converts LDIF, CSV and Keycloak's realm exports to a directory with the default manifest.
//
// It is strict: ambiguous data is a problem with file and line, and then there is no result. Data that a directory
// cannot have, or does not need, is left out and counted. Passwords and other credentials are never copied.
//
// Of this module it imports directory and directory/format, besides the foundations.
package convert

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/durable"
	"gatehouse/terminal"
)

const (
	maxFile     = 4 << 30
	maxProblems = 20
	maxRecords  = 20_000_000 // objects, or relations, of one result
	maxPlaces   = 3          // places that are listed for a reason of omission
)

// Result is the result of a conversion.
type Result struct {
	Snapshot *directory.Snapshot
	Left     []Left // in order of first occurrence
	Doubts   []Left // converted, but possibly not as intended
}

// Left counts what was left out, or may be wrong, for one reason.
type Left struct {
	Reason string
	Count  int
	First  []string // the first three, with place and text
}

// Problems is the error of a failed conversion.
type Problems struct {
	List []format.Problem
	More bool
}

func (p *Problems) Error() string {
	var b strings.Builder
	if p.More {
		fmt.Fprintf(&b, "the files have problems, nothing was written; the first %d are:", len(p.List))
	} else {
		fmt.Fprintf(&b, "the files have %s, nothing was written:", terminal.Count(len(p.List), "problem"))
	}
	for _, one := range p.List {
		b.WriteString("\n" + one.String())
	}
	return b.String()
}

// errEnough stops reading after the maximum number of problems.
var errEnough = errors.New("enough problems")

// place is a position in a file.
type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

type placedObject struct {
	directory.Object
	at place
}

type placedRelation struct {
	directory.Relation
	at place
}

// owner is the user of an identity.
type owner struct {
	user string
	at   place
}

// draft is a directory under construction.
type draft struct {
	fold       bool // ids and identities are case-insensitive, as in LDAP
	objects    []placedObject
	relations  []placedRelation
	first      map[directory.Ref]place // of objects; ids as given by key
	identities map[string]owner
	left       []Left
	doubts     []Left
	problems   Problems
}

func newDraft() *draft {
	return &draft{first: map[directory.Ref]place{}, identities: map[string]owner{}}
}

func (d *draft) key(id string) string {
	if d.fold {
		return strings.ToLower(id)
	}
	return id
}

func (d *draft) problem(at place, text string, args ...any) error {
	if len(d.problems.List) == maxProblems {
		d.problems.More = true
		return errEnough
	}
	d.problems.List = append(d.problems.List, format.Problem{File: at.file, Line: at.line, Text: fmt.Sprintf(text, args...)})
	return nil
}

func (d *draft) leaveOut(at place, what, reason string) { note(&d.left, at, what, reason) }

func (d *draft) addDoubt(at place, what, reason string) { note(&d.doubts, at, what, reason) }

func note(list *[]Left, at place, what, reason string) {
	i := slices.IndexFunc(*list, func(l Left) bool { return l.Reason == reason })
	if i < 0 {
		i = len(*list)
		*list = append(*list, Left{Reason: reason})
	}
	l := &(*list)[i]
	if l.Count++; l.Count <= maxPlaces {
		l.First = append(l.First, strings.TrimSpace(at.String()+" "+clip(what)))
	}
}

// object adds an object, which must be new.
func (d *draft) object(o directory.Object, at place) error {
	ref := directory.Ref{Type: o.Type, ID: d.key(o.ID)}
	if before, ok := d.first[ref]; ok {
		return d.problem(at, "%s is there twice: the first is at %v; rename one, or remove it", clip(o.String()), before)
	}
	if len(d.objects) == maxRecords {
		return fmt.Errorf("%v: more than %d objects", at, maxRecords)
	}
	d.first[ref] = at
	d.objects = append(d.objects, placedObject{o, at})
	return nil
}

// ensure adds an object if it is new.
func (d *draft) ensure(ref directory.Ref, at place) error {
	if _, ok := d.first[directory.Ref{Type: ref.Type, ID: d.key(ref.ID)}]; ok {
		return nil
	}
	return d.object(directory.Object{Ref: ref}, at)
}

// identity maps a name to a user. A name of two users is a problem: the caller would be ambiguous.
func (d *draft) identity(user, name string, at place) error {
	if name == "" {
		return nil
	}
	if before, ok := d.identities[d.key(name)]; ok {
		if before.user == user {
			return nil
		}
		return d.problem(at, "identity %s of user %s is that of user %s at %v too, so it does not say who calls; give one of them another, or leave it out",
			clip(name), clip(user), clip(before.user), before.at)
	}
	d.identities[d.key(name)] = owner{user, at}
	ref := directory.Ref{Type: "identity", ID: name}
	if err := d.object(directory.Object{Ref: ref}, at); err != nil {
		return err
	}
	return d.relate(ref, "identifier", directory.Ref{Type: "user", ID: user}, "", at)
}

func (d *draft) relate(object directory.Ref, relation string, subject directory.Ref, subjectRelation string, at place) error {
	if len(d.relations) == maxRecords {
		return fmt.Errorf("%v: more than %d relations", at, maxRecords)
	}
	d.relations = append(d.relations, placedRelation{directory.Relation{Object: object, Relation: relation, Subject: subject, SubjectRelation: subjectRelation}, at})
	return nil
}

// finish builds the directory, or returns the problems. err is what ended the reading.
func (d *draft) finish(err error) (*Result, error) {
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if len(d.problems.List) > 0 {
		return nil, &d.problems
	}
	order := func(a, b placedRelation) int {
		return cmp.Or(cmp.Compare(a.Object.Type, b.Object.Type), cmp.Compare(a.Object.ID, b.Object.ID), cmp.Compare(a.Relation.Relation, b.Relation.Relation),
			cmp.Compare(a.Subject.Type, b.Subject.Type), cmp.Compare(a.Subject.ID, b.Subject.ID), cmp.Compare(a.SubjectRelation, b.SubjectRelation))
	}
	slices.SortStableFunc(d.relations, order)
	d.relations = slices.CompactFunc(d.relations, func(a, b placedRelation) bool { return order(a, b) == 0 })
	b := directory.NewBuilder(directory.DefaultManifest(), directory.Limits{}, len(d.objects), len(d.relations))
	for _, o := range d.objects {
		if err := b.AddObject(o.Object); err != nil {
			if d.problem(o.at, "%s: %v", clip(o.String()), err) != nil {
				return nil, &d.problems
			}
		}
	}
	if len(d.problems.List) > 0 {
		return nil, &d.problems
	}
	for _, r := range d.relations {
		if err := b.AddRelation(r.Relation); err != nil {
			if d.problem(r.at, "%s: %v", clip(r.String()), err) != nil {
				return nil, &d.problems
			}
		}
	}
	if len(d.problems.List) > 0 {
		return nil, &d.problems
	}
	s, err := b.Finish(0)
	if err != nil {
		return nil, err
	}
	return &Result{Snapshot: s, Left: d.left, Doubts: d.doubts}, nil
}

// isSecret reports whether a name is that of a password or another credential, which is never copied.
func isSecret(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"password", "passwd", "passphrase", "pwd", "secret", "credential", "token", "hash", "apikey", "api_key", "api-key", "privatekey", "private_key", "private-key", "otp"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// clip shortens a text from a file for one line of output.
func clip(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

// WriteFolder writes the directory as a folder for format.Load. The folder is put in place atomically. An existing
// folder with content is replaced only with force, and only if it contains nothing but a directory in this form.
func (r *Result) WriteFolder(path string, force bool) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	path = filepath.Clean(path)
	full, err := occupied(path)
	if err != nil {
		return err
	}
	if full && !force {
		return fmt.Errorf("%s is not empty\nname a folder that does not exist, or give --force to replace the directory in it", path)
	}
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, "."+filepath.Base(path)+"-*"+durable.Ending)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	made, old := filepath.Join(work, "made"), filepath.Join(work, "old")
	if err := format.WriteFolder(made, r.Snapshot); err != nil {
		return err
	}
	if !full {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // an empty folder; rename does not replace it
			return err
		}
		if err := os.Rename(made, path); err != nil {
			return err
		}
		return durable.SyncFolder(parent)
	}
	if err := os.Rename(path, old); err != nil {
		return err
	}
	if err := os.Rename(made, path); err != nil {
		return errors.Join(err, os.Rename(old, path))
	}
	return durable.SyncFolder(parent)
}

// occupied reports whether a folder has content. Content other than a directory of WriteFolder is an error.
func occupied(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !slices.Contains([]string{format.ManifestFile, format.ObjectsFile, format.RelationsFile}, e.Name()) {
			return true, fmt.Errorf("%s has other files (%s), which stay\nname a folder that does not exist", path, e.Name())
		}
	}
	return len(entries) > 0, nil
}
