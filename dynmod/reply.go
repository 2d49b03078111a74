package dynmod

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"gatehouse/extauthz"
	"gatehouse/gate"
)

// Op is one step of a Reply.
type Op byte

// The steps. The C side of the module has the same numbers.
const (
	SetRequestHeader    Op = 1 + iota // in place of all others of its name
	RemoveRequestHeader               // all of a name
	AddResponse                       // from here on: to the application's answer
	SetResponse                       // in place of all others of its name
	AddResponseIfAbsent
	SetResponseIfPresent
	DenialHeader // on the answer in the application's place
	DenialBody
	MetadataText   // name and text
	MetadataNumber // name and the eight bytes of a float64, little-endian
	MetadataStruct // no name; a google.protobuf.Struct
)

// Verdict is what becomes of a request.
type Verdict int32

// The verdicts. The zero value denies.
const (
	Deny  Verdict = iota // with the status and what Ops say
	Allow                // with what Ops say
	Wait                 // it is decided elsewhere: see Filter.Start
)

// Reply is a decision as the C side carries it out.
type Reply struct {
	Verdict Verdict
	Status  uint32 // of a denial
	Headers uint32 // how many Ops are DenialHeader
	Changes bool   // Ops change the request
	// Ops are steps, each an Op, the lengths of a name and a value (four bytes each, little-endian), the name and the value.
	Ops []byte
	// Ticket is Wait's, for Start, Take and Cancel.
	Ticket uint64
}

func (r *Reply) op(op Op, name, value string) {
	r.Ops = append(r.Ops, byte(op))
	r.Ops = binary.LittleEndian.AppendUint32(r.Ops, uint32(len(name)))
	r.Ops = binary.LittleEndian.AppendUint32(r.Ops, uint32(len(value)))
	r.Ops = append(append(r.Ops, name...), value...)
}

// responseOps are the steps for the gate's actions on response headers. Plain appends, as in Envoy.
var responseOps = [...]Op{
	gate.Plain:                  AddResponse,
	gate.AppendIfExistsOrAdd:    AddResponse,
	gate.AddIfAbsent:            AddResponseIfAbsent,
	gate.OverwriteIfExistsOrAdd: SetResponse,
	gate.OverwriteIfExists:      SetResponseIfPresent,
}

// render writes an Answer, in the order in which ext_authz applies it. Where something in it cannot be sent the reply is a denial.
func render(a *gate.Answer, path string, ops []byte) Reply {
	r := Reply{Ops: ops[:0]}
	if err := r.fill(a, path); err != nil {
		return failure(ops, http.StatusInternalServerError, gate.Internal)
	}
	return r
}

func (r *Reply) fill(a *gate.Answer, path string) error {
	if err := r.metadata(a); err != nil {
		return err
	}
	if !a.Allow {
		for _, h := range a.Set {
			if !sendable(h.Name, h.Value) {
				return errUnsendable(h.Name)
			}
			r.op(DenialHeader, h.Name, h.Value)
			r.Headers++
		}
		r.op(DenialBody, "", strings.ToValidUTF8(a.Body, "\uFFFD"))
		r.Status = uint32(a.Status)
		return nil
	}
	for _, h := range a.Set {
		if !sendable(strings.TrimPrefix(h.Name, ":"), h.Value) {
			return errUnsendable(h.Name)
		}
		r.op(SetRequestHeader, h.Name, h.Value)
	}
	for _, name := range a.Remove {
		if removable(name) {
			r.op(RemoveRequestHeader, strings.ToLower(name), "")
		}
	}
	if len(a.SetQuery)+len(a.RemoveQuery) > 0 {
		r.op(SetRequestHeader, ":path", changeQuery(path, a.SetQuery, a.RemoveQuery))
	}
	r.Changes = len(a.Set)+len(a.Remove)+len(a.SetQuery)+len(a.RemoveQuery) > 0
	for op := AddResponse; op <= SetResponseIfPresent; op++ {
		for _, h := range a.Response {
			if !sendable(h.Name, h.Value) {
				return errUnsendable(h.Name)
			}
			if responseOps[h.Action] == op {
				r.op(op, h.Name, h.Value)
			}
		}
	}
	r.Verdict = Allow // last of all
	return nil
}

// metadata writes the dynamic metadata, of ext_authz' own namespace: access logs and filters find it where they looked for it before.
func (r *Reply) metadata(a *gate.Answer) error {
	if len(a.Metadata) == 0 {
		r.op(MetadataText, "decision_id", a.DecisionID)
	} else {
		packed, err := extauthz.Metadata(a)
		if err != nil {
			return err
		}
		r.op(MetadataStruct, "", string(packed))
	}
	if a.Allow {
		var zero [8]byte // milliseconds
		binary.LittleEndian.PutUint64(zero[:], math.Float64bits(0))
		r.op(MetadataNumber, "ext_authz_duration", string(zero[:]))
	}
	return nil
}

func errUnsendable(name string) error { return fmt.Errorf("header %q cannot be sent", name) }

// sendable holds that what is sent is one header: the gate has seen to that, and this is the last line of defence.
func sendable(name, value string) bool {
	return httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value)
}

// removable reports whether Envoy's ext_authz would remove a header: without a pseudo-header or Host there is no request.
func removable(name string) bool {
	return name != "" && name[0] != ':' && !strings.EqualFold(name, "host")
}

// failure is a denial without the gate, and without an entry in the log.
func failure(ops []byte, status int, reason gate.Reason) Reply {
	r := Reply{Ops: ops[:0], Status: uint32(status), Headers: 2}
	r.op(DenialHeader, "content-type", "application/problem+json")
	r.op(DenialHeader, "cache-control", "no-store")
	r.op(DenialBody, "", fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%d,"reason":%q}`, http.StatusText(status), status, reason))
	return r
}
