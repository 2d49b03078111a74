package gate

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/routes"
)

// document is one object of the input while it is made, with those members that its reader looks at. Empty values are left out, as
// in protojson. The decision log makes the same of what the input is made of, in its own package; a test holds the two against
// each other.
type document struct {
	members []policy.Member
	reads   policy.Reads
}

// wants reports whether the reader looks at a member.
func (d *document) wants(key string) bool { return d.reads.Any(key) }

// add puts a member in that the reader looks at.
func (d *document) add(key string, v policy.Value) {
	d.members = append(d.members, policy.Member{Key: key, Value: v})
}

func (d *document) text(key, s string) {
	if s != "" {
		d.string(key, s)
	}
}

// string is text for one that is there also when it is empty.
func (d *document) string(key, s string) {
	if d.wants(key) {
		d.add(key, policy.String(s))
	}
}

func (d *document) bool(key string, b bool) {
	if d.wants(key) {
		d.add(key, policy.Bool(b))
	}
}

func (d *document) number(key string, n int64) {
	if n != 0 && d.wants(key) {
		d.add(key, policy.Int(n))
	}
}

func (d *document) strings(key string, list []string) {
	if d.wants(key) {
		d.add(key, policy.Strings(list))
	}
}

// object puts in what fill makes of it, or nothing where that is empty.
func (d *document) object(key string, fill func(*document) error) error {
	if !d.wants(key) {
		return nil
	}
	inner := document{reads: d.reads.Below(key)}
	if err := fill(&inner); err != nil {
		return err
	}
	if len(inner.members) > 0 {
		d.add(key, inner.value())
	}
	return nil
}

// always is object for one that is there also when it is empty.
func (d *document) always(key string, fill func(*document)) {
	if d.wants(key) {
		inner := document{reads: d.reads.Below(key)}
		fill(&inner)
		d.add(key, inner.value())
	}
}

func (d *document) value() policy.Value { return policy.Object(d.members...) }

func (d *document) labels(key string, m map[string]string) {
	_ = d.object(key, func(d *document) error { // no error
		for k, v := range m {
			d.string(k, v)
		}
		return nil
	})
}

func (d *document) json(key string, doc map[string]any) error {
	if len(doc) == 0 || !d.wants(key) {
		return nil
	}
	v, err := policy.FromJSON(doc)
	if err != nil {
		return err
	}
	d.add(key, v)
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
		c.body, err = parseBody(c.req.Headers, c.req.Body, c.view.Settings.Protos, c.target.segments())
	}
	return err
}

// input builds the document that contract.md calls "Input", as far as it is read; zero Reads are of all of it.
func (c *call) input(reads policy.Reads) (policy.Value, error) {
	d := document{reads: reads}
	if err := c.fill(&d); err != nil {
		return nil, err
	}
	return d.value(), nil
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
	in.always("parsed_query", func(d *document) {
		for name, values := range c.target.query {
			d.strings(name, values)
		}
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
	_ = http.object("headers", func(d *document) error { // no error
		d.members = make([]policy.Member, 0, len(headers))
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
		var line document
		line.text("key", h.Name)
		if h.Value != "" {
			line.text("rawValue", base64.StdEncoding.EncodeToString([]byte(h.Value)))
		}
		lines = append(lines, line.value())
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
