package scim

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"gatehouse/control/store"
)

// query is what a client asks of a collection.
type query struct {
	filter       *node
	start, count int
	shown        *projection
}

func list1(values []string) []string {
	var out []string
	for _, v := range values {
		for _, one := range strings.Split(v, ",") {
			if one = strings.TrimSpace(one); one != "" {
				out = append(out, one)
			}
		}
	}
	return out
}

func (k *kind) queryOf(v url.Values) (*query, error) {
	var numbers [2]*int
	for i, name := range []string{"startIndex", "count"} {
		if !v.Has(name) {
			continue
		}
		n, err := strconv.Atoi(v.Get(name))
		if err != nil {
			return nil, invalid("invalidValue", "%s is no number", name)
		}
		numbers[i] = &n
	}
	return k.query(v.Get("filter"), numbers[0], numbers[1], list1(v["attributes"]), list1(v["excludedAttributes"]))
}

func (k *kind) query(filter string, start, count *int, attributes, excluded []string) (*query, error) {
	q := &query{start: 1, count: defaultPage}
	if start != nil {
		q.start = max(1, *start)
	}
	if count != nil {
		q.count = min(max(0, *count), maxPage)
	}
	var err error
	if filter != "" {
		if q.filter, err = k.parseFilter(filter, nil); err != nil {
			return nil, err
		}
	}
	q.shown, err = k.projection(attributes, excluded)
	return q, err
}

// search is a query in a body: RFC 7644, section 3.4.3.
func (s *Server) search(r *request, k *kind) (*response, error) {
	if r.method != http.MethodPost {
		return nil, fail(http.StatusMethodNotAllowed, "", "search with POST")
	}
	in, err := decode(r.body)
	if err != nil {
		return nil, err
	}
	if list, _ := in["schemas"].([]any); len(list) != 1 || list[0] != urnSearch {
		return nil, invalid("invalidSyntax", "schemas is not %s", urnSearch)
	}
	number := func(name string) *int {
		if v, ok := in[name].(interface{ Int64() (int64, error) }); ok {
			if n, err := v.Int64(); err == nil && n < 1<<31 && n > -1<<31 {
				i := int(n)
				return &i
			}
		}
		return nil
	}
	texts := func(name string) (out []string) {
		list, _ := in[name].([]any)
		for _, v := range list {
			out = append(out, str(v))
		}
		return out
	}
	q, err := k.query(str(in["filter"]), number("startIndex"), number("count"), texts("attributes"), texts("excludedAttributes"))
	if err != nil {
		return nil, err
	}
	return s.list(r, k, q)
}

// list answers a query.
func (s *Server) list(r *request, k *kind, q *query) (*response, error) {
	f := store.ScimFilter{Kind: k.name}
	if q.filter != nil {
		exact := map[string]string{}
		q.filter.exact(exact)
		f.ID, f.External, f.Member = exact["id"], exact["externalId"], exact["members"]
		if f.Name = exact["userName"]; k == groups {
			f.Name = exact["displayName"]
		}
	}
	var page []*store.ScimResource
	total, err := 0, error(nil)
	if q.filter == nil {
		if total, err = r.e.ScimCount(r, r.source(), f); err == nil && q.count > 0 && q.start <= total {
			err = r.e.Scim(r, r.source(), f, q.start-1, func(one *store.ScimResource) bool {
				page = append(page, one)
				return len(page) < q.count
			})
		}
	} else {
		page, total, err = s.scan(r, k, q, f)
	}
	if err != nil {
		return nil, err
	}
	resources, shown := []any{}, 0
	for _, one := range page {
		doc, err := s.document(r, k, one, q.shown)
		if err != nil {
			return nil, err
		}
		for _, name := range []string{"members", "groups"} {
			list, _ := doc[name].([]any)
			shown += len(list)
		}
		if shown > maxShown && len(resources) > 0 {
			break
		}
		resources = append(resources, q.shown.apply(doc))
	}
	return &response{status: http.StatusOK, body: map[string]any{"schemas": []any{urnList}, "totalResults": total, "startIndex": q.start, "itemsPerPage": len(resources), "Resources": resources}}, nil
}

// scan looks at resources for those that match. What a filter asks for exactly the database has found already.
func (s *Server) scan(r *request, k *kind, q *query, f store.ScimFilter) (page []*store.ScimResource, total int, err error) {
	select {
	case s.scans <- struct{}{}:
		defer func() { <-s.scans }()
	case <-r.Done():
		return nil, 0, r.Err()
	}
	shown := &projection{}
	if !q.filter.reads("members") && !q.filter.reads("groups") {
		shown = &projection{excluded: []shownPath{{name: "members"}, {name: "groups"}}}
	}
	var failed error
	err = r.e.Scim(r, r.source(), f, 0, func(one *store.ScimResource) bool {
		doc, err := s.document(r, k, one, shown)
		if err != nil {
			failed = err
			return false
		}
		if q.filter.matches(doc) {
			if total++; total >= q.start && len(page) < q.count {
				page = append(page, one)
			}
		}
		return true
	})
	if failed != nil {
		err = failed
	}
	return page, total, err
}

