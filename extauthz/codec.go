package extauthz

import (
	"fmt"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that every message but ours goes to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// incoming is one CheckRequest as it came: either it parsed or problem says why not. Bytes is its size on the wire.
type incoming struct {
	message authv3.CheckRequest
	problem error
	bytes   int
}

// outgoing is one CheckResponse, already on the wire format.
type outgoing struct{ wire []byte }

// codec is the server's codec for all services on the port. grpc-go answers a message that does not parse, or that does
// not marshal, with a gRPC error, and Envoy may be told to let requests through on those (failure_mode_allow). So for
// our own two types it never fails: what does not parse is an incoming with a problem, which Check denies.
type codec struct{ next encoding.CodecV2 }

// Codec returns the codec that a grpc.Server with an Authorization service must be made with (grpc.ForceServerCodecV2).
func Codec() encoding.CodecV2 { return codec{next: encoding.GetCodecV2("proto")} }

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
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return c.next.Unmarshal(data, v)
	}
	in.bytes = data.Len()
	if err := proto.Unmarshal(data.Materialize(), &in.message); err != nil {
		in.problem = fmt.Errorf("the CheckRequest does not parse: %w", err)
	}
	return nil
}
