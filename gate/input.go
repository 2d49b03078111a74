package gate

import (
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/routes"
)

// inputVersion is contract's "version": what policies for opa-envoy-plugin find there.
var inputVersion = policy.Object(
	policy.Member{Key: "ext_authz", Value: policy.String("v3")},
	policy.Member{Key: "encoding", Value: policy.String("protojson")},
)

// document collects the members of one object of the input. Empty values are left out, as in protojson.
type document []policy.Member

func (d *document) add(key string, v policy.Value) {
	*d = append(*d, policy.Member{Key: key, Value: v})
}

func (d *document) text(key, s string) {
	if s != "" {
		d.add(key, policy.String(s))
	}
}

func (d *document) object(key string, o document) {
	if len(o) > 0 {
		d.add(key, policy.Object(o...))
	}
}

func (d *document) labels(key string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	o := make(document, 0, len(m))
	for k, v := range m {
		o.add(k, policy.String(v))
	}
	d.object(key, o)
}

func (d *document) json(key string, doc map[string]any) error {
	if len(doc) == 0 {
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

// input builds the document that the policy reads, contract.md section "Input".
func (c *call) input(entry *policy.Entry) (policy.Value, error) {
	req := c.req
	attributes, err := attributes(req)
	if err != nil {
		return nil, err
	}
	truncated, err := partial(req.Headers, req.Body)
	if err != nil {
		return nil, err
	}
	body := policy.Null()
	if !truncated && entry.Reads("parsed_body") {
		if body, err = parseBody(req.Headers, req.Body, c.view.Settings.Protos, c.target.segments); err != nil {
			return nil, err
		}
	}
	in := make(document, 0, 16)
	in.add("attributes", attributes)
	in.add("version", inputVersion)
	in.add("parsed_path", policy.Strings(c.target.segments))
	in.add("parsed_query", lists(c.target.query))
	in.add("parsed_body", body)
	in.add("truncated_body", policy.Bool(truncated))
	in.text("source_principal", req.Source.Principal)

	who, err := identityInput(&c.identity)
	if err != nil {
		return nil, err
	}
	in.add("identity", who)
	in.object("peer", peerInput(&c.peer))
	if len(c.view.apps) > 1 {
		in.text("app", c.app.Name)
	}
	c.routeInput(&in)
	in.object("policy", document{{Key: "path", Value: policy.String(c.asked())}})
	return policy.Object(in...), nil
}

func identityInput(id *identity.Identity) (policy.Value, error) {
	who := make(document, 0, 9)
	who.text("type", id.Type)
	who.text("identity", id.Identity)
	who.text("subject", id.Subject)
	who.text("issuer", id.Issuer)
	who.add("roles", policy.Strings(id.Roles))
	who.add("groups", policy.Strings(id.Groups))
	who.add("scopes", policy.Strings(id.Scopes))
	who.add("authenticated", policy.Bool(id.Authenticated))
	if err := who.json("claims", id.Claims); err != nil {
		return nil, errors.New("the credential's claims are nested too deeply")
	}
	return policy.Object(who...), nil
}

func peerInput(p *identity.Peer) document {
	var peer document
	peer.text("spiffe_id", p.SPIFFEID)
	peer.text("subject", p.Subject)
	if len(p.SANs) > 0 {
		peer.add("sans", policy.Strings(p.SANs))
	}
	return peer
}

// attributes builds Envoy's AttributeContext with lowerCamelCase names, unset fields absent.
func attributes(req *Request) (policy.Value, error) {
	all := make(document, 0, 7)
	source, err := endpointInput(req.Source)
	if err != nil {
		return nil, err
	}
	destination, err := endpointInput(req.Destination)
	if err != nil {
		return nil, err
	}
	request := make(document, 0, 2)
	if !req.Time.IsZero() {
		request.add("time", timeInput(req.Time))
	}
	request.object("http", httpInput(req))
	all.object("request", request)
	all.object("source", source)
	all.object("destination", destination)
	all.labels("contextExtensions", req.Extensions)
	if err := all.json("metadataContext", req.Metadata); err != nil {
		return nil, err
	}
	if err := all.json("routeMetadataContext", req.RouteMetadata); err != nil {
		return nil, err
	}
	if req.TLS != nil {
		var tls document
		tls.text("sni", req.TLS.SNI)
		all.add("tlsSession", policy.Object(tls...))
	}
	return policy.Object(all...), nil
}

func timeInput(t time.Time) policy.Value {
	var at document
	if s := t.Unix(); s != 0 {
		at.add("seconds", policy.Int(s))
	}
	if n := t.Nanosecond(); n != 0 {
		at.add("nanos", policy.Int(int64(n)))
	}
	return policy.Object(at...)
}

func httpInput(req *Request) document {
	http := make(document, 0, 12)
	http.text("id", req.ID)
	http.text("method", req.Method)
	http.object("headers", headersInput(req.Headers))
	http.text("path", req.Path)
	http.text("host", req.Host)
	http.text("scheme", req.Scheme)
	http.text("query", req.Query)
	http.text("fragment", req.Fragment)
	http.text("protocol", req.Protocol)
	if req.Size != 0 {
		http.add("size", policy.Int(req.Size))
	}
	switch {
	case req.Body == "":
	case req.RawBody:
		http.text("rawBody", base64.StdEncoding.EncodeToString([]byte(req.Body)))
	default:
		http.text("body", req.Body)
	}
	if req.RawHeader {
		http.add("headerMap", headerMapInput(req.Headers))
	}
	return http
}

// headersInput is one member for each name; the values of a name that repeats are joined with a comma, as Envoy joins
// them where it sends a map (RFC 9110 section 5.3).
func headersInput(headers Headers) document {
	out := make(document, 0, len(headers))
	repeated := false
	for i, h := range headers {
		if first := index(headers[:i], h.Name); first >= 0 {
			repeated = true
			continue
		}
		out.add(h.Name, policy.String(h.Value))
	}
	if repeated {
		for i := range out {
			out[i].Value = policy.String(strings.Join(headers.Values(out[i].Key), ","))
		}
	}
	return out
}

func index(headers Headers, name string) int {
	for i := range headers {
		if headers[i].Name == name {
			return i
		}
	}
	return -1
}

func headerMapInput(headers Headers) policy.Value {
	lines := make([]policy.Value, 0, len(headers))
	for _, h := range headers {
		var line document
		line.text("key", h.Name)
		if h.Value != "" {
			line.text("rawValue", base64.StdEncoding.EncodeToString([]byte(h.Value)))
		}
		lines = append(lines, policy.Object(line...))
	}
	return policy.Object(policy.Member{Key: "headers", Value: policy.Array(lines...)})
}

func endpointInput(e Endpoint) (document, error) {
	out := make(document, 0, 5)
	switch {
	case len(e.Address.Other) > 0:
		if err := out.json("address", e.Address.Other); err != nil {
			return nil, err
		}
	case e.Address.Host != "" || e.Address.Port != 0:
		var socket document
		socket.text("address", e.Address.Host)
		if e.Address.Port != 0 {
			socket.add("portValue", policy.Int(int64(e.Address.Port)))
		}
		out.object("address", document{{Key: "socketAddress", Value: policy.Object(socket...)}})
	}
	out.text("service", e.Service)
	out.labels("labels", e.Labels)
	out.text("principal", e.Principal)
	out.text("certificate", e.Certificate)
	return out, nil
}
