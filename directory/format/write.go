package format

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"gatehouse/directory"
	"gatehouse/durable"
)

// WriteFolder writes a directory as a folder of manifest and JSON lines, for Load. The folder must be empty, or not
// exist.
func WriteFolder(path string, s *directory.Snapshot) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if names, err := readNames(path); err != nil {
		return err
	} else if len(names) > 0 {
		return fmt.Errorf("%s is not empty; name a folder that does not exist", path)
	}
	return errors.Join(
		durable.WriteFile(filepath.Join(path, ManifestFile), s.Manifest().Text(), 0o644),
		durable.Write(filepath.Join(path, ObjectsFile), 0o644, func(w io.Writer) error { return writeObjects(w, s, "\n") }),
		durable.Write(filepath.Join(path, RelationsFile), 0o644, func(w io.Writer) error { return writeRelations(w, s, "\n") }))
}

// WriteJSONLines writes the objects, then the relations, one per line.
func WriteJSONLines(w io.Writer, s *directory.Snapshot) error {
	if err := writeObjects(w, s, "\n"); err != nil {
		return err
	}
	return writeRelations(w, s, "\n")
}

// WriteTopaz writes one JSON document with objects and relations, for Topaz's import. Topaz has no expiry: expiring
// relations keep expires_at, which Topaz rejects.
func WriteTopaz(w io.Writer, s *directory.Snapshot) error {
	if _, err := io.WriteString(w, "{\"objects\": [\n"); err != nil {
		return err
	}
	if err := writeObjects(w, s, ",\n"); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "\n], \"relations\": [\n"); err != nil {
		return err
	}
	if err := writeRelations(w, s, ",\n"); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n]}\n")
	return err
}

// between writes the separators of records; a newline also ends the last.
type between struct {
	w    io.Writer
	by   string
	some bool
	buf  []byte
}

func (b *between) record() error {
	if b.by == "\n" {
		b.buf = append(b.buf, '\n')
	} else if b.some {
		if _, err := io.WriteString(b.w, b.by); err != nil {
			return err
		}
	}
	b.some = true
	_, err := b.w.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

func writeObjects(w io.Writer, s *directory.Snapshot, by string) error {
	b := between{w: w, by: by}
	for o := range s.Objects("") {
		b.buf = AppendObject(b.buf, o)
		if err := b.record(); err != nil {
			return err
		}
	}
	return nil
}

func writeRelations(w io.Writer, s *directory.Snapshot, by string) error {
	b := between{w: w, by: by}
	for r := range s.Relations(directory.RelationFilter{}, time.Unix(0, 0)) { // expired ones included
		b.buf = AppendRelation(b.buf, r)
		if err := b.record(); err != nil {
			return err
		}
	}
	return nil
}

// AppendObject appends an object as a JSON line, without the newline.
func AppendObject(out []byte, o directory.Object) []byte {
	out = appendField(append(out, '{'), "type", o.Type)
	out = appendField(append(out, ','), "id", o.ID)
	if o.DisplayName != "" {
		out = appendField(append(out, ','), "display_name", o.DisplayName)
	}
	if len(o.Properties) > 0 {
		out = append(append(out, `,"properties":`...), o.Properties...)
	}
	return append(out, '}')
}

// AppendRelation appends a relation as a JSON line, without the newline.
func AppendRelation(out []byte, r directory.Relation) []byte {
	out = appendField(append(out, '{'), "object_type", r.Object.Type)
	out = appendField(append(out, ','), "object_id", r.Object.ID)
	out = appendField(append(out, ','), "relation", r.Relation)
	out = appendField(append(out, ','), "subject_type", r.Subject.Type)
	out = appendField(append(out, ','), "subject_id", r.Subject.ID)
	if r.SubjectRelation != "" {
		out = appendField(append(out, ','), "subject_relation", r.SubjectRelation)
	}
	if !r.Expires.IsZero() {
		out = appendField(append(out, ','), "expires_at", r.Expires.UTC().Format(time.RFC3339))
	}
	return append(out, '}')
}

func appendField(out []byte, name, value string) []byte {
	return appendString(append(appendString(out, name), ':'), value)
}
