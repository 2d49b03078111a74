package gate

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse/gate/body"
	"gatehouse/identity"
	"gatehouse/policy"
)

// document is the input while it is made, with those members that its reader looks at. Empty values are left out, as in protojson.
// The decision log makes the same of what the input is made of, in its own package; a test holds the two against each other.
//
// It is made for one of two uses, in one way: as a value for the policy to read, or, where key is set, as the key under which the
// decision about it is remembered.
type document struct {
	reads   policy.Reads    // of the object that is open
	members []policy.Member // of all objects that are open, the innermost last
	key     *policy.Key
}

// wants reports whether the reader looks at a member.
func (d *document) wants(key string) bool { return d.reads.Has(key) }

// add puts a member in that the reader looks at.
func (d *document) add(key string, v policy.Value) {
	if d.key != nil {
		d.key.Name(key)
		d.key.Value(v, d.reads.Below(key))
		return
	}
	d.members = append(d.members, policy.Member{Key: key, Value: v})
}

func (d *document) text(key, s string) {
	if s != "" {
		d.string(key, s)
	}
}

// string is text for one that is there also when it is empty.
func (d *document) string(key, s string) {
	switch {
	case !d.wants(key):
	case d.key != nil:
		d.key.Name(key)
		d.key.String(s)
	default:
		d.members = append(d.members, policy.Member{Key: key, Value: policy.String(s)})
	}
}

func (d *document) bool(key string, b bool) {
	switch {
	case !d.wants(key):
	case d.key != nil:
		d.key.Name(key)
		d.key.Bool(b)
	default:
		d.members = append(d.members, policy.Member{Key: key, Value: policy.Bool(b)})
	}
}

func (d *document) number(key string, n int64) {
	switch {
	case n == 0 || !d.wants(key):
	case d.key != nil:
		d.key.Name(key)
		d.key.Int(n)
	default:
		d.members = append(d.members, policy.Member{Key: key, Value: policy.Int(n)})
	}
}

func (d *document) strings(key string, list []string) {
	switch {
	case !d.wants(key):
	case d.key != nil:
		d.key.Name(key)
		d.key.Strings(list)
	default:
		d.members = append(d.members, policy.Member{Key: key, Value: policy.Strings(list)})
	}
}

// object puts in what fill makes of it, or nothing where that is empty.
func (d *document) object(key string, fill func(*document) error) error {
	return d.nested(key, false, false, fill)
}

// always is object for one that is there also when it is empty.
func (d *document) always(key string, fill func(*document)) {
	_ = d.nested(key, true, false, func(d *document) error { fill(d); return nil }) // no error
}

// mapping is always for one whose members come in any order.
func (d *document) mapping(key string, fill func(*document) error) error {
	return d.nested(key, true, true, fill)
}

// nested makes one object, with fill for its members.
func (d *document) nested(key string, always, unordered bool, fill func(*document) error) error {
	below, wanted := d.reads.Member(key)
	if !wanted {
		return nil
	}
	outer := d.reads
	d.reads = below
	if d.key == nil {
		mark := len(d.members)
		if err := fill(d); err != nil {
			return err
		}
		d.reads = outer
		if inner := d.members[mark:]; always || len(inner) > 0 {
			d.members = append(d.members[:mark], policy.Member{Key: key, Value: policy.Object(inner...)})
		}
		return nil
	}
	d.key.Name(key)
	mark := d.key.Open()
	if err := fill(d); err != nil {
		return err
	}
	d.reads = outer
	if !always && d.key.Empty(mark) {
		d.key.Drop(mark)
		return nil
	}
	d.key.Close(mark, unordered)
	return nil
}

func (d *document) labels(key string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	_ = d.nested(key, false, true, func(d *document) error { // no error
		for k, v := range m {
			d.string(k, v)
		}
		return nil
	})
}

// json puts in what is read of plain JSON.
func (d *document) json(key string, doc map[string]any) error {
	if len(doc) == 0 {
		return nil
	}
	return d.plain(key, doc)
}

func (d *document) plain(key string, x any) error {
	object, isObject := x.(map[string]any)
	switch {
	case !d.wants(key):
		return nil
	case isObject && !d.reads.Below(key).Whole():
		return d.mapping(key, func(d *document) error {
			for k, v := range object {
				if err := d.plain(k, v); err != nil {
					return err
				}
			}
			return nil
		})
	case d.key != nil:
		d.key.Name(key)
		d.key.JSON(x)
		return nil
	}
	v, err := policy.FromJSON(x)
	if err != nil {
		return err
	}
	d.members = append(d.members, policy.Member{Key: key, Value: v})
	return nil
}

