package extauthz_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"gatehouse/gate/body"
)

// healthDescriptors is what protoc would write for grpc.health.v1.
func healthDescriptors(t testing.TB) *body.Descriptors {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto)}}
	wire, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	d, err := body.NewDescriptors(wire)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// frame is gRPC's Length-Prefixed-Message.
func frame(compressed byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{compressed}, uint32(len(message))), message...)
}

func zip(t testing.TB, message []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestGRPCBodies parses gRPC requests by the method that their path names.
func TestGRPCBodies(t *testing.T) {
	message, err := proto.Marshal(&grpc_health_v1.HealthCheckRequest{Service: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	large, err := proto.Marshal(&grpc_health_v1.HealthCheckRequest{Service: strings.Repeat("x", 8<<20)})
	if err != nil {
		t.Fatal(err)
	}
	bomb := zip(t, large) // a few kilobytes, and a valid message
	s := settings()
	s.Protos = healthDescriptors(t)
	c := client(t, s, compile(t, `package envoy.authz
allow := {"allowed": true, "headers": {"x-body": json.marshal(input.parsed_body)}}`))
	for name, tt := range map[string]struct {
		path, contentType, encoding string
		body                        []byte
		want                        string // "": 400
	}{
		"unary":                {"/grpc.health.v1.Health/Check", "application/grpc", "", frame(0, message), `{"service":"orders"}`},
		"streaming":            {"/grpc.health.v1.Health/Watch", "application/grpc+proto", "", frame(0, message), `{"service":"orders"}`},
		"gzip":                 {"/grpc.health.v1.Health/Check", "application/grpc", "gzip", frame(1, zip(t, message)), `{"service":"orders"}`},
		"empty message":        {"/grpc.health.v1.Health/Check", "application/grpc", "", frame(0, nil), `{}`},
		"unknown service":      {"/orders.v1.Orders/Get", "application/grpc", "", frame(0, message), `null`},
		"unknown method":       {"/grpc.health.v1.Health/Nope", "application/grpc", "", frame(0, message), `null`},
		"a message, no method": {"/grpc.health.v1.HealthCheckRequest/service", "application/grpc", "", frame(0, message), `null`},
		"not the message":      {"/grpc.health.v1.Health/Check", "application/grpc", "", frame(0, []byte("\xff\xff")), ""},
		"longer than it is":    {"/grpc.health.v1.Health/Check", "application/grpc", "", frame(0, message)[:7], ""},
		"half a frame":         {"/grpc.health.v1.Health/Check", "application/grpc", "", []byte{0, 0}, ""},
		"unknown flag":         {"/grpc.health.v1.Health/Check", "application/grpc", "", frame(2, message), ""},
		"unknown compression":  {"/grpc.health.v1.Health/Check", "application/grpc", "snappy", frame(1, message), ""},
		"two messages":         {"/grpc.health.v1.Health/Check", "application/grpc", "", append(frame(0, message), frame(0, message)...), ""},
		"bytes behind it":      {"/grpc.health.v1.Health/Check", "application/grpc", "", append(frame(0, message), 0), ""},
		"gzip, two streams":    {"/grpc.health.v1.Health/Check", "application/grpc", "gzip", frame(1, append(zip(t, message), zip(t, message)...)), ""},
		"gzip, bytes behind":   {"/grpc.health.v1.Health/Check", "application/grpc", "gzip", frame(1, append(zip(t, message), 0)), ""},
		"another encoding":     {"/grpc.health.v1.Health/Check", "application/grpc+json", "", frame(0, []byte(`{}`)), ""},
		"that, unknown method": {"/orders.v1.Orders/Get", "application/grpc+json", "", frame(0, []byte(`{}`)), `null`},
		"gRPC-Web":             {"/grpc.health.v1.Health/Check", "application/grpc-web+json", "", frame(0, message), `null`},
		"type not strict":      {"/grpc.health.v1.Health/Check", "application/grpc; x", "", frame(0, message), ""},
		"a bomb":               {"/grpc.health.v1.Health/Check", "application/grpc", "gzip", frame(1, bomb), ""},
	} {
		t.Run(name, func(t *testing.T) {
			req := get(tt.path, "content-type", tt.contentType)
			if tt.encoding != "" {
				req.Attributes.Request.Http.Headers["grpc-encoding"] = tt.encoding
			}
			req.Attributes.Request.Http.RawBody = tt.body
			checkBody(t, c, req, tt.want)
		})
	}
}

// TestGRPCBodiesAsText rejects a text message with an exclamation mark: it may replace any byte, also one of the length.
func TestGRPCBodiesAsText(t *testing.T) {
	s := settings()
	s.Protos = healthDescriptors(t)
	c := client(t, s, compile(t, `package envoy.authz
allow := {"allowed": true, "headers": {"x-body": json.marshal(input.parsed_body)}}`))
	for service, want := range map[string]string{"orders": `{"service":"orders"}`, "orders!": "", strings.Repeat("x", 31): "" /* the frame is 33 bytes long, which is an exclamation mark */} {
		message, err := proto.Marshal(&grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		checkBody(t, c, withBody(get("/grpc.health.v1.Health/Check", "content-type", "application/grpc"), string(frame(0, message))), want)
	}
}

func checkBody(t *testing.T, c authv3.AuthorizationClient, req *authv3.CheckRequest, want string) {
	t.Helper()
	got, err := c.Check(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if want == "" {
		if got.GetDeniedResponse().GetStatus().GetCode() != 400 {
			t.Fatalf("got %v, want a 400 denial", got)
		}
		return
	}
	if body := header(got.GetOkResponse().GetHeaders(), "x-body"); body != want {
		t.Errorf("parsed_body is %s, want %s (%v)", body, want, got)
	}
}

// TestBodyIsParsedOnlyWhereItIsRead lets a malformed body pass that nothing reads.
func TestBodyIsParsedOnlyWhereItIsRead(t *testing.T) {
	malformed := func() *authv3.CheckRequest {
		return withBody(get("/", "content-type", "application/json"), "{")
	}
	for name, tt := range map[string]struct {
		rego string
		read bool
	}{
		"not read":         {"allow := true if input.parsed_path", false},
		"read":             {"allow := true if input.parsed_body.a", true},
		"read by a helper": {"allow := true if f\nf if input.parsed_body", true},
		"input as a whole": {"allow := true if count(input) > 0", true},
		"by a variable":    {"allow := true if { some k; input[k] == 7 }", true},
		"unreachable rule": {"allow := true\nother if input.parsed_body", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, settings(), compile(t, "package envoy.authz\n"+tt.rego))
			got, err := c.Check(t.Context(), malformed())
			if err != nil {
				t.Fatal(err)
			}
			if refused := got.GetDeniedResponse().GetStatus().GetCode() == 400; refused != tt.read {
				t.Errorf("refused: %v, want %v (%v)", refused, tt.read, got)
			}
		})
	}
}
