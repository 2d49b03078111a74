package extauthz

import (
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"gatehouse/gate"
)

// scan decodes a CheckRequest from its wire format directly into a gate.Request, without the generated types: for
// what Envoy sends it allocates one slice for the headers. The result's strings alias wire, which must not change any
// more.
//
// It handles only the messages that Envoy sends and returns false for anything else: repeated singular messages or
// map keys, groups, unexpected wire types, invalid UTF-8. The generated code then decodes the message, so that no
// message has two readings.
func scan(wire []byte) (*gate.Request, bool) {
	s := scanner{req: &gate.Request{}}
	ok := eachField(wire, func(f field) bool { return f.num != 1 || s.once(sawAttributes) && s.attributes(f) })
	return s.req, ok
}

// scanner is the state of one scan.
type scanner struct {
	req     *gate.Request
	seen    uint32 // bit set of the singular messages seen
	rawBody string
	headers gate.Headers // of the header map
}

const (
	sawAttributes = 1 << iota
	sawSource
	sawDestination
	sawRequest
	sawMetadata
	sawRouteMetadata
	sawTLS
	sawTime
	sawHTTP
	sawHeaderMap
)

// once reports whether a singular message occurs for the first time: two of them would have to be merged.
func (s *scanner) once(what uint32) bool {
	first := s.seen&what == 0
	s.seen |= what
	return first
}

// field is one field of a message: a varint, or bytes.
type field struct {
	num    protowire.Number
	typ    protowire.Type
	varint uint64
	bytes  []byte
}

// eachField calls each with the fields of a message until it returns false or the message ends. Unknown fixed-size
// fields are skipped; groups are not.
func eachField(b []byte, each func(field) bool) bool {
	for len(b) > 0 {
		if f, n := short(b); n > 0 {
			if !each(f) {
				return false
			}
			b = b[n:]
			continue
		}
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		f := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		case protowire.Fixed32Type:
			_, n = protowire.ConsumeFixed32(b)
		case protowire.Fixed64Type:
			_, n = protowire.ConsumeFixed64(b)
		default:
			return false
		}
		if n < 0 || !each(f) {
			return false
		}
		b = b[n:]
	}
	return true
}

// short reads a bytes field whose number and length take one byte each, the common case; n is 0 otherwise.
func short(b []byte) (f field, n int) {
	if len(b) < 2 || b[0]&7 != byte(protowire.BytesType) || b[0] < 8 || b[0] >= 0x80 || b[1] >= 0x80 {
		return field{}, 0
	}
	if n = 2 + int(b[1]); n > len(b) {
		return field{}, 0
	}
	return field{num: protowire.Number(b[0] >> 3), typ: protowire.BytesType, bytes: b[2:n:n]}, n
}

// readString stores the field's bytes as a string without copying.
func (f field) readString(into *string) bool {
	if f.typ != protowire.BytesType || !utf8.Valid(f.bytes) {
		return false
	}
	*into = unsafe.String(unsafe.SliceData(f.bytes), len(f.bytes))
	return true
}

// message reads a field that is a message.
func (f field) message(each func(field) bool) bool {
	return f.typ == protowire.BytesType && eachField(f.bytes, each)
}

// AttributeContext.
func (s *scanner) attributes(f field) bool {
	return f.message(func(f field) bool {
		switch f.num {
		case 1:
			return s.once(sawSource) && peer(f, &s.req.Source)
		case 2:
			return s.once(sawDestination) && peer(f, &s.req.Destination)
		case 4:
			return s.once(sawRequest) && s.request(f)
		case 10:
			return label(f, &s.req.Extensions)
		case 11:
			return s.once(sawMetadata) && generatedMetadata(f, &s.req.Metadata)
		case 12:
			return s.once(sawTLS) && s.tls(f)
		case 13:
			return s.once(sawRouteMetadata) && generatedMetadata(f, &s.req.RouteMetadata)
		}
		return true
	})
}

