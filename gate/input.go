package gate

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/gate/body"
	"gatehouse/input"
	"gatehouse/policy"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
	"gatehouse/routes"
)

// asked is the name of the evaluated rule, "" where none was.
func (c *call) asked() string {
	if c.rule == nil {
		return ""
	}
	return c.rule.name
}

// parseInput parses the only part of the request that can be malformed, the body, where the rule reads it and the
// route does not turn that off.
func (c *call) parseInput(entry *policy.Entry) error {
	var err error
	c.described = false
	if c.truncated, err = body.Partial(c.req.Headers, c.req.Body); err != nil {
		return err
	}
	if err = c.unclearQuery(entry.Reads()); err != nil {
		return err
	}
	c.body = rego.Null()
	if c.bodyComplete() && entry.Reads().Any("parsed_body") {
		c.body, err = body.Parse(c.req, c.view.Settings.Protos, c.target.segments())
	}
	return err
}

// bodyComplete reports whether there is a complete body, on a route that does not turn body parsing off.
func (c *call) bodyComplete() bool {
	return !c.truncated && c.req.Body != "" && (c.match.Route == nil || !c.match.Route.IgnoreBody)
}

// inputFor is the input for the entry's policy: the fields it reads or, in plain mode, all of them. An error in a field
// that is not read is no failure in either mode.
func (c *call) inputFor(entry *policy.Entry) (rego.Value, error) {
	document, err := c.input(c.partsRead(entry))
	if err != nil || !c.view.Settings.Plain {
		return document, err
	}
	parsed := c.body
	defer func() { c.body = parsed }() // the decision log records the body as it was read
	if c.bodyComplete() {
		if all, err := body.Parse(c.req, c.view.Settings.Protos, c.target.segments()); err == nil {
			c.body = all
		}
	}
	if whole, err := c.all(); err == nil {
		return whole, nil
	}
	return document, nil
}

// part is a field or object of the input that is read, with its parts.
type part struct {
	*input.Node
	reads reach.Reads
	below []part
}

// allParts are all of the input's parts.
func allParts(members []input.Node) []part {
	all := make([]part, len(members))
	for i := range members {
		all[i] = part{&members[i], reach.Reads{}, allParts(members[i].Below)}
	}
	return all
}

// selectParts keeps the parts that are read.
func selectParts(parts []part, reads reach.Reads) (some []part) {
	for _, p := range parts {
		if below, wanted := reads.Member(p.Name); wanted {
			some = append(some, part{p.Node, below, selectParts(p.below, below)})
		}
	}
	return some
}

// partsCache caches the parts that a rule reads. It is computed on first use: otherwise each request would walk all
// fields.
type partsCache struct{ parts atomic.Pointer[[]part] }

// partsRead are the parts that an entry reads, and the paths it reads in each.
func (c *call) partsRead(entry *policy.Entry) ([]part, reach.Reads) {
	reads := entry.Reads()
	if c.rule == nil || c.rule.entry != entry {
		return selectParts(c.fields, reads), reads
	}
	if known := c.rule.partsCache.parts.Load(); known != nil {
		return *known, reads
	}
	parts := selectParts(c.fields, reads)
	c.rule.partsCache.parts.Store(&parts)
	return parts, reads
}

// input builds the document that contract.md calls "Input", limited to what is read.
func (c *call) input(parts []part, reads reach.Reads) (rego.Value, error) {
	d := c.document(reads)
	defer d.done()
	if err := d.fill(parts); err != nil {
		return nil, err
	}
	return rego.Object(d.members...), nil
}

// all is the whole input.
func (c *call) all() (rego.Value, error) { return c.input(c.fields, reach.Reads{}) }

// key writes the memo key of what the entry reads of the input. It reports no errors: it returns a key or none, and a
// malformed input fails when the input itself is built.
func (c *call) key(entry *policy.Entry) *policy.Key {
	key := c.view.memo.Key(entry)
	if key == nil {
		return nil
	}
	parts, reads := c.partsRead(entry)
	d := c.document(reads)
	defer d.done()
	d.key = key
	if err := d.fill(parts); err != nil {
		key.Done()
		return nil
	}
	return key
}

// documents are pooled: their slices would be most of an input's allocations.
var documents = sync.Pool{New: func() any { return &document{members: make([]rego.Member, 0, 64)} }}

// document returns an empty document for the call, which is described first if needed.
func (c *call) document(reads reach.Reads) *document {
	if !c.described {
		c.describe()
	}
	d := documents.Get().(*document)
	d.call, d.in, d.reads = c, &c.logged.Input, reads
	return d
}

// done clears a document and returns it to the pool. Values built from it stay valid.
func (d *document) done() {
	if d.key == nil {
		clear(d.members[:cap(d.members)])
	}
	if cap(d.members) > 1024 {
		d.members = make([]rego.Member, 0, 64)
	}
	d.members, d.key, d.call, d.in = d.members[:0], nil, nil, nil
	documents.Put(d)
}

