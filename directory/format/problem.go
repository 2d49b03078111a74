package format

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse/directory"
)

// Problem is one thing that is wrong with a directory, and where.
type Problem struct {
	File string
	Line int // from 1; 0: the file as a whole
	Text string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
}

// Problems is the error of a directory that was read and cannot be loaded.
type Problems struct {
	List []Problem // in the order of the files, objects before relations
	More bool      // Load gave up; there may be more
}

func (p *Problems) Error() string {
	var b strings.Builder
	if p.More {
		fmt.Fprintf(&b, "the directory has problems, nothing was loaded; the first %d are:", len(p.List))
	} else {
		fmt.Fprintf(&b, "the directory has %d problem(s), nothing was loaded:", len(p.List))
	}
	for _, one := range p.List {
		b.WriteString("\n" + one.String())
	}
	return b.String()
}

// objectProblem is why an object cannot be in a directory with this manifest, with what to do.
func objectProblem(m *directory.Manifest, o *directory.Object, err error) string {
	what := "object " + clip(o.String())
	if errors.Is(err, directory.ErrUnknownType) {
		return fmt.Sprintf("%s: %v: the manifest has %s; correct it, or add the type to the manifest", what, err, list(m.Types()))
	}
	return fmt.Sprintf("%s: %v", what, err)
}

// relationProblem is the same of a relation.
func relationProblem(m *directory.Manifest, r *directory.Relation, err error) string {
	what := "relation " + clip(r.String())
	switch {
	case errors.Is(err, directory.ErrUnknownType):
		return fmt.Sprintf("%s: %v: the manifest has %s; correct it, or add the type to the manifest", what, err, list(m.Types()))
	case errors.Is(err, directory.ErrUnknownRelation):
		return fmt.Sprintf("%s: %v: %s; correct it, or add the relation to the manifest", what, err, knownRelations(m, r))
	case errors.Is(err, directory.ErrNotFound):
		return fmt.Sprintf("%s: %v; add the object, or remove the relation", what, err)
	case errors.Is(err, directory.ErrNotAllowed):
		return fmt.Sprintf("%s: %v; correct the subject, or add it to %s#%s in the manifest", what, err, r.Object.Type, r.Relation)
	}
	return fmt.Sprintf("%s: %v", what, err)
}

// knownRelations says which relations the type has whose relation is not known.
func knownRelations(m *directory.Manifest, r *directory.Relation) string {
	typ, name := r.Object.Type, r.Relation
	if slices.Contains(m.Relations(typ), name) {
		typ, name = r.Subject.Type, r.SubjectRelation
	}
	if slices.Contains(m.Permissions(typ), name) {
		return fmt.Sprintf("%q is a permission of %s, which follows from relations and cannot be written", name, typ)
	}
	return fmt.Sprintf("%s has %s", typ, list(m.Relations(typ)))
}

// untyped is what has a type that the built-in manifest lacks. Several are one problem: a manifest solves them together.
type untyped struct {
	types []string // the first
	count int
	index int // of the problem
}

// unknownType notes something whose types the built-in manifest does not have all of. text is the problem where it is the only one.
func (l *loader) unknownType(file string, line int, text string, types ...string) error {
	const (
		most   = 12     // types that are named
		enough = 10_000 // before the reading ends
	)
	u := l.untyped
	before := len(u.types)
	for _, t := range types {
		if len(u.types) < most && !slices.Contains(u.types, clip(t)) && !slices.Contains(l.manifest.Types(), t) {
			u.types = append(u.types, clip(t))
		}
	}
	if u.count++; u.count == 1 {
		u.index = len(l.problems)
		return l.complain(file, line, text)
	}
	if u.count == enough {
		l.more = true
		return errEnough
	}
	if u.count > 2 && len(u.types) == before {
		return nil
	}
	add := "add them to " + filepath.Join(l.folder.path, ManifestFile)
	if l.folder.alone {
		add = "name a manifest that has them"
	}
	l.problems[u.index].Text = fmt.Sprintf("unknown types: %s. No manifest was found, so the built-in one is used, which has %s; correct them, or %s",
		strings.Join(u.types, ", "), list(l.manifest.Types()), add)
	return nil
}

// list is names as text, some of many.
func list(names []string) string {
	const most = 12
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// clip keeps a text from a file to a length that a line of output can have.
func clip(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
