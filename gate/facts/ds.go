package facts

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"gatehouse/directory"
	"gatehouse/policy/rego"
)

// checks answers ds.checks: fields that a check leaves out come from the default.
func (c *call) checks() (rego.Value, error) {
	list, ok := rego.Elements(c.arg.of(checksField))
	if !ok {
		c.arg.fail(checksField, "is missing, or is not an array")
	}
	usual, err := c.partOf(c.arg.of(defaultField))
	if err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	if err := c.arg.end(); err != nil {
		return nil, err
	}
	if len(list) > maxResults {
		return nil, errMany
	}
	out := make([]rego.Value, len(list))
	for i, v := range list {
		one, err := c.partOf(v)
		if err == nil {
			out[i], err = c.oneOf(one, usual)
		}
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return rego.Array(out...), nil
}

// part is a check, or the default of checks. nil: absent.
type part struct{ objectType, objectID, relation, subjectType, subjectID *string }

func (c *call) partOf(v rego.Value) (p part, err error) {
	if v == nil {
		return p, nil
	}
	r := reader{value: v}
	said := func(f rego.Field) *string {
		if s, found := r.textOf(f); found {
			return &s
		}
		return nil
	}
	p = part{said(objectType), said(objectID), said(relationField), said(subjectType), said(subjectID)}
	r.truth(traceField)
	return p, r.end()
}

func (c *call) oneOf(one, usual part) (rego.Value, error) {
	var missing error
	pick := func(f rego.Field, s, otherwise *string) string {
		if s == nil { // an empty id is no object, and does not take the default
			s = otherwise
		}
		if s == nil {
			missing = errors.Join(missing, fmt.Errorf("field %s is missing", f.Name))
			return ""
		}
		return *s
	}
	q := directory.Question{
		Object:   directory.Ref{Type: pick(objectType, one.objectType, usual.objectType), ID: pick(objectID, one.objectID, usual.objectID)},
		Relation: pick(relationField, one.relation, usual.relation),
		Subject:  directory.Ref{Type: pick(subjectType, one.subjectType, usual.subjectType), ID: pick(subjectID, one.subjectID, usual.subjectID)},
	}
	if missing != nil {
		return nil, missing
	}
	yes, err := source{s: c.s}.check(c.on, q, c.now)
	if err != nil {
		return nil, err
	}
	return rego.Object(rego.Member{Key: "check", Value: rego.Bool(yes)}), nil
}

// find returns an object, after the argument is read; nil where there is none.
func (c *call) find(ref directory.Ref) ([]rego.Member, error) {
	if err := c.arg.end(); err != nil {
		return nil, err
	}
	if err := c.knownType(ref.Type); err != nil {
		return nil, err
	}
	o, found := c.objectOf(ref)
	if !found {
		return nil, nil
	}
	return c.members(o)
}

func (c *call) objectOf(ref directory.Ref) (directory.Object, bool) {
	if c.on == nil {
		return c.s.Object(ref)
	}
	return c.s.ObjectOn(c.on, ref, c.now)
}

// object answers ds.object; undefined where there is none.
func (c *call) object() (rego.Value, error) {
	ref := directory.Ref{Type: c.arg.name(objectType), ID: c.arg.id(objectID)}
	with := c.arg.truth(withRelations)
	members, err := c.find(ref)
	if members == nil || err != nil {
		return nil, err
	}
	var list []rego.Value
	if with {
		for _, f := range []directory.RelationFilter{{Subject: ref}, {Object: ref}} {
			if list, _, err = c.collect(list, f); err != nil {
				return nil, err
			}
		}
	}
	return rego.Object(append(members, rego.Member{Key: "relations", Value: rego.Array(list...)})...), nil
}

// user answers ds.user; undefined where there is none.
func (c *call) user() (rego.Value, error) {
	ref := directory.Ref{Type: "user", ID: c.arg.id(idField)}
	members, err := c.find(ref)
	if members == nil || err != nil {
		return nil, err
	}
	return rego.Object(members...), nil
}

// identity answers ds.identity with the id of the user to whom an identity belongs; undefined where it belongs to none.
func (c *call) identity() (rego.Value, error) {
	id := c.arg.id(idField)
	if err := c.arg.end(); err != nil {
		return nil, err
	}
	user, found, err := c.s.User(id, c.now)
	if err != nil || !found {
		return nil, err
	}
	return rego.String(user.ID), nil
}

// members are an object's type, id, display name and properties.
func (c *call) members(o directory.Object) ([]rego.Member, error) {
	properties := rego.Object()
	if len(o.Properties) > 0 {
		if err := c.take(string(o.Properties)); err != nil {
			return nil, err
		}
		var err error
		if properties, err = rego.ParseJSON(string(o.Properties)); err != nil {
			return nil, fmt.Errorf("properties of %s: %w", o.Ref, err)
		}
	}
	return []rego.Member{
		{Key: "type", Value: rego.String(o.Type)},
		{Key: "id", Value: rego.String(o.ID)},
		{Key: "display_name", Value: rego.String(o.DisplayName)},
		{Key: "properties", Value: properties},
	}, c.take(o.Type, o.ID, o.DisplayName)
}

// filter reads the relation filter.
func (c *call) filter() (f directory.RelationFilter, ends bool) {
	f.Object = directory.Ref{Type: c.arg.text(objectType), ID: c.arg.text(objectID)}
	f.Relation = c.arg.text(relationField)
	f.Subject = directory.Ref{Type: c.arg.text(subjectType), ID: c.arg.text(subjectID)}
	f.SubjectRelation = c.arg.text(subjectRelation)
	return f, c.arg.truth(withObjects)
}

// known rejects names in a filter that are not in the manifest.
func (c *call) known(f directory.RelationFilter) error {
	for _, typ := range []string{f.Object.Type, f.Subject.Type} {
		if typ != "" {
			if err := c.knownType(typ); err != nil {
				return err
			}
		}
	}
	if f.Relation != "" {
		if err := c.knownRelation(f.Object.Type, f.Relation); err != nil {
			return err
		}
	}
	if f.SubjectRelation != "" {
		return c.knownRelation(f.Subject.Type, f.SubjectRelation)
	}
	return nil
}

// relation answers ds.relation; undefined where there is none. Without subject_relation in the filter, only a
// relation without one matches.
func (c *call) relation() (rego.Value, error) {
	for _, f := range []rego.Field{objectType, objectID, relationField, subjectType, subjectID} {
		if f.Of(c.arg.value) == nil {
			c.arg.fail(f, "is missing")
		}
	}
	f, with := c.filter()
	f.HasSubjectRelation = true
	if err := c.arg.end(); err != nil {
		return nil, err
	}
	if err := c.known(f); err != nil {
		return nil, err
	}
	if f.Object.ID == "" || f.Subject.ID == "" {
		return nil, nil
	}
	list, found, err := c.collect(nil, f)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return c.withEnds(rego.Member{Key: "result", Value: list[0]}, found, with)
}

var errWhole = errors.New("object_type and object_id, or subject_type and subject_id, must be there: the relations of one object or of one subject can be listed")

// relations answers ds.relations.
func (c *call) relations() (rego.Value, error) {
	f, with := c.filter()
	f.HasSubjectRelation = c.arg.truth(withoutSets)
	if err := c.arg.end(); err != nil {
		return nil, err
	}
	if (f.Object.Type == "" || f.Object.ID == "") && (f.Subject.Type == "" || f.Subject.ID == "") {
		return nil, errWhole
	}
	if err := c.known(f); err != nil {
		return nil, err
	}
	list, found, err := c.collect(nil, f)
	if err != nil {
		return nil, err
	}
	return c.withEnds(rego.Member{Key: "results", Value: rego.Array(list...)}, found, with)
}

// collect appends the relations of a filter to a list.
func (c *call) collect(list []rego.Value, f directory.RelationFilter) ([]rego.Value, []directory.Relation, error) {
	var found []directory.Relation
	for r := range c.s.Relations(f, c.now) {
		if len(list) == maxResults {
			return nil, nil, errMany
		}
		if err := c.take(r.Object.Type, r.Object.ID, r.Relation, r.Subject.Type, r.Subject.ID, r.SubjectRelation); err != nil {
			return nil, nil, err
		}
		found = append(found, r)
		list = append(list, rego.Object(
			rego.Member{Key: objectType.Name, Value: rego.String(r.Object.Type)},
			rego.Member{Key: objectID.Name, Value: rego.String(r.Object.ID)},
			rego.Member{Key: relationField.Name, Value: rego.String(r.Relation)},
			rego.Member{Key: subjectType.Name, Value: rego.String(r.Subject.Type)},
			rego.Member{Key: subjectID.Name, Value: rego.String(r.Subject.ID)},
			rego.Member{Key: subjectRelation.Name, Value: rego.String(r.SubjectRelation)},
		))
	}
	return list, found, nil
}

// withEnds adds to an answer the objects and subjects of its relations, by type:id, where requested.
func (c *call) withEnds(answer rego.Member, found []directory.Relation, with bool) (rego.Value, error) {
	objects := map[string]rego.Value{}
	for _, r := range found {
		for _, ref := range []directory.Ref{r.Object, r.Subject} {
			name := ref.String()
			if _, done := objects[name]; done || !with {
				continue
			}
			o, there := c.s.Object(ref)
			if !there { // every subject of a type
				continue
			}
			members, err := c.members(o)
			if err != nil {
				return nil, err
			}
			objects[name] = rego.Object(members...)
		}
	}
	var ends []rego.Member
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		ends = append(ends, rego.Member{Key: name, Value: objects[name]})
	}
	return rego.Object(answer, rego.Member{Key: "objects", Value: rego.Object(ends...)}), nil
}

