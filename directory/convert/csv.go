package convert

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"gatehouse/directory"
)

// CSVOptions describe the rows of a table.
type CSVOptions struct {
	Type         string // of the objects; "": user
	ID           string // column of their ids; "": id
	WithoutEmail bool   // an e-mail address is no identity
}

const (
	maxRow     = 1 << 20
	maxColumns = 1000
)

// CSV reads a table in RFC 4180 format, with a header. docs/directory.md describes its columns.
func CSV(file string, in io.Reader, o CSVOptions) (*Result, error) {
	if o.Type == "" {
		o.Type = "user"
	}
	if o.ID == "" {
		o.ID = "id"
	}
	if !slices.Contains(directory.DefaultManifest().Types(), o.Type) {
		return nil, fmt.Errorf("type %q is not one of the default manifest, which has %s", o.Type, strings.Join(directory.DefaultManifest().Types(), ", "))
	}
	t := table{draft: newDraft(), file: file, options: o}
	return t.finish(t.read(in))
}

type table struct {
	*draft
	file    string
	options CSVOptions
	names   []string // of the columns
	id      int
}

// rowLimit stops reading when a row is too long.
type rowLimit struct {
	in         io.Reader
	since, all int64
}

var errRow = fmt.Errorf("a row of more than %d bytes, or a quote that has no end", maxRow)

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.since > maxRow {
		return 0, errRow
	}
	n, err := l.in.Read(p)
	l.since += int64(n)
	if l.all += int64(n); l.all > maxFile {
		return 0, fmt.Errorf("more than %d bytes", int64(maxFile))
	}
	return n, err
}

func (t *table) read(in io.Reader) error {
	limit := &rowLimit{in: &withoutMark{in: in}}
	r := csv.NewReader(limit)
	r.ReuseRecord = true
	for n := 0; ; n++ {
		limit.since = 0
		row, err := r.Read()
		if errors.Is(err, io.EOF) && n > 0 {
			return nil
		}
		if err != nil {
			return t.rowError(err, n == 0)
		}
		line, _ := r.FieldPos(0)
		at := place{t.file, line}
		if i := slices.IndexFunc(row, func(s string) bool { return !utf8.ValidString(s) }); i >= 0 {
			err = t.problem(at, "column %d is not valid UTF-8; save the file as UTF-8", i+1)
		} else if n == 0 {
			err = t.header(row, at)
		} else {
			err = t.row(row, at)
		}
		if err != nil || n == 0 && len(t.problems.List) > 0 {
			return err
		}
	}
}

// rowError turns a reader's error into a problem. The following rows cannot be parsed reliably.
func (t *table) rowError(err error, first bool) error {
	var p *csv.ParseError
	switch {
	case errors.Is(err, io.EOF) && first:
		return t.problem(place{t.file, 1}, "empty: the first line names the columns")
	case errors.As(err, &p) && errors.Is(p.Err, csv.ErrFieldCount):
		return t.problem(place{t.file, p.StartLine}, "the row has another number of columns than the header, which has %d", len(t.names))
	case errors.As(err, &p):
		return t.problem(place{t.file, p.Line}, "%v; write quotes as \"\" in a field in quotes", p.Err)
	}
	return fmt.Errorf("reading %s: %w", t.file, err)
}

// withoutMark skips a byte order mark.
type withoutMark struct {
	in      io.Reader
	started bool
}

func (w *withoutMark) Read(p []byte) (int, error) {
	if !w.started {
		w.started = true
		var mark [3]byte
		n, err := io.ReadFull(w.in, mark[:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, err
		}
		if string(mark[:n]) != "\ufeff" {
			w.in = io.MultiReader(bytes.NewReader(mark[:n]), w.in)
		}
	}
	return w.in.Read(p)
}

func (t *table) header(row []string, at place) error {
	if len(row) > maxColumns {
		return t.problem(at, "%d columns; %d are possible", len(row), maxColumns)
	}
	t.id = -1
	for i, name := range row {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			return t.problem(at, "column %d has no name", i+1)
		case slices.Contains(t.names, name):
			return t.problem(at, "two columns are named %q", clip(name))
		case t.options.Type != "user" && slices.Contains([]string{"identity", "roles", "groups"}, name):
			return t.problem(at, "a column %q is for users alone; remove it, or give --type user", name)
		}
		if name == t.options.ID {
			t.id = i
		}
		t.names = append(t.names, name)
	}
	if t.id < 0 {
		hint := fmt.Sprintf("name it with --id-column: there are %s", clip(strings.Join(t.names, ", ")))
		if len(row) == 1 && strings.ContainsAny(row[0], ";\t") {
			hint = "columns are separated by commas"
		}
		return t.problem(at, "no column %q; %s", clip(t.options.ID), hint)
	}
	return nil
}

func (t *table) row(row []string, at place) error {
	id := strings.Clone(strings.TrimSpace(row[t.id]))
	if id == "" {
		return t.problem(at, "no id in column %q", t.options.ID)
	}
	ref := directory.Ref{Type: t.options.Type, ID: id}
	o := directory.Object{Ref: ref}
	properties := map[string]any{}
	for i, name := range t.names {
		value := strings.Clone(strings.TrimSpace(row[i]))
		var err error
		switch {
		case value == "" || i == t.id:
		case isSecret(name):
			t.leaveOut(at, name, "columns with the name of a secret")
		case name == "display_name":
			o.DisplayName = value
		case name == "disabled" && ref.Type == "user":
			if value != "true" && value != "false" {
				err = t.problem(at, "disabled is %q; true and false are possible", clip(value))
			} else if value == "true" {
				properties[name] = true
			}
		case ref.Type == "user" && (name == "roles" || name == "groups"):
			if strings.Contains(value, ",") && !strings.Contains(value, ";") {
				t.addDoubt(at, value, fmt.Sprintf("cells of column %s with commas, which are one name each; several have ; between them", name))
			}
			err = t.members(strings.TrimSuffix(name, "s"), value, ref, at)
		case ref.Type == "user" && name == "identity":
			err = t.identity(id, value, at)
		case ref.Type == "user" && name == "email":
			properties[name] = value
			if !t.options.WithoutEmail {
				err = t.identity(id, value, at)
			}
		default:
			properties[name] = value
		}
		if err != nil {
			return err
		}
	}
	var err error
	if o.Properties, err = propertiesOf(properties); err != nil {
		return t.problem(at, "%v", err)
	}
	return t.object(o, at)
}

// members adds a user to the groups or roles listed in a cell.
func (t *table) members(typ, cell string, user directory.Ref, at place) error {
	for id := range strings.SplitSeq(cell, ";") {
		if id = strings.TrimSpace(id); id == "" {
			continue
		}
		ref := directory.Ref{Type: typ, ID: id}
		if err := t.ensure(ref, at); err != nil {
			return err
		}
		if err := t.relate(ref, "member", user, "", at); err != nil {
			return err
		}
	}
	return nil
}

func propertiesOf(p map[string]any) ([]byte, error) {
	if len(p) == 0 {
		return nil, nil
	}
	return json.Marshal(p)
}