// document builds the input, limited to the members that are read: package input defines the members and their
// sources. Empty values are left out, as in protojson.
//
// The same code has two uses: it builds the value for the policy or, where key is set, the memo key of the decision.
type document struct {
	call    *call
	in      *input.Input
	reads   reach.Reads   // of the open object
	members []rego.Member // of all open objects, the innermost last
	key     *policy.Key
}

// fill builds the members of an object that are read.
func (d *document) fill(members []part) error {
	for i := range members {
		p := &members[i]
		switch {
		case p.Kind != input.KindGroup:
			if err := d.field(p.Node); err != nil {
				return err
			}
		case p.Present == nil || p.Present(d.in):
			o := d.open(p.Name, p.reads)
			if err := d.fill(p.below); err != nil {
				return err
			}
			d.close(o, p.Name, p.Always, false)
		}
	}
	return nil
}

// field builds one member that is read.
func (d *document) field(n *input.Node) error {
	switch n.Kind {
	case input.KindText:
		d.addText(n.Name, n.TextIn(d.in), n.Always)
	case input.KindInt:
		d.number(n.Name, n.IntIn(d.in), n.Always)
	case input.KindBool:
		if b := n.BoolIn(d.in); b || n.Always {
			d.bool(n.Name, b)
		}
	case input.KindList:
		if list := n.ListIn(d.in); len(list) > 0 || n.Always {
			d.strings(n.Name, list)
		}
	case input.KindLabels:
		d.labels(n.Name, n.LabelsIn(d.in), n.Always)
	case input.KindObject, input.KindClaims:
		if object := n.ObjectIn(d.in); len(object) > 0 || n.Always {
			return valueError(n, d.json(n.Name, object))
		}
	case input.KindPlace:
		return d.address(n.Name, n.Address(d.in))
	case input.KindMoment:
		d.timestamp(n.Name, *n.Time(d.in))
	case input.KindFixed:
		d.addText(n.Name, n.Constant, true)
	default:
		d.composite(n)
	}
	return nil
}

// valueError is the error for an invalid value, in the field's words.
func valueError(n *input.Node, err error) error {
	if err != nil && n.Mistake != "" {
		return errors.New(n.Mistake)
	}
	return err
}

// composite builds a member of a special kind.
func (d *document) composite(n *input.Node) {
	in := d.in
	switch n.Kind {
	case input.KindHeaders:
		d.headers(n.Name, in.Headers)
	case input.KindHeaderMap:
		if in.RawHeader {
			d.add(n.Name, headerMap(in.Headers))
		}
	case input.KindBody:
		if !in.RawBody {
			d.addText(n.Name, in.Body, false)
		}
	case input.KindRawBody:
		if in.RawBody {
			d.addText(n.Name, base64.StdEncoding.EncodeToString([]byte(in.Body)), false)
		}
	case input.KindParsedBody:
		d.add(n.Name, d.call.body)
	case input.KindParsedPath:
		d.strings(n.Name, d.call.target.segments())
	case input.KindParsedQuery:
		_ = d.nested(n.Name, true, true, func(d *document) error { // no error
			for name, values := range d.call.target.query.Values {
				if d.isRead(name) {
					d.strings(name, values)
				}
			}
			return nil
		})
	case input.KindRouteMethod:
		method := in.Method
		if in.WebSocket {
			method = routes.WebSocket
		}
		d.addText(n.Name, method, false)
	case input.KindParams:
		if in.Matched {
			d.params(n.Name, in.Params)
		}
	}
}

// isRead reports whether a member is read.
func (d *document) isRead(key string) bool { return d.reads.Has(key) }

// add appends a member that is read, as do the methods below.
func (d *document) add(key string, v rego.Value) {
	if d.key != nil {
		d.key.Name(key)
		d.key.Value(v, d.reads.Below(key))
		return
	}
	d.members = append(d.members, rego.Member{Key: key, Value: v})
}

// addText leaves out an empty string unless always is set.
func (d *document) addText(key, s string, always bool) {
	switch {
	case s == "" && !always:
	case d.key != nil:
		d.key.Name(key)
		d.key.String(s)
	default:
		d.members = append(d.members, rego.Member{Key: key, Value: rego.String(s)})
	}
}

func (d *document) bool(key string, b bool) {
	if d.key != nil {
		d.key.Name(key)
		d.key.Bool(b)
		return
	}
	d.members = append(d.members, rego.Member{Key: key, Value: rego.Bool(b)})
}

func (d *document) number(key string, n int64, always bool) {
	switch {
	case n == 0 && !always:
	case d.key != nil:
		d.key.Name(key)
		d.key.Int(n)
	default:
		d.members = append(d.members, rego.Member{Key: key, Value: rego.Int(n)})
	}
}

func (d *document) strings(key string, list []string) {
	if d.key != nil {
		d.key.Name(key)
		d.key.Strings(list)
		return
	}
	d.members = append(d.members, rego.Member{Key: key, Value: rego.Strings(list)})
}

// enclosing is the enclosing object: its reads, and where the nested one begins.
type enclosing struct {
	reads reach.Reads
	mark  int
}

// open begins a nested object.
func (d *document) open(key string, reads reach.Reads) enclosing {
	o := enclosing{d.reads, len(d.members)}
	d.reads = reads
	if d.key != nil {
		d.key.Name(key)
		o.mark = d.key.Open()
	}
	return o
}

