package extauthz

import (
	"errors"
	"fmt"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec for all other messages
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"gatehouse/gate"
	"gatehouse/panics"
)

// incoming is one received CheckRequest, converted for the gate.
type incoming struct {
	request *gate.Request
	plain   bool // the response must be encoded with the generated code, as the request was decoded
}

// outgoing is one CheckResponse, already encoded.
type outgoing struct{ wire []byte }

// codec is the server's codec for all services on the port. grpc-go answers a message that cannot be decoded or
// encoded with a gRPC error, and Envoy may be configured to let requests through on those (failure_mode_allow). So
// for our own two types it never fails: a message that does not parse becomes a Malformed Request, which Check
// denies.
type codec struct {
	next  encoding.CodecV2
	plain bool
}

// Codec returns the codec that a grpc.Server with an Authorization service must use (grpc.ForceServerCodecV2). A
// plain one uses the generated code only.
func Codec(plain bool) encoding.CodecV2 {
	return codec{next: encoding.GetCodecV2("proto"), plain: plain}
}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if out, ok := v.(*outgoing); ok {
		return mem.BufferSlice{mem.SliceBuffer(out.wire)}, nil
	}
	return c.next.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) (err error) {
	in, ok := v.(*incoming)
	if !ok {
		defer panics.Into("reading a message", &err)
		return c.next.Unmarshal(data, v)
	}
	in.plain = c.plain
	in.request = readSafely(data.Materialize(), c.plain) // a copy: the request must not share the transport's buffers
	return nil
}

// readSafely is read, and turns a panic into a Malformed request: no caller up the stack recovers.
func readSafely(wire []byte, plain bool) (req *gate.Request) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("reading a CheckRequest", p)
			req = &gate.Request{Bytes: len(wire), Malformed: errPanicked}
		}
	}()
	return read(wire, plain)
}

var errPanicked = errors.New("reading the CheckRequest panicked")

// read decodes a CheckRequest into a Request that owns the message's memory. One that does not parse is Malformed.
func read(wire []byte, plain bool) *gate.Request {
	var req *gate.Request
	ok := false
	if !plain {
		req, ok = scan(wire)
	}
	if !ok {
		var message authv3.CheckRequest
		if err := proto.Unmarshal(wire, &message); err != nil {
			return &gate.Request{Bytes: len(wire), Malformed: fmt.Errorf("the CheckRequest does not parse: %w", err)}
		}
		req = request(&message)
	}
	req.Bytes = len(wire)
	return req
}