// graph answers ds.graph.
func (c *call) graph() (rego.Value, error) {
	q := directory.GraphQuery{
		Object:          directory.Ref{Type: c.arg.name(objectType), ID: c.arg.text(objectID)},
		Relation:        c.arg.name(relationField),
		Subject:         directory.Ref{Type: c.arg.name(subjectType), ID: c.arg.text(subjectID)},
		SubjectRelation: c.arg.text(subjectRelation),
		Explain:         c.arg.truth(explainField),
		Trace:           c.arg.truth(traceField),
	}
	if err := c.arg.end(); err != nil {
		return nil, err
	}
	found, err := c.s.Graph(q, c.now)
	if err != nil {
		return nil, err
	}
	if len(found.Results) > maxResults {
		return nil, errMany
	}
	results := make([]rego.Value, len(found.Results))
	for i, ref := range found.Results {
		if err := c.take(ref.Type, ref.ID); err != nil {
			return nil, err
		}
		results[i] = rego.Object(rego.Member{Key: objectType.Name, Value: rego.String(ref.Type)}, rego.Member{Key: objectID.Name, Value: rego.String(ref.ID)})
	}
	if err := c.take(found.Trace...); err != nil {
		return nil, err
	}
	answer := []rego.Member{{Key: "results", Value: rego.Array(results...)}, {Key: "trace", Value: rego.Strings(found.Trace)}}
	if q.Explain {
		explanation, err := c.explanation(found.Explanation)
		if err != nil {
			return nil, err
		}
		answer = append(answer, rego.Member{Key: "explanation", Value: explanation})
	}
	return rego.Object(answer...), nil
}

// explanation gives, by type:id of a result, its paths.
func (c *call) explanation(paths map[string][][]string) (rego.Value, error) {
	var out []rego.Member
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		var list []rego.Value
		for _, path := range paths[name] {
			if err := c.take(path...); err != nil {
				return nil, err
			}
			list = append(list, rego.Strings(path))
		}
		out = append(out, rego.Member{Key: name, Value: rego.Array(list...)})
	}
	return rego.Object(out...), nil
}