// AttributeContext.Request.
func (s *scanner) request(f field) bool {
	return f.message(func(f field) bool {
		switch f.num {
		case 1:
			return s.once(sawTime) && s.time(f)
		case 2:
			return s.once(sawHTTP) && s.http(f)
		}
		return true
	})
}

func (s *scanner) time(f field) bool {
	var seconds, nanos int64
	ok := f.message(func(f field) bool {
		switch f.num {
		case 1:
			seconds = int64(f.varint)
		case 2:
			nanos = int64(int32(f.varint))
		default:
			return true
		}
		return f.typ == protowire.VarintType
	})
	s.req.Time = time.Unix(seconds, nanos).UTC()
	return ok
}

// AttributeContext.HttpRequest.
func (s *scanner) http(f field) bool {
	if f.typ != protowire.BytesType {
		return false
	}
	req := s.req
	count := countHeaders(f.bytes)
	req.Headers = make(gate.Headers, 0, count)
	if !eachField(f.bytes, s.httpField) {
		return false
	}
	if req.Body == "" && s.rawBody != "" {
		req.Body, req.RawBody = s.rawBody, true
	}
	req.LossyBody = req.Body != "" && !req.RawBody
	if len(req.Headers) == 0 && s.headers != nil {
		req.Headers = s.headers
	}
	return !repeated(req.Headers[:count])
}

// countHeaders counts the header fields of a message, as far as it can be read.
func countHeaders(b []byte) (count int) {
	for len(b) > 0 {
		f, n := short(b)
		if n == 0 {
			var m int
			if f.num, f.typ, n = protowire.ConsumeTag(b); n < 0 {
				return count
			}
			if m = protowire.ConsumeFieldValue(f.num, f.typ, b[n:]); m < 0 {
				return count
			}
			n += m
		}
		if f.num == 3 {
			count++
		}
		b = b[n:]
	}
	return count
}

func (s *scanner) httpField(f field) bool {
	req := s.req
	switch f.num {
	case 1:
		return f.readString(&req.ID)
	case 2:
		return f.readString(&req.Method)
	case 3:
		var h gate.Header
		ok := pair(f, &h.Name, &h.Value)
		req.Headers = append(req.Headers, h)
		return ok
	case 4:
		return f.readString(&req.Path)
	case 5:
		return f.readString(&req.Host)
	case 6:
		return f.readString(&req.Scheme)
	case 7:
		return f.readString(&req.Query)
	case 8:
		return f.readString(&req.Fragment)
	case 9:
		req.Size = int64(f.varint)
		return f.typ == protowire.VarintType
	case 10:
		return f.readString(&req.Protocol)
	case 11:
		return f.readString(&req.Body)
	case 12:
		s.rawBody = string(f.bytes)
		return f.typ == protowire.BytesType
	case 13:
		return s.once(sawHeaderMap) && s.headerMap(f)
	}
	return true
}

// pair reads an entry of a map of strings.
func pair(f field, key, value *string) bool {
	if k, rest, ok := leading(f.bytes, 1<<3|2); ok && f.typ == protowire.BytesType { // the order of every known encoder: key, value, nothing else
		if v, rest, ok := leading(rest, 2<<3|2); ok && len(rest) == 0 {
			return field{typ: f.typ, bytes: k}.readString(key) && field{typ: f.typ, bytes: v}.readString(value)
		}
	}
	keys, values := 0, 0
	ok := f.message(func(f field) bool {
		switch f.num {
		case 1:
			keys++
			return f.readString(key)
		case 2:
			values++
			return f.readString(value)
		}
		return true
	})
	return ok && keys <= 1 && values <= 1
}

// leading splits a bytes field off the front of a message, where it has this tag and is shorter than 16 KiB; ok is
// false otherwise.
func leading(b []byte, tag byte) (value, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != tag {
		return nil, nil, false
	}
	size, b := int(b[1]), b[2:]
	if size >= 1<<7 {
		if len(b) == 0 || b[0] >= 1<<7 {
			return nil, nil, false
		}
		size, b = size&(1<<7-1)|int(b[0])<<7, b[1:]
	}
	if size > len(b) {
		return nil, nil, false
	}
	return b[:size:size], b[size:], true
}

