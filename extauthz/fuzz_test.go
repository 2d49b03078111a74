package extauthz_test

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"gatehouse/gate"
)

// FuzzCheckRequest sends any bytes as a CheckRequest, seeded with the recorded ones and one with a header map: there is
// always a CheckResponse, never a gRPC error, and a denial always has a status that Envoy takes for one.
func FuzzCheckRequest(f *testing.F) {
	for _, r := range corpus(f) {
		var req authv3.CheckRequest
		if err := protojson.Unmarshal(r.Request, &req); err != nil {
			f.Fatal(err)
		}
		wire, err := proto.Marshal(&req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	listed := get("/a?b=c")
	listed.Attributes.Request.Http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-a", RawValue: []byte("\xff")}, {Key: "x-a", Value: "b"}}}
	listed.Attributes.Request.Http.Headers = nil
	wire, err := proto.Marshal(listed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	conn := connection(f, gate.Config{}, func(v *gate.View) {
		v.Settings = settings()
		v.Policy = compile(f, "package envoy.authz\nallow := {\"allowed\": true, \"headers\": {\"x-all\": json.marshal(input)}}")
	})
	f.Fuzz(func(t *testing.T, message []byte) {
		in, out := raw(message), raw(nil)
		if err := conn.Invoke(t.Context(), "/envoy.service.auth.v3.Authorization/Check", &in, &out, grpc.ForceCodec(rawCodec{})); err != nil {
			t.Fatalf("gRPC error: %v", err)
		}
		var got authv3.CheckResponse
		if err := proto.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		denied := got.GetDeniedResponse()
		if (got.GetStatus().GetCode() == 0) != (denied == nil) {
			t.Fatalf("status code %d with %v", got.GetStatus().GetCode(), denied)
		}
		if denied.GetStatus().GetCode() == 500 && got.GetStatus().GetMessage() == "internal" {
			t.Fatal("an internal error")
		}
	})
}
