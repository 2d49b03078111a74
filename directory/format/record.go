package format

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse/directory"
)

// kind is the kind of a record.
type kind uint8

const (
	kindAny kind = iota
	kindObject
	kindRelation
)

// field is a record's field, in either spelling.
type field uint16

const (
	fieldType field = 1 << iota
	fieldID
	fieldDisplayName
	fieldProperties
	fieldObjectType
	fieldObjectID
	fieldRelation
	fieldSubjectType
	fieldSubjectID
	fieldSubjectRelation
	fieldExpiresAt
	fieldCreatedAt // like the next two written by Topaz, and ignored
	fieldUpdatedAt
	fieldETag
)

const (
	objectFields   = fieldType | fieldID | fieldDisplayName | fieldProperties
	relationFields = fieldObjectType | fieldObjectID | fieldRelation | fieldSubjectType | fieldSubjectID | fieldSubjectRelation | fieldExpiresAt
)

func fieldOf(key string) field {
	switch key {
	case "type":
		return fieldType
	case "id":
		return fieldID
	case "display_name", "displayName":
		return fieldDisplayName
	case "properties":
		return fieldProperties
	case "object_type", "objectType":
		return fieldObjectType
	case "object_id", "objectId":
		return fieldObjectID
	case "relation":
		return fieldRelation
	case "subject_type", "subjectType":
		return fieldSubjectType
	case "subject_id", "subjectId":
		return fieldSubjectID
	case "subject_relation", "subjectRelation":
		return fieldSubjectRelation
	case "expires_at", "expiresAt":
		return fieldExpiresAt
	case "created_at", "createdAt":
		return fieldCreatedAt
	case "updated_at", "updatedAt":
		return fieldUpdatedAt
	case "etag":
		return fieldETag
	}
	return 0
}

const (
	objectHas   = "an object has type, id, display_name and properties"
	relationHas = "a relation has object_type, object_id, relation, subject_type, subject_id, subject_relation and expires_at"
)

// decoder decodes records. Its results alias the texts.
type decoder struct {
	json     jsonReader
	seen     field
	object   directory.Object
	relation directory.Relation
}

// record decodes one record. On an error the kind is what the record would have been, as far as known.
func (d *decoder) record(text string, want kind) (kind, *syntaxError) {
	d.json.reset(text)
	d.seen = 0
	d.object, d.relation = directory.Object{}, directory.Relation{}
	if len(text) > maxRecord {
		return want, &syntaxError{0, fmt.Sprintf("longer than %d bytes, which is the most that an object or a relation may have; shorten it", maxRecord)}
	}
	if at := invalidUTF8(text); at >= 0 {
		return want, &syntaxError{at, fmt.Sprintf("not valid UTF-8 (byte 0x%02x); save the file as UTF-8", text[at])}
	}
	d.json.space()
	is, ok := d.fields(want)
	if ok {
		if d.json.space(); d.json.i < len(text) {
			d.json.unexpected("the end of the line")
		}
	}
	return is, d.json.err
}