// asked is the name of the rule that was asked, "" where none was.
func (c *call) asked() string {
	if c.rule == nil {
		return ""
	}
	return c.rule.name
}

// parseInput parses what of the request has a form that can be wrong: the body, where the rule that is asked reads it and the route
// does not say that it stays unread.
func (c *call) parseInput(entry *policy.Entry) error {
	var err error
	if c.truncated, err = body.Partial(c.req.Headers, c.req.Body); err != nil {
		return err
	}
	if err = c.unclearQuery(entry.Reads()); err != nil {
		return err
	}
	c.body = policy.Null()
	if c.bodyStands() && entry.Reads().Any("parsed_body") {
		c.body, err = body.Parse(c.req, c.view.Settings.Protos, c.target.segments())
	}
	return err
}

// bodyStands reports whether there is a body that may be read: all of one, on a route that does not turn that off.
func (c *call) bodyStands() bool {
	return !c.truncated && c.req.Body != "" && (c.match.Route == nil || !c.match.Route.IgnoreBody)
}

// asRead is the input as the entry's policy gets it: what it reads of it or, in the plain mode, everything. What is wrong with a part
// that nobody reads is no failure in either.
func (c *call) asRead(entry *policy.Entry) (policy.Value, error) {
	document, err := c.input(entry.Reads())
	if err != nil || !c.view.Settings.Plain {
		return document, err
	}
	parsed := c.body
	defer func() { c.body = parsed }() // the decision log has it as it is read
	if c.bodyStands() {
		if all, err := body.Parse(c.req, c.view.Settings.Protos, c.target.segments()); err == nil {
			c.body = all
		}
	}
	if whole, err := c.input(policy.Reads{}); err == nil {
		return whole, nil
	}
	return document, nil
}

// input builds the document that contract.md calls "Input", as far as it is read; zero Reads are of all of it.
func (c *call) input(reads policy.Reads) (policy.Value, error) {
	d := documents.Get().(*document)
	defer d.done()
	d.reads = reads
	if err := c.fill(d); err != nil {
		return nil, err
	}
	return policy.Object(d.members...), nil
}

// key writes the key of what the entry reads of the input. Whatever is wrong with the input has to show when the input itself is
// made: this makes a key of it, or none.
func (c *call) key(entry *policy.Entry) *policy.Key {
	key := c.view.memo.Key(entry)
	if key == nil {
		return nil
	}
	d := documents.Get().(*document)
	defer d.done()
	d.reads, d.key = entry.Reads(), key
	if err := c.fill(d); err != nil {
		key.Done()
		return nil
	}
	return key
}

// documents are reused: their slices are what most of an input's allocations would be.
var documents = sync.Pool{New: func() any { return &document{members: make([]policy.Member, 0, 64)} }}

// done empties a document and gives it back. What was made of it stays.
func (d *document) done() {
	if d.key == nil {
		clear(d.members[:cap(d.members)])
	}
	if cap(d.members) > 1024 {
		d.members = make([]policy.Member, 0, 64)
	}
	d.members, d.key = d.members[:0], nil
	documents.Put(d)
}

// fill is the one definition of the input.
func (c *call) fill(in *document) error {
	req := c.req
	if err := in.object("attributes", func(d *document) error { return attributes(d, req) }); err != nil {
		return err
	}
	_ = in.object("version", func(d *document) error { // no error; what policies for opa-envoy-plugin find there
		d.text("ext_authz", "v3")
		d.text("encoding", "protojson")
		return nil
	})
	if in.wants("parsed_path") {
		in.strings("parsed_path", c.target.segments())
	}
	_ = in.mapping("parsed_query", func(d *document) error { // no error
		for name, values := range c.target.query.Values {
			d.strings(name, values)
		}
		return nil
	})
	if in.wants("parsed_body") {
		in.add("parsed_body", c.body)
	}
	in.bool("truncated_body", c.truncated)
	in.text("source_principal", req.Source.Principal)
	if err := in.object("identity", func(d *document) error { return identityInput(d, &c.identity) }); err != nil {
		return err
	}
	_ = in.object("peer", func(d *document) error { peerInput(d, &c.peer); return nil }) // no error
	if len(c.view.apps) > 1 {
		in.text("app", c.app.Name)
	}
	c.routeInput(in)
	return in.object("policy", func(d *document) error { d.text("path", c.asked()); return nil })
}