// Up to this many headers, repeated names are found by pairwise comparison.
const maxCompared = 100

// repeated reports whether two entries have the same key. In a map the last would win.
func repeated(headers gate.Headers) bool {
	if len(headers) > maxCompared {
		return true
	}
	var seen [16]uint64 // a bit set of name hashes, to skip most comparisons
	for i := range headers {
		at := nameHash(headers[i].Name) % 1024
		if seen[at/64]&(1<<(at%64)) != 0 {
			for j := range i {
				if headers[i].Name == headers[j].Name {
					return true
				}
			}
		}
		seen[at/64] |= 1 << (at % 64)
	}
	return false
}

// nameHash combines what names mostly differ in: length, first, middle and last byte.
func nameHash(name string) uint {
	n := len(name)
	if n < 2 {
		return uint(n)
	}
	return uint(n)*37 ^ uint(name[0])*5 ^ uint(name[n/2])*11 ^ uint(name[n-2])*59 ^ uint(name[n-1])*3
}

// config.core.v3.HeaderMap, with encode_raw_headers. Plain headers take precedence.
func (s *scanner) headerMap(f field) bool {
	s.req.RawHeader = true
	s.headers = gate.Headers{}
	return f.message(func(f field) bool {
		if f.num != 1 {
			return true
		}
		var h gate.Header
		var raw []byte
		ok := f.message(func(f field) bool {
			switch f.num {
			case 1:
				return f.readString(&h.Name)
			case 2:
				return f.readString(&h.Value)
			case 3:
				raw = f.bytes
				return f.typ == protowire.BytesType
			}
			return true
		})
		if h.Value == "" {
			h.Value = strings.ToValidUTF8(string(raw), "\uFFFD")
		}
		s.headers = append(s.headers, h)
		return ok
	})
}

func (s *scanner) tls(f field) bool {
	s.req.TLS = &gate.TLSSession{}
	return f.message(func(f field) bool { return f.num != 1 || f.readString(&s.req.TLS.SNI) })
}

// AttributeContext.Peer.
func peer(f field, into *gate.Endpoint) bool {
	addresses := 0
	return f.message(func(f field) bool {
		switch f.num {
		case 1:
			addresses++
			return addresses == 1 && socket(f, &into.Address)
		case 2:
			return f.readString(&into.Service)
		case 3:
			return label(f, &into.Labels)
		case 4:
			return f.readString(&into.Principal)
		case 5:
			return f.readString(&into.Certificate)
		}
		return true
	})
}

// label adds an entry to a map of strings; the last of a key wins, as in the generated code.
func label(f field, into *map[string]string) bool {
	var key, value string
	if !pair(f, &key, &value) {
		return false
	}
	if *into == nil {
		*into = map[string]string{}
	}
	(*into)[key] = value
	return true
}

// socket parses a config.core.v3.Address that is only a TCP address and port; others use the generated code.
func socket(f field, into *gate.Address) bool {
	if f.typ != protowire.BytesType {
		return false
	}
	plain, sockets, ports := true, 0, 0
	ok := eachField(f.bytes, func(f field) bool {
		plain = plain && f.num == 1
		sockets++
		return f.message(func(f field) bool {
			switch f.num {
			case 2:
				return f.readString(&into.Host)
			case 3:
				ports++
				into.Port = uint32(f.varint)
				return f.typ == protowire.VarintType
			}
			plain = false
			return true
		})
	})
	if ok && plain && sockets == 1 && ports == 1 {
		return true
	}
	var a corev3.Address
	if proto.Unmarshal(f.bytes, &a) != nil {
		return false
	}
	*into = address(&a)
	return true
}

// generatedMetadata decodes metadata, which can be any JSON, with the generated code.
func generatedMetadata(f field, into *map[string]any) bool {
	var m corev3.Metadata
	if f.typ != protowire.BytesType || proto.Unmarshal(f.bytes, &m) != nil {
		return false
	}
	*into = metadata(&m)
	return true
}
