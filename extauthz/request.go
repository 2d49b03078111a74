package extauthz

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"gatehouse/gate"
)

// request decodes a CheckRequest with the generated types. It is the slow path of scan, and the reference that scan
// is tested against. On an error the Request is Malformed, for the gate to deny and to log.
func request(message *authv3.CheckRequest) (req *gate.Request) {
	req = &gate.Request{}
	defer func() {
		if p := recover(); p != nil {
			req.Malformed = fmt.Errorf("reading the CheckRequest panicked: %v", p)
		}
	}()
	a := message.GetAttributes()
	h := a.GetRequest().GetHttp()
	req.Method, req.Path, req.Host, req.Scheme = h.GetMethod(), h.GetPath(), h.GetHost(), h.GetScheme()
	req.Protocol, req.Query, req.Fragment = h.GetProtocol(), h.GetQuery(), h.GetFragment()
	req.ID, req.Size = h.GetId(), h.GetSize()
	req.Headers, req.RawHeader = headers(h)
	req.Body = h.GetBody()
	if raw := h.GetRawBody(); req.Body == "" && len(raw) > 0 {
		req.Body, req.RawBody = string(raw), true
	}
	req.LossyBody = h.GetBody() != ""
	if t := a.GetRequest().GetTime(); t != nil {
		req.Time = t.AsTime()
	}
	req.Source, req.Destination = endpoint(a.GetSource()), endpoint(a.GetDestination())
	req.Extensions = a.GetContextExtensions()
	req.Metadata, req.RouteMetadata = metadata(a.GetMetadataContext()), metadata(a.GetRouteMetadataContext())
	if t := a.GetTlsSession(); t != nil {
		req.TLS = &gate.TLSSession{SNI: t.GetSni()}
	}
	return req
}

// headers reads the headers in either of Envoy's forms: a map, or with encode_raw_headers a list of lines with byte
// values.
func headers(h *authv3.AttributeContext_HttpRequest) (gate.Headers, bool) {
	byName, lines := h.GetHeaders(), h.GetHeaderMap().GetHeaders()
	out := make(gate.Headers, 0, len(byName)+len(lines))
	for name, value := range byName {
		out = append(out, gate.Header{Name: name, Value: value})
	}
	if len(byName) > 0 {
		return out, h.GetHeaderMap() != nil
	}
	for _, line := range lines {
		value := line.GetValue()
		if value == "" {
			value = strings.ToValidUTF8(string(line.GetRawValue()), "\uFFFD")
		}
		out = append(out, gate.Header{Name: line.GetKey(), Value: value})
	}
	return out, h.GetHeaderMap() != nil
}

func endpoint(p *authv3.AttributeContext_Peer) gate.Endpoint {
	return gate.Endpoint{Address: address(p.GetAddress()), Service: p.GetService(), Labels: p.GetLabels(),
		Principal: p.GetPrincipal(), Certificate: p.GetCertificate()}
}

// address parses the common kind, an IP address with a port; others become Envoy's JSON.
func address(a *corev3.Address) gate.Address {
	if a == nil {
		return gate.Address{}
	}
	socket := a.GetSocketAddress()
	plain := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: socket.GetAddress(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: socket.GetPortValue()}}}}
	if socket != nil && (proto.Equal(a, plain) || socket.GetPortSpecifier() == nil && socket.GetProtocol() == 0 && socket.GetResolverName() == "") {
		return gate.Address{Host: socket.GetAddress(), Port: socket.GetPortValue()}
	}
	return gate.Address{Other: plainJSON(a)}
}

func metadata(m *corev3.Metadata) map[string]any {
	if m == nil {
		return nil
	}
	out := map[string]any{}
	if len(m.GetFilterMetadata()) > 0 {
		filters := make(map[string]any, len(m.GetFilterMetadata()))
		for name, s := range m.GetFilterMetadata() {
			filters[name] = s.AsMap()
		}
		out["filterMetadata"] = filters
	}
	if len(m.GetTypedFilterMetadata()) > 0 {
		typed := make(map[string]any, len(m.GetTypedFilterMetadata()))
		for name, packed := range m.GetTypedFilterMetadata() {
			typed[name] = unpack(packed)
		}
		out["typedFilterMetadata"] = typed
	}
	return out
}

// unpack converts typed metadata to protojson where its type is known, else to type and bytes.
func unpack(packed *anypb.Any) map[string]any {
	if doc := plainJSON(packed); doc != nil {
		return doc
	}
	return map[string]any{"@type": packed.GetTypeUrl(), "value": base64.StdEncoding.EncodeToString(packed.GetValue())}
}

// plainJSON converts with protojson: slow, for rare parts only.
func plainJSON(m proto.Message) map[string]any {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	var doc map[string]any
	if d.Decode(&doc) != nil {
		return nil
	}
	return doc
}
