package scim

import (
	"encoding/json"
	"net/http"
	"strings"

	"gatehouse/control/store"
)

// write has do change resources in one write, with the directory.
func (s *Server) write(r *request, do func(*store.ScimTx) error) error {
	return s.with.Store.ScimWrite(r, r.e, r.token.Actor(), r.source(), r.link, do)
}

// received is a resource as a client sends it.
type received struct {
	doc     map[string]any
	members []string
}

func (k *kind) receive(body []byte) (*received, error) {
	in, err := decode(body)
	if err != nil {
		return nil, err
	}
	for name, v := range in {
		if !strings.EqualFold(name, "schemas") {
			continue
		}
		list, ok := v.([]any)
		if !ok {
			return nil, invalid("invalidSyntax", "schemas is no list")
		}
		for _, one := range list {
			if urn, _ := one.(string); strings.EqualFold(urn, k.core.urn) {
				ok = false
			}
		}
		if ok {
			return nil, invalid("invalidValue", "schemas lacks %s", k.core.urn)
		}
	}
	out := &received{}
	if out.doc, err = k.document(in); err != nil {
		return nil, err
	}
	if out.members, err = membersOf(out.doc["members"]); err != nil {
		return nil, err
	}
	delete(out.doc, "members")
	return out, k.complete(out.doc)
}

// inactive is in a document, and never shown, of a user who was deactivated and whose active was then removed: only what says
// that he is active enables him.
const inactive = "#inactive"

func isInactive(doc map[string]any) bool { return doc["active"] == false || doc[inactive] == true }

// membersOf are the ids in a value of members.
func membersOf(v any) ([]string, error) {
	given, err := groups.core.member().value(v)
	if v == nil || err != nil {
		return nil, err
	}
	list, _ := given.([]any)
	out := make([]string, 0, len(list))
	for _, one := range list {
		object, _ := one.(map[string]any)
		id, _ := object["value"].(string)
		if id == "" {
			return nil, invalid("invalidValue", "a member has no value: the id of a user or group")
		}
		out = append(out, id)
	}
	if len(out) > store.MaxScimMembers {
		return nil, invalid("tooMany", "a group has at most %d members", store.MaxScimMembers)
	}
	return out, nil
}

func (s *schema) member() *attribute { return find(s.attributes, "members") }

// into puts a document into a resource.
func (k *kind) into(r *store.ScimResource, doc map[string]any) (err error) {
	r.Kind = k.name
	if k == users {
		r.Name, _ = doc["userName"].(string)
	} else {
		r.Name, _ = doc["displayName"].(string)
	}
	r.External, _ = doc["externalId"].(string)
	if r.Object == "" {
		r.Object = r.Name
	}
	r.Body, err = json.Marshal(doc)
	return err
}

func (s *Server) create(r *request, k *kind) (*response, error) {
	in, err := k.receive(r.body)
	if err != nil {
		return nil, err
	}
	if _, says := in.doc["active"]; !says && k == users {
		in.doc["active"] = true
	}
	made := &store.ScimResource{}
	if err := k.into(made, in.doc); err != nil {
		return nil, err
	}
	if err := s.write(r, func(tx *store.ScimTx) error {
		if err := tx.Put(made, k.derive(in.doc)); err != nil {
			return err
		}
		return tx.Join(made, in.members)
	}); err != nil {
		return nil, err
	}
	out, err := s.represent(r, k, made)
	if err != nil {
		return nil, err
	}
	out.status = http.StatusCreated
	return out, nil
}

func (s *Server) get(r *request, k *kind, id string) (*response, error) {
	found, err := s.find(r, k, id)
	if err != nil {
		return nil, err
	}
	if r.unmet != "" && hasTag(r.unmet, found.Etag()) {
		return &response{status: http.StatusNotModified, etag: found.Etag()}, nil
	}
	return s.represent(r, k, found)
}

// find reads a resource of the request's source.
func (s *Server) find(r *request, k *kind, id string) (found *store.ScimResource, err error) {
	err = r.e.Scim(r, r.source(), store.ScimFilter{Kind: k.name, ID: id}, 0, func(one *store.ScimResource) bool { found = one; return false })
	if err == nil && found == nil {
		err = fail(http.StatusNotFound, "", "there is no %s %q", k.name, id)
	}
	return found, err
}

