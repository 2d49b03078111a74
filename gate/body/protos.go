package body

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"gatehouse/input"
	"gatehouse/policy/rego"
)

// maxInflated bounds a gzip-compressed gRPC message after decompression, in bytes.
const maxInflated = 4 << 20

var errBodyGRPC = errors.New("the body is not one gRPC message of the method's type")

// Descriptors hold the message types of gRPC methods. The zero value and nil know none.
type Descriptors struct {
	files *protoregistry.Files
	types *dynamicpb.Types
}

// NewDescriptors parses a FileDescriptorSet, as protoc --include_imports --descriptor_set_out writes it.
func NewDescriptors(set []byte) (*Descriptors, error) {
	var fds descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(set, &fds); err != nil {
		return nil, fmt.Errorf("not a FileDescriptorSet: %w", err)
	}
	files, err := protodesc.NewFiles(&fds)
	if err != nil {
		return nil, fmt.Errorf("building descriptors (was it written with --include_imports?): %w", err)
	}
	return &Descriptors{files: files, types: dynamicpb.NewTypes(files)}, nil
}

// parse decodes the single message of a gRPC request by the method in the path, null where that is unknown. The frame
// is gRPC's Length-Prefixed-Message: a flag, four bytes of length, the message. A second message is rejected: the
// policy would not see it.
func (d *Descriptors) parse(m *media, req *input.Request, path []string) (rego.Value, error) {
	input := d.input(path)
	if input == nil {
		return rego.Null(), nil
	}
	if m.name != "application/grpc" && m.name != "application/grpc+proto" {
		return nil, errBodyGRPC // unknown encoding of a known method
	}
	body := req.Body
	if req.LossyBody && strings.IndexByte(body, '!') >= 0 {
		return nil, errBodyText
	}
	if len(body) < 5 {
		return nil, errBodyGRPC
	}
	compressed, size := body[0] == 1, binary.BigEndian.Uint32([]byte(body[1:5]))
	if body[0] > 1 || uint64(len(body)-5) != uint64(size) {
		return nil, errBodyGRPC
	}
	message := []byte(body[5:])
	if compressed {
		encodings := req.Headers.Values("grpc-encoding")
		if len(encodings) != 1 {
			return nil, errBodyGRPC
		}
		var err error
		if message, err = inflate(encodings[0], message); err != nil {
			return nil, err
		}
	}
	decoded := dynamicpb.NewMessage(input)
	if err := (proto.UnmarshalOptions{Resolver: d.types, RecursionLimit: 100}).Unmarshal(message, decoded); err != nil {
		return nil, errBodyGRPC
	}
	doc, err := protojson.MarshalOptions{Resolver: d.types}.Marshal(decoded)
	if err != nil {
		return nil, errBodyGRPC
	}
	return parseJSON(string(doc), false)
}

// input finds the request type of the unary or client-streaming method /package.Service/Method.
func (d *Descriptors) input(path []string) protoreflect.MessageDescriptor {
	if d == nil || d.files == nil || len(path) != 2 {
		return nil
	}
	service, err := d.files.FindDescriptorByName(protoreflect.FullName(path[0]))
	if err != nil {
		return nil
	}
	if s, ok := service.(protoreflect.ServiceDescriptor); ok {
		if m := s.Methods().ByName(protoreflect.Name(path[1])); m != nil {
			return m.Input()
		}
	}
	return nil
}

func inflate(encoding string, message []byte) ([]byte, error) {
	if !strings.EqualFold(encoding, "gzip") {
		return nil, fmt.Errorf("%w: compressed by an encoding that is not gzip", errBodyGRPC)
	}
	in := strings.NewReader(string(message))
	r, err := gzip.NewReader(in)
	if err != nil {
		return nil, errBodyGRPC
	}
	r.Multistream(false) // parsers disagree about data after the first stream
	out, err := io.ReadAll(io.LimitReader(r, maxInflated+1))
	if err != nil || len(out) > maxInflated {
		return nil, fmt.Errorf("%w, or more than %d bytes once unpacked", errBodyGRPC, maxInflated)
	}
	if in.Len() > 0 {
		return nil, errBodyGRPC
	}
	return out, nil
}
