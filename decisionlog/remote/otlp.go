package remote

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"gatehouse/decisionlog/events"
)

// otlpRecords is the format of OTLP's logs (opentelemetry-proto, OTLP/HTTP with protobuf). A record's body is the line, so that nothing
// of it is lost and whoever reads lines reads it; what is searched for most is in attributes, named by OpenTelemetry's semantic
// conventions where these have a name.
type otlpRecords struct {
	resource *resource.Resource
	scope    *common.InstrumentationScope
}

func newOTLP(labels map[string]string) *otlpRecords {
	o := &otlpRecords{resource: &resource.Resource{}, scope: &common.InstrumentationScope{Name: "gatehouse/decisionlog"}}
	all := map[string]string{"service.name": "gatehouse"}
	maps.Copy(all, labels)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		o.resource.Attributes = append(o.resource.Attributes, textAttribute(name, all[name]))
	}
	return o
}

// encode implements encoding. LogsData is on the wire what ExportLogsServiceRequest is, whose package would bring a server along.
func (o *otlpRecords) encode(lines [][]byte) (body []byte, mediaType string, err error) {
	scope := &logs.ScopeLogs{Scope: o.scope}
	for _, line := range lines {
		record, err := logRecord(line)
		if err != nil {
			return nil, "", err
		}
		scope.LogRecords = append(scope.LogRecords, record)
	}
	body, err = proto.Marshal(&logs.LogsData{ResourceLogs: []*logs.ResourceLogs{{Resource: o.resource, ScopeLogs: []*logs.ScopeLogs{scope}}}})
	if err != nil {
		return nil, "", fmt.Errorf("encoding decisions for OTLP: %w", err)
	}
	return body, "application/x-protobuf", nil
}

func logRecord(line []byte) (*logs.LogRecord, error) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	var e events.Event
	if err := e.Parse(line); err != nil {
		return nil, fmt.Errorf("encoding decisions for OTLP: %w", err)
	}
	at, _ := e.Time() // our own: it has one
	record := &logs.LogRecord{TimeUnixNano: nanos(at), ObservedTimeUnixNano: nanos(at), EventName: "gatehouse.decision",
		SeverityNumber: logs.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
		Body: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: string(line)}}}
	record.TraceId, record.SpanId = identifier(e.TraceID.Decode(), 16), identifier(e.SpanID.Decode(), 8)
	switch {
	case e.Gap.Recorded:
		record.EventName = "gatehouse.gap"
		record.SeverityNumber, record.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
		return record, nil
	case string(e.Outcome) != "allow":
		record.SeverityNumber, record.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	record.Attributes = eventAttributes(&e)
	return record, nil
}

func eventAttributes(e *events.Event) (out []*common.KeyValue) {
	add := func(name, value string) {
		if value != "" {
			out = append(out, textAttribute(name, value))
		}
	}
	add("gatehouse.decision.id", e.DecisionID.Decode())
	add("gatehouse.decision.outcome", e.Outcome.Decode())
	add("gatehouse.decision.reason", e.Reason.Decode())
	add("gatehouse.decision.path", e.Path.Decode())
	add("gatehouse.policy.revision", e.Revision.Decode())
	add("gatehouse.app", e.App.Decode())
	add("http.route", e.Route.Decode())
	add("client.address", e.RequestedBy.Decode())
	add("http.request.method", e.Request.Method.Decode())
	add("server.address", hostname(e.Request.Host.Decode()))
	path, _, _ := strings.Cut(e.Request.Path.Decode(), "?")
	add("url.path", path)
	add("user.id", e.Identity.Subject.Decode())
	if e.Status != 0 {
		out = append(out, &common.KeyValue{Key: "http.response.status_code", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(e.Status)}}})
	}
	if e.DryRun {
		out = append(out, &common.KeyValue{Key: "gatehouse.dry_run", Value: &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}}})
	}
	var roles []any // a mask may have put in something else than strings
	if json.Unmarshal(e.Identity.Roles, &roles) == nil && len(roles) > 0 {
		list := &common.ArrayValue{}
		for _, role := range roles {
			if s, ok := role.(string); ok {
				list.Values = append(list.Values, &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}})
			}
		}
		out = append(out, &common.KeyValue{Key: "user.roles", Value: &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: list}}})
	}
	return out
}

// hostname is a host without its port.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

func textAttribute(name, value string) *common.KeyValue {
	return &common.KeyValue{Key: name, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\ufffd")}}}
}

func nanos(t time.Time) uint64 {
	if t.Before(time.Unix(0, 0)) || t.Year() > 2200 {
		return 0
	}
	return uint64(t.UnixNano())
}

// identifier is a W3C id in bytes; nil: it is none.
func identifier(id string, size int) []byte {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != size {
		return nil
	}
	return raw
}

// accepted implements encoding: a server may take a request and refuse some of its records, which are not to be sent again (OTLP, "Partial
// Success"). The answer is an ExportLogsServiceResponse: partial_success = 1 {rejected_log_records = 1, error_message = 2}.
func (o *otlpRecords) accepted(answer []byte) (refused int, err error) {
	var why string
	for outer := answer; len(outer) > 0; {
		number, kind, n := protowire.ConsumeTag(outer)
		if n < 0 {
			return 0, nil // no such answer, and a 2xx all the same
		}
		size := protowire.ConsumeFieldValue(number, kind, outer[n:])
		if size < 0 {
			return 0, nil
		}
		if number == 1 && kind == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(outer[n:])
			refused, why = partial(inner)
		}
		outer = outer[n+size:]
	}
	return refused, fmt.Errorf("the server says %.200q", why)
}

func partial(in []byte) (refused int, why string) {
	for len(in) > 0 {
		number, kind, n := protowire.ConsumeTag(in)
		if n < 0 {
			return refused, why
		}
		size := protowire.ConsumeFieldValue(number, kind, in[n:])
		if size < 0 {
			return refused, why
		}
		switch {
		case number == 1 && kind == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(in[n:])
			refused = int(min(v, 1<<30))
		case number == 2 && kind == protowire.BytesType:
			b, _ := protowire.ConsumeBytes(in[n:])
			why = string(b)
		}
		in = in[n+size:]
	}
	return refused, why
}
