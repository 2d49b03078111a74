package gate

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/routes"
)

// document is one object of the input while it is made. There are two readers: the policy, which gets values and of those
// only what it reads, and an explanation, which gets plain JSON and all of it. Empty values are left out, as in protojson. The
// decision log makes the same of what the input is made of, in its own package; a test holds the two against each other.
type document struct {
	members []policy.Member
	reads   policy.Reads
	plain   map[string]any // not nil: for an explanation
}

// wants reports whether the reader looks at a member.
func (d *document) wants(key string) bool { return d.plain != nil || d.reads.Any(key) }

// add puts a member in that is there whatever it holds.
func (d *document) add(key string, value func() policy.Value, plain func() any) {
	switch {
	case d.plain != nil:
		d.plain[key] = plain()
	case d.reads.Any(key):
		d.members = append(d.members, policy.Member{Key: key, Value: value()})
	}
}

func (d *document) text(key, s string) {
	if s != "" {
		d.add(key, func() policy.Value { return policy.String(s) }, func() any { return s })
	}
}

func (d *document) bool(key string, b bool) {
	d.add(key, func() policy.Value { return policy.Bool(b) }, func() any { return b })
}

func (d *document) number(key string, n int64) {
	if n != 0 {
		d.add(key, func() policy.Value { return policy.Int(n) }, func() any { return json.Number(strconv.FormatInt(n, 10)) })
	}
}

func (d *document) strings(key string, list []string) {
	d.add(key, func() policy.Value { return policy.Strings(list) }, func() any { return anyStrings(list) })
}

func anyStrings(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// object puts in what fill makes of it, or nothing where that is empty.
func (d *document) object(key string, fill func(*document) error) error {
	if !d.wants(key) {
		return nil
	}
	inner := document{reads: d.reads.Below(key)}
	if d.plain != nil {
		inner.plain = map[string]any{}
	}
	if err := fill(&inner); err != nil {
		return err
	}
	if len(inner.plain)+len(inner.members) > 0 {
		d.add(key, inner.value, func() any { return inner.plain })
	}
	return nil
}

// always is object for one that is there also when it is empty.
func (d *document) always(key string, fill func(*document)) {
	if !d.wants(key) {
		return
	}
	_ = d.object(key, func(d *document) error { fill(d); return nil }) // fill has no error
	if d.plain != nil && d.plain[key] == nil {
		d.plain[key] = map[string]any{}
	} else if n := len(d.members); d.plain == nil && (n == 0 || d.members[n-1].Key != key) {
		d.members = append(d.members, policy.Member{Key: key, Value: policy.Object()})
	}
}

func (d *document) value() policy.Value { return policy.Object(d.members...) }

func (d *document) labels(key string, m map[string]string) {
	_ = d.object(key, func(d *document) error { // no error
		for k, v := range m {
			d.add(k, func() policy.Value { return policy.String(v) }, func() any { return v })
		}
		return nil
	})
}

// json puts plain JSON in, as it is where it stays plain: to be read only.
func (d *document) json(key string, doc map[string]any) error {
	switch {
	case len(doc) == 0 || !d.wants(key):
		return nil
	case d.plain != nil:
		d.plain[key] = doc
		return nil
	}
	v, err := policy.FromJSON(doc)
	if err != nil {
		return err
	}
	d.members = append(d.members, policy.Member{Key: key, Value: v})
	return nil
}

// asked is the decision path in words: envoy/authz/allow, or for a route's rule its package as Aserto writes it,
// orders.GET.orders.__id.
func (c *call) asked() string {
	if c.app != nil && len(c.app.Root) > 0 {
		return routes.RuleName(c.decisionPath)
	}
	return strings.Join(c.decisionPath, "/")
}

// parseInput parses what of the request has a form that can be wrong: the body, where the policy reads it.
func (c *call) parseInput(entry *policy.Entry) error {
	var err error
	if c.truncated, err = partial(c.req.Headers, c.req.Body); err != nil {
		return err
	}
	c.body = policy.Null()
	if !c.truncated && entry.Reads().Any("parsed_body") {
		c.body, err = parseBody(c.req.Headers, c.req.Body, c.view.Settings.Protos, c.target.segments)
	}
	return err
}

// input builds what the policy reads of the document that contract.md calls "Input".
func (c *call) input(entry *policy.Entry) (policy.Value, error) {
	d := document{reads: entry.Reads()}
	if err := c.fill(&d); err != nil {
		return nil, err
	}
	return d.value(), nil
}

// plainInput builds all of it as plain JSON.
func (c *call) plainInput() (map[string]any, error) {
	d := document{plain: map[string]any{}}
	return d.plain, c.fill(&d)
}

// fill is the one definition of the input, for both of its readers.
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
	in.strings("parsed_path", c.target.segments)
	in.always("parsed_query", func(d *document) {
		for name, values := range c.target.query {
			d.strings(name, values)
		}
	})
	if err := c.bodyInput(in); err != nil {
		return err
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

func (c *call) bodyInput(in *document) (err error) {
	in.add("parsed_body", func() policy.Value { return c.body }, func() any {
		var plain any
		plain, err = policy.JSON(c.body)
		return plain
	})
	return err
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
	if req.RawHeader {
		http.add("headerMap", func() policy.Value { v, _ := policy.FromJSON(headerMapInput(req.Headers)); return v }, // always plain JSON
			func() any { return headerMapInput(req.Headers) })
	}
}

// headersInput is one member for each name; the values of a name that repeats are joined with a comma, as Envoy joins
// them where it sends a map (RFC 9110 section 5.3).
func headersInput(http *document, headers Headers) {
	_ = http.object("headers", func(d *document) error { // no error
		if d.plain == nil {
			d.members = make([]policy.Member, 0, len(headers))
		}
		for i, h := range headers {
			if !d.wants(h.Name) || index(headers[:i], h.Name) >= 0 {
				continue
			}
			value := h.Value
			if index(headers[i+1:], h.Name) >= 0 {
				value = strings.Join(headers.Values(h.Name), ",")
			}
			d.add(h.Name, func() policy.Value { return policy.String(value) }, func() any { return value })
		}
		return nil
	})
}

func index(headers Headers, name string) int {
	return slices.IndexFunc(headers, func(h Header) bool { return h.Name == name })
}

func headerMapInput(headers Headers) map[string]any {
	lines := make([]any, 0, len(headers))
	for _, h := range headers {
		line := map[string]any{}
		if h.Name != "" {
			line["key"] = h.Name
		}
		if h.Value != "" {
			line["rawValue"] = base64.StdEncoding.EncodeToString([]byte(h.Value))
		}
		lines = append(lines, line)
	}
	return map[string]any{"headers": lines}
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
