package extauthz

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/gate"
)

// FuzzScan compares what scan reads with what the generated types give, on the recorded requests and on what mutation makes
// of them.
func FuzzScan(f *testing.F) {
	for _, wire := range messages(f) {
		f.Add(wire)
		f.Add(wire[:len(wire)*2/3])
		f.Add(append(slices.Clone(wire), wire...))
		f.Add(protowire.AppendVarint(protowire.AppendTag(slices.Clone(wire), 9, protowire.VarintType), 7))
		f.Add(protowire.AppendTag(slices.Clone(wire), 15, protowire.StartGroupType))
	}
	f.Fuzz(func(t *testing.T, wire []byte) { compareScan(t, wire) })
}

func compareScan(t *testing.T, wire []byte) (scanned bool) {
	t.Helper()
	before := slices.Clone(wire)
	got, ok := scan(wire)
	if !bytes.Equal(before, wire) {
		t.Fatal("scan changed the message")
	}
	if !ok {
		return false
	}
	var message authv3.CheckRequest
	if err := proto.Unmarshal(before, &message); err != nil {
		t.Fatalf("scan takes what does not parse: %v", err)
	}
	want := request(&message)
	for _, r := range []*gate.Request{got, want} {
		if !r.RawHeader {
			slices.SortFunc(r.Headers, func(a, b gate.Header) int { return cmp.Compare(a.Name, b.Name) })
		}
	}
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); diff != "" {
		t.Fatalf("scan reads otherwise (-generated +scan):\n%s", diff)
	}
	return true
}

// What Envoy sends is read by scan, and not by way of the generated types.
func TestScanTakesWhatEnvoySends(t *testing.T) {
	for i, wire := range messages(t) {
		if !compareScan(t, wire) {
			t.Errorf("message %d goes the long way", i)
		}
	}
}

func TestScanLeavesTheRestToTheGeneratedTypes(t *testing.T) {
	http := func(b []byte) []byte { return nest(nest(nest(b, 2), 4), 1) }
	entry := func(kv ...string) (b []byte) {
		for i, s := range kv {
			b = protowire.AppendString(protowire.AppendTag(b, protowire.Number(i%2+1), protowire.BytesType), s)
		}
		return nest(b, 3)
	}
	for name, wire := range map[string][]byte{
		"attributes twice":      append(http(nil), http(nil)...),
		"http twice":            nest(nest(append(nest(nil, 2), nest(nil, 2)...), 4), 1),
		"a header twice":        http(append(entry("a", "1"), entry("a", "2")...)),
		"a key twice":           http(entry("a", "1", "b", "2")),
		"a header that is none": http(entry("\xff", "1")),
		"invalid utf-8":         http(protowire.AppendString(protowire.AppendTag(nil, 4, protowire.BytesType), "/\xff")),
		"another wire type":     http(protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 1)),
		"a group":               http(protowire.AppendTag(protowire.AppendTag(nil, 99, protowire.StartGroupType), 99, protowire.EndGroupType)),
		"cut short":             http(nil)[:3],
		"field number 0":        {0, 0},
	} {
		if req, ok := scan(wire); ok {
			t.Errorf("%s: scanned as %+v", name, req)
		}
	}
}

func nest(b []byte, num protowire.Number) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
}

// messages are the recorded requests, and one with everything in it.
func messages(t testing.TB) (wires [][]byte) {
	text, err := os.ReadFile("testdata/conformance/corpus.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var row struct{ Request json.RawMessage }
		var req authv3.CheckRequest
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(row.Request, &req); err != nil {
			t.Fatal(err)
		}
		wires = append(wires, marshal(t, &req))
	}
	meta, err := structpb.NewStruct(map[string]any{"payload": map[string]any{"sub": "vera", "n": 1.5, "list": []any{true, nil}}})
	if err != nil {
		t.Fatal(err)
	}
	full := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: "spiffe://a/b", Service: "s", Certificate: "c", Labels: map[string]string{"a": "b", "c": ""},
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "10.0.0.1",
				PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 443}}}}},
		Destination: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/x"}}}},
		Request: &authv3.AttributeContext_Request{Time: &timestamppb.Timestamp{Seconds: 1, Nanos: -2}, Http: &authv3.AttributeContext_HttpRequest{
			Id: "1", Method: "GET", Path: "/a?b", Host: "h", Scheme: "https", Query: "q", Fragment: "f", Size: -1, Protocol: "HTTP/2", RawBody: []byte("\xff\x00"),
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-a", RawValue: []byte("\xff")}, {Key: "x-a", Value: "b"}}}}},
		ContextExtensions:    map[string]string{"a": "b"},
		MetadataContext:      &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.jwt_authn": meta}},
		RouteMetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"x": meta}},
		TlsSession:           &authv3.AttributeContext_TLSSession{Sni: "example.com"},
	}}
	return append(wires, marshal(t, full))
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func BenchmarkRead(b *testing.B) {
	message := &authv3.CheckRequest{}
	if err := proto.Unmarshal(messages(b)[0], message); err != nil {
		b.Fatal(err)
	}
	for i := range 20 {
		message.Attributes.Request.Http.Headers[fmt.Sprintf("x-custom-%d", i)] = "a value of the usual length"
	}
	wire := marshal(b, message)
	b.Run("scan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := scan(wire); !ok {
				b.Fatal("not scanned")
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var message authv3.CheckRequest
			if err := proto.Unmarshal(wire, &message); err != nil {
				b.Fatal(err)
			}
			request(&message)
		}
	})
}
