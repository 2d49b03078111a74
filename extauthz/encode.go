package extauthz

import (
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"gatehouse/gate"
)

// encode renders an Answer in the wire format without the generated types. The result equals marshalling response(a)
// up to field order. Errors come only from the policy's own metadata, the one part that still uses generated code.
func encode(a *gate.Answer) ([]byte, error) {
	b := make([]byte, 0, 512)
	var err error
	if a.Allow {
		b = append(b, 1<<3|2, 0) // status {}: code OK
		b = message(b, 3, func(b []byte) []byte { return appendAllowed(b, a) })
	} else {
		b = message(b, 1, func(b []byte) []byte {
			b = protowire.AppendVarint(append(b, 1<<3), uint64(code.Code_PERMISSION_DENIED))
			return appendText(b, 2, a.Reason.String())
		})
		b = message(b, 2, func(b []byte) []byte { return appendDenied(b, a) })
	}
	b = message(b, 4, func(b []byte) []byte {
		if len(a.Metadata) == 0 {
			return message(b, 1, func(b []byte) []byte {
				b = appendText(b, 1, "decision_id")
				return message(b, 2, func(b []byte) []byte { return appendSet(b, 3, a.DecisionID) })
			})
		}
		b, err = proto.MarshalOptions{}.MarshalAppend(b, dynamicMetadata(a))
		return b
	})
	return b, err
}

// appendAllowed appends the fields of an OkHttpResponse.
func appendAllowed(b []byte, a *gate.Answer) []byte {
	b = appendHeaders(b, 2, a.Set)
	for _, name := range a.Remove {
		b = appendSet(b, 5, name)
	}
	b = appendHeaders(b, 6, a.Response)
	for _, q := range a.SetQuery {
		b = message(b, 7, func(b []byte) []byte { return appendText(appendText(b, 1, q.Name), 2, q.Value) })
	}
	for _, name := range a.RemoveQuery {
		b = appendSet(b, 8, name)
	}
	return b
}

// appendDenied appends the fields of a DeniedHttpResponse.
func appendDenied(b []byte, a *gate.Answer) []byte {
	b = message(b, 1, func(b []byte) []byte {
		if a.Status == 0 {
			return b
		}
		return protowire.AppendVarint(append(b, 1<<3), uint64(int64(int32(a.Status))))
	})
	b = appendHeaders(b, 2, a.Set)
	return appendText(b, 3, a.Body)
}

// appendHeaders appends HeaderValueOptions.
func appendHeaders(b []byte, num protowire.Number, headers []gate.HeaderOption) []byte {
	for i := range headers {
		h := &headers[i]
		b = message(b, num, func(b []byte) []byte {
			b = message(b, 1, func(b []byte) []byte { return appendText(appendText(b, 1, h.Name), 2, h.Value) })
			if action := headerActions[h.Action]; action != 0 {
				b = protowire.AppendVarint(append(b, 3<<3), uint64(action))
			}
			return b
		})
	}
	return b
}

// appendText appends a string field; proto3 omits an empty one.
func appendText(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return appendSet(b, num, s)
}

// appendSet appends a string field even if empty: in a list or a oneof.
func appendSet(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), validUTF8(s))
}

// message appends a message field. Its length is known only afterwards; one byte is reserved, which is enough for
// most.
func message(b []byte, num protowire.Number, fill func([]byte) []byte) []byte {
	b = append(protowire.AppendTag(b, num, protowire.BytesType), 0)
	at := len(b)
	b = fill(b)
	size := len(b) - at
	if size < 1<<7 {
		b[at-1] = byte(size)
		return b
	}
	more := protowire.SizeVarint(uint64(size)) - 1
	b = append(b, make([]byte, more)...)
	copy(b[at+more:], b[at:at+size])
	protowire.AppendVarint(b[:at-1], uint64(size))
	return b
}