// hasTag reports whether a header with entity tags has one.
func hasTag(header, etag string) bool {
	for _, one := range strings.Split(header, ",") {
		if one = strings.TrimSpace(one); one == "*" || strings.TrimPrefix(one, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// unchanged checks If-Match.
func (r *request) unchanged(now *store.ScimResource) error {
	if r.match != "" && !hasTag(r.match, now.Etag()) {
		return fail(http.StatusPreconditionFailed, "", "it was changed meanwhile: its version is %s", now.Etag())
	}
	return nil
}

func (s *Server) replace(r *request, k *kind, id string) (*response, error) {
	in, err := k.receive(r.body)
	if err != nil {
		return nil, err
	}
	var now *store.ScimResource
	if err := s.write(r, func(tx *store.ScimTx) error {
		if now, err = tx.Get(k.name, id); err != nil {
			return err
		}
		if err := r.unchanged(now); err != nil {
			return err
		}
		was, err := decode(now.Body)
		if err != nil {
			return err
		}
		if _, says := in.doc["active"]; !says && k == users {
			in.doc["active"] = !isInactive(was)
		}
		if err := k.into(now, in.doc); err != nil {
			return err
		}
		if err := tx.Put(now, k.derive(in.doc)); err != nil || k != groups {
			return err
		}
		return tx.SetMembers(now, in.members)
	}); err != nil {
		return nil, err
	}
	return s.represent(r, k, now)
}

func (s *Server) patch(r *request, k *kind, id string) (*response, error) {
	operations, err := k.parsePatch(r.body)
	if err != nil {
		return nil, err
	}
	var now *store.ScimResource
	if err := s.write(r, func(tx *store.ScimTx) error {
		if now, err = tx.Get(k.name, id); err != nil {
			return err
		}
		if err := r.unchanged(now); err != nil {
			return err
		}
		doc, err := decode(now.Body)
		if err != nil {
			return err
		}
		was, scans := isInactive(doc), 0
		for i := range operations {
			o := &operations[i]
			if o.at.attribute != nil && o.at.attribute == groups.core.member() {
				err = o.members(tx, now, &scans)
			} else {
				err = o.apply(doc)
			}
			if err != nil {
				return err
			}
			was = was || isInactive(doc) // also where a later operation of the same request removes it
		}
		delete(doc, inactive)
		if _, says := doc["active"]; !says && was {
			doc[inactive] = true
		}
		if err := k.complete(doc); err != nil {
			return err
		}
		if err := k.into(now, doc); err != nil {
			return err
		}
		return tx.Put(now, k.derive(doc))
	}); err != nil {
		return nil, err
	}
	return s.represent(r, k, now)
}

// members is an operation on the members of a group.
func (o *operation) members(tx *store.ScimTx, g *store.ScimResource, scans *int) error {
	if o.at.sub != nil {
		return invalid("invalidPath", "members are added and removed as a whole")
	}
	if o.where != nil {
		if o.op != "remove" {
			return invalid("invalidPath", "members that exist are not changed: add and remove them")
		}
		if ids, ok := o.where.ids(nil); ok {
			return tx.Leave(g, ids)
		}
		if *scans++; *scans > maxScans {
			return invalid("tooMany", "only %d operations may select members by something else than their value", maxScans)
		}
		all, err := tx.Members(g.ID)
		if err != nil {
			return err
		}
		var gone []string
		for _, m := range all {
			if o.where.matches(map[string]any{"value": m.ID, "type": m.Kind}) {
				gone = append(gone, m.ID)
			}
		}
		return tx.Leave(g, gone)
	}
	list, err := membersOf(o.value)
	switch {
	case err != nil:
		return err
	case o.op == "add":
		return tx.Join(g, list)
	case o.op == "remove" && o.value != nil:
		return tx.Leave(g, list)
	}
	return tx.SetMembers(g, list)
}

func (s *Server) delete(r *request, k *kind, id string) (*response, error) {
	if err := s.write(r, func(tx *store.ScimTx) error {
		now, err := tx.Get(k.name, id)
		if err != nil {
			return err
		}
		if err := r.unchanged(now); err != nil {
			return err
		}
		return tx.Delete(now)
	}); err != nil {
		return nil, err
	}
	return &response{status: http.StatusNoContent}, nil
}

// represent is a resource as an answer.
func (s *Server) represent(r *request, k *kind, one *store.ScimResource) (*response, error) {
	p, err := k.projection(list1(r.query["attributes"]), list1(r.query["excludedAttributes"]))
	if err != nil {
		return nil, err
	}
	doc, err := s.document(r, k, one, p)
	if err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK, etag: one.Etag(), location: r.location(k, one.ID), body: p.apply(doc)}, nil
}

func (r *request) location(k *kind, id string) string { return r.base + "/" + k.endpoint + "/" + id }

// document is a resource as clients see it.
func (s *Server) document(r *request, k *kind, one *store.ScimResource, p *projection) (map[string]any, error) {
	doc, err := decode(one.Body)
	if err != nil {
		return nil, err
	}
	delete(doc, inactive)
	schemas := []any{k.core.urn}
	for _, e := range k.extensions {
		if _, has := doc[e.urn]; has {
			schemas = append(schemas, e.urn)
		}
	}
	doc["schemas"], doc["id"] = schemas, one.ID
	const form = "2006-01-02T15:04:05.000Z"
	doc["meta"] = map[string]any{"resourceType": k.name, "created": one.Created.UTC().Format(form), "lastModified": one.Changed.UTC().Format(form), "location": r.location(k, one.ID), "version": one.Etag()}
	name := map[*kind]string{users: "groups", groups: "members"}[k]
	if !p.wants(name) {
		return doc, nil
	}
	list, err := r.e.ScimMembers(r, one.ID, k == users)
	if err != nil {
		return nil, err
	}
	var out []any
	for _, m := range list {
		of := users
		if m.Kind == store.ScimGroup {
			of = groups
		}
		v := map[string]any{"value": m.ID, "$ref": r.location(of, m.ID), "type": m.Kind}
		if k == users {
			v["type"], v["display"] = "direct", m.Name
		}
		out = append(out, v)
	}
	if len(out) > 0 {
		doc[name] = out
	}
	return doc, nil
}