func identityInput(who *document, id *identity.Identity) error {
	who.text("type", id.Type)
	who.text("identity", id.Identity)
	who.text("subject", id.Subject)
	who.text("issuer", id.Issuer)
	who.strings("roles", id.Roles)
	who.strings("groups", id.Groups)
	who.strings("scopes", id.Scopes)
	who.bool("authenticated", id.Authenticated)
	if err := who.json("claims", id.Claims); err != nil {
		return errors.New("the credential's claims are nested too deeply")
	}
	return nil
}

func peerInput(peer *document, p *identity.Peer) {
	peer.text("spiffe_id", p.SPIFFEID)
	peer.text("subject", p.Subject)
	if len(p.SANs) > 0 {
		peer.strings("sans", p.SANs)
	}
}

// attributes builds Envoy's AttributeContext with lowerCamelCase names, unset fields absent.
func attributes(all *document, req *Request) error {
	err := all.object("request", func(d *document) error {
		if !req.Time.IsZero() {
			d.always("time", func(d *document) { timeInput(d, req.Time) })
		}
		return d.object("http", func(d *document) error { httpInput(d, req); return nil })
	})
	if err != nil {
		return err
	}
	if err := all.object("source", func(d *document) error { return endpointInput(d, &req.Source) }); err != nil {
		return err
	}
	if err := all.object("destination", func(d *document) error { return endpointInput(d, &req.Destination) }); err != nil {
		return err
	}
	all.labels("contextExtensions", req.Extensions)
	if err := all.json("metadataContext", req.Metadata); err != nil {
		return err
	}
	if err := all.json("routeMetadataContext", req.RouteMetadata); err != nil {
		return err
	}
	if req.TLS != nil {
		all.always("tlsSession", func(d *document) { d.text("sni", req.TLS.SNI) })
	}
	return nil
}

func timeInput(at *document, t time.Time) {
	at.number("seconds", t.Unix())
	at.number("nanos", int64(t.Nanosecond()))
}

func httpInput(http *document, req *Request) {
	http.text("id", req.ID)
	http.text("method", req.Method)
	headersInput(http, req.Headers)
	http.text("path", req.Path)
	http.text("host", req.Host)
	http.text("scheme", req.Scheme)
	http.text("query", req.Query)
	http.text("fragment", req.Fragment)
	http.text("protocol", req.Protocol)
	http.number("size", req.Size)
	switch {
	case req.Body == "":
	case req.RawBody:
		if http.wants("rawBody") {
			http.text("rawBody", base64.StdEncoding.EncodeToString([]byte(req.Body)))
		}
	default:
		http.text("body", req.Body)
	}
	if req.RawHeader && http.wants("headerMap") {
		http.add("headerMap", headerMapInput(req.Headers))
	}
}

// headersInput is one member for each name; the values of a name that repeats are joined with a comma, as Envoy joins
// them where it sends a map (RFC 9110 section 5.3).
func headersInput(http *document, headers Headers) {
	_ = http.nested("headers", false, true, func(d *document) error { // no error
		for i, h := range headers {
			if !d.wants(h.Name) || index(headers[:i], h.Name) >= 0 {
				continue
			}
			value := h.Value
			if index(headers[i+1:], h.Name) >= 0 {
				value = strings.Join(headers.Values(h.Name), ",")
			}
			d.string(h.Name, value)
		}
		return nil
	})
}

func index(headers Headers, name string) int {
	return slices.IndexFunc(headers, func(h Header) bool { return h.Name == name })
}

func headerMapInput(headers Headers) policy.Value {
	lines := make([]policy.Value, 0, len(headers))
	for _, h := range headers {
		line := []policy.Member{{Key: "key", Value: policy.String(h.Name)}, {Key: "rawValue"}}
		if h.Name == "" {
			line = line[1:]
		}
		if h.Value != "" {
			line[len(line)-1].Value = policy.String(base64.StdEncoding.EncodeToString([]byte(h.Value)))
		}
		lines = append(lines, policy.Object(line...))
	}
	return policy.Object(policy.Member{Key: "headers", Value: policy.Array(lines...)})
}

func endpointInput(out *document, e *Endpoint) error {
	switch {
	case len(e.Address.Other) > 0:
		if err := out.json("address", e.Address.Other); err != nil {
			return err
		}
	case e.Address.Host != "" || e.Address.Port != 0:
		_ = out.object("address", func(d *document) error { // no error
			return d.object("socketAddress", func(d *document) error {
				d.text("address", e.Address.Host)
				d.number("portValue", int64(e.Address.Port))
				return nil
			})
		})
	}
	out.text("service", e.Service)
	out.labels("labels", e.Labels)
	out.text("principal", e.Principal)
	out.text("certificate", e.Certificate)
	return nil
}