func invalidUTF8(text string) int {
	if utf8.ValidString(text) {
		return -1
	}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// fields reads a record's fields. A record may also be wrapped, as in {"object": {...}} or {"relation": {...}}.
func (d *decoder) fields(want kind) (kind, bool) {
	r := &d.json
	if start := r.i; !r.skip('{') {
		if r.peek() == '[' && start == 0 {
			return want, r.fail(start, "an array where one object or relation a line should be; name a file with one JSON document .json")
		}
		return want, r.unexpected("a JSON object")
	}
	start := r.i - 1
	if r.space(); r.skip('}') {
		return d.check(start, want)
	}
	for {
		at := r.i
		if r.peek() != '"' {
			return d.kind(want), r.unexpected("a name in quotes")
		}
		key, ok := r.str()
		if !ok {
			return d.kind(want), false
		}
		if r.space(); !r.skip(':') {
			return d.kind(want), r.unexpected(`":"`)
		}
		r.space()
		if r.peek() == '{' && (key == "object" || key == "relation") {
			return d.wrapped(at, key, want)
		}
		if !d.field(at, key, want) {
			return d.kind(want), false
		}
		if r.space(); r.skip('}') {
			return d.check(start, want)
		}
		if !r.skip(',') {
			return d.kind(want), r.unexpected(`"," or "}"`)
		}
		r.space()
	}
}

// wrapped reads {"object": {...}} from the inner object on.
func (d *decoder) wrapped(at int, key string, want kind) (kind, bool) {
	is := kindObject
	if key == "relation" {
		is = kindRelation
	}
	r := &d.json
	if d.seen != 0 {
		return is, r.fail(at, "%q with an object in it, beside other fields; an object or relation in an object of its own stands there alone", key)
	}
	if want != kindAny && want != is {
		return is, d.wrongKind(at, is)
	}
	if _, ok := d.fields(is); !ok {
		return is, false
	}
	if r.space(); !r.skip('}') {
		return is, r.unexpected(`"}"`)
	}
	return is, true
}

func (d *decoder) wrongKind(at int, is kind) bool {
	if is == kindObject {
		return d.json.fail(at, "an object where relations are; objects belong into the file of objects")
	}
	return d.json.fail(at, "a relation where objects are; relations belong into the file of relations")
}

// kind is the record's kind by the fields read so far.
func (d *decoder) kind(want kind) kind {
	switch {
	case want != kindAny:
		return want
	case d.seen&relationFields != 0:
		return kindRelation
	case d.seen&objectFields != 0:
		return kindObject
	}
	return kindAny
}

func (d *decoder) field(at int, key string, want kind) bool {
	r := &d.json
	f := fieldOf(key)
	if d.seen&f != 0 {
		return r.fail(at, "%q is there twice: which of them counts is not defined; remove one", key)
	}
	is := d.kind(want)
	switch wrong := f == 0 || is == kindObject && f&relationFields != 0 || is == kindRelation && f&objectFields != 0; {
	case wrong && d.seen == 0 && f != 0 && want != kindAny:
		return d.wrongKind(at, 3-want)
	case wrong && is == kindRelation:
		return r.fail(at, "unknown field %q: %s; remove it, or move it into the properties of an object", clip(key), relationHas)
	case wrong:
		return r.fail(at, "unknown field %q: %s; remove it, or move it into properties", clip(key), objectHas)
	}
	d.seen |= f
	return d.fill(f, at, key)
}

// fill reads a field's value.
func (d *decoder) fill(f field, at int, key string) bool {
	r := &d.json
	optional := f&(fieldDisplayName|fieldProperties|fieldSubjectRelation|fieldExpiresAt) != 0
	switch {
	case f&(fieldCreatedAt|fieldUpdatedAt|fieldETag) != 0:
		_, ok := r.source()
		return ok
	case optional && r.null():
		return true
	case f == fieldProperties:
		if r.peek() != '{' {
			return r.fail(at, "properties are not an object; write them as {\"name\": value}")
		}
		source, ok := r.source()
		d.object.Properties = []byte(source)
		return ok
	case r.peek() != '"':
		return r.fail(at, "%s is not a string; write it in quotes", key)
	}
	value, ok := r.str()
	if !ok {
		return false
	}
	return d.set(f, at, value)
}

func (d *decoder) set(f field, at int, value string) bool {
	switch f {
	case fieldType:
		d.object.Type = value
	case fieldID:
		d.object.ID = value
	case fieldDisplayName:
		d.object.DisplayName = value
	case fieldObjectType:
		d.relation.Object.Type = value
	case fieldObjectID:
		d.relation.Object.ID = value
	case fieldRelation:
		d.relation.Relation = value
	case fieldSubjectType:
		d.relation.Subject.Type = value
	case fieldSubjectID:
		d.relation.Subject.ID = value
	case fieldSubjectRelation:
		d.relation.SubjectRelation = value
	case fieldExpiresAt:
		when, err := parseTime(value)
		if err != nil {
			return d.json.fail(at, "expires_at %q is not a time; write it as 2030-01-31T18:00:00Z", clip(value))
		}
		if when.IsZero() { // which would stand for a relation that never expires
			return d.json.fail(at, "expires_at %q: only times from 1970 to 9999 are possible; leave it out of a relation that does not expire", clip(value))
		}
		d.relation.Expires = when
	}
	return true
}

func parseTime(text string) (time.Time, error) {
	when, err := time.Parse(time.RFC3339, text)
	return when.UTC().Truncate(time.Second), err
}

// check reports missing fields.
func (d *decoder) check(start int, want kind) (kind, bool) {
	is := d.kind(want)
	var missing []string
	need := func(value, name string) {
		if value == "" {
			missing = append(missing, name)
		}
	}
	switch is {
	case kindRelation:
		need(d.relation.Object.Type, "object_type")
		need(d.relation.Object.ID, "object_id")
		need(d.relation.Relation, "relation")
		need(d.relation.Subject.Type, "subject_type")
		need(d.relation.Subject.ID, "subject_id")
	case kindObject:
		need(d.object.Type, "type")
		need(d.object.ID, "id")
	default:
		return is, d.json.fail(start, "neither an object nor a relation: %s; %s", objectHas, relationHas)
	}
	if missing != nil {
		return is, d.json.fail(start, "%s missing or empty; every such record has it", strings.Join(missing, ", "))
	}
	return is, true
}