// close ends it.
func (d *document) close(o enclosing, key string, always, unordered bool) {
	d.reads = o.reads
	switch {
	case d.key == nil:
		if inner := d.members[o.mark:]; always || len(inner) > 0 {
			d.members = append(d.members[:o.mark], rego.Member{Key: key, Value: rego.Object(inner...)})
		}
	case !always && d.key.Empty(o.mark):
		d.key.Drop(o.mark)
	default:
		d.key.Close(o.mark, unordered)
	}
}

// nested builds a nested object that is read; fill adds its members.
func (d *document) nested(key string, always, unordered bool, fill func(*document) error) error {
	below, wanted := d.reads.Member(key)
	if !wanted {
		return nil
	}
	o := d.open(key, below)
	if err := fill(d); err != nil {
		return err
	}
	d.close(o, key, always, unordered)
	return nil
}

func (d *document) labels(key string, m map[string]string, always bool) {
	if len(m) == 0 && !always {
		return
	}
	_ = d.nested(key, always, true, func(d *document) error { // no error
		for k, v := range m {
			if d.isRead(k) {
				d.addText(k, v, true)
			}
		}
		return nil
	})
}

// params keep their order, which is the route's.
func (d *document) params(key string, params []input.Param) {
	_ = d.nested(key, true, false, func(d *document) error { // no error
		for i := range params {
			if p := &params[i]; d.isRead(p.Name) {
				d.addText(p.Name, p.Value, true)
			}
		}
		return nil
	})
}

// json adds the parts of plain JSON that are read.
func (d *document) json(key string, x any) error {
	object, isObject := x.(map[string]any)
	switch {
	case !d.isRead(key):
		return nil
	case isObject && !d.reads.Below(key).Whole():
		return d.nested(key, true, true, func(d *document) error {
			for k, v := range object {
				if err := d.json(k, v); err != nil {
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
	v, err := rego.FromJSON(x)
	if err != nil {
		return err
	}
	d.members = append(d.members, rego.Member{Key: key, Value: v})
	return nil
}

func (d *document) address(key string, a *Address) error {
	if len(a.Other) > 0 {
		return d.json(key, a.Other)
	}
	return d.nested(key, false, false, func(d *document) error {
		return d.nested("socketAddress", false, false, func(d *document) error {
			if d.isRead("address") {
				d.addText("address", a.Host, false)
			}
			if d.isRead("portValue") {
				d.number("portValue", int64(a.Port), false)
			}
			return nil
		})
	})
}

func (d *document) timestamp(key string, t time.Time) {
	if t.IsZero() {
		return
	}
	_ = d.nested(key, true, false, func(d *document) error { // no error
		if d.isRead("seconds") {
			d.number("seconds", t.Unix(), false)
		}
		if d.isRead("nanos") {
			d.number("nanos", int64(t.Nanosecond()), false)
		}
		return nil
	})
}

// headers adds one member for each name; the values of a repeated name are joined with a comma, as Envoy does for its
// map (RFC 9110 section 5.3).
func (d *document) headers(key string, headers Headers) {
	_ = d.nested(key, false, true, func(d *document) error { // no error
		for i, h := range headers {
			if !d.isRead(h.Name) || index(headers[:i], h.Name) >= 0 {
				continue
			}
			value := h.Value
			if index(headers[i+1:], h.Name) >= 0 {
				value = strings.Join(headers.Values(h.Name), ",")
			}
			d.addText(h.Name, value, true)
		}
		return nil
	})
}

func index(headers Headers, name string) int {
	return slices.IndexFunc(headers, func(h Header) bool { return h.Name == name })
}

func headerMap(headers Headers) rego.Value {
	lines := make([]rego.Value, 0, len(headers))
	for _, h := range headers {
		line := []rego.Member{{Key: "key", Value: rego.String(h.Name)}, {Key: "rawValue"}}
		if h.Name == "" {
			line = line[1:]
		}
		if h.Value != "" {
			line[len(line)-1].Value = rego.String(base64.StdEncoding.EncodeToString([]byte(h.Value)))
		}
		lines = append(lines, rego.Object(line...))
	}
	return rego.Object(rego.Member{Key: "headers", Value: rego.Array(lines...)})
}

// The parts of a request are types of package input, so that the decision log takes them without conversion.
type (
	// Request is a request as a transport received it.
	Request = input.Request
	// Endpoint is one end of the connection.
	Endpoint = input.Endpoint
	// Address is the address of an Endpoint.
	Address = input.Address
	// TLSSession is what the proxy reports about the client's TLS connection.
	TLSSession = input.TLSSession
	// Header is one header line.
	Header = input.Header
	// Headers are a request's header lines in the order received.
	Headers = input.Headers
)

// requestBytes is the size of a request, for any transport.
func requestBytes(r *Request) int {
	if r.Bytes > 0 {
		return r.Bytes
	}
	n := len(r.Path) + len(r.Body)
	for i := range r.Headers {
		n += len(r.Headers[i].Name) + len(r.Headers[i].Value)
	}
	return n
}
