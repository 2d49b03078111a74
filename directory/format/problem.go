package format

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse/directory"
	"gatehouse/terminal"
)

// Problem is an error in a directory, with its place.
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

// Problems is the error of a readable directory that cannot be loaded.
type Problems struct {
	List []Problem // in file order, objects before relations
	More bool      // Load stopped early; there may be more
}

func (p *Problems) Error() string {
	var b strings.Builder
	if p.More {
		fmt.Fprintf(&b, "the directory has problems, nothing was loaded; the first %d are:", len(p.List))
	} else {
		fmt.Fprintf(&b, "the directory has %s, nothing was loaded:", terminal.Count(len(p.List), "problem"))
	}
	for _, one := range p.List {
		b.WriteString("\n" + one.String())
	}
	return b.String()
}

// objectProblem explains why the manifest does not allow an object, with a hint.
func objectProblem(m *directory.Manifest, o *directory.Object, err error) string {
	what := "object " + clip(o.String())
	if errors.Is(err, directory.ErrUnknownType) {
		return fmt.Sprintf("%s: %v: the manifest has %s; correct it, or add the type to the manifest", what, err, list(m.Types()))
	}
	return fmt.Sprintf("%s: %v", what, err)
}

// relationProblem explains why the manifest does not allow a relation, with a hint.
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

// knownRelations lists the relations of the type, for an unknown one.
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

// untyped counts records of types that the built-in manifest lacks. They are one problem: a manifest solves all.
type untyped struct {
	types []string // the first ones
	count int
	index int // of the problem
}

// unknownType records a record with types that the built-in manifest lacks. text is the problem if it is the only one.
func (l *loader) unknownType(file string, line int, text string, types ...string) error {
	const (
		most   = 12     // types that are listed
		enough = 10_000 // then reading stops
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
		return l.addProblem(file, line, text)
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

// list formats names, the first few of many.
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

// clip shortens a text from a file for one line of output.
func clip(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