// reads reports whether a filter reads an attribute.
func (n *node) reads(name string) bool {
	return n != nil && (n.at.attribute != nil && n.at.attribute.name == name || n.left.reads(name) || n.right.reads(name))
}

// projection is what of a resource is shown: RFC 7644, section 3.9.
type projection struct{ only, excluded []shownPath }

// shownPath is an attribute that is named, or of an extension, or one of its sub-attributes.
type shownPath struct{ extension, name, sub string }

func (k *kind) projection(only, excluded []string) (*projection, error) {
	if len(only)+len(excluded) > maxList {
		return nil, invalid("tooMany", "%d attributes are named: %d are possible", len(only)+len(excluded), maxList)
	}
	if len(only) > 0 && len(excluded) > 0 {
		return nil, invalid("invalidValue", "give attributes or excludedAttributes")
	}
	read := func(list []string) (out []shownPath) {
		for _, path := range list {
			l, err := k.locate(path)
			if err != nil {
				continue // an attribute that is not known has no value
			}
			p := shownPath{extension: l.extension}
			if l.attribute != nil {
				p.name = l.attribute.name
			}
			if l.sub != nil {
				p.sub = l.sub.name
			}
			out = append(out, p)
		}
		return out
	}
	p := &projection{read(only), read(excluded)}
	if len(only) > 0 && len(p.only) == 0 {
		p.only = []shownPath{{name: "id"}}
	}
	return p, nil
}

// wants reports whether an attribute is shown.
func (p *projection) wants(name string) bool {
	for _, x := range p.excluded {
		if x.name == name && x.sub == "" && x.extension == "" {
			return false
		}
	}
	for _, x := range p.only {
		if x.name == name && x.extension == "" {
			return true
		}
	}
	return len(p.only) == 0
}

func (p *projection) apply(doc map[string]any) map[string]any {
	if len(p.only) > 0 {
		out := map[string]any{"schemas": doc["schemas"], "id": doc["id"]}
		for _, x := range p.only {
			x.copy(out, doc)
		}
		return out
	}
	for _, x := range p.excluded {
		x.drop(doc)
	}
	return doc
}

func (x *shownPath) copy(out, doc map[string]any) {
	if x.extension != "" {
		from, ok := doc[x.extension].(map[string]any)
		if !ok {
			return
		}
		if x.name == "" {
			out[x.extension] = from
			return
		}
		to, ok := out[x.extension].(map[string]any)
		if !ok {
			to = map[string]any{}
		}
		(&shownPath{name: x.name, sub: x.sub}).copy(to, from)
		if len(to) > 0 {
			out[x.extension] = to
		}
		return
	}
	v, ok := doc[x.name]
	if !ok {
		return
	}
	if x.sub == "" {
		out[x.name] = v
		return
	}
	switch v := v.(type) {
	case map[string]any:
		to, ok := out[x.name].(map[string]any)
		if !ok {
			to = map[string]any{}
		}
		if of, has := v[x.sub]; has {
			to[x.sub] = of
			out[x.name] = to
		}
	case []any:
		to, ok := out[x.name].([]any)
		if !ok {
			to = make([]any, len(v))
			for i := range to {
				to[i] = map[string]any{}
			}
		}
		for i, one := range v {
			object, _ := one.(map[string]any)
			if into, ok := to[i].(map[string]any); ok && object[x.sub] != nil {
				into[x.sub] = object[x.sub]
			}
		}
		out[x.name] = to
	}
}

func (x *shownPath) drop(doc map[string]any) {
	if x.extension != "" {
		if of, ok := doc[x.extension].(map[string]any); ok && x.name != "" {
			(&shownPath{name: x.name, sub: x.sub}).drop(of)
			return
		}
		delete(doc, x.extension)
		return
	}
	if x.name == "id" || x.name == "schemas" { // always returned
		return
	}
	if x.sub == "" {
		delete(doc, x.name)
		return
	}
	switch v := doc[x.name].(type) {
	case map[string]any:
		delete(v, x.sub)
	case []any:
		for _, one := range v {
			if object, ok := one.(map[string]any); ok {
				delete(object, x.sub)
			}
		}
	}
}
